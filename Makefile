# Two commands do everything: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV ?= .venv-demo
TEST_VENV ?= .venv-test
IMAGE ?= examples/synthetic_field.png
OUT ?= out
NO_PIP_NOISE := --quiet --disable-pip-version-check

.PHONY: demo demo-site serve test lint check unit-first-part unit-second-part unit-third-part slow-graphs slow-server load soak fuzz evidence documents contract test-image integration-docker chart-docs chart-golden clean

# The main job: an environment, the real Triton, one field analysed, everything stopped again. The demo's field is
# generated, so it has a site of its own: the pictures are unlike the home site's. Your own picture is asked about as of home.
DEMO_FIELD := examples/synthetic_field.png
DEMO_SITE := $(if $(filter $(DEMO_FIELD),$(IMAGE)),--site demo)
demo: $(VENV)/.ready
	CYTOSERVE_CALIBRATION=examples/sites $(VENV)/bin/cytoserve analyze $(IMAGE) $(DEMO_SITE) --json $(OUT)/analysis.json --overlay $(OUT) --report $(OUT)/report.html

# The demo's site, made again: needed after every change of weights or scoring rules. Its cells are generated (examples/README.md).
demo-site:
	rm -f examples/sites/demo.json
	$(BIN)/cytoserve calibrate examples/cells --site demo --to examples/sites/demo.json --um-per-pixel 0.15 --tolerated-error 0.03

# The server in the foreground, on loopback.
serve: $(VENV)/.ready
	$(VENV)/bin/cytoserve serve

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(NO_PIP_NOISE) -e '.[serve,report]'
	touch $@

# The review page is tested in a real browser. Root installs Debian's; anybody else is told by the tests that skip.
.PHONY: chromium
chromium:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get install -y -qq --no-install-recommends chromium \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || echo "no Chromium could be installed: the tests of the review page will skip"; fi

# The README's picture of the review page, made again: `make demo page-picture ANALYSIS=out/analysis.json`.
.PHONY: page-picture
page-picture:
	$(BIN)/python tests/reports/page_picture.py $(ANALYSIS)

# Always a clean environment, so that a missing install step shows. Two at a time: the unit tests, then what needs graphs and training beside what
# needs Triton.
test: chromium
	rm -rf $(TEST_VENV)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install $(NO_PIP_NOISE) -e '.[serve,export,train,validate,report,deploy,load,test]'
	$(MAKE) lint BIN=$(TEST_VENV)/bin
	$(MAKE) --no-print-directory --jobs=3 --output-sync=target BIN=$(TEST_VENV)/bin $(UNIT_PARTS)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target BIN=$(TEST_VENV)/bin slow-server slow-graphs

BIN ?= $(TEST_VENV)/bin
lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# After every change, in the existing environment: lint, import rules, types and the unit tests. More of them at a time than two cores, because
# the client's tests mostly wait.
UNIT_PARTS := unit-first-part unit-second-part unit-third-part
check:
	$(MAKE) --no-print-directory --jobs=4 --output-sync=target BIN=$(BIN) $(UNIT_PARTS) lint
FIRST_PART := tests/scoring tests/statistics tests/validation
SECOND_PART := tests/client tests/helm tests/house
unit-first-part:
	$(BIN)/python -m pytest -q -m unit $(FIRST_PART)
unit-second-part:
	$(BIN)/python -m pytest -q -m unit $(SECOND_PART)
unit-third-part:
	$(BIN)/python -m pytest -q -m unit $(addprefix --ignore=,$(FIRST_PART) $(SECOND_PART))
GRAPHS := tests/export tests/training tests/benchmarks tests/scoring tests/validation
slow-graphs:
	$(BIN)/python -m pytest -q -m "not unit" --durations=5 $(GRAPHS)
slow-server:
	$(BIN)/python -m pytest -q -m "not unit" --durations=5 $(addprefix --ignore=,$(GRAPHS))

# Every measurement that two CPU cores can make (about an hour and a half; what is up to date is skipped), then the documents' figures.
# One of them: `make evidence ONLY=fields`; what there is: `python -m benchmarks.rerun --list`; only the documents: `make documents`.
DATA ?= ../shared/data
ONLY ?=
evidence:
	$(BIN)/python -m benchmarks.rerun --data $(DATA) $(addprefix --only ,$(ONLY))
documents:
	$(BIN)/python -m benchmarks.render

# Every file that is generated from contract/: configurations, the tables of docs/contract.md, the list of hashes.
contract:
	$(BIN)/python -m cytoserve_contract .
	$(BIN)/cytoserve export manifest model_repository
	$(BIN)/cytoserve export manifest model_repository_synthesis

# Bounded load on a server of our own, on loopback; the report is out/load/report.html. Shapes: `make load SHAPE=help`.
SHAPE ?= steady
LOAD ?=
.PHONY: load-page load-witness
load:
	$(BIN)/python tests/load/run.py $(if $(filter help,$(SHAPE)),--help,--shape $(SHAPE) --seconds $(or $(SECONDS),60) $(LOAD))
# The same with locust's page on loopback, until Ctrl-C or ten minutes.
load-page:
	$(BIN)/python tests/load/run.py --page --shape $(SHAPE) --seconds $(or $(SECONDS),60) $(LOAD)
# One closed loop by ours, by Triton's counters and by NVIDIA's perf_analyzer (needs glibc 2.38), compared.
load-witness:
	$(BIN)/python tests/load/load_witness.py --out out/load/witness.json

# Mixed work with faults on one server for so many seconds; it fails on a wrong answer, on what is not given back, and on a leak.
# Then the decoder and the server with spoilt input. The figures of docs/reliability.md: `make evidence ONLY=soak`, fuzz_decoder, fuzz_server.
soak:
	$(BIN)/python -m benchmarks.soak $(DATA)/pbc/val --seconds $(or $(SECONDS),300)
CASES ?= 1000000
REQUESTS ?= 20000
fuzz:
	$(BIN)/python -m benchmarks.fuzz_decoder --cases $(CASES)
	$(BIN)/python -m benchmarks.fuzz_server --requests $(REQUESTS)

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
