{{/* The pod's parts, the same in both modes. */}}

{{/* Arguments of the entrypoint that `serve` and `warm` share. */}}
{{- define "cytoserve.serverArgs" -}}
- --model-repository={{ include "cytoserve.modelPath" . }}
{{- with .Values.model.synthesisPath }}
- --model-repository={{ . }}
{{- end }}
{{- with .Values.model.manifestSha256 }}
- --manifest-sha256={{ . }}
{{- end }}
{{- if not .Values.model.refuseUnlisted }}
- --allow-unlisted
{{- end }}
{{- if .Values.model.skipVerification }}
- --skip-verification
{{- end }}
{{- with .Values.model.configName }}
- --model-config-name={{ . }}
{{- end }}
{{- end }}

{{- define "cytoserve.serveArgs" -}}
- serve
{{ include "cytoserve.serverArgs" . }}
- --http-port=8000
- --grpc-port=8001
- --metrics-port=8002
- --exit-timeout={{ .Values.triton.exitTimeoutSeconds }}
- --restricted-header={{ .Values.restrictedProtocols.headerName }}
- --rate-limit={{ .Values.triton.rateLimit }}
- --log-verbose={{ .Values.triton.logVerbose }}
{{- if .Values.service.http.enabled }}
- --http-inference
{{- end }}
{{- if .Values.triton.latencyQuantiles }}
- --latency-quantiles
{{- end }}
{{- if .Values.tls.enabled }}
- --tls-cert=/etc/cytoserve/tls/tls.crt
- --tls-key=/etc/cytoserve/tls/tls.key
{{- if .Values.tls.mutual }}
- --tls-client-ca=/etc/cytoserve/tls/ca.crt
{{- end }}
{{- end }}
{{- if .Values.tracing.enabled }}
- --otel-url={{ .Values.tracing.url }}
- --otel-rate={{ .Values.tracing.rate }}
- --otel-service={{ include "cytoserve.fullname" . }}
{{- end }}
{{- with .Values.triton.extraArgs }}
- --
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Command of a probe that runs in the server's own container. */}}
{{- define "cytoserve.probeCommand" -}}
- python3
- -m
- cytoserve_deploy.container.entrypoint
- probe
- --url=localhost:8001
{{- if .root.Values.tls.enabled }}
- --tls-ca=/etc/cytoserve/tls/ca.crt
{{- with .root.Values.tls.serverName }}
- --tls-server-name={{ . }}
{{- end }}
{{- if .root.Values.tls.mutual }}
- --tls-cert=/etc/cytoserve/tls/tls.crt
- --tls-key=/etc/cytoserve/tls/tls.key
{{- end }}
{{- end }}
- --model={{ .model }}
- --deadline={{ .deadline }}
{{- end }}

{{/* The variables of cytoserve_contract.telemetry; one that extraEnv names is the operator's. */}}
{{- define "cytoserve.noTelemetry" -}}
{{- $own := list }}
{{- range .Values.extraEnv }}
{{- $own = append $own .name }}
{{- end }}
{{- range list "ORT_DISABLE_TELEMETRY" "HF_HUB_DISABLE_TELEMETRY" "HF_HUB_OFFLINE" "HF_HUB_DISABLE_UPDATE_CHECK" "DO_NOT_TRACK" }}
{{- if not (has . $own) }}
- name: {{ . }}
  value: "1"
{{- end }}
{{- end }}
{{- end }}

{{- define "cytoserve.env" -}}
- name: HOME
  value: /tmp
- name: PYTHONDONTWRITEBYTECODE
  value: "1"
{{- include "cytoserve.noTelemetry" . | trimSuffix "\n" }}
{{- if gt (int .Values.triton.onnxThreads) 0 }}
- name: CYTOSERVE_ONNX_THREADS
  value: {{ .Values.triton.onnxThreads | quote }}
{{- end }}
{{- if or (include "cytoserve.calibrationConfigMap" .) .Values.calibration.existingClaim }}
- name: CYTOSERVE_CALIBRATION
  value: /etc/cytoserve/calibration
{{- end }}
{{- if .Values.restrictedProtocols.existingSecret }}
- name: CYTOSERVE_RESTRICTED_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.restrictedProtocols.existingSecret | quote }}
      key: {{ .Values.restrictedProtocols.secretKey | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cytoserve.resources" -}}
requests:
  cpu: {{ .Values.resources.requests.cpu | quote }}
  memory: {{ .Values.resources.requests.memory | quote }}
  {{- if .Values.gpu.enabled }}
  {{ .Values.gpu.resourceName }}: {{ .Values.gpu.count | quote }}
  {{- end }}
limits:
  {{- with .Values.resources.limits.cpu }}
  cpu: {{ . | quote }}
  {{- end }}
  memory: {{ .Values.resources.limits.memory | quote }}
  {{- if .Values.gpu.enabled }}
  {{ .Values.gpu.resourceName }}: {{ .Values.gpu.count | quote }}
  {{- end }}
{{- end }}

{{- define "cytoserve.volumes" -}}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.shm.sizeLimit }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
- name: cache
  {{- if .Values.engineCache.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .Values.engineCache.existingClaim | quote }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.engineCache.sizeLimit }}
  {{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "cytoserve.tlsSecret" . | quote }}
    defaultMode: 0440
{{- end }}
{{- if include "cytoserve.calibrationConfigMap" . }}
- name: calibration
  configMap:
    name: {{ include "cytoserve.calibrationConfigMap" . | quote }}
{{- else if .Values.calibration.existingClaim }}
- name: calibration
  persistentVolumeClaim:
    claimName: {{ .Values.calibration.existingClaim | quote }}
    readOnly: true
{{- end }}
{{- $scheme := include "cytoserve.modelScheme" . }}
{{- if and (eq $scheme "pvc") (or (eq .Values.mode "deployment") .Values.engineCache.prebuild) }}
- name: models
  persistentVolumeClaim:
    claimName: {{ regexReplaceAll "^pvc://([^/]+).*$" .Values.model.uri "${1}" | quote }}
    readOnly: true
{{- else if and (eq .Values.mode "deployment") (eq $scheme "s3") }}
- name: models
  emptyDir:
    sizeLimit: {{ .Values.model.downloader.sizeLimit }}
{{- else if and (eq .Values.mode "deployment") (eq $scheme "oci") }}
- name: models
  image:
    reference: {{ trimPrefix "oci://" .Values.model.uri }}
    pullPolicy: IfNotPresent
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Mount of the volume "models", where the chart itself provides it. */}}
{{- define "cytoserve.modelMount" -}}
- name: models
  mountPath: {{ include "cytoserve.modelPath" . }}
  readOnly: true
  {{- $scheme := include "cytoserve.modelScheme" . }}
  {{- if eq $scheme "pvc" }}
  {{- with regexReplaceAll "^pvc://[^/]+/?(.*?)/?$" .Values.model.uri "${1}" }}
  subPath: {{ . | quote }}
  {{- end }}
  {{- else if eq $scheme "oci" }}
  {{- with .Values.model.ociSubPath }}
  subPath: {{ . | quote }}
  {{- end }}
  {{- end }}
{{- end }}

{{- define "cytoserve.volumeMounts" -}}
- name: shm
  mountPath: /dev/shm
- name: tmp
  mountPath: /tmp
- name: cache
  mountPath: /var/cache/cytoserve
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/cytoserve/tls
  readOnly: true
{{- end }}
{{- if or (include "cytoserve.calibrationConfigMap" .) .Values.calibration.existingClaim }}
- name: calibration
  mountPath: /etc/cytoserve/calibration
  readOnly: true
{{- end }}
{{- if and (eq .Values.mode "deployment") .Values.model.uri }}
{{ include "cytoserve.modelMount" . }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The server's container, without its name. */}}
{{- define "cytoserve.container" -}}
image: {{ include "cytoserve.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [python3, -m, cytoserve_deploy.container.entrypoint]
args:
  {{- include "cytoserve.serveArgs" . | nindent 2 }}
env:
  {{- include "cytoserve.env" . | nindent 2 }}
# http stands first: KServe puts the first port on the Service's port 80, and takes the first one that is not gRPC as REST
ports:
  - name: http
    containerPort: 8000
    protocol: TCP
  - name: grpc
    containerPort: 8001
    protocol: TCP
  - name: metrics
    containerPort: 8002
    protocol: TCP
# a real inference over gRPC: nothing is sent here before the whole chain of models has answered
startupProbe:
  exec:
    command:
      {{- include "cytoserve.probeCommand" (dict "root" . "model" "cell_analysis" "deadline" 50) | nindent 6 }}
  periodSeconds: 10
  timeoutSeconds: 60
  failureThreshold: {{ div (add .Values.probes.startup.windowSeconds 9) 10 }}
readinessProbe:
  httpGet:
    path: /v2/health/ready
    port: 8000  # a number: KServe's agent, which it adds where there is no storage URI, cannot look up a port's name
  periodSeconds: {{ .Values.probes.readiness.periodSeconds }}
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  {{- if eq .Values.probes.liveness.kind "grpc" }}
  # HTTP health stays good while gRPC is stuck (server issue 6899), so ask over gRPC
  exec:
    command:
      {{- include "cytoserve.probeCommand" (dict "root" . "model" "service_info" "deadline" (sub .Values.probes.liveness.timeoutSeconds 5)) | nindent 6 }}
  {{- else }}
  httpGet:
    path: /v2/health/live
    port: 8000
  {{- end }}
  periodSeconds: {{ .Values.probes.liveness.periodSeconds }}
  timeoutSeconds: {{ .Values.probes.liveness.timeoutSeconds }}
  failureThreshold: {{ .Values.probes.liveness.failureThreshold }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.triton.drainSeconds }}
securityContext:
  {{- include "cytoserve.containerSecurityContext" . | nindent 2 }}
resources:
  {{- include "cytoserve.resources" . | nindent 2 }}
volumeMounts:
  {{- include "cytoserve.volumeMounts" . | nindent 2 }}
{{- end }}

{{- define "cytoserve.runtimeSpec" -}}
supportedModelFormats:
  - name: triton
    version: "2"
    autoSelect: false
protocolVersions: [v2, grpc-v2]
containers:
  - name: kserve-container
    {{- include "cytoserve.container" . | nindent 4 }}
volumes:
  {{- include "cytoserve.volumes" . | nindent 2 }}
{{- end }}

{{- define "cytoserve.initContainers" -}}
{{- if and (eq .Values.mode "deployment") (eq (include "cytoserve.modelScheme" .) "s3") }}
- name: download-models
  image: {{ .Values.model.downloader.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - {{ .Values.model.uri }}
    - /models
  env:
    - name: HOME
      value: /tmp
    {{- include "cytoserve.noTelemetry" . | trim | nindent 4 }}
  {{- with .Values.model.downloader.secret }}
  envFrom:
    - secretRef:
        name: {{ . | quote }}
  {{- end }}
  securityContext:
    {{- include "cytoserve.containerSecurityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {memory: 2Gi}
  volumeMounts:
    - name: models
      mountPath: /models
    - name: tmp
      mountPath: /tmp
{{- end }}
{{- if .Values.engineCache.prebuild }}
- name: build-engines
  image: {{ include "cytoserve.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python3, -m, cytoserve_deploy.container.entrypoint]
  args:
    - warm
    {{- include "cytoserve.serverArgs" . | nindent 4 }}
    - --timeout={{ .Values.engineCache.prebuildTimeoutSeconds }}
  env:
    {{- include "cytoserve.env" . | nindent 4 }}
  securityContext:
    {{- include "cytoserve.containerSecurityContext" . | nindent 4 }}
  resources:
    {{- include "cytoserve.resources" . | nindent 4 }}
  volumeMounts:
    {{- include "cytoserve.volumeMounts" . | nindent 4 }}
    {{- if and (eq .Values.mode "kserve") (eq (include "cytoserve.modelScheme" .) "pvc") }}
    {{- include "cytoserve.modelMount" . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}

{{/* What the server's pods tolerate: the GPU's taint, and what the values name. */}}
{{- define "cytoserve.tolerations" -}}
{{- if and .Values.gpu.enabled .Values.gpu.tolerateTaint }}
- key: nvidia.com/gpu
  operator: Exists
  effect: NoSchedule
{{- end }}
{{- with .Values.tolerations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Fields of a pod's specification that a ServingRuntime has not got, but Deployment and InferenceService have. */}}
{{- define "cytoserve.podFields" -}}
serviceAccountName: {{ include "cytoserve.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "cytoserve.gracePeriod" . }}
securityContext:
  {{- include "cytoserve.podSecurityContext" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "cytoserve.tolerations" . | trim }}
tolerations:
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "cytoserve.podSelector" . | nindent 8 }}
  {{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- with include "cytoserve.initContainers" . | trim }}
initContainers:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "cytoserve.podLabels" -}}
{{ include "cytoserve.podSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: cytoserve
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
One update strategy for both modes. A Deployment is Available while no more than maxUnavailable pods are missing, so one
replica with maxUnavailable 1 is Available, and an InferenceService Ready, without a pod: one replica is recreated
instead, and where an autoscaler may go down to one, a pod is added first.
*/}}
{{- define "cytoserve.strategy" -}}
{{- $scaled := .Values.autoscaling.enabled -}}
{{- $single := eq 1 (ternary (int .Values.autoscaling.minReplicas) (int .Values.replicas) $scaled) -}}
{{- $inPlace := eq .Values.rollout.strategy "in-place" -}}
{{- if and $inPlace $single (not $scaled) -}}
type: Recreate
{{- else -}}
type: RollingUpdate
rollingUpdate:
  {{- if and $inPlace (not $single) }}
  maxSurge: 0
  maxUnavailable: 1
  {{- else }}
  maxSurge: 1
  maxUnavailable: 0
  {{- end }}
{{- end -}}
{{- end }}

{{/*
PromQL of the load of all pods. KEDA divides it by their number, under KServe too, which names no type of metric. All steps
count but the denoiser: only the scorers call it, so no more calls wait there than there are scorers (two), however many
requests wait for a scorer.
*/}}
{{- define "cytoserve.loadQuery" -}}
{{- $select := printf `{model!="denoiser",namespace="%s",pod=~"%s-.+"}` .Release.Namespace (include "cytoserve.fullname" .) -}}
{{- if eq .Values.autoscaling.keda.metric "pending" -}}
sum(sum by (pod) (nv_inference_pending_request_count{{ $select }}))
{{- else -}}
sum(sum by (pod) (rate(nv_inference_queue_duration_us{{ $select }}[2m])) / clamp_min(sum by (pod) (rate(nv_inference_compute_infer_duration_us{{ $select }}[2m])), 1))
{{- end -}}
{{- end }}
