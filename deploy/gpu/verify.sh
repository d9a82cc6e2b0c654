#!/usr/bin/env bash
# On a GPU node: build the engine, check its decisions, time it beside ONNX Runtime and torch, verify the repository,
# and print one report. NOT RUN by the authors (no GPU was at hand); see docs/verification.md.
#
#   deploy/gpu/verify.sh CHECKPOINT PROFILE OUT [LATENTS.npy] [PRECISION]
#
# PROFILE: a10, l4, a100, h100 or h200. Needs: this package with the extra "export" (a CUDA build of torch),
# onnxruntime-gpu in place of onnxruntime, tensorrt (or NVIDIA's container of the Triton release that will serve),
# nvidia-smi. LATENTS.npy holds latents of real cells, (N, C, H, W) float32; without it the decisions compared are
# those of random latents. For research use; not a medical device.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//'
    exit 2
fi
checkpoint=$1 profile=$2 out=$3 latents=${4:-} precision=${5:-bf16}
mkdir -p "$out"
report=$out/report.txt
exec > >(tee "$report") 2>&1

# as cytoserve_contract.telemetry, for the plain Python below: nothing here calls home unless the operator says so
for variable in ORT_DISABLE_TELEMETRY HF_HUB_DISABLE_TELEMETRY HF_HUB_OFFLINE HF_HUB_DISABLE_UPDATE_CHECK DO_NOT_TRACK; do
    export "$variable=${!variable:-1}"
done

section() { printf '\n== %s\n' "$1"; }
fail() { echo "FAILED: $1"; exit 1; }

section "machine"
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv || fail "no GPU: nvidia-smi did not answer"
python -c 'import torch, onnxruntime, tensorrt
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__, "tensorrt", tensorrt.__version__)
print(onnxruntime.get_available_providers())
assert torch.cuda.is_available()' || fail "torch with CUDA, onnxruntime-gpu and tensorrt are all needed"

section "checkpoint"
cytoserve export inspect "$checkpoint"

section "repository for ONNX Runtime, fp32"
cytoserve export repository "$checkpoint" --to "$out/onnx" --profile "$profile" --replace
cytoserve export verify "$out/onnx"

section "engine, fp32, and its decisions against ONNX Runtime"
args=(); [ -z "$latents" ] || args=(--cells "$latents")
cytoserve export tensorrt "$out/onnx/denoiser/1/model.onnx" --profile "$profile" \
    --timing-cache "$out/timing.cache" "${args[@]}"

section "repository with the engine, $precision"
# A half precision is accepted here without real cells because this script is the check of it; serve only after it passed.
cytoserve export repository "$checkpoint" --to "$out/tensorrt" --runtime tensorrt --precision "$precision" \
    --profile "$profile" --accept-changes --replace
cytoserve export verify "$out/tensorrt"

section "evaluations per second"
python -m benchmarks.export_gpu "$checkpoint" --profile "$profile" --onnx "$out/onnx/denoiser/1/model.onnx" \
    --engine "$out/tensorrt/denoiser/1/model.plan" --out "$out/gpu.json"

section "passed"
echo "report: $report"
