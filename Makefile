# `make demo` and `make test` set up their own virtual environment in .venv and are safe to run again.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEVSTAMP := $(VENV)/.installed-dev
say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo demo-again install dev test test-slow check lint types contracts format bench faults clean lock

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(call say,Making a virtual environment in $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25" wheel

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(call say,Installing ModelOps TUI (a first run compiles llama.cpp: 5 to 10 minutes))
	@sh scripts/pip-install.sh $(BIN)/python -e . -c constraints.txt
	@touch $(STAMP)

$(DEVSTAMP): $(STAMP)
	$(call say,Installing the development tools)
	@sh scripts/pip-install.sh $(BIN)/python -e ".[dev]" -c constraints.txt
	@touch $(DEVSTAMP)

install: $(STAMP) ## Install into .venv (the default, CPU-capable set).
dev: $(DEVSTAMP) ## Install with the development tools.

demo: $(STAMP) ## Fine-tune, evaluate, quantize and sign the packaged small model.
	@sh scripts/demo.sh $(BIN)

test: $(DEVSTAMP) ## Run the tests (without the slow and nightly ones).
	$(call say,Running the tests)
	@$(BIN)/python -m pytest -q

test-slow: $(DEVSTAMP) ## Run the tests that need the 135M model or minutes of CPU.
	@$(BIN)/python -m pytest -q -m slow

lint: $(DEVSTAMP)
	$(call say,ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEVSTAMP)
	$(call say,mypy)
	@$(BIN)/mypy

contracts: $(DEVSTAMP)
	$(call say,import contracts)
	@$(BIN)/lint-imports

check: lint types contracts test ## Everything CI runs.

format: $(DEVSTAMP) ## Format the sources.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(DEVSTAMP) ## Measure, side by side with the peers (see benchmarks/RESULTS.md).
	@$(BIN)/python -m benchmarks

faults: $(DEVSTAMP) ## The full fault and attack sets (an hour or more).
	@MODELOPS_HYPOTHESIS=search $(BIN)/python -m pytest -q -m nightly tests

lock: $(DEVSTAMP) ## Rewrite constraints.txt from what is installed now.
	@$(BIN)/python -m pip freeze --exclude-editable --exclude modelops-tui | sed 's/+cpu//' > constraints.txt

clean: ## Remove the virtual environment and caches (not your models or jobs).
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
