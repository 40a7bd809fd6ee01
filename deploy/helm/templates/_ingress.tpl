{{/* The rate limit of a host in the words of its controller. (dict "root" $ "limit" "api") */}}
{{- define "restaurant.rateLimit" -}}
{{- $number := get .root.Values.ingress.rateLimits .limit | int -}}
{{- $controller := .root.Values.ingress.controller -}}
{{- if eq $controller "haproxy" -}}
haproxy.org/rate-limit-requests: {{ $number | quote }}
haproxy.org/rate-limit-period: 1m
haproxy.org/rate-limit-status-code: "429"
{{- else if eq $controller "nginx" -}}
nginx.ingress.kubernetes.io/limit-rpm: {{ $number | quote }}
# Its default of 5 let 501 of 620 requests through a limit of 100.
nginx.ingress.kubernetes.io/limit-burst-multiplier: "1"
{{- else if eq $controller "traefik" -}}
traefik.ingress.kubernetes.io/router.middlewares: {{ .namespace }}-rate-{{ .limit }}@kubernetescrd{{ if .password }},{{ .namespace }}-prometheus-password@kubernetescrd{{ end }}
{{- end -}}
{{- end }}

{{/* Prometheus has no log-in of its own. */}}
{{- define "restaurant.webPassword" -}}
{{- $controller := .Values.ingress.controller -}}
{{- if eq $controller "haproxy" -}}
haproxy.org/auth-type: basic-auth
haproxy.org/auth-secret: {{ include "restaurant.monitoring" . }}/prometheus-web-users
{{- else if eq $controller "nginx" -}}
nginx.ingress.kubernetes.io/auth-type: basic
nginx.ingress.kubernetes.io/auth-secret: prometheus-web-users
{{- end -}}
{{- end }}

{{/* own-ca | acme | secret | none: `auto` decided. */}}
{{- define "restaurant.tls" -}}
{{- if ne .Values.tls.source "auto" -}}{{ .Values.tls.source }}
{{- else if .Capabilities.APIVersions.Has "cert-manager.io/v1" -}}own-ca
{{- else -}}none
{{- end -}}
{{- end }}

{{/* The hosts by namespace: name, host, service, port, limit. */}}
{{- define "restaurant.hosts" -}}
- {name: api, namespace: {{ .Release.Namespace }}, host: {{ .Values.ingress.hosts.api }}, service: gateway-service, port: 8000, limit: api}
- {name: admin, namespace: {{ .Release.Namespace }}, host: {{ .Values.ingress.hosts.admin }}, service: gateway-service, port: 8000, limit: pages}
- {name: iot, namespace: {{ .Release.Namespace }}, host: {{ .Values.ingress.hosts.iot }}, service: gateway-service, port: 8000, limit: pages}
{{- if .Values.grafana.enabled }}
- {name: grafana, namespace: {{ include "restaurant.monitoring" . }}, host: {{ .Values.ingress.hosts.grafana }}, service: grafana-service, port: 3000, limit: pages}
{{- end }}
{{- if .Values.prometheus.enabled }}
- {name: prometheus, namespace: {{ include "restaurant.monitoring" . }}, host: {{ .Values.ingress.hosts.prometheus }}, service: prometheus-service, port: 9090, limit: pages, password: true}
{{- end }}
{{- end }}
