{{- define "ejoin-bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: StatefulSet pods and Services append to it. */}}
{{- define "ejoin-bridge.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "ejoin-bridge.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ejoin-bridge.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ejoin-bridge.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ejoin-bridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ejoin-bridge.labels" -}}
{{ include "ejoin-bridge.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ejoin-bridge.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The configuration file: values.config, and what follows from running here. */}}
{{- define "ejoin-bridge.config" -}}
{{- $config := deepCopy .Values.config }}
{{- range $group := list "amqp" "web" "store" }}
{{- $_ := set $config $group (default dict (get $config $group)) }}
{{- end }}
{{- $_ := set $config.amqp "url_file" (printf "/etc/ejoin-bridge-secrets/amqp/%s" .Values.secrets.amqp.key) }}
{{- $_ := set $config.web "listen" "0.0.0.0:8080" }}
{{- $_ := set $config.store "path" "/var/lib/ejoin-bridge/ejoin-bridge.db" }}
{{- range $config.gateways }}
{{- $secrets := printf "/etc/ejoin-bridge-secrets/gateways/%s" .name }}
{{- $_ := set . "password_file" (printf "%s.password" $secrets) }}
{{- $_ := set . "callback_tokens_file" (printf "%s.callback-tokens" $secrets) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The sum in bridge/settings.py (Settings.grace_s): 25 s of fixed steps, and the POSTs that are begun. */}}
{{- define "ejoin-bridge.graceSeconds" -}}
{{- $timing := default dict .Values.config.timing }}
{{- $submit := default 5 $timing.submit_within_s }}
{{- $post := default 15 $timing.post_timeout_s }}
{{- $blocks := 0 }}
{{- range .Values.config.gateways }}
{{- if eq (toString .api_version) "1.0" }}{{- $blocks = 30 }}{{- end }}
{{- end }}
{{- ceil (addf 25 $submit $post $blocks .Values.terminationMarginSeconds) | int }}
{{- end }}
