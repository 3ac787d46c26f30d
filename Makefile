# Two commands do all set-up on a fresh machine with python3 and make: `make run` and `make test`.
VENV ?= .venv
PYTHON ?= python3
CONFIG ?= ml/config_sample.yaml
BIN := $(VENV)/bin

# PyPI's torch for Linux carries gigabytes of CUDA. Without an NVIDIA card, take the build for the CPU.
TORCH_VERSION := 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
  TORCH := torch==$(TORCH_VERSION)+cpu --extra-index-url $(TORCH_CPU_INDEX) --retries 1
else
  TORCH := torch==$(TORCH_VERSION)
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test lint format bench install clean

help:
	@echo "make run    build the sample town, judge its buildings, open the workbench"
	@echo "make test   run the tests        make lint   ruff and mypy"
	@echo "make bench  measure the speed    make clean  remove the environment and what the steps wrote"

run: $(VENV)/.run
	@test -f data/sample/photo.tif || $(BIN)/historymap sample data/sample
	$(BIN)/historymap run all --config $(CONFIG) --notebooks data/reports
	@echo
	@echo "Look at: data/reports/index.html              the reports of all steps, with how right the verdicts are"
	@echo "         data/sample/buildings_verified.png   the map of verdicts"
	@echo "         data/sample/buildings_verified.gpkg  the same for QGIS"
	@echo
	$(BIN)/historymap workbench --config $(CONFIG)

# Two files of tests at once, since most wait for other processes. Those with a browser come apart from those with a
# server: Playwright keeps a loop of asyncio running in its process, and a browser keeps both cores busy. The fuzzing
# comes alone: its tests share one name, of which xdist would run one. With PYTEST_ARGS, only what these name.
PYTEST := $(BIN)/python -m pytest
PAIRED := --numprocesses 2 --dist loadfile
FUZZ := tests/server/test_api_fuzz.py
test: $(VENV)/.test
ifdef PYTEST_ARGS
	$(PYTEST) $(PYTEST_ARGS)
else
	$(PYTEST) $(PAIRED) --ignore tests/browser --ignore $(FUZZ)
	$(PYTEST) $(FUZZ)
	$(PYTEST) tests/browser
endif

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test
	$(BIN)/python tests/benchmarks/bench_generate.py
	$(BIN)/python tests/benchmarks/bench_jobs.py
	$(BIN)/python tests/benchmarks/bench_verify.py
	$(BIN)/python tests/benchmarks/bench_predict.py
	$(BIN)/python tests/benchmarks/bench_tiles.py
	$(BIN)/python tests/benchmarks/bench_map.py
	$(BIN)/python tests/benchmarks/bench_live.py
	$(BIN)/python tests/benchmarks/bench_sources.py
	$(BIN)/python tests/benchmarks/bench_server.py
	$(BIN)/python tests/benchmarks/bench_workbench.py

install: $(VENV)/.test

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV) || { echo "python3 has no venv: apt-get install python3-venv (needs Python 3.11 or newer)"; exit 2; }
	@touch $@

# torch first and pinned, so that nothing that follows replaces it
$(VENV)/.run: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt $(TORCH)
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) install --constraint constraints.txt --editable ".[test,lint,bench]"
	@touch $@

clean:
	rm -rf $(VENV) data/sample data/reports models/sample .pytest_cache .mypy_cache .ruff_cache .hypothesis
