{{/* Where and who. Most take (dict "root" $ "name" "gateway"). */}}

{{- define "restaurant.monitoring" -}}
{{- .Values.global.namespaces.monitoring -}}
{{- end }}

{{- define "restaurant.labels" -}}
{{ include "restaurant.selector" . }}
app.kubernetes.io/component: {{ .name }}
app.kubernetes.io/part-of: brigade
app.kubernetes.io/version: {{ include "restaurant.tag" .root | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Of pods: nothing that changes with the chart alone, or they would all be replaced. */}}
{{- define "restaurant.podLabels" -}}
{{ include "restaurant.selector" . }}
app.kubernetes.io/component: {{ .name }}
app.kubernetes.io/part-of: brigade
app.kubernetes.io/version: {{ include "restaurant.tag" .root | trunc 63 | quote }}
{{- end }}

{{- define "restaurant.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "restaurant.tag" -}}
{{- .Values.global.brigadeImage.tag | default .Chart.AppVersion -}}
{{- end }}

{{- define "restaurant.image" -}}
{{- $image := .Values.global.brigadeImage -}}
{{- $name := $image.repository -}}
{{- if .Values.global.imageRegistry -}}{{- $name = printf "%s/%s" .Values.global.imageRegistry $name -}}{{- end -}}
{{- if $image.digest -}}{{ $name }}@{{ $image.digest }}{{- else -}}{{ $name }}:{{ include "restaurant.tag" . }}{{- end -}}
{{- end }}

{{/* Whether there is a cluster to ask: `helm template` has none. */}}
{{- define "restaurant.connected" -}}
{{- if lookup "v1" "Namespace" "" "default" -}}true{{- end -}}
{{- end }}

{{/* Servers: the chart's own, or those of `external`. */}}

{{- define "restaurant.kafka" -}}
{{- if .Values.kafka.enabled -}}kafka-service:9092{{- else -}}{{ .Values.external.kafka.bootstrapServers }}{{- end -}}
{{- end }}

{{- define "restaurant.mqttHost" -}}
{{- if .Values.mosquitto.enabled -}}mosquitto-service{{- else -}}{{ .Values.external.mqtt.host }}{{- end -}}
{{- end }}

{{- define "restaurant.mqttPort" -}}
{{- if include "restaurant.mqttTls" . -}}8883{{- else if .Values.mosquitto.enabled -}}1883{{- else -}}{{ .Values.external.mqtt.port }}{{- end -}}
{{- end }}

{{- define "restaurant.prometheus" -}}
{{- if .Values.prometheus.enabled -}}
http://prometheus-service.{{ include "restaurant.monitoring" . }}:9090
{{- else -}}{{ .Values.external.prometheus.url }}{{- end -}}
{{- end }}

{{/* (dict "root" $ "role" "brigade_worker" "password" "…" "database" "brigade" "users" false) */}}
{{- define "restaurant.databaseUrl" -}}
{{- $own := ternary .root.Values.postgresql.enabled .root.Values.timescaledb.enabled .users -}}
{{- $external := ternary .root.Values.external.usersDatabase .root.Values.external.database .users -}}
{{- $host := ternary "postgresql-service" "timescaledb-service" .users -}}
{{- $port := 5432 -}}
{{- $sslmode := "prefer" -}}
{{- if not $own -}}
{{- $host = $external.host -}}{{- $port = $external.port -}}{{- $sslmode = $external.sslmode -}}
{{- if $external.caSecret -}}
{{- $sslmode = printf "%s&sslrootcert=/run/secrets/trust/%s.crt" $sslmode (ternary "users-database" "database" .users) -}}
{{- end -}}
{{- end -}}
postgresql://{{ .role }}:{{ .password }}@{{ $host }}:{{ $port }}/{{ .database }}?sslmode={{ $sslmode }}
{{- end }}

{{/* What a key of a Secret holds in the cluster now; else the default. (dict "root" $ "secret" n "key" k "default" d) */}}
{{- define "restaurant.kept" -}}
{{- $there := lookup "v1" "Secret" (.namespace | default .root.Release.Namespace) .secret -}}
{{- $value := dig "data" .key "" ($there | default dict) -}}
{{- if $value -}}{{ $value | b64dec }}{{- else -}}{{ .default }}{{- end -}}
{{- end }}

{{/* Pods of ours. */}}

{{- define "restaurant.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "restaurant.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What every pod spec of ours begins with. (dict "root" $ "name" "gateway" "values" .Values.gateway) */}}
{{- define "restaurant.podHead" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext: {{- include "restaurant.podSecurity" . | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "restaurant.selector" $ | nindent 8 }}
{{- end }}
{{- end }}

{{/* The image, its guards, its settings. (dict "root" $ "name" "gateway") */}}
{{- define "restaurant.containerHead" -}}
image: {{ include "restaurant.image" .root }}
imagePullPolicy: {{ .root.Values.global.brigadeImage.pullPolicy }}
securityContext: {{- include "restaurant.containerSecurity" . | nindent 2 }}
{{- end }}

{{- define "restaurant.settingsFrom" -}}
envFrom:
  - configMapRef: {name: brigade-settings}
  - configMapRef: {name: {{ .name }}-settings}
{{- end }}

{{- define "restaurant.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /run/secrets/brigade, readOnly: true}
{{- include "restaurant.tlsMount" . }}
{{- end }}

{{/* (dict "root" $ "name" "worker" "keys" (list "BRIGADE_DATABASE_URL")): each reader gets its own keys and no other. */}}
{{- define "restaurant.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
- name: secrets
{{- $password := include "restaurant.kafkaPassword" . }}
{{- if not (or .keys $password) }}
  emptyDir: {sizeLimit: 1Mi}
{{- else }}
  projected:
    defaultMode: 0440
    sources:
      {{- $password | nindent 6 }}
      {{- if .keys }}{{/* without items it would be all of them */}}
      - secret:
          name: brigade-secrets
          items:
          {{- range .keys }}
            - {key: {{ $.name }}.{{ . }}, path: {{ . }}}
          {{- end }}
          {{- if eq .name "gateway" }}
            # For `brigade install wait`, which knows it by this name.
            - {key: gateway.BRIGADE_GATEWAY_DATABASE_URL, path: BRIGADE_DATABASE_URL}
          {{- end }}
      {{- end }}
      {{- if and (eq .name "users") .root.Values.users.mailSecret }}
      - secret:
          name: {{ .root.Values.users.mailSecret }}
          items: [{key: BRIGADE_USERS_MAIL_URL, path: BRIGADE_USERS_MAIL_URL}]
      {{- end }}
{{- end }}
{{- include "restaurant.tlsVolume" . }}
{{- end }}

{{/* Waits for the tables and topics of this version, as the service's own role: see docs/decisions/0008. */}}
{{- define "restaurant.wait" -}}
- name: wait
  {{- include "restaurant.containerHead" . | nindent 2 }}
  command: [brigade, install, wait, {{ join ", " .for }}]
  env:
    - {name: BRIGADE_INSTALL_WAIT_SECONDS, value: {{ .root.Values.install.waitSeconds | quote }}}
  {{- include "restaurant.settingsFrom" . | nindent 2 }}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {cpu: 300m, memory: 128Mi}
  volumeMounts: {{- include "restaurant.mounts" . | nindent 4 }}
{{- end }}

{{/* Pods are replaced when what they read at their start is another. */}}
{{- define "restaurant.checksums" -}}
checksum/settings: {{ printf "%s%s" (include "restaurant.commonSettings" .root) (include "restaurant.partSettings" .) | sha256sum }}
checksum/secrets: {{ include "restaurant.secretsOf" . | sha256sum }}
{{- end }}

{{- define "restaurant.secretsOf" -}}
{{- $all := dict -}}
{{- if eq .root.Values.secrets.source "generated" -}}
{{- $all = include "restaurant.brigadeSecrets" .root | fromYaml -}}
{{- else -}}
{{- $all = dig "data" dict (lookup "v1" "Secret" .root.Release.Namespace "brigade-secrets" | default dict) -}}
{{- end -}}
{{- range $key, $value := $all }}{{ if hasPrefix (printf "%s." $.name) $key }}{{ $value }} {{ end }}{{ end -}}
{{- end }}

{{/*
How many pods. An autoscaler owns the number after the first installation; then the chart repeats what it chose, for a
field that a new revision leaves out becomes 1. (dict "deployment" "gateway-deployment" "values" .Values.gateway "root" $)
*/}}
{{- define "restaurant.replicas" -}}
{{- if not .values.autoscaling.enabled -}}
replicas: {{ .values.replicas }}
{{- else if eq .root.Values.autoscaling.writeReplicas "install" -}}
{{- $there := lookup "apps/v1" "Deployment" .root.Release.Namespace .deployment -}}
replicas: {{ dig "spec" "replicas" .values.replicas ($there | default dict) }}
{{- end -}}
{{- end }}

{{- define "restaurant.probes" -}}
{{- $port := .port -}}
startupProbe:
  httpGet: {path: {{ .startup | default "/healthz" }}, port: {{ $port }}}
  periodSeconds: 2
  failureThreshold: 150
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /healthz, port: {{ $port }}}
  periodSeconds: 10
  failureThreshold: 3
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: {{ .readiness | default "/readyz" }}, port: {{ $port }}}
  periodSeconds: 5
  failureThreshold: 3
  timeoutSeconds: 3
{{- end }}
