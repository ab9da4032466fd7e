# Two commands from nothing: `make quickstart` trains and scores, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv/bin/python
JOBS ?= 2
TYPED := rvos_lightning.parts,rvos_lightning.systems,rvos_lightning.metrics,rvos_lightning.core.network,rvos_lightning.core.inference,callbacks.masks,callbacks.point_masks,callbacks.cme,typecheck.check

.PHONY: setup quickstart test test-full test-types test-matrix slurm test-slurm lint bench

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --upgrade pip
	$(VENV) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: setup
	$(VENV) -m rvos_lightning fit -c configs/samwise.yaml

SUITE := $(VENV) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --durations=20

# About twenty minutes on two cores.
test: setup
	$(SUITE)

# The default run and all that it leaves out for time: every recording at full size.
test-full: setup
	$(SUITE) -m "not matrix and not slurm"

# The shape annotations of parts, systems, metrics and losses enforced while their tests run.
test-types: setup
	$(VENV) -m pytest tests/parts tests/systems tests/metrics tests/callbacks tests/parity --jaxtyping-packages=$(TYPED)

# Every system under every strategy on two processes: about two hours.
test-matrix: setup
	$(VENV) -m pytest tests/test_strategies.py -m "" -v

# A real SLURM, started and ended by the tests; `make slurm` installs the Debian packages where they are not.
slurm:
	@for program in slurmctld munged; do PATH="$$PATH:/usr/sbin" command -v $$program >/dev/null || missing=1; done; \
	  test -z "$$missing" || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge)

test-slurm: setup slurm
	RVOS_TEST_SLURM=1 $(VENV) -m pytest tests/slurm -m slurm -v -rP

lint: setup
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy rvos_lightning/core/types.py rvos_lightning/core/seams.py rvos_lightning/core/network.py

bench: setup
	for file in tests/benchmarks/bench_*.py; do $(VENV) $$file || exit 1; done
