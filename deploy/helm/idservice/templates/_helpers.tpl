{{/* The name of every object: the release's, with the chart's where that does not contain it. */}}
{{- define "idservice.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "idservice.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "idservice.labels" -}}
{{ include "idservice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "idservice.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "idservice.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "idservice.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "idservice.claim" -}}
{{- .Values.store.sqlite.existingClaim | default (include "idservice.name" .) -}}
{{- end -}}

{{/* Whatever the values say, one SQLite file has one instance. */}}
{{- define "idservice.replicas" -}}
{{- if eq .Values.store.kind "sqlite" -}}1{{- else -}}{{- .Values.replicas | default 2 | int -}}{{- end -}}
{{- end -}}

{{- define "idservice.store" -}}
{{- with .Values.store -}}
{{- if eq .kind "sqlite" -}}
sqlite:/var/lib/idservice/idservice.db
{{- else if eq .kind "dynamodb" -}}
{{- $more := list -}}
{{- with .dynamodb.region -}}{{- $more = append $more (printf "region=%s" .) -}}{{- end -}}
{{- with .dynamodb.endpoint -}}{{- $more = append $more (printf "endpoint=%s" .) -}}{{- end -}}
dynamodb:{{ .dynamodb.table }}{{ if $more }}?{{ join "&" $more }}{{ end }}
{{- else -}}
{{ .chained.url }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The port of a URL. */}}
{{- define "idservice.port" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end -}}

{{/* A value as a variable has it. Helm has numbers as floats, and would write a million as 1e+06. */}}
{{- define "idservice.text" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* How clients ask for ids. */}}
{{- define "idservice.scheme" -}}
{{- if .Values.tls.secret -}}https{{- else -}}http{{- end -}}
{{- end -}}

{{/* The user of every pod, and what none of its containers may do. */}}
{{- define "idservice.user" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "idservice.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
