# Set-up, demo, tests and checks; every target sets up what it needs, and is quick when that is there.
DATA ?= simulated
DATA_DIR ?=
BIN := .venv/bin
SHIM := requirements/fbgemm_gpu_on_cpu
# Tests sync thousands of small files, none of which is to outlive the machine: in memory, where there is a place for that.
SCRATCH := $(firstword $(wildcard /dev/shm) /tmp)
PYTEST := TMPDIR=$(SCRATCH) OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -q

# torchrec asks for fbgemm-gpu: the CUDA build where there is an NVIDIA GPU, else a package of that name that brings the CPU build.
ifeq ($(shell command -v nvidia-smi),)
  REQUIREMENTS := ./$(SHIM) --editable .[text,redis,ray,spark,dev]
else
  REQUIREMENTS := --editable .[text,redis,ray,spark,dev,gpu]
endif

.PHONY: setup airflow demo test test-unit test-processes soak lint bench

setup: .venv/set-up

.venv/set-up: pyproject.toml requirements/constraints.txt $(SHIM)/pyproject.toml
	@for python in python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exec $$python -m venv .venv; fi; \
	done; echo 'setup: needs Python 3.11 or newer, as python3.11 or python3 on the PATH' >&2; exit 1
	$(BIN)/pip install --no-deps --constraint requirements/constraints.txt torch uv  # uv does not see every place that pip finds torch in
	$(BIN)/uv pip install --python $(BIN)/python --constraint requirements/constraints.txt $(REQUIREMENTS)
	@touch $@

# The environment of its own that docs/integration.md's DAG is tested in.
airflow: .venv/airflow/set-up

.venv/airflow/set-up: requirements/airflow.txt | .venv/set-up
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv/airflow
	$(BIN)/uv pip sync --quiet --python .venv/airflow/bin/python requirements/airflow.txt
	@touch $@

demo: setup
	$(BIN)/semid demo --data $(DATA) $(if $(DATA_DIR),--data-dir '$(DATA_DIR)')

# Half of the tests compute in one process and half wait for several: side by side they share two cores well.
test: setup airflow
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-unit test-processes

test-unit: setup
	$(PYTEST) tests/unit

test-processes: setup airflow
	$(PYTEST) tests --ignore=tests/unit

# Kills and faults at many points, and every change of ranks and plan, which `test` samples: a quarter of an hour.
soak: setup
	SOAK=all $(PYTEST) tests/soak --timeout=3600

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup
	@set -e; for benchmark in $(wildcard benchmarks/[a-z]*.py); do $(BIN)/python $$benchmark; done
