{{/* Names are fixed, not derived from the release's: workflows, App CRs and docs refer to them, and a namespace has one release. */}}

{{- define "insitu.selector" -}}
app.kubernetes.io/name: insitu
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* (dict "root" $ "component" "api") */}}
{{- define "insitu.labels" -}}
{{ include "insitu.selector" . }}
app.kubernetes.io/part-of: insitu
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* (dict "root" $ "name" "train-model") */}}
{{- define "insitu.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ with $image.prefix }}{{ . }}/{{ end }}{{ .name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "insitu.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The Secret of a binding: (dict "root" $ "binding" "training") */}}
{{- define "insitu.secret" -}}
{{- (index .root.Values.bindings .binding).existingSecret | default (printf "insitu-%s" .binding) -}}
{{- end }}

{{/* The Secret with the addresses of data catalogs, which need not be there. */}}
{{- define "insitu.catalogSecret" -}}
{{- .Values.catalog.existingSecret | default "insitu-catalog" -}}
{{- end }}

{{/* "true" if the chart runs the service of a binding itself. */}}
{{- define "insitu.runs" -}}
{{- $binding := index .root.Values.bindings .binding -}}
{{- if and .root.Values.dev.enabled (not $binding.existingSecret) (not $binding.files) -}}true{{- end -}}
{{- end }}

{{/* A value as the string a person would write: numbers of a values file are floats (3 is not 3.0, 1e+06 not 1000000). */}}
{{- define "insitu.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end }}

{{- define "insitu.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "insitu.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/*
Refuses parameters the pipelines do not have (Argo would ignore them), and values that are no choice of theirs.
(dict "root" $ "of" "pipeline.parameters" "pipeline" "in-database-pipeline" "parameters" dict)
*/}}
{{- define "insitu.checkParameters" -}}
{{- $known := dict -}}
{{- $pipeline := .pipeline | default "in-database-pipeline" -}}
{{- range (.root.Files.Get (printf "files/workflows/%s.yaml" $pipeline) | fromYaml).spec.arguments.parameters -}}
{{- $_ := set $known .name (.enum | default list) -}}
{{- end -}}
{{- $of := .of -}}
{{- range $name, $value := .parameters -}}
{{- if not (hasKey $known $name) -}}
{{- fail (printf "%s.%s: %s has no such parameter; it has %s" $of $name $pipeline (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $choices := get $known $name -}}
{{- if and $choices (not (has (include "insitu.text" $value) $choices)) -}}
{{- fail (printf "%s.%s: %q is no choice; expected one of %s" $of $name (include "insitu.text" $value) (toJson $choices)) -}}
{{- end -}}
{{- end -}}
{{- end }}
