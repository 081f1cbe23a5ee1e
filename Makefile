# Every command that a person or the continuous build needs. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
SPEC ?= specs/ads.yaml
DATA_ROOT ?= data/ads
PORT ?= 3000
MLFLOW_PORT ?= 5000
SERVE_PORT ?= 8080
# Tests run side by side in this many processes.
WORKERS ?= 2
BENCHMARK ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN_STAMP := $(VENV)/.installed-run
STAMP := $(VENV)/.installed

# Idle OpenMP threads otherwise spin, which starves the other processes of a small machine.
export GOMP_SPINCOUNT ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help install install-run demo ui serve test test-fast test-nightly lint format types benchmark clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with the pinned environment of development; does nothing when it is up to date

install-run: $(RUN_STAMP) ## The same with what `make demo` and `make ui` need only: no Spark, no tests

$(RUN_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make install PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $(RUN_STAMP)

$(STAMP): $(RUN_STAMP)
	$(PIP) -e '.[dev,spark]'
	@command -v java >/dev/null || [ -x "$$JAVA_HOME/bin/java" ] || echo "No Java: the tests of the engine spark will skip. It needs Java 17."
	touch $(STAMP)

demo: install-run ## Simulated logs to evaluated model: SPEC=specs/ads.yaml DATA_ROOT=data/ads
	$(BIN)/ctr run --spec $(SPEC) --data-root $(DATA_ROOT)

ui: install-run ## Web pages of Dagster (PORT=3000) and MLflow (MLFLOW_PORT=5000) on 127.0.0.1
	$(BIN)/ctr ui --spec $(SPEC) --data-root $(DATA_ROOT) --port $(PORT) --mlflow-port $(MLFLOW_PORT)

serve: install-run ## The champion of DATA_ROOT by HTTP on 127.0.0.1 (SERVE_PORT=8080)
	$(BIN)/ctr serve --data-root $(DATA_ROOT) --port $(SERVE_PORT)

test: install ## All tests but the nightly ones; ARGS='-k words' narrows them
	$(BIN)/python -m pytest -m 'not nightly' -n $(WORKERS) $(ARGS)

test-fast: install ## Without whole runs, browser and Spark: a few minutes; ARGS='-k words' narrows them
	$(BIN)/python -m pytest -m 'not (nightly or end_to_end or browser or spark)' -n $(WORKERS) $(ARGS)

test-nightly: install ## The slow suites, and all random examples of the tests that try a part of them in `make test`
	$(BIN)/python -m pytest -m 'nightly or hypothesis' --hypothesis-profile nightly $(ARGS)

lint: install ## ruff check, ruff format --check, import rules between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## mypy in strict mode
	$(BIN)/mypy

benchmark: install ## Side-by-side runs: BENCHMARK=name for one of the folder benchmarks/, all when empty
	@set -e; found=; for script in benchmarks/$(if $(BENCHMARK),$(BENCHMARK),[a-z]*).py; do \
	  if [ -f "$$script" ]; then found=1; echo "== $$script"; $(BIN)/python "$$script"; fi; \
	done; [ -n "$$found" ] || { echo "no script benchmarks/$(BENCHMARK)*.py" >&2; exit 1; }

clean: ## Remove .venv and all caches; data/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find ctr_pipeline ctr_pipeline_tests -name __pycache__ -type d -prune -exec rm -rf {} +
