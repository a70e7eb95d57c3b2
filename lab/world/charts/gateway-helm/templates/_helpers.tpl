{{- define "eg.selector" -}}
{{ dict "control-plane" "envoy-gateway" "app.kubernetes.io/name" .Chart.Name "app.kubernetes.io/instance" .Release.Name | toJson }}
{{- end }}
{{- define "eg.labels" -}}
{{ dict "app.kubernetes.io/name" .Chart.Name "app.kubernetes.io/instance" .Release.Name "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service | toJson }}
{{- end }}
{{- define "eg.image" -}}
{{- $own := .Values.deployment.envoyGateway.image }}
{{- if $own.repository }}{{ $own.repository }}:{{ $own.tag | default .Chart.AppVersion }}
{{- else }}{{ .Values.global.images.envoyGateway.image | default (printf "docker.io/envoyproxy/gateway:%s" .Chart.AppVersion) }}{{ end }}
{{- end }}
