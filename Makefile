# `make help` lists the targets. Everything runs in .venv, which `make env` fills.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
NOTEBOOKS := $(basename $(notdir $(wildcard notebooks/*.py)))
SETTINGS ?= OCT_PRESET=kaggle

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

env: $(VENV)/installed ## install everything into .venv

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -r requirements.txt
	$(RUN) -m pip install -q --no-deps -e .
	@touch $@

MINUTES ?= 9
SCRIPTS := tests:notebooks/results
START ?= simulated
demo: export OCT_DATA = $(value DATA)
demo: env ## train a GAN on drusen OCT (6 minutes) and judge it; DATA=folder takes your images
	MPLBACKEND=Agg OCT_PRESET=demo OCT_RUN=demo \
		$(if $(DATA),OCT_START="$(START)" OCT_SIZE=256 OCT_CLASSES=all) $(RUN) notebooks/02_train_dcgan.py

WORKERS ?= 2
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile  # one thread each: two that share a core wait
test: export OMP_NUM_THREADS = 1
test: export OCT_PRESET = tiny
test: env ## unit tests, and beside them every notebook under the tiny preset; WORKERS=4
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	rm -rf runs/test && mkdir -p runs/test
	OCT_RUNS=runs/test $(RUN) -m pytest --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=900 notebooks > runs/test/notebooks.log 2>&1 & notebooks=$$!; \
	OCT_RUNS=runs/test/unit $(RUN) -m pytest $(SIDE_BY_SIDE) tests; tests=$$?; \
	wait $$notebooks; notebooks=$$?; cat runs/test/notebooks.log; test $$tests$$notebooks = 00

test-fast: export OMP_NUM_THREADS = 1
test-fast: env ## the unit tests that take no training, no process and no browser (aim: 2 minutes)
	OCT_PRESET=tiny OCT_RUNS=runs/test-fast $(RUN) -m pytest $(SIDE_BY_SIDE) -m "not slow" tests

notebooks: env ## write each notebook's .ipynb from its .py and run it, figures and all
	for stem in $(NOTEBOOKS); do \
		$(RUN) -m jupytext --to ipynb --output notebooks/$$stem.ipynb notebooks/$$stem.py && \
		TQDM_DISABLE=1 $(RUN) -m jupyter execute --inplace notebooks/$$stem.ipynb || exit 1; \
	done

kaggle: env ## push a notebook: KAGGLE_USER=name NB=02 [SETTINGS="OCT_PRESET=kaggle"] [OFFLINE=1] [ATTACH=02]
	$(RUN) kaggle_kernel_metadata/push.py "$(NB)" --user "$(KAGGLE_USER)" \
		--settings "$(SETTINGS)" $(if $(OFFLINE),--offline) --attach "$(ATTACH)"

kaggle-check: env ## would Kaggle's own client take every notebook? no network needed
	$(RUN) kaggle_kernel_metadata/push.py

kaggle-offline: env ## runs/offline: helpers as a zip, and notebooks that find it (Colab by hand)
	$(RUN) kaggle_kernel_metadata/push.py --pack runs/offline

gpu: ## 9 minutes on a CUDA machine, with its own torch: MINUTES=60 PARTS="result speed" DATA=folder
	PYTHONPATH=.:$(SCRIPTS) $(or $(wildcard $(RUN)),$(PYTHON)) -m gpu --minutes $(MINUTES) \
		--parts "$(PARTS)" --data "$(DATA)"

links: env ## write the repository's address (REPO=owner/name) into badges and first cells
	$(RUN) kaggle_kernel_metadata/links.py $(REPO)

clean: ## remove runs and caches, keep .venv
	rm -rf runs .pytest_cache .ruff_cache

bench: env ## speed beside the plain recipes and the machine's limits (25 minutes); PARTS="steps limits"
	PYTHONPATH=$(SCRIPTS) $(RUN) -m bench $(PARTS)

.PHONY: help env demo test test-fast notebooks kaggle kaggle-check kaggle-offline links clean bench gpu

chaos: env ## kill, fill the disk, damage files while every method trains; 15 events each
	PYTHONPATH=.:tests $(RUN) tests/support/chaos.py
.PHONY: chaos
