{{/*
Every password of the installation. Called at the top of whoever needs them; computed once in a rendering, so that a
password that is made now is the same in all Secrets, then found in `.Values.passwords`. What the cluster has is kept.
*/}}
{{- define "restaurant.passwords" -}}
{{- if not (hasKey .Values "passwords") -}}
{{- $timescaledb := ternary "timescaledb-credentials" .Values.external.database.adminSecret .Values.timescaledb.enabled -}}
{{- $postgresql := ternary "postgresql-credentials" .Values.external.usersDatabase.adminSecret .Values.postgresql.enabled -}}
{{- $redis := ternary "redis-credentials" .Values.external.redis.secret .Values.redis.enabled -}}
{{- $mosquitto := ternary "mosquitto-accounts" .Values.external.mqtt.secret .Values.mosquitto.enabled -}}
{{- $table := list
  (list "postgres" $timescaledb "POSTGRES_PASSWORD")
  (list "usersPostgres" $postgresql "POSTGRES_PASSWORD")
  (list "owner" "brigade-install" "BRIGADE_INSTALL_PASSWORD_OWNER")
  (list "worker" "brigade-install" "BRIGADE_INSTALL_PASSWORD_WORKER")
  (list "api" "brigade-install" "BRIGADE_INSTALL_PASSWORD_API")
  (list "monitor" "brigade-install" "BRIGADE_INSTALL_PASSWORD_MONITOR")
  (list "grafana" "brigade-install" "BRIGADE_INSTALL_PASSWORD_GRAFANA")
  (list "users" "brigade-install" "BRIGADE_INSTALL_PASSWORD_USERS")
  (list "redis" $redis "brigade-password")
  (list "redisExporter" $redis "exporter-password")
  (list "mqttUsers" $mosquitto "BRIGADE_INSTALL_MQTT_PASSWORD_USERS")
  (list "mqttBridge" $mosquitto "BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE")
  (list "mqttMonitor" $mosquitto "BRIGADE_INSTALL_MQTT_PASSWORD_MONITOR")
  (list "internal" "brigade-secrets" "gateway.BRIGADE_GATEWAY_INTERNAL_SECRET")
-}}
{{- $passwords := dict -}}
{{- range $table -}}
{{- $place := dict "root" $ "secret" (index . 1) "key" (index . 2) "default" (randAlphaNum 40) -}}
{{- $_ := set $passwords (index . 0) (include "restaurant.kept" $place) -}}
{{- end -}}
{{- $sealing := dict "root" $ "secret" "brigade-secrets" "key" "users.BRIGADE_USERS_SECRET" "default" (randBytes 32) -}}
{{- $_ := set $passwords "sealing" (include "restaurant.kept" $sealing) -}}
{{- range list (list "grafanaAdmin" "grafana-credentials" "admin-password") (list "web" "prometheus-web-credentials" "password") -}}
{{- $place := dict "root" $ "namespace" (include "restaurant.monitoring" $) "secret" (index . 1) "key" (index . 2) "default" (randAlphaNum 24) -}}
{{- $_ := set $passwords (index . 0) (include "restaurant.kept" $place) -}}
{{- end -}}
{{- $_ := set .Values "passwords" $passwords -}}
{{- end -}}
{{- end }}

{{- define "restaurant.redisUrl" -}}
{{- $redis := .Values.external.redis -}}
{{- $user := ternary "brigade" $redis.user .Values.redis.enabled -}}
{{- $place := ternary "redis-service:6379" (printf "%s:%v" $redis.host $redis.port) .Values.redis.enabled -}}
{{ ternary "rediss" "redis" (and (not .Values.redis.enabled) $redis.tls) }}://{{ $user }}:{{ .Values.passwords.redis }}@{{ $place }}/0
{{- end }}

{{/* What brigade-secrets holds: <who reads it>.<the setting's name>. */}}
{{- define "restaurant.brigadeSecrets" -}}
{{- include "restaurant.passwords" . -}}
{{- $p := .Values.passwords -}}
bridge.BRIGADE_MQTT_PASSWORD: {{ $p.mqttBridge }}
broker.BRIGADE_MQTT_PASSWORD: {{ $p.mqttMonitor }}
worker.BRIGADE_DATABASE_URL: {{ include "restaurant.databaseUrl" (dict "root" . "role" "brigade_worker" "password" $p.worker "database" "brigade" "users" false) }}
maintain.BRIGADE_DATABASE_URL: {{ include "restaurant.databaseUrl" (dict "root" . "role" "brigade" "password" $p.owner "database" "brigade" "users" false) }}
gateway.BRIGADE_GATEWAY_DATABASE_URL: {{ include "restaurant.databaseUrl" (dict "root" . "role" "brigade_api" "password" $p.api "database" "brigade" "users" false) }}
gateway.BRIGADE_GATEWAY_REDIS_URL: {{ include "restaurant.redisUrl" . }}
gateway.BRIGADE_GATEWAY_INTERNAL_SECRET: {{ $p.internal }}
users.BRIGADE_USERS_DATABASE_URL: {{ include "restaurant.databaseUrl" (dict "root" . "role" "brigade_users" "password" $p.users "database" "brigade_users" "users" true) }}
users.BRIGADE_USERS_REDIS_URL: {{ include "restaurant.redisUrl" . }}
users.BRIGADE_USERS_SECRET: {{ $p.sealing }}
users.BRIGADE_USERS_INTERNAL_SECRET: {{ $p.internal }}
users.BRIGADE_USERS_MQTT_ADMIN_PASSWORD: {{ $p.mqttUsers }}
{{- end }}

{{- define "restaurant.installSecrets" -}}
{{- include "restaurant.passwords" . -}}
{{- $p := .Values.passwords -}}
{{- $admin := ternary "postgres" .Values.external.database.adminUser .Values.timescaledb.enabled -}}
{{- $usersAdmin := ternary "postgres" .Values.external.usersDatabase.adminUser .Values.postgresql.enabled -}}
BRIGADE_INSTALL_DATABASE_URL: {{ include "restaurant.databaseUrl" (dict "root" . "role" $admin "password" $p.postgres "database" "postgres" "users" false) }}
BRIGADE_INSTALL_USERS_DATABASE_URL: {{ include "restaurant.databaseUrl" (dict "root" . "role" $usersAdmin "password" $p.usersPostgres "database" "postgres" "users" true) }}
BRIGADE_INSTALL_PASSWORD_OWNER: {{ $p.owner }}
BRIGADE_INSTALL_PASSWORD_WORKER: {{ $p.worker }}
BRIGADE_INSTALL_PASSWORD_API: {{ $p.api }}
BRIGADE_INSTALL_PASSWORD_MONITOR: {{ $p.monitor }}
BRIGADE_INSTALL_PASSWORD_GRAFANA: {{ $p.grafana }}
BRIGADE_INSTALL_PASSWORD_USERS: {{ $p.users }}
{{- end }}

{{/* Every Secret of ours as YAML: name → {namespace, keys}. */}}
{{- define "restaurant.secrets" -}}
{{- include "restaurant.passwords" . -}}
{{- $p := .Values.passwords -}}
brigade-secrets:
  namespace: {{ .Release.Namespace }}
  keys: {{- include "restaurant.brigadeSecrets" . | nindent 4 }}
brigade-install:
  namespace: {{ .Release.Namespace }}
  keys: {{- include "restaurant.installSecrets" . | nindent 4 }}
{{- if .Values.timescaledb.enabled }}
timescaledb-credentials:
  namespace: {{ .Release.Namespace }}
  keys:
    POSTGRES_PASSWORD: {{ $p.postgres }}
    monitor-password: {{ $p.monitor }}
{{- end }}
{{- if .Values.postgresql.enabled }}
postgresql-credentials:
  namespace: {{ .Release.Namespace }}
  keys:
    POSTGRES_PASSWORD: {{ $p.usersPostgres }}
    monitor-password: {{ $p.monitor }}
{{- end }}
{{- if .Values.redis.enabled }}
redis-credentials:
  namespace: {{ .Release.Namespace }}
  keys:
    brigade-password: {{ $p.redis }}
    exporter-password: {{ $p.redisExporter }}
    exporter.json: {{ dict "redis://redis-service:6379" $p.redisExporter "redis://exporter@redis-service:6379" $p.redisExporter | toJson | quote }}
    users.acl: |
      user default on nopass resetkeys resetchannels -@all +ping
      user brigade on #{{ sha256sum $p.redis }} ~* &* +@all
      user exporter on #{{ sha256sum $p.redisExporter }} +info +ping +config|get +latency +slowlog +client|list
{{- end }}
{{- if .Values.mosquitto.enabled }}
mosquitto-accounts:
  namespace: {{ .Release.Namespace }}
  keys:
    BRIGADE_INSTALL_MQTT_PASSWORD_USERS: {{ $p.mqttUsers }}
    BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE: {{ $p.mqttBridge }}
    BRIGADE_INSTALL_MQTT_PASSWORD_MONITOR: {{ $p.mqttMonitor }}
{{- end }}
{{- if .Values.grafana.enabled }}
grafana-credentials:
  namespace: {{ include "restaurant.monitoring" . }}
  keys:
    admin-user: admin
    admin-password: {{ $p.grafanaAdmin }}
    database-password: {{ $p.grafana }}
{{- end }}
{{- if and .Values.prometheus.enabled .Values.ingress.enabled (ne .Values.ingress.controller "none") }}
prometheus-web-credentials:
  namespace: {{ include "restaurant.monitoring" . }}
  keys:
    user: brigade
    password: {{ $p.web }}
{{- end }}
{{- end }}
