# Two commands matter: `make run` (the main job) and `make test` (every check).

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKDIR ?= runs/digits
SOAK ?= runs/soak
# How pytest is spread over two cores, one process more than those since some tests wait
# for others' processes or disks; `make test PYTEST_FLAGS=` runs it in one.
PYTEST_FLAGS ?= -n 3 --dist worksteal
# Where `make mutants` writes what became of each.
MUTANTS ?= runs/mutants.jsonl
# The tests build their own mesh of CPU devices. An empty value lets JAX choose.
JAX_PLATFORMS ?= cpu

# What a Python and a jax that are not the first are tried by, in under six minutes:
# executions and sharding; the compiled program of a run; what is written to bytes; a
# round of every algorithm, with its messages; runs killed and resumed; an experiment.
SLICE := \
  tests/test_execution.py fedjax_comp/execution.py fedjax_comp/shards.py \
  tests/reproductions tests/test_training.py tests/wire fedjax_comp/wire \
  tests/conformance/test_algorithm_conformance.py \
  -k 'bytes or not test_algorithm_conformance' \
  tests/algorithms/test_approximate_synchronous.py::test_executions_agree \
  tests/algorithms/test_split_learning.py::test_every_message_decodes_from_its_bytes \
  tests/algorithms/test_vertical_split.py::test_it_is_training_of_the_whole_model \
  tests/algorithms/test_stream_minibatch.py::test_dm_krasulina_is_its_formula \
  tests/test_run.py \
  tests/experiments/test_fed_avg.py::test_quick_run_leaves_everything_behind

AT_LEAST_311 := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help env run records test test-thorough test-matrix test-newest slow soak mutants docs format clean

help:
	@echo "make run     install, then run federated averaging on digits (WORKDIR=$(WORKDIR))"
	@echo "make test    install, then format check, lint, types, import contracts, tests"
	@echo "make test-thorough  the tests that take some seconds each"
	@echo "make test-matrix  all tests under every Python that is supported and found"
	@echo "make test-newest  a slice of the tests under the newest of them"
	@echo "make records the recorded commands; NAME=EXPERIMENT[/RECORD] makes its tables"
	@echo "make slow    install, then run the tests that take minutes"
	@echo "make soak    install, then kill, fuzz, fill disks, run long (hours; tests/soak)"
	@echo "make mutants plant faults and count those that the tests notice (hours)"
	@echo "make docs    install, then build the site in site/"
	@echo "make format  rewrite the sources with ruff"
	@echo "make env     only install, into $(VENV); PYTHON=... chooses the interpreter"
	@echo "make clean   remove $(VENV), .venvs and the tools' caches"

env: $(STAMP)

# Without PYTHON=..., the first of these that runs and is new enough.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if $(BIN)/python -m pip --version >/dev/null 2>&1 \
	    && $(BIN)/python -c '$(AT_LEAST_311)'; then \
	  echo "== Using the environment in $(VENV)"; \
	else \
	  found=; \
	  for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    if "$$candidate" -c '$(AT_LEAST_311)' >/dev/null 2>&1; then \
	      found="$$candidate"; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Python 3.11 or newer is needed; tried:" \
	      "$(or $(PYTHON),python3 python3.13 python3.12 python3.11)." >&2; \
	    echo "Name one with: make $(or $(MAKECMDGOALS),env) PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "== Creating $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "== Installing into $(VENV) (a few minutes the first time)"
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

run: env
	$(BIN)/python -m experiments.fed_avg.compare --workdir=$(WORKDIR)

# `make records NAME=frontier/mnist`; without NAME the names of all.
records: env
	$(BIN)/python -m experiments.records $(NAME) $(RECORDS_FLAGS)

test: export JAX_PLATFORMS := $(JAX_PLATFORMS)
test: env
	@echo "== Format (ruff)"
	$(BIN)/ruff format --check .
	@echo "== Lint (ruff)"
	$(BIN)/ruff check .
	@echo "== Types (mypy)"
	$(BIN)/mypy
	@echo "== Import contracts (import-linter)"
	$(BIN)/lint-imports
	@echo "== Tests and doctests (pytest)"
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-thorough: export JAX_PLATFORMS := $(JAX_PLATFORMS)
test-thorough: env
	$(BIN)/python -m pytest -m 'thorough and not slow' $(PYTEST_FLAGS)

test-matrix test-newest: export JAX_PLATFORMS := $(JAX_PLATFORMS)
test-matrix:
	.ci/matrix every -m 'not slow' $(PYTEST_FLAGS)

test-newest:
	.ci/matrix newest -m 'not slow' $(PYTEST_FLAGS) $(SLICE)

slow: export JAX_PLATFORMS := $(JAX_PLATFORMS)
slow: export XLA_FLAGS ?=
slow: env
	$(BIN)/python -m pytest -m slow $(SLOW_FLAGS)

# Each appends lines of JSON to its file in $(SOAK); tests/soak/README.md has a record.
soak: export JAX_PLATFORMS := $(JAX_PLATFORMS)
soak: env
	@mkdir -p $(SOAK)
	$(BIN)/python -m tests.soak.kills --results=$(SOAK)/kills.jsonl
	$(BIN)/python -m tests.soak.disk --results=$(SOAK)/disk.jsonl
	$(BIN)/python -m tests.soak.rounds --results=$(SOAK)/rounds.jsonl
	$(BIN)/python -m tests.soak.flips --results=$(SOAK)/flips.jsonl
	$(BIN)/python -m tests.fuzz.fuzz --count=1000000

# Goes on where it stopped; MUTANTS_FLAGS='--again OLD.jsonl' runs survivors again.
mutants: export JAX_PLATFORMS := $(JAX_PLATFORMS)
mutants: env
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev,mutation]'
	$(BIN)/python -m tests.mutation.run --results=$(MUTANTS) $(MUTANTS_FLAGS)

# From READMEs and docstrings (docs/pages.py).
docs: export NO_MKDOCS_2_WARNING := 1
docs: env
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev,docs]'
	$(BIN)/mkdocs build --strict

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venvs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
