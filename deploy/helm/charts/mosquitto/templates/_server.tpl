{{/* Copied into every chart of a server by scripts/chart-files: change deploy/servers/templates/_server.tpl.
     The second argument is the object's app.kubernetes.io/name: `include "server.labels" (list . "redis-exporter")`. */}}

{{- define "server.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- define "server.labels" -}}
{{ include "server.selector" . }}
app.kubernetes.io/component: {{ (index . 0).Chart.Name }}
app.kubernetes.io/part-of: brigade
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{/* Where the servers that everything needs live, and where those that watch live. */}}
{{- define "server.system" -}}
{{ .Values.global.namespaces.system | default .Release.Namespace }}
{{- end }}
{{- define "server.monitoring" -}}
{{ .Values.global.namespaces.monitoring }}
{{- end }}

{{/* `include "server.image" (list . .Values.image)`: by digest where there is one. */}}
{{- define "server.image" -}}
{{- $image := index . 1 -}}
{{- $registry := (index . 0).Values.global.imageRegistry | default $image.registry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ required (printf "%s: image.tag or image.digest must be set" (index . 0).Chart.Name) $image.tag }}{{ end }}
{{- end }}

{{/* Our own, for what is made before a server starts: a server's chart has Brigade's own version. */}}
{{- define "server.brigadeImage" -}}
{{- $image := .Values.global.brigadeImage -}}
{{ include "server.image" (list . (merge (dict "tag" ($image.tag | default .Chart.Version)) $image)) }}
{{- end }}

{{/* What is the same in every pod of a server. It has a service account of its own, and no token of it. */}}
{{- define "server.pod" -}}
serviceAccountName: {{ index . 1 }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with (index . 0).Values.global.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 0).Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 0).Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 0).Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pod Security `restricted`; the argument is the user's number in the image. */}}
{{- define "server.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "server.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "server.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 1 }}
  namespace: {{ index . 2 }}
  labels: {{ include "server.labels" . | nindent 4 }}
automountServiceAccountToken: false
{{- end }}

{{/* The claim of a StatefulSet's volume `data`; who asked for a class that is not there reads it in the claim's events. */}}
{{- define "server.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
    labels: {{ include "server.selector" (list . .Chart.Name) | nindent 6 }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .Values.persistence.storageClass | default .Values.global.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .Values.persistence.size }}}}
{{- end }}

{{/* The Secret with a server's certificate: that which cert-manager fills, or the person's own. */}}
{{- define "server.certificate" -}}
{{- if .Values.tls.issuer }}{{ .Values.tls.secretName | default (printf "%s-certificate" .Chart.Name) }}{{ else -}}
{{- required (printf "%s.tls.secretName must name a Secret with tls.crt and tls.key, or %s.tls.issuer who makes one" .Chart.Name .Chart.Name) .Values.tls.secretName }}
{{- end }}
{{- end }}
