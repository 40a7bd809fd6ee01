{{/* What several parts read. */}}
{{- define "restaurant.commonSettings" -}}
{{- $own := dict
  "BRIGADE_SECRETS" "/run/secrets/brigade"
  "BRIGADE_WEB_HOST" "0.0.0.0"
  "BRIGADE_KAFKA_BOOTSTRAP_SERVERS" (include "restaurant.kafka" .)
  "BRIGADE_MQTT_HOST" (include "restaurant.mqttHost" .)
  "BRIGADE_MQTT_PORT" (include "restaurant.mqttPort" .)
-}}
{{- if .Values.traces.endpoint -}}
{{- $_ := set $own "OTEL_EXPORTER_OTLP_ENDPOINT" .Values.traces.endpoint -}}
{{- end -}}
{{- range $name, $value := merge (deepCopy .Values.settings) $own }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* Of one part: its values' `settings` win. (dict "root" $ "name" "gateway") */}}
{{- define "restaurant.partSettings" -}}
{{- $root := .root -}}
{{- $of := dict
  "gateway" (dict
    "BRIGADE_GATEWAY_HOST" "0.0.0.0"
    "BRIGADE_GATEWAY_METRICS_HOST" "0.0.0.0"
    "BRIGADE_GATEWAY_USERS_URL" "http://user-service:8001"
    "BRIGADE_GATEWAY_TRUSTED_HOPS" $root.Values.gateway.trustedHops
    "BRIGADE_GATEWAY_PROMETHEUS_URL" (include "restaurant.prometheus" $root)
  )
  "users" (dict
    "BRIGADE_USERS_HOST" "0.0.0.0"
    "BRIGADE_USERS_METRICS_HOST" "0.0.0.0"
    "BRIGADE_USERS_MQTT_HOST" (include "restaurant.mqttHost" $root)
    "BRIGADE_USERS_MQTT_PORT" (include "restaurant.mqttPort" $root)
    "BRIGADE_USERS_PUBLIC_URL" (printf "https://%s" $root.Values.ingress.hosts.admin)
  )
  "bridge" (dict "BRIGADE_MQTT_USER" "brigade/bridge")
  "broker" (dict "BRIGADE_MQTT_USER" "brigade/monitor")
  "worker" dict "lag" dict "maintain" dict
-}}
{{- if not $root.Values.users.mailSecret -}}
{{- $_ := set $of.users "BRIGADE_USERS_MAIL_URL" "file:///tmp/mails" -}}
{{- end -}}
{{- $own := merge (deepCopy (get $root.Values .name).settings) (get $of .name) (include "restaurant.tlsSettings" . | fromYaml) -}}
{{- range $name, $value := $own }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}
