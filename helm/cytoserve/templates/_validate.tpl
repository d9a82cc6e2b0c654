{{/* Checks that values.schema.json cannot express: values that do not go together. Each message says what to do. */}}
{{- define "cytoserve.validate" -}}
{{- $v := .Values -}}
{{- $kserve := eq $v.mode "kserve" -}}
{{- $old := and $kserve (eq $v.kserve.version "0.15") -}}
{{- $scheme := include "cytoserve.modelScheme" . -}}
{{- if gt (int64 (include "cytoserve.bytes" $v.shm.sizeLimit)) (div (int64 (include "cytoserve.bytes" $v.resources.limits.memory)) 2) -}}
{{- fail (printf "shm.sizeLimit (%s) is more than half of resources.limits.memory (%s), against which it counts: raise the memory limit or lower shm.sizeLimit" $v.shm.sizeLimit $v.resources.limits.memory) -}}
{{- end -}}
{{- if gt (int64 (include "cytoserve.bytes" $v.resources.requests.memory)) (int64 (include "cytoserve.bytes" $v.resources.limits.memory)) -}}
{{- fail "resources.requests.memory is more than resources.limits.memory: lower the request or raise the limit" -}}
{{- end -}}
{{- with $v.resources.limits.cpu -}}
{{- if lt (int64 (include "cytoserve.millicores" .)) (int64 (include "cytoserve.millicores" $v.resources.requests.cpu)) -}}
{{- fail "resources.requests.cpu is more than resources.limits.cpu: lower the request, raise the limit, or leave the limit empty" -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "cytoserve.fullname" .)) -}}
{{- fail (printf "%s cannot name a Service or an InferenceService: use small letters, digits and '-', a letter first, in the release's name, nameOverride and fullnameOverride" (include "cytoserve.fullname" .)) -}}
{{- end -}}
{{- if gt (len (compact (list $v.calibration.configMap $v.calibration.existingClaim (ternary "files" "" (not (empty $v.calibration.files)))))) 1 -}}
{{- fail "calibration.configMap, calibration.existingClaim and calibration.files: more than one is set, choose one" -}}
{{- end -}}
{{- range $name, $text := $v.calibration.files -}}
{{- if hasKey (fromJson $text) "Error" -}}
{{- fail (printf "calibration.files: %s is no JSON object; give the text of a file that `cytoserve calibrate` made" $name) -}}
{{- end -}}
{{- end -}}
{{- if gt (len (values $v.calibration.files | join "")) 1000000 -}}
{{- fail "calibration.files: more than 1 MB in all does not fit into a ConfigMap; use calibration.existingClaim" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.existingSecret) (not $v.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs a certificate: name tls.existingSecret, or set tls.certManager.enabled and tls.certManager.issuerName" -}}
{{- end -}}
{{- if and $v.tls.enabled $v.tls.existingSecret $v.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled are both set: choose one" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.enabled) -}}
{{- fail "tls.certManager.enabled has no effect without tls.enabled: set tls.enabled=true" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerName) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerName" -}}
{{- end -}}
{{- if and $v.tls.enabled $v.tls.mutual $v.gateway.enabled -}}
{{- fail "tls.mutual asks for a client certificate, which a Gateway route cannot show to the server: set tls.mutual=false (with a BackendTLSPolicy of yours), or gateway.enabled=false" -}}
{{- end -}}
{{- if and $v.tls.enabled $v.service.http.enabled -}}
{{- fail "tls.enabled protects gRPC only, and service.http.enabled would offer the same inference in plain text beside it: turn one of them off" -}}
{{- end -}}
{{- if and $v.gateway.enabled (not $v.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs: name the Gateway, such as [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) -}}
{{- fail "ingress.enabled needs ingress.host" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.tlsSecret) -}}
{{- fail "ingress.enabled needs ingress.tlsSecret: ingress-nginx serves gRPC over TLS only" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (eq $v.autoscaling.kind "hpa") $v.gpu.enabled (not $v.autoscaling.hpa.podsMetric) -}}
{{- fail "autoscaling.kind=hpa looks at the CPU, which does not tell the load of a GPU: use keda, or name autoscaling.hpa.podsMetric (mode deployment)" -}}
{{- end -}}
{{- if $kserve -}}
{{- if $v.monitoring.serviceMonitor.enabled -}}
{{- fail "monitoring.serviceMonitor needs the Service of mode deployment; use monitoring.podMonitor with mode=kserve" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (eq $v.autoscaling.kind "hpa") $v.autoscaling.hpa.podsMetric -}}
{{- fail "KServe's own HPA knows cpu and memory only: leave autoscaling.hpa.podsMetric empty, or use autoscaling.kind=keda" -}}
{{- end -}}
{{- if and $old $v.autoscaling.keda.authenticationRef -}}
{{- fail "KServe 0.15 has no field for autoscaling.keda.authenticationRef: upgrade KServe to 0.16, or open Prometheus to KEDA without it" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.kserve.clusterLocal) -}}
{{- fail "tls.enabled with mode=kserve needs kserve.clusterLocal=true: KServe's route speaks plain text to the pods" -}}
{{- end -}}
{{- if and $v.engineCache.prebuild (has $scheme (list "s3" "oci")) -}}
{{- fail "engineCache.prebuild cannot see the models of an s3:// or oci:// store with mode=kserve, because KServe provides them after the pod's own init steps: set it to false (engines are then built at start, within probes.startup.windowSeconds)" -}}
{{- end -}}
{{- end -}}
{{- end }}
