# `make help` lists the targets. Everything runs in .venv, which `make env` fills.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
NOTEBOOKS := $(basename $(notdir $(wildcard notebooks/*.py)))

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

env: $(VENV)/installed ## install everything into .venv

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -r requirements.txt
	$(RUN) -m pip install -q --no-deps -e .
	@touch $@

demo: env ## train a GAN on drusen OCT (6 minutes) and judge it; DATA=folder takes your images
	MPLBACKEND=Agg OCT_PRESET=demo OCT_RUN=demo OCT_DATA="$(DATA)" \
		$(RUN) notebooks/02_train_dcgan.py

test: env ## unit tests, then every notebook under the tiny preset
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	rm -rf runs/test
	OCT_PRESET=tiny OCT_RUNS=runs/test $(RUN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600

notebooks: env ## write each notebook's .ipynb from its .py and run it, figures and all
	for stem in $(NOTEBOOKS); do \
		$(RUN) -m jupytext --to ipynb --output notebooks/$$stem.ipynb notebooks/$$stem.py && \
		$(RUN) -m jupyter execute --inplace notebooks/$$stem.ipynb || exit 1; \
	done

clean: ## remove runs and caches, keep .venv
	rm -rf runs .pytest_cache .ruff_cache

.PHONY: help env demo test notebooks clean
