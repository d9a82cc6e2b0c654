# Two commands do everything: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV ?= .venv-demo
TEST_VENV ?= .venv-test
IMAGE ?= examples/synthetic_field.png
OUT ?= out
NO_PIP_NOISE := --quiet --disable-pip-version-check

.PHONY: demo serve test lint bench load chart-docs chart-golden clean

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

# Speed of the server on real fields, beside ONNX Runtime in process (docs/benchmarks.md).
bench:
	$(BIN)/python -m benchmarks.server_speed

# Bounded load on a server of our own, on loopback.
load:
	$(BIN)/python tests/load/run.py

# The chart's README from its values; the rendered examples that the tests hold against (look at the difference).
chart-docs:
	$(BIN)/python tests/helm/chart_readme.py
chart-golden:
	CYTOSERVE_GOLDEN=write $(BIN)/python -m pytest tests/helm/test_chart_golden.py

clean:
	rm -rf $(VENV) $(TEST_VENV) $(OUT) build
