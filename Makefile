# make test is what CI runs; make demo is the main job on a real model, with no account and no Hub.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint types unit catalog docs format clean

help:
	@echo "make demo    the whole path on a real model, offline from the Hub"
	@echo "make test    environment, lint, types, all tests (the built wheel's too), coverage"
	@echo "make lint types unit    one step of make test"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python -m demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

docs: $(STAMP)
	$(BIN)/python docs/reference.py

# The catalogue in the wheel, made anew: make catalog UNSLOTH=folder/of/an/unpacked/wheel
catalog: $(STAMP)
	$(BIN)/python -m mdl.resolver.unsloth_table $(UNSLOTH)

clean:
	rm -rf $(VENV) .demo dist build .coverage* .mypy_cache .ruff_cache .pytest_cache
