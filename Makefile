# Two commands from nothing: `make quickstart` trains and scores, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv/bin/python

.PHONY: setup quickstart test test-slow lint bench

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --upgrade pip
	$(VENV) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: setup
	$(VENV) -m rvos_lightning fit -c configs/samwise.yaml

test: setup
	$(VENV) -m pytest

lint: setup
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy rvos_lightning/types.py rvos_lightning/seams.py rvos_lightning/network.py

bench: setup
	for file in tests/benchmarks/bench_*.py; do $(VENV) $$file || exit 1; done
