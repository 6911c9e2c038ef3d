# Everything that a person or a machine does with this repository. `make` alone lists it.

PYTHON ?= python3
# Installed before everything else. A name, a local wheel, or several pip arguments:
#   make demo TORCH='torch --index-url <an index of CPU builds>'
TORCH ?= torch==2.13.0
VENV ?= .venv
OUT ?= out
# The folder of a dataset's files, where `cohortium data get` has not put them already.
DATA ?=
JOBS ?= 2

BIN := $(VENV)/bin
# One stamp per choice of TORCH: another choice installs again.
CHOICE := $(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)
HAS_PYTHON := $(VENV)/.stamp-python
HAS_TORCH := $(VENV)/.stamp-torch-$(CHOICE)
HAS_DEMO := $(VENV)/.stamp-demo
HAS_DEV := $(VENV)/.stamp-dev
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# Worker processes multiply: one thread each, or a busy machine slows down manyfold.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

##@ For everybody

.PHONY: help
help: ## list what can be made
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(HAS_DEMO) ## install, then let ten simulated hospitals train together (report in out/demo)
	$(BIN)/cohortium demo --out $(OUT)/demo

.PHONY: heart-disease
heart-disease: $(HAS_DEMO) ## four real hospitals, every method, five seeds: a table [DATA=DIR]
	$(BIN)/python studies/heart-disease/table.py $(if $(DATA),--data '$(DATA)')

.PHONY: demo-seeds
demo-seeds: $(HAS_DEMO) ## the demo's claim, over seeds 0-4 and, beside them, 5-9
	$(BIN)/python studies/breast-cancer/seeds.py

##@ For developers

.PHONY: dev
dev: $(HAS_DEV) ## install everything that developing needs, and the commit hooks
	@if [ -e .git ]; then $(BIN)/pre-commit install; fi

.PHONY: lint
lint: $(HAS_DEV) ## style, types and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: system
system: ## install the Debian packages that some tests drive, where that may be done
	@lacking=`sed 's/#.*//' tests/system-packages.txt | while read -r name; do \
	  [ -z "$$name" ] || dpkg -s "$$name" >/dev/null 2>&1 || echo "$$name"; done`; \
	if [ -z "$$lacking" ]; then exit 0; \
	elif [ "`id -u`" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing" $$lacking; apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	    apt-get install -y -qq --no-install-recommends $$lacking >/dev/null; \
	else echo "Tests that drive these Debian packages are skipped:" $$lacking >&2; fi

.PHONY: test
test: lint system ## lint, then every test, with coverage
	$(SINGLE) $(BIN)/pytest -n $(JOBS) --dist loadfile --cov

.PHONY: chaos
chaos: $(HAS_DEV) ## a hundred thousand seeded histories of faults against the actors, then every kill
	$(SINGLE) $(BIN)/python -m cohortium.testing.chaos --histories 100000 --jobs $(JOBS)
	$(SINGLE) COHORTIUM_CHAOS=all $(BIN)/pytest tests/federation

.PHONY: reference
reference: $(HAS_DEV) ## write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py

.PHONY: docs
docs: $(HAS_DEV) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

.PHONY: bench
bench: $(HAS_DEMO) ## the workloads of docs/performance.md, one JSON line each
	@for workload in $(sort $(wildcard benchmarks/w[0-9]*.py)); do \
	  $(SINGLE) $(BIN)/python -m "benchmarks.$$(basename $$workload .py)" || exit; done

.PHONY: clean
clean: ## remove what was made, the environment included
	rm -rf $(VENV) $(OUT) site dist build .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up: each stamp says that its step was done with this pyproject.toml.

$(HAS_PYTHON):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Cohortium needs Python 3.11 or newer; '$(PYTHON)' is `$(PYTHON) --version 2>&1 || true`." \
	    "Install one, or name it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' comes without the venv module." \
	    "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(HAS_TORCH): | $(HAS_PYTHON)
	@echo "Installing $(TORCH): about 190 MB for a CPU build, 3 GB with CUDA (see README)."
	$(PIP) $(TORCH)
	@rm -f $(VENV)/.stamp-torch-* && touch $@

$(HAS_DEMO): pyproject.toml $(HAS_TORCH)
	$(PIP) --quiet -e '.[demo]'
	@touch $@

$(HAS_DEV): pyproject.toml $(HAS_TORCH)
	$(PIP) --quiet -e '.[dev]'
	@touch $@ $(HAS_DEMO)
