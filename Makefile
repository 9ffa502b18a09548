# demo: the main job on a fresh machine.   test: everything that must hold.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo install check test bench clean

help:
	@echo "make demo     create .venv, install the base package, run the breast cancer job"
	@echo "make install  every extra and the development tools into .venv"
	@echo "make check    lint, types, imports"
	@echo "make test     install, check, and every test"
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

bench: install
	$(BIN)/python benchmarks/main_job.py --quick

clean:
	rm -rf .venv runs dist build
