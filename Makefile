# Two commands from nothing: `make quickstart` trains and scores, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv/bin/python
JOBS ?= 2
TYPED := rvos_lightning.parts,rvos_lightning.systems,rvos_lightning.metrics,rvos_lightning.core.network,rvos_lightning.core.inference,rvos_lightning.foundations,callbacks.foundations,callbacks.masks,callbacks.point_masks,callbacks.cme,typecheck.check

.PHONY: setup lock foundations image-sams quickstart test test-slow test-full test-types test-matrix slurm test-slurm lint bench claims docs

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --upgrade pip
	$(VENV) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# After a change of pyproject.toml: versions that are locked stay; `uv lock --upgrade-package NAME` moves one.
lock: setup
	$(VENV) -m uv lock
	(head -n 1 constraints.txt; $(VENV) -m uv export --frozen --all-extras --no-hashes --no-emit-project --no-annotate \
	  --no-header) > constraints.new && mv constraints.new constraints.txt

# First what a trained system does with clips it has never seen, from weights that come with the package; then training.
quickstart: setup
	$(VENV) -m rvos_lightning validate -c configs/sgmg.yaml --model.weights small/sgmg
	$(VENV) -m rvos_lightning fit -c configs/samwise.yaml

SUITE := $(VENV) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --durations=20

# Ten minutes on two idle cores.
test: setup
	$(SUITE)

# What the default run leaves out for time: every recording at full size, every forecast, compiled networks.
test-slow: setup
	$(SUITE) -m "slow and not matrix and not slurm"

test-full: test test-slow

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

# The small weights of rvos_lightning/foundations anew; remove a file to have it made again. An hour.
KEPT := rvos_lightning/foundations
RUNS := runs/foundations
trained = test -e $(RUNS)/$(notdir $(1))$(3)/scores.json || \
  $(VENV) -m rvos_lightning fit -c configs/$(1).yaml --trainer.default_root_dir $(RUNS)/$(notdir $(1))$(3) $(2)
kept = $(VENV) -m rvos_lightning convert part $(RUNS)/$(notdir $(1))$(3) $@ --recipe configs/$(1).yaml $(2)

foundations: setup $(addsuffix .safetensors,$(addprefix $(KEPT)/,video_swin roberta clip bert sam sam2 samwise_adapters internvl sgmg))

$(KEPT)/video_swin.safetensors:
	$(call trained,foundations/video_swin)
	$(call kept,foundations/video_swin,--part backbone --whole)

$(KEPT)/roberta.safetensors:
	$(call trained,foundations/roberta)
	$(call kept,foundations/roberta,--part text.model --whole)

$(KEPT)/clip.safetensors:
	$(call trained,foundations/clip)
	$(call kept,foundations/clip,--part tower --whole)

$(KEPT)/bert.safetensors:
	$(call trained,foundations/clip)
	$(call kept,foundations/clip,--part tower.text.model)

# All of SgMg, for whoever wants to try it at once.
$(KEPT)/sgmg.safetensors:
	$(call trained,sgmg)
	$(call kept,sgmg,--whole)

# SAM in two steps: the trunk, single frames.
.SECONDARY: $(RUNS)/sam_trunk.safetensors

$(RUNS)/sam_trunk.safetensors:
	$(call trained,foundations/sam_trunk)
	$(call kept,foundations/sam_trunk,--part backbone.segmenter)

$(KEPT)/sam.safetensors: $(RUNS)/sam_trunk.safetensors
	$(call trained,foundations/sam_stills,--model.network.segmenter.weights $<)
	$(call kept,foundations/sam_stills,--part segmenter)

# The small forms of the other image SAMs that SAM-I2V upgrades, made as the one above; they are not kept in the package, the
# sweep slurm/sweeps/sam_i2v_figure1_small.txt reads them from $(RUNS). Twenty minutes each.
IMAGE_SAMS := $(addprefix $(RUNS)/small_,edge_sam slim_sam sam_b)
image-sams: setup $(addsuffix .safetensors,$(IMAGE_SAMS))

.SECONDARY: $(addsuffix _trunk.safetensors,$(IMAGE_SAMS))

$(RUNS)/small_%_trunk.safetensors:
	$(call trained,foundations/sam_trunk,--model.network.backbone.segmenter.variant small_$*,_$*)
	$(call kept,foundations/sam_trunk,--part backbone.segmenter,_$*)

$(RUNS)/small_%.safetensors: $(RUNS)/small_%_trunk.safetensors
	$(call trained,foundations/sam_stills,--model.network.segmenter.variant small_$* --model.network.segmenter.weights $<,_$*)
	$(call kept,foundations/sam_stills,--part segmenter,_$*)

# SAM 2 in three steps, each from the one before: the trunk, single frames, clips.
.SECONDARY: $(RUNS)/sam2_trunk.safetensors $(RUNS)/sam2_stills.safetensors

$(RUNS)/sam2_trunk.safetensors:
	$(call trained,foundations/sam2_trunk)
	$(call kept,foundations/sam2_trunk,--part backbone.segmenter)

$(RUNS)/sam2_stills.safetensors: $(RUNS)/sam2_trunk.safetensors
	$(call trained,foundations/sam2_stills,--model.network.segmenter.weights $<)
	$(call kept,foundations/sam2_stills,--part segmenter)

$(KEPT)/sam2.safetensors: $(RUNS)/sam2_stills.safetensors
	$(call trained,foundations/sam2,--model.network.segmenter.weights $<)
	$(call kept,foundations/sam2,--part segmenter --whole)

# SAMWISE's adapters in two steps: stills, then directions of motion.
.SECONDARY: $(RUNS)/samwise_stills.safetensors

$(RUNS)/samwise_stills.safetensors: | $(KEPT)/sam2.safetensors $(KEPT)/roberta.safetensors
	$(call trained,foundations/samwise_stills)
	$(call kept,foundations/samwise_stills,--part adapter.adapters)

$(KEPT)/samwise_adapters.safetensors: $(RUNS)/samwise_stills.safetensors
	$(call trained,foundations/samwise_adapters,--model.network.backbone.adapter.weights $<)
	$(call kept,foundations/samwise_adapters,--part backbone.adapter.adapters)

# InternVL in two steps: what its visual tokens are and how they move, then questions.
.SECONDARY: $(RUNS)/internvl_sight.safetensors

$(RUNS)/internvl_sight.safetensors:
	$(call trained,foundations/internvl_sight)
	$(call kept,foundations/internvl_sight,--part backbone)

$(KEPT)/internvl.safetensors: $(RUNS)/internvl_sight.safetensors
	$(call trained,foundations/internvl,--model.network.prompter.weights $<)
	$(call kept,foundations/internvl,--part prompter.mllm --whole)

lint: setup
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy rvos_lightning/core/types.py rvos_lightning/core/seams.py rvos_lightning/core/network.py

bench: setup
	for file in tests/benchmarks/bench_*.py; do $(VENV) $$file || exit 1; done

# What the small recipes reach, anew, into docs/measured.json, their headers and the README: about two hours.
claims: setup
	$(VENV) tests/claims.py

# The documentation as a site in site/, without the network.
docs: setup
	$(VENV) -m zensical build --clean --strict
