{{/* Connections of our own parts to the chart's Kafka and MQTT broker, where these speak TLS: certificates, both ways. */}}

{{- define "restaurant.kafkaTls" -}}
{{- if and .Values.kafka.enabled (dig "tls" "enabled" false .Values.kafka) -}}true{{- end -}}
{{- end }}

{{/* While port 1883 is open to the network too, our parts use that. */}}
{{- define "restaurant.mqttTls" -}}
{{- if and .Values.mosquitto.enabled (dig "tls" "enabled" false .Values.mosquitto) (dig "tls" "only" false .Values.mosquitto) -}}true{{- end -}}
{{- end }}

{{/* Whether the part `name` needs a certificate: kafka, mqtt, both or nothing. */}}
{{- define "restaurant.tlsOf" -}}
{{- if and (include "restaurant.kafkaTls" .root) (has .name (list "bridge" "worker" "lag" "install")) -}}kafka {{ end -}}
{{- if and (include "restaurant.mqttTls" .root) (has .name (list "bridge" "broker" "users")) -}}mqtt{{- end -}}
{{- end }}

{{- define "restaurant.tlsSettings" -}}
{{- $of := include "restaurant.tlsOf" . -}}
{{- if contains "kafka" $of }}
BRIGADE_KAFKA_SECURITY_PROTOCOL: SSL
BRIGADE_KAFKA_SSL_CA: /run/secrets/tls/ca.crt
BRIGADE_KAFKA_SSL_CERT: /run/secrets/tls/tls.crt
BRIGADE_KAFKA_SSL_KEY: /run/secrets/tls/tls.key
{{- end }}
{{- if contains "mqtt" $of }}
{{- $prefix := ternary "BRIGADE_USERS_MQTT_TLS" "BRIGADE_MQTT_TLS" (eq .name "users") }}
{{ $prefix }}: "true"
{{ $prefix }}_CA: /run/secrets/tls/ca.crt
{{ $prefix }}_CERT: /run/secrets/tls/tls.crt
{{ $prefix }}_KEY: /run/secrets/tls/tls.key
{{- end }}
{{ include "restaurant.elsewhereSettings" . }}
{{- end }}

{{- define "restaurant.tlsMount" -}}
{{- if include "restaurant.tlsOf" . }}
- {name: tls, mountPath: /run/secrets/tls, readOnly: true}
{{- end }}
{{- if include "restaurant.trusted" .root }}
- {name: trust, mountPath: /run/secrets/trust, readOnly: true}
{{- end }}
{{- end }}

{{/* Whom we believe of the servers that are elsewhere: the file of each, and the Secret whose ca.crt it is. */}}
{{- define "restaurant.trusted" -}}
{{- $v := .Values -}}
{{- $external := $v.external -}}
{{- range list
  (list "database" $v.timescaledb.enabled $external.database)
  (list "users-database" $v.postgresql.enabled $external.usersDatabase)
  (list "kafka" $v.kafka.enabled $external.kafka)
  (list "mqtt" $v.mosquitto.enabled $external.mqtt)
}}
{{- if and (not (index . 1)) (index . 2).caSecret }}
{{ index . 0 }}: {{ (index . 2).caSecret }}
{{- end }}
{{- end }}
{{- end }}

{{/* The password of our account in a Kafka that is elsewhere, as a source of a projected volume. */}}
{{- define "restaurant.kafkaPassword" -}}
{{- $kafka := .root.Values.external.kafka -}}
{{- if and (not .root.Values.kafka.enabled) $kafka.secret (has .name (list "bridge" "worker" "lag" "install")) -}}
- secret:
    name: {{ $kafka.secret }}
    items: [{key: password, path: BRIGADE_KAFKA_SASL_PASSWORD}]
{{- end }}
{{- end }}

{{/* How a part speaks to Kafka and the broker that are elsewhere. */}}
{{- define "restaurant.elsewhereSettings" -}}
{{- $v := .root.Values -}}
{{- $kafka := $v.external.kafka -}}
{{- if and (not $v.kafka.enabled) (has .name (list "bridge" "worker" "lag" "install")) (ne $kafka.securityProtocol "PLAINTEXT") }}
BRIGADE_KAFKA_SECURITY_PROTOCOL: {{ $kafka.securityProtocol }}
{{- if $kafka.caSecret }}
BRIGADE_KAFKA_SSL_CA: /run/secrets/trust/kafka.crt
{{- end }}
{{- if $kafka.user }}
BRIGADE_KAFKA_SASL_USER: {{ $kafka.user }}
{{- end }}
{{- end }}
{{- if and (not $v.mosquitto.enabled) (has .name (list "bridge" "broker" "users")) $v.external.mqtt.tls }}
{{- $prefix := ternary "BRIGADE_USERS_MQTT_TLS" "BRIGADE_MQTT_TLS" (eq .name "users") }}
{{ $prefix }}: "true"
{{- if $v.external.mqtt.caSecret }}
{{ $prefix }}_CA: /run/secrets/trust/mqtt.crt
{{- end }}
{{- end }}
{{- end }}

{{- define "restaurant.tlsVolume" -}}
{{- if include "restaurant.tlsOf" . }}
- name: tls
  secret: {secretName: {{ .name }}-client-tls, defaultMode: 0440}
{{- end }}
{{- with include "restaurant.trusted" .root | fromYaml }}
- name: trust
  projected:
    sources:
    {{- range $file, $secret := . }}
      - secret: {name: {{ $secret }}, items: [{key: ca.crt, path: {{ $file }}.crt}]}
    {{- end }}
{{- end }}
{{- end }}
