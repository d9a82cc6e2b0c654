#!/usr/bin/env bash
# From nothing to a field analysed on a laptop: a kind cluster, the cpu image, the chart, helm's test, and a call from outside.
#   deploy/kind/demo.sh [IMAGE_FILE]
# Needs kind, docker, kubectl and helm, and the command cytoserve ($CYTOSERVE names another). The cluster stays:
#   kind delete cluster --name cytoserve
set -euo pipefail
cd "$(dirname "$0")/../.."

field=${1:-examples/synthetic_field.png}
cluster=cytoserve
image=cytoserve/server:0.1.0-cpu
port=${PORT:-18001}

kind get clusters | grep -qx "$cluster" || kind create cluster --name "$cluster"
docker build -f deploy/docker/Dockerfile --target cpu -t "$image" .
kind load docker-image "$image" --name "$cluster"

helm upgrade --install cyto helm/cytoserve --kube-context "kind-$cluster" --namespace blood --create-namespace \
    --values helm/cytoserve/values-cpu.yaml --set autoscaling.enabled=false
kubectl --context "kind-$cluster" --namespace blood rollout status deployment/cyto-cytoserve --timeout=15m
helm test cyto --kube-context "kind-$cluster" --namespace blood --logs

kubectl --context "kind-$cluster" --namespace blood port-forward service/cyto-cytoserve "$port:8001" &
trap "kill $!" EXIT
for _ in $(seq 30); do
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
    sleep 1
done
mkdir -p out
"${CYTOSERVE:-cytoserve}" analyze "$field" --url "127.0.0.1:$port" --json out/kind.json --overlay out ||
    test $? -eq 8 # the sample is unfamiliar, which a generated field is
