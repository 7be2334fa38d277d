{{/* The files of a dev service's binding. Secrets are generated once: an upgrade reads them back from the cluster. */}}
{{- define "insitu.dev.files" -}}
{{- $host := printf "insitu-dev-%s" .binding -}}
{{- if eq .binding "s3" -}}
endpoint: http://{{ $host }}.{{ .root.Release.Namespace }}.svc:7070
bucket: insitu
region: us-east-1
access-key-id: insitu
secret-access-key: {{ include "insitu.dev.password" (dict "root" .root "binding" .binding "file" "secret-access-key") | quote }}
{{- else if eq .binding "mlflow" -}}
uri: http://{{ $host }}.{{ .root.Release.Namespace }}.svc:5000
{{- else -}}
host: {{ $host }}.{{ .root.Release.Namespace }}.svc
port: "5432"
database: {{ .binding }}
username: insitu
password: {{ include "insitu.dev.password" (dict "root" .root "binding" .binding "file" "password") | quote }}
sslmode: disable
{{- end -}}
{{- end }}

{{- define "insitu.dev.password" -}}
{{- $old := lookup "v1" "Secret" .root.Release.Namespace (printf "insitu-%s" .binding) -}}
{{- if .root.Values.dev.password -}}
{{- .root.Values.dev.password -}}
{{- else if and $old (hasKey ($old.data | default dict) .file) -}}
{{- get $old.data .file | b64dec -}}
{{- else -}}
{{- randAlphaNum 32 -}}
{{- end -}}
{{- end }}

{{- define "insitu.dev.probe" -}}
{{- if eq . "s3" -}}
httpGet: {path: /healthz, port: service}
{{- else if eq . "mlflow" -}}
httpGet: {path: /health, port: service}
{{- else -}}
exec: {command: [pg_isready, -q, -h, 127.0.0.1, -t, "3"]}
{{- end -}}
{{- end }}
