# The commands of the README. `make demo` is the first one to try; `make help` lists them.
#
#   PYTHON=python3.12                 the interpreter to make .venv from (3.11 or newer)
#   VENV=.venv                        where the environment lies
#   PIP_ARGS="--extra-index-url ..."  given to every pip install, e.g. for CPU-only wheels of torch (docs/INSTALL.md)
#   DEMO_ARGS="--quick"               given to `crossmamba demo`
#   PYTEST_ARGS="-k scan"             given to pytest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV ?= .venv
# The first interpreter on the path that starts and is new enough (a pyenv shim may exist and not start).
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PIP_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c requirements/lock.txt $(PIP_ARGS)
# Stamps: an environment is installed once, and again only when what it is made from has changed.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
KERNELS_STAMP := $(VENV)/.installed-kernels
KERNELS := $(wildcard kernels/src/* kernels/*.py kernels/crossmamba_kernels/*.py) kernels/pyproject.toml

.PHONY: help demo install dev test lint format clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(RUN_STAMP) $(KERNELS_STAMP)  ## install, make a synthetic data set, train, score and predict (about 5 minutes on 2 CPU cores, after the install)
	@$(BIN)/crossmamba demo $(DEMO_ARGS)

install: $(RUN_STAMP) $(KERNELS_STAMP)  ## create .venv with everything needed to train and predict

dev: $(DEV_STAMP) $(KERNELS_STAMP)  ## the same, with the tools that check the code

test: $(DEV_STAMP) $(KERNELS_STAMP)  ## run the tests (about 12 minutes on 2 CPU cores)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEV_STAMP)  ## style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(DEV_STAMP)  ## let ruff repair what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove .venv and caches; results under runs/ stay
	rm -rf $(VENV) kernels/crossmamba_kernels/*.so build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; give one with make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; echo "make: no environment was made (on Debian: apt install python3-venv)" >&2; exit 2; }

$(RUN_STAMP): pyproject.toml requirements/lock.txt | $(BIN)/python
	@echo "Installing crossmamba into $(VENV) (about a minute and a half, 1.5 GB)"
	@$(PIP) -q -e '.[train]'
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo "Installing the development tools"
	@$(PIP) -q -e '.[train,dev]'
	@touch $@

# The kernels need a C++ compiler. Without one all goes on with the portable scan, and the next make tries again.
$(KERNELS_STAMP): $(KERNELS) | $(RUN_STAMP)
	@echo "Compiling the CPU kernels (under a minute)"
	@log=$(VENV)/kernels.log; if $(PIP) -v ./kernels >$$log 2>&1; then \
		{ grep -o 'crossmamba-kernels: built for a single thread.*' $$log || true; } | head -n 1 >&2; \
		touch $@; \
	else \
		{ grep -A 2 'crossmamba-kernels was not built' $$log || tail -n 3 $$log; } | sed -e 's/^ *//' -e '/^error: sub/d' -e '/^$$/d' | head -n 3 >&2; \
		echo "make: no CPU kernels: the portable scan is used, which is many times slower (all of it: $$log)" >&2; \
	fi
