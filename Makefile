# Every target sets up first what it needs, once: the stamp files remember. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
OUT ?= demo-output
SEED ?= 0
PYTEST_ARGS ?=
RUNS ?= 100000
PAGES ?=
AXE := 4.14.1
# A test file stays on one worker, and so do its fixtures. tests/conftest.py decides about their order.
pytest = python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# What decides about an environment; a change of any of them installs again.
INPUTS := pyproject.toml constraints.txt
READY := .venv/.ready
READY_ALL := .venv-all/.ready
# Peers in environments of their own.
PEERS := tfmot mct nncf qwix

# Everything runs on CPUs, and quietly; tools of the environment (vela, ruff ...) are found by their names.
export KERAS_BACKEND ?= jax
export JAX_PLATFORMS ?= cpu
export CUDA_VISIBLE_DEVICES ?= -1
export TF_CPP_MIN_LOG_LEVEL ?= 2
run_in = PATH="$(CURDIR)/$(1)/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/$(1)"

.PHONY: axe help setup setup-all setup-tfmot setup-mct setup-nncf setup-qwix setup-architectures demo dist docs notebooks test test-all fuzz lint format bench leaderboard conformance devices clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with everything that development needs (no TensorFlow, no torch)

setup-all: $(READY_ALL)  ## create .venv-all, with TensorFlow, torch and the peers besides

python_check = import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, but $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 ...")
pip_install = $(1)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# An environment with the extras in $(2); constraints.txt decides every version, the build tools' included.
define create_environment
	@$(PYTHON) -c '$(python_check)'
	@$(PYTHON) -m venv $(1)
	@$(call pip_install,$(1)) hatchling editables setuptools
	@$(call pip_install,$(1)) --no-build-isolation -e '.[$(2)]'
	@touch $(1)/.ready
endef

$(READY): $(INPUTS)
	@echo "Setting up .venv (a few minutes, once)"
	$(call create_environment,.venv,dev)

$(READY_ALL): $(INPUTS)
	@echo "Setting up .venv-all, with TensorFlow and torch (several minutes, once)"
	$(call create_environment,.venv-all,all)

setup-tfmot: .venv-tfmot/.ready  ## create .venv-tfmot, with the peer of training and pruning, which needs Keras 2

setup-mct: .venv-mct/.ready  ## create .venv-mct, with a peer of quantization, which needs TensorFlow 2.15

setup-nncf: .venv-nncf/.ready  ## create .venv-nncf, with NNCF and OpenVINO

setup-qwix: .venv-qwix/.ready  ## create .venv-qwix, with the peer for JAX

# A peer that can't be installed leaves pip's reason for the leaderboard.
$(PEERS:%=.venv-%/.ready): .venv-%/.ready: constraints-%.txt
	@rm -rf .venv-$*
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install -qq --disable-pip-version-check -r constraints-$*.txt 2> .venv-$*.failed || { \
		reason=$$(grep ERROR .venv-$*.failed | tail -1); echo "$${reason:-pip failed}" | tee .venv-$*.failed; \
		rm -rf .venv-$*; exit 1; }
	@rm .venv-$*.failed
	@touch $@

setup-architectures: .venv-all/.architectures  ## add the packages whose architectures are measured to .venv-all

.venv-all/.architectures: $(READY_ALL) constraints-architectures.txt
	@.venv-all/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r constraints-architectures.txt
	@touch $@

demo: $(READY)  ## train, quantize and measure a small convnet on real data: OUT=folder SEED=number
	$(call run_in,.venv) featherweight demo --out $(OUT) --seed $(SEED)

test: $(READY)  ## all tests but those that need TensorFlow or torch: PYTEST_ARGS='-k name -n 0'
	$(call run_in,.venv) $(pytest) $(PYTEST_ARGS)

test-all: $(READY_ALL)  ## after `make test`: what needs TensorFlow or torch, or must hold beside them
	$(call run_in,.venv-all) $(pytest) -m "frameworks or beside" $(PYTEST_ARGS)

fuzz: $(READY)  ## mutate files and read them: RUNS=1000000
	@$(call pip_install,.venv) atheris
	$(call run_in,.venv) python -m tests.tflite.fuzzing -runs=$(RUNS)

lint: $(READY)  ## ruff, pyright and the layers contract
	$(call run_in,.venv) ruff check .
	$(call run_in,.venv) ruff format --check .
	$(call run_in,.venv) pyright
	$(call run_in,.venv) lint-imports

docs: $(READY)  ## build the documentation site into build/docs; warnings are errors
	$(call run_in,.venv) python -m sphinx -q -W --keep-going -b html docs build/docs

axe: docs  ## hold the documentation site, and pages in PAGES='report.html', against axe in headless Chromium
	npm install --silent --no-audit --no-fund --prefix build/axe axe-core@$(AXE)
	$(call run_in,.venv) python tools/check_accessibility.py build/axe/node_modules/axe-core/axe.min.js build/docs $(PAGES)

notebooks: $(READY)  ## make a notebook of every example, in build/notebooks
	@$(call pip_install,.venv) jupytext
	@mkdir -p build/notebooks
	for example in examples/*.py; do \
		name=$$(basename $$example .py); \
		$(call run_in,.venv) jupytext --quiet --to ipynb -o build/notebooks/$$name.ipynb $$example; \
	done

dist: $(READY)  ## build wheel and sdist into dist/, check them, and try them in clean environments
	rm -rf dist
	$(call run_in,.venv) python -m hatchling build -d dist
	@$(call pip_install,.venv) twine
	$(call run_in,.venv) twine check --strict dist/*
	$(call run_in,.venv) python tools/try_distribution.py dist

format: $(READY)  ## let ruff format and fix what it can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: $(READY_ALL) setup-tfmot setup-architectures  ## measure side by side with the peers
	$(call run_in,.venv-all) python -m benchmarks $(BENCH_ARGS)

leaderboard: $(READY_ALL)  ## every peer on every network: MODELS=folder of MLPerf Tiny, LEADERBOARD_ARGS='--seconds 480'
	@for peer in $(PEERS); do $(MAKE) setup-$$peer || echo "without $$peer"; done
	$(call run_in,.venv-all) python -m benchmarks.leaderboard $(if $(MODELS),--models $(MODELS)) $(LEADERBOARD_ARGS)

conformance: $(READY)  ## hold every operator against LiteRT at length, and write docs/conformance.md: KINDS='ADD CONV_2D'
	$(call run_in,.venv) python -m tests.operators.conformance $(KINDS)

devices: $(READY)  ## hold `check` against TFLite Micro and Vela over all operators, and write docs/devices.md: OPS='PAD'
	$(call run_in,.venv) python -m tests.devices.conformance $(OPS)

clean:  ## remove environments, caches and outputs
	rm -rf .venv .venv-all $(PEERS:%=.venv-%) build dist $(OUT) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
