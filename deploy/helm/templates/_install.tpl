{{/* (dict "root" $ "name" "install" "values" dict "secret" "brigade-install") */}}
{{- define "restaurant.installPod" }}
{{- include "restaurant.podHead" . }}
restartPolicy: Never
initContainers:
  - name: database
    {{- include "restaurant.containerHead" . | nindent 4 }}
    command: [brigade, install, database]
    env: {{- include "restaurant.installEnv" . | nindent 6 }}
    resources: {{- toYaml .root.Values.install.resources | nindent 6 }}
    volumeMounts: {{- include "restaurant.mounts" . | nindent 6 }}
containers:
  - name: topics
    {{- include "restaurant.containerHead" . | nindent 4 }}
    command: [brigade, install, topics]
    env: {{- include "restaurant.installEnv" . | nindent 6 }}
    resources: {{- toYaml .root.Values.install.resources | nindent 6 }}
    volumeMounts: {{- include "restaurant.mounts" . | nindent 6 }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        - secret:
            name: {{ .secret }}
            items:
            {{- range $key, $_ := include "restaurant.installSecrets" .root | fromYaml }}
              - {key: {{ $key }}, path: {{ $key }}}
            {{- end }}
        {{- include "restaurant.kafkaPassword" . | nindent 8 }}
  {{- include "restaurant.tlsVolume" . | nindent 2 }}
{{- end }}

{{- define "restaurant.installEnv" }}
- {name: BRIGADE_INSTALL_WAIT_SECONDS, value: {{ .root.Values.install.waitSeconds | quote }}}
{{- /* Not by the ConfigMap: before an upgrade it is still the old one. */}}
{{- range $name, $value := merge (include "restaurant.commonSettings" .root | fromYaml) (include "restaurant.tlsSettings" . | fromYaml) }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
