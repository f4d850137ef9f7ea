# Two commands do their own set-up from nothing: `make demo` and `make test`.
#   PYTHON=python3.12 make setup    uses another interpreter (3.10 or newer)
#   ARGS="--port 9000" make serve   passes options on

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
DOCS_STAMP := $(VENV)/.docs-done
BENCH_STAMP := $(VENV)/.bench-done
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OFFLINE := HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format serve bench gpu peers-setup peers docs clean

help: ## list what one can do
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv, install everything and the default model

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; set PYTHON=..., found: $$($(PYTHON) --version)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (the first time takes some minutes)"
	@$(PIP) -e '.[server,triton,test]' ruff mypy
	@$(BIN)/latticework fetch smollm2
	-@$(BIN)/latticework kernels build
	@touch $@

demo: $(STAMP) ## run one program on the default model: source, text, typed value
	@$(BIN)/latticework demo $(ARGS)

test: $(STAMP) ## the default tests (CPU, no network, minutes)
	$(OFFLINE) $(BIN)/python -m pytest $(ARGS)

test-all: $(STAMP) ## the slow tests too
	$(OFFLINE) $(BIN)/python -m pytest -m 'not gpu and not peers' $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: $(STAMP) ## the OpenAI-compatible server on 127.0.0.1:8000
	@$(BIN)/latticework serve $(ARGS)

bench: $(STAMP) ## start a server and measure it
	$(OFFLINE) $(BIN)/python -m benchmarks.serve --start $(ARGS)

gpu: $(if $(GPU_PYTHON),,$(STAMP)) ## kernels and models on a GPU; GPU_PYTHON: whose torch has CUDA
	$(OFFLINE) $(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu $(ARGS)

peers-setup: $(STAMP) ## build the rivals into .peers/ (half an hour; needs cmake, C++)
	$(OFFLINE) $(BIN)/python -m benchmarks.rivals.setup $(ARGS)

peers: $(BENCH_STAMP) ## measure us beside the rivals: ARGS="--json out.json --short"
	$(OFFLINE) $(BIN)/python -m benchmarks.rivals.setup
	$(OFFLINE) $(BIN)/python -m benchmarks.peers $(or $(ARGS),--json peers.json)

$(BENCH_STAMP): $(STAMP)
	@$(PIP) -e '.[bench]'
	@touch $@

docs: $(DOCS_STAMP) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DOCS_STAMP): $(STAMP)
	@$(PIP) -e '.[docs]'
	@touch $@

clean: ## remove .venv and everything built (not .peers/)
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
