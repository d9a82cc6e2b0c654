#!/usr/bin/env bash
# On a GPU node: build the engine, check its decisions, time it beside ONNX Runtime and torch, verify the repository,
# let Triton load it where there is one, and write OUT/report.json (OUT/report.txt: all that was printed), whose "line"
# belongs into docs/verification.md. NOT RUN by the authors (no GPU was at hand). Run it in a checkout.
#
#   deploy/gpu/verify.sh CHECKPOINT PROFILE OUT [LATENTS.npy] [PRECISION]
#
# PROFILE: a10, l4, a100, h100 or h200. Needs: this package with the extra "export" (a CUDA build of torch),
# onnxruntime-gpu in place of onnxruntime, the Python package tensorrt of the very release in the Triton container that
# will serve (an engine of another one is refused there), nvidia-smi. In that container, tritonserver is found and used;
# it keeps engines in /var/cache/cytoserve. LATENTS.npy holds latents of real cells, (N, C, H, W) float32; without it the decisions compared are
# those of random latents. For research use; not a medical device.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,15p' "$0" | sed 's/^# \{0,1\}//'
    exit 2
fi
mkdir -p "$3"
checkpoint=$(realpath "$1") profile=$2 out=$(realpath "$3") latents=${4:+$(realpath "$4")} precision=${5:-bf16}
cd "$(dirname "$0")/../.."
exec > >(tee "$out/report.txt") 2>&1
rm -f "$out"/{machine.csv,versions.json,engine.json,triton.json,gpu.json,report.json}

step=start
finish() { python3 deploy/gpu/report.py "$out" "$profile" "$precision" "$1" "$step"; }
trap 'finish $?' EXIT

# as cytoserve_contract.telemetry, for the plain Python below: nothing here calls home unless the operator says so
for variable in ORT_DISABLE_TELEMETRY HF_HUB_DISABLE_TELEMETRY HF_HUB_OFFLINE HF_HUB_DISABLE_UPDATE_CHECK DO_NOT_TRACK; do
    export "$variable=${!variable:-1}"
done

section() { step=$1; printf '\n== %s\n' "$1"; }
fail() { echo "FAILED: $1"; exit 1; }

section "machine"
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv | tee "$out/machine.csv" ||
    fail "no GPU: nvidia-smi did not answer"
python3 -c 'import json, torch, onnxruntime, tensorrt
assert torch.cuda.is_available()
print(json.dumps({each.__name__: each.__version__ for each in (torch, onnxruntime, tensorrt)}
                 | {"cuda": torch.version.cuda, "providers": onnxruntime.get_available_providers()}))' |
    tee "$out/versions.json" || fail "torch with CUDA, onnxruntime-gpu and tensorrt are all needed"

section "checkpoint"
cytoserve export inspect "$checkpoint"

section "repository for ONNX Runtime, fp32"
cytoserve export repository "$checkpoint" --to "$out/onnx" --profile "$profile" --replace
cytoserve export verify "$out/onnx"

section "engine, fp32, and its decisions against ONNX Runtime"
args=(); [ -z "$latents" ] || args=(--cells "$latents")
cytoserve export tensorrt "$out/onnx/denoiser/1/model.onnx" --profile "$profile" \
    --timing-cache "$out/timing.cache" "${args[@]}" | tee "$out/engine.json"

section "repository with the engine, $precision"
# A half precision is accepted here without real cells because this script is the check of it; serve only after it passed.
cytoserve export repository "$checkpoint" --to "$out/tensorrt" --runtime tensorrt --precision "$precision" \
    --profile "$profile" --accept-changes --replace
cytoserve export verify "$out/tensorrt"

section "evaluations per second"
python3 -m benchmarks.export_gpu "$checkpoint" --profile "$profile" --onnx "$out/onnx/denoiser/1/model.onnx" \
    --engine "$out/tensorrt/denoiser/1/model.plan" --out "$out/gpu.json"

if command -v tritonserver > /dev/null; then
    # warm starts Triton on loopback, waits for one answer and stops it: configurations, warm-up and CUDA graphs are read.
    section "ONNX Runtime's TensorRT provider in Triton: engines built, then read from the cache"
    cytoserve export repository "$checkpoint" --to "$out/provider" --execution-provider tensorrt --profile "$profile" --replace
    mkdir -p /var/cache/cytoserve || fail "/var/cache/cytoserve cannot be made: mount a volume there"
    for _ in 1 2; do
        python3 -m cytoserve_deploy.container.entrypoint warm --model-repository "$out/provider" --model-config-name "$profile"
    done
    section "the engine in Triton"
    python3 -m cytoserve_deploy.container.entrypoint warm --model-repository "$out/tensorrt" --model-config-name "$profile"
    python3 -c 'import json, os
print(json.dumps({"version": os.environ.get("TRITON_SERVER_VERSION", "unknown")}))' > "$out/triton.json"
fi

section "passed"
echo "report: $out/report.json"
