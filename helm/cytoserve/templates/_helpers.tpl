{{/* Names, labels, and small conversions that every template shares. */}}

{{- define "cytoserve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "cytoserve.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cytoserve.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "cytoserve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: cytoserve
{{- end }}

{{/* Labels that select the server's pods: the same in both modes, and on no other pod of the chart. */}}
{{- define "cytoserve.podSelector" -}}
{{ include "cytoserve.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{/* The Service that clients call. KServe names its own, and puts the first port of the container on 80. */}}
{{- define "cytoserve.serviceName" -}}
{{- if eq .Values.mode "kserve" -}}{{ default (printf "%s-predictor" (include "cytoserve.fullname" .)) .Values.kserve.serviceName }}{{- else -}}{{ include "cytoserve.fullname" . }}{{- end -}}
{{- end }}

{{/* The Service without a cluster IP (mode deployment). */}}
{{- define "cytoserve.headlessName" -}}
{{ include "cytoserve.fullname" . }}-headless
{{- end }}

{{- define "cytoserve.serviceHttpPort" -}}
{{- if eq .Values.mode "kserve" -}}80{{- else -}}8000{{- end -}}
{{- end }}

{{- define "cytoserve.serviceHost" -}}
{{ include "cytoserve.serviceName" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "cytoserve.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end }}

{{- define "cytoserve.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "cytoserve.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "cytoserve.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "cytoserve.fullname" .)) -}}
{{- end }}

{{/* ConfigMap with the calibrations; empty: there is none. */}}
{{- define "cytoserve.calibrationConfigMap" -}}
{{- if .Values.calibration.files -}}{{ include "cytoserve.fullname" . }}-calibration{{- else -}}{{ .Values.calibration.configMap }}{{- end -}}
{{- end }}

{{/* Annotations of the pods. A checksum: the server reads its calibrations at start, so a pod with others is another pod. */}}
{{- define "cytoserve.podAnnotations" -}}
{{- if .Values.calibration.files }}
checksum/calibration: {{ toJson .Values.calibration.files | sha256sum }}
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Seconds until SIGKILL: always more than draining and Triton's own exit timeout together. */}}
{{- define "cytoserve.gracePeriod" -}}
{{- add .Values.triton.drainSeconds .Values.triton.exitTimeoutSeconds 15 -}}
{{- end }}

{{/* A Kubernetes quantity of bytes as an integer. */}}
{{- define "cytoserve.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- mul (atoi $number) (get $units (trimPrefix $number .)) -}}
{{- end }}

{{/* A Kubernetes quantity of CPU in thousandths of a core. */}}
{{- define "cytoserve.millicores" -}}
{{- if hasSuffix "m" . -}}{{- trimSuffix "m" . -}}{{- else -}}{{- mulf (float64 .) 1000 | int64 -}}{{- end -}}
{{- end }}

{{/* Scheme of the model's URI; "image" where the models are baked in. */}}
{{- define "cytoserve.modelScheme" -}}
{{- if .Values.model.uri -}}{{ regexFind "^[a-z0-9]+" .Values.model.uri }}{{- else -}}image{{- end -}}
{{- end }}

{{/* Where the server finds the models. KServe mounts what it provides at /mnt/models. */}}
{{- define "cytoserve.modelPath" -}}
{{- if and (eq .Values.mode "kserve") .Values.model.uri -}}/mnt/models{{- else -}}/models{{- end -}}
{{- end }}

{{- define "cytoserve.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "cytoserve.containerSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}
