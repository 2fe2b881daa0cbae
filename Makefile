# Every target makes .venv and installs by itself when pyproject.toml or constraints.txt is newer than it.
#
#   PYTHON=python3.12 make test      another interpreter than python3
#   JOBS=0 make test                 tests in one process, for a debugger
#   DATA=... KEYWORD=... make reproduce

PYTHON  ?= python3
JOBS    ?= 2
DATA    ?= corpora/speech_commands_v0.01
KEYWORD ?= happy
FOLDS   ?= 5

BIN       := .venv/bin
INSTALLED := .venv/installed
ENGINE    := src/hark/_engine.abi3.so
PIP       := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench chaos reproduce

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## a spotter from nothing, in minutes: speech made, networks trained, shrunk, proved, reported
	$(BIN)/hark demo

test: $(INSTALLED) $(ENGINE) ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow and not chaos" -n $(JOBS)

check: $(INSTALLED) $(ENGINE) ## style, types, order of imports, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_docs.py

bench: $(INSTALLED) $(ENGINE) ## the slow tests, then every script in benchmarks/
	$(BIN)/python -m pytest -m slow || test $$? -eq 5 # 5: there is none
	benchmarks/streams/install_peers.sh
	set -e; for script in benchmarks/bench_*.py; do $(BIN)/python "$$script"; done

chaos: $(INSTALLED) ## the longer fault tests, Lightning and wandb under the same faults; writes docs/reliability.md
	$(PIP) --editable ".[dev,chaos,fuzz]" || $(PIP) --editable ".[dev,chaos]" # atheris has no build for some Pythons
	$(BIN)/python benchmarks/chaos/run.py --jobs $(JOBS)

reproduce: $(INSTALLED) ## the reference's whole report, with ours beside it, on real speech (hours); DATA=a folder per word
	$(BIN)/hark reproduce --data $(DATA) --keyword $(KEYWORD) --folds $(FOLDS)

# torch goes first and alone: what depends on it must not choose its build.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python " + sys.version.split()[0] + ", expected 3.11 or later; try: PYTHON=python3.12 make ...")'
	@echo "installing into .venv (minutes, the first time)"
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[dev]"
	@touch $@

$(ENGINE): setup.py $(wildcard src/hark/engine/*.[ch]) | $(INSTALLED)
	$(BIN)/python setup.py --quiet build_ext --inplace
