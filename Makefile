# Two commands do everything: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV ?= .venv-demo
TEST_VENV ?= .venv-test
IMAGE ?= examples/synthetic_field.png
OUT ?= out
NO_PIP_NOISE := --quiet --disable-pip-version-check

.PHONY: demo serve test lint bench load evidence export-tables test-image integration-docker chart-docs chart-golden clean

# The main job: an environment, the real Triton, one field analysed, everything stopped again.
demo: $(VENV)/.ready
	$(VENV)/bin/cytoserve analyze $(IMAGE) --json $(OUT)/analysis.json --overlay $(OUT)

# The server in the foreground, on loopback.
serve: $(VENV)/.ready
	$(VENV)/bin/cytoserve serve

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(NO_PIP_NOISE) -e '.[serve]'
	touch $@

# Always a clean environment, so that a missing install step shows.
test:
	rm -rf $(TEST_VENV)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install $(NO_PIP_NOISE) -e '.[serve,export,train,validate,deploy,load,test]'
	$(MAKE) lint BIN=$(TEST_VENV)/bin
	$(TEST_VENV)/bin/python -m pytest

BIN ?= $(TEST_VENV)/bin
lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed of the server beside ONNX Runtime, then the published procedure on the same weights and cells.
bench:
	$(BIN)/python -m benchmarks.server_speed ../shared/data/pbc/val --out docs/results/server_speed.json
	$(BIN)/python -m benchmarks.published ../shared/data/pbc/test --cells 300 --out docs/results/published.json

# docs/evidence.md and the figures in README.md and docs/benchmarks.md, from docs/results; the tables of docs/export.md.
evidence:
	$(BIN)/python -m benchmarks.evidence
	$(BIN)/python -m benchmarks.figures
export-tables:
	$(BIN)/python -m benchmarks.export_tables

# Bounded load on a server of our own, on loopback.
load:
	$(BIN)/python tests/load/run.py

COMPOSE := docker compose -f deploy/docker/compose.yaml --profile cpu
# The cpu image built and called without a container engine (root, Debian's buildah and debootstrap; docs/image.md).
test-image:
	CYTOSERVE_TEST_IMAGE=1 $(BIN)/python -m pytest tests/image
# The integration suite against the container, where Docker is; it is taken down whatever happens.
integration-docker: export GRAFANA_PASSWORD := not-started-here
integration-docker:
	trap '$(COMPOSE) down --volumes' EXIT; trap 'exit 130' INT TERM; \
	$(COMPOSE) up --build --detach --wait --wait-timeout 300 server-cpu \
	&& $(BIN)/python -m pytest tests/integration --triton-url 127.0.0.1:8001

# The chart's README from its values; the rendered examples that the tests hold against (look at the difference).
chart-docs:
	$(BIN)/python tests/helm/chart_readme.py
chart-golden:
	CYTOSERVE_GOLDEN=write $(BIN)/python -m pytest tests/helm/test_chart_golden.py

# The chart and the roll-out on the cluster that KUBECONFIG names, in namespaces of their own; a local one in two commands:
#   kind create cluster --name cytoserve --kubeconfig kind.yaml
#   make test-cluster KUBECONFIG=kind.yaml
.PHONY: test-cluster kind-demo
test-cluster: export CYTOSERVE_TEST_CLUSTER := 1
test-cluster:
	KUBECONFIG=$(KUBECONFIG) $(BIN)/python -m pytest tests/cluster

# The chart with the cpu image on a kind cluster, called from outside.
kind-demo: $(VENV)/.ready
	CYTOSERVE=$(VENV)/bin/cytoserve deploy/kind/demo.sh $(IMAGE)

clean:
	rm -rf $(VENV) $(TEST_VENV) $(OUT) build
