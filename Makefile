# Every target does its own set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
# Test files at a time; each of these processes has one thread and takes about 1.5 GB.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test slow faults lint format docs benchmarks clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s%s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else \
		"error: Python %d.%d found, 3.11 or later needed: call make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@echo "Installing the pinned packages into $(VENV): several GB, some minutes, once."
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)  ## from nothing to a report: prepare text, train baseline and TST, evaluate, compare (about 15 min)
	$(BIN)/tst-lightning compare --config configs/experiments/demo.yaml

test: $(READY)  ## the fast tests (under 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not gpu' -n $(WORKERS) --dist loadfile

slow: $(READY)  ## the slow tests as well
	$(BIN)/python -m pytest -m 'not gpu'

faults: $(READY)  ## kill, stop and starve runs, resume them, and compare bits (tests/faults/)
	$(BIN)/python -m pytest tests/faults

lint: $(READY)  ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the documentation into site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmarks: $(READY)  ## time losses, preparation, loader, packing, n-gram targets, evaluation, side by side
	-$(BIN)/python benchmarks/losses.py
	-$(BIN)/python benchmarks/prepare.py
	-$(BIN)/python benchmarks/prepare_memory.py
	-$(BIN)/python benchmarks/loader.py
	-$(BIN)/python benchmarks/packing.py
	-$(BIN)/python benchmarks/ngram.py  # of data/books: configs/prepare/books.yaml
	-$(BIN)/python benchmarks/plan_memory.py
	-$(BIN)/python benchmarks/sharded_memory.py
	$(BIN)/python benchmarks/evaluation.py

clean:  ## remove the virtual environment and caches (not data or results)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
