{{- define "ms.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 55 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 55 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ms.labels" -}}
{{ dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service | toJson }}
{{- end }}

{{- define "ms.account" -}}
{{ .Values.serviceAccountOverride | default (include "ms.fullname" .) }}
{{- end }}

{{- /* The model's place as the server's argument: (dict "root" $ ) */}}
{{- define "ms.model" -}}
{{- $uri := tpl .Values.modelArtifacts.uri . }}
{{- $protocol := regexFind "^[^:]*" $uri }}
{{- $rest := trimPrefix (printf "%s://" $protocol) $uri }}
{{- if eq $protocol "hf" }}{{ $rest }}
{{- else if eq $protocol "pvc" }}{{ .Values.modelArtifacts.mountPath }}/{{ regexReplaceAll "^[^/]*/" $rest "" }}
{{- else if eq $protocol "pvc+hf" }}{{ $parts := splitList "/" $rest }}{{ index $parts (sub (len $parts) 2) }}/{{ last $parts }}
{{- else }}{{ fail (printf "arguments for %s:// not implemented" $protocol) }}{{ end }}
{{- end }}

{{- /* One container: (dict "root" $ "container" ... "spec" <role> "role" "decode") */}}
{{- define "ms.container" -}}
{{- $v := .root.Values }}
{{- $c := .container }}
{{- $parallel := .spec.parallelism | default dict }}
{{- $tensor := $parallel.tensor | default 1 | int }}
{{- $local := $parallel.dataLocal | default 1 | int }}
{{- $data := $parallel.data | default 1 | int }}
{{- $port := $v.routing.servicePort }}
{{- if and (eq .role "decode") $v.routing.proxy.enabled }}{{ $port = $v.routing.proxy.targetPort }}{{ end }}
{{- $out := dict "name" ($c.name | default "vllm") "image" (required "image of container is required" $c.image) }}
{{- with $c.extraConfig }}{{ $out = mergeOverwrite $out (tpl (toYaml .) $.root | fromYaml) }}{{ end }}
{{- range $key := list "imagePullPolicy" "securityContext" "ports" "livenessProbe" "readinessProbe" "startupProbe" "workingDir" "stdin" "tty" }}
{{- with index $c $key }}{{ $_ := set $out $key . }}{{ end }}
{{- end }}
{{- $command := $c.modelCommand | default "custom" }}
{{- if eq $command "custom" }}
{{- if not $c.command }}{{ fail "When .container.modelCommand not set or `custom`, a `command` is required." }}{{ end }}
{{- $_ := set $out "command" $c.command }}
{{- with $c.args }}{{ $_ := set $out "args" . }}{{ end }}
{{- else if has $command (list "vllmServe" "imageDefault") }}
{{- $args := list (include "ms.model" .root) }}
{{- if eq $command "vllmServe" }}{{ $_ := set $out "command" (list "vllm" "serve") }}{{ else }}{{ $args = prepend $args "--model" }}{{ end }}
{{- $args = concat $args (list "--port" (toString $port)) }}
{{- if gt $tensor 1 }}{{ $args = concat $args (list "--tensor-parallel-size" (toString $tensor)) }}{{ end }}
{{- if gt $data 1 }}{{ $args = concat $args (list "--data-parallel-size" (toString $data)) }}{{ end }}
{{- if gt $local 1 }}{{ $args = concat $args (list "--data-parallel-size-local" (toString $local)) }}{{ end }}
{{- $args = concat $args (list "--served-model-name" $v.modelArtifacts.name) }}
{{- $_ := set $out "args" (concat $args ($c.args | default list)) }}
{{- else }}
{{- fail ".container.modelCommand is not as expected. Valid values are `vllmServe`, `imageDefault` and `custom`." }}
{{- end }}
{{- $env := concat ($c.env | default list) (list
      (dict "name" "DP_SIZE" "value" (toString $data)) (dict "name" "TP_SIZE" "value" (toString $tensor))
      (dict "name" "DP_SIZE_LOCAL" "value" (toString $local))) }}
{{- if and $c.mountModelVolume (hasPrefix "hf://" $v.modelArtifacts.uri) }}
{{- $env = append $env (dict "name" "HF_HOME" "value" $v.modelArtifacts.mountPath) }}
{{- end }}
{{- with $v.modelArtifacts.authSecretName }}
{{- $env = append $env (dict "name" "HF_TOKEN" "valueFrom" (dict "secretKeyRef" (dict "name" . "key" "HF_TOKEN"))) }}
{{- end }}
{{- $_ := set $out "env" (concat $env (index $v.accelerator.env $v.accelerator.type | default list)) }}
{{- $resources := deepCopy ($c.resources | default dict) }}
{{- $limits := $resources.limits | default dict }}
{{- $requests := $resources.requests | default dict }}
{{- $kind := (.spec.accelerator | default dict).type | default $v.accelerator.type }}
{{- if not (or (eq $kind "cpu") (contains "llm-d-inference-sim" $c.image)) }}
{{- $gpu := index $v.accelerator.resources $kind | default "nvidia.com/gpu" }}
{{- $amount := mul $tensor $local | toString }}
{{- if not (hasKey $limits $gpu) }}{{ $_ := set $limits $gpu $amount }}{{ end }}
{{- if not (hasKey $requests $gpu) }}{{ $_ := set $requests $gpu (index $limits $gpu) }}{{ end }}
{{- end }}
{{- $_ := set $out "resources" (dict "limits" $limits "requests" $requests) }}
{{- $mounts := $c.volumeMounts | default list }}
{{- if $c.mountModelVolume }}{{ $mounts = append $mounts (dict "name" "model-storage" "mountPath" $v.modelArtifacts.mountPath) }}{{ end }}
{{- with $mounts }}{{ $_ := set $out "volumeMounts" . }}{{ end }}
{{- toJson $out }}
{{- end }}

{{- /* The pod: (dict "root" $ "spec" <role> "role" "decode"). Keys that are not named here are ignored, silently. */}}
{{- define "ms.pod" -}}
{{- $s := .spec }}
{{- $pod := dict "serviceAccountName" (include "ms.account" .root) }}
{{- with $s.extraConfig }}{{ $pod = mergeOverwrite $pod (tpl (toYaml .) $.root | fromYaml) }}{{ end }}
{{- range $key := list "nodeSelector" "imagePullSecrets" "schedulerName" "priorityClassName" "tolerations" }}
{{- with index $s $key }}{{ $_ := set $pod $key . }}{{ end }}
{{- end }}
{{- with $s.podSecurityContext }}{{ $_ := set $pod "securityContext" . }}{{ end }}
{{- range $key := list "enableServiceLinks" "terminationGracePeriodSeconds" }}
{{- if hasKey $s $key }}{{ $_ := set $pod $key (index $s $key) }}{{ end }}
{{- end }}
{{- $containers := list }}
{{- $model := false }}
{{- range $s.containers }}
{{- $containers = append $containers (include "ms.container" (dict "root" $.root "container" . "spec" $s "role" $.role) | fromJson) }}
{{- if .mountModelVolume }}{{ $model = true }}{{ end }}
{{- end }}
{{- $_ := set $pod "containers" $containers }}
{{- $volumes := $s.volumes | default list }}
{{- if $model }}{{ $volumes = append $volumes (dict "name" "model-storage" "emptyDir" (dict "sizeLimit" .root.Values.modelArtifacts.size)) }}{{ end }}
{{- with $volumes }}{{ $_ := set $pod "volumes" . }}{{ end }}
{{- $proxy := .root.Values.routing.proxy }}
{{- $init := $s.initContainers | default list }}
{{- if and (eq .role "decode") $proxy.enabled }}
{{- $args := list (printf "--port=%v" .root.Values.routing.servicePort) (printf "--vllm-port=%v" $proxy.targetPort) (printf "--connector=%s" $proxy.connector) }}
{{- $init = prepend $init (dict "name" "routing-proxy" "image" $proxy.image "imagePullPolicy" $proxy.imagePullPolicy "args" $args
      "ports" (list (dict "containerPort" .root.Values.routing.servicePort)) "resources" dict "restartPolicy" "Always"
      "securityContext" (dict "allowPrivilegeEscalation" false "runAsNonRoot" true)) }}
{{- end }}
{{- with $init }}{{ $_ := set $pod "initContainers" . }}{{ end }}
{{- toJson $pod }}
{{- end }}
