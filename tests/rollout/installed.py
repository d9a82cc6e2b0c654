"""What `helm install` with mode=kserve leaves in a namespace, shortened to what a roll-out reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINE = "cyto-cytoserve"


def service(mode: str) -> dict[str, Any]:
    """Return an InferenceService as the chart renders it, shortened."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": LINE,
            "labels": {"app.kubernetes.io/name": "cytoserve", "app.kubernetes.io/managed-by": "Helm",
                       "networking.kserve.io/visibility": "cluster-local"},
            "annotations": {"serving.kserve.io/deploymentMode": mode, "serving.kserve.io/autoscalerClass": "none",
                            "meta.helm.sh/release-name": "cyto"},
        },
        "spec": {"predictor": {
            "minReplicas": 1, "maxReplicas": 1, "timeout": 120, "automountServiceAccountToken": False,
            "labels": {"app.kubernetes.io/name": "cytoserve", "app.kubernetes.io/component": "server"},
            "model": {"modelFormat": {"name": "triton", "version": "2"}, "runtime": LINE, "protocolVersion": "grpc-v2",
                      "storageUri": "pvc://models/0.1.0", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
        }},
    }  # fmt: skip


RUNTIME = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": LINE, "labels": {"app.kubernetes.io/managed-by": "Helm"}},
    "spec": {
        "supportedModelFormats": [{"name": "triton", "version": "2"}],
        "containers": [{"name": "kserve-container", "image": "registry.example.org/cytoserve/server:0.1.0",
                        "args": ["serve", "--manifest-sha256=aa", "--grpc-port=8001", "--", "--log-info=1"]}],
    },
}  # fmt: skip
