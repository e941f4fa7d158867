# make test is what CI runs; make demo is the main job on a real model, with no account and no Hub.
VERSIONS := 3.11 3.12 3.13
# A Python of one version: on the path, or one that pyenv has.
find = $(shell python$(1) -c '' 2>/dev/null && echo python$(1) || \
	{ at=$$(pyenv prefix $(1) 2>/dev/null) && echo "$$at/bin/python"; })
PYTHON ?= $(firstword $(foreach version,$(VERSIONS),$(call find,$(version))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What needs no torch: it runs on every Python that mdl takes.
LIGHT := tests/resolver tests/store tests/cli tests/cachemgr/test_listing.py \
	tests/cachemgr/test_commands.py tests/test_errors.py tests/test_public_api.py tests/test_settings.py

.PHONY: help demo test lint types unit coverage test-pythons test-floor test-latest test-through-hub test-slow test-system test-quantizers catalog docs pictures format clean

help:
	@echo "make demo            the whole path on a real model, offline from the Hub"
	@echo "make test            environment, lint, types, all tests (the built wheel's too), coverage"
	@echo "make lint types unit one step of make test"
	@echo "make test-pythons    what needs no torch, on the other Pythons of $(VERSIONS) that are here"
	@echo "make test-floor      tests/corpus with the oldest transformers, huggingface_hub, peft we admit"
	@echo "make test-latest     the same with the newest"
	@echo "make test-through-hub what asks the Hub, once more with mdl serve --hub in between"
	@echo "make test-slow       every kernel as compiled, on an emulated GPU; the service under"
	@echo "                     schemathesis and kills"
	@echo "make test-system     what needs Chromium, nginx, llama.cpp or odd file systems: installs them (root, Debian)"
	@echo "make test-quantizers GPTQ, AWQ and torchao by their own libraries; part of make test-system"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) hatchling editables
	$(BIN)/python $(INSTALL) --no-build-isolation --editable '.[dev]'
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
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Twice as long as make test: counting lines takes as much as running them.
coverage: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

# The Python of the environment is left out: make test runs on it.
test-pythons: $(STAMP)
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for pair in $(foreach version,$(VERSIONS),$(version)=$(call find,$(version))); do \
		version=$${pair%%=*}; python=$${pair#*=}; venv=$(VENV)-$$version; \
		[ $$version != $$own ] || continue; \
		[ -n "$$python" ] || { echo "Python $$version is not here."; continue; }; \
		echo "== Python $$version"; \
		[ $$venv/.installed -nt pyproject.toml ] || { $$python -m venv $$venv && \
			$$venv/bin/python $(INSTALL) hatchling editables && \
			$$venv/bin/python $(INSTALL) --no-build-isolation --editable '.[test]' && \
			touch $$venv/.installed; } || exit 1; \
		$$venv/bin/python -m pytest -q -n 3 --dist loadfile $(LIGHT) || exit 1; \
	done

# The corpus, whose reference is transformers and PEFT, with other versions of these.
test-floor: EDGE = \1==\2
test-latest: EDGE = \1
test-floor test-latest: venv = $(VENV)-$(@:test-%=%)
test-floor test-latest:
	$(PYTHON) -m venv $(venv)
	grep -vE '^(transformers|tokenizers|huggingface_hub|peft)==' constraints.txt >$(venv)/constraints
	$(venv)/bin/python $(INSTALL) hatchling editables
	$(venv)/bin/python $(subst constraints.txt,$(venv)/constraints,$(INSTALL)) --upgrade \
		--no-build-isolation --editable '.[load,test]' \
		$$(sed -nE 's/^ *"(transformers|huggingface_hub|peft)>=(.*)",/$(EDGE)/p' pyproject.toml)
	$(venv)/bin/python -m pytest -q -n 2 tests/corpus

# What asks the loopback Hub, with mdl serve --hub in between.
THROUGH := tests/hub tests/resolver tests/cli tests/daemon/test_process.py \
	$(addprefix tests/cachemgr/,test_with_downloads.py test_everyone_else.py test_verify.py) \
	$(addprefix tests/loader/test_,adapter.py load.py local_copy.py locked.py plan.py pull.py \
		pull_formats.py report.py) \
	tests/observe/test_real_programs.py tests/test_public_api.py

test-through-hub: $(STAMP)
	MDL_TEST_THROUGH_HUB=1 $(BIN)/python -m pytest -n 2 --dist load $(THROUGH)

# Every kernel as compiled for every GPU, on the emulated one: a quarter of an hour. Three minutes
# of schemathesis. Ten of mdl serve --hub, killed at each write, and its clients in several versions.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist load -m slow tests/kernels tests/service tests/hub_server

test-system: $(STAMP)
	apt-get install --yes --quiet --no-install-recommends \
		chromium chromium-driver cmake exfat-fuse exfatprogs faketime g++ nginx-light ntfs-3g \
		openssl
	$(BIN)/python $(INSTALL) --no-build-isolation --editable '.[dev,train]'
	$(BIN)/python $(INSTALL) --no-deps liger-kernel
	$(BIN)/python $(INSTALL) ipython llama-cpp-python sentence-transformers
	$(BIN)/python -m pytest -n 2 --dist loadfile -m system
	$(MAKE) test-quantizers

# GPT-QModel asks for another torch than the tested set has, and runs with this one.
test-quantizers: venv = $(VENV)-quantizers
test-quantizers:
	$(PYTHON) -m venv $(venv)
	$(venv)/bin/python $(INSTALL) hatchling editables
	$(venv)/bin/python $(INSTALL) --no-build-isolation --editable '.[load,test]'
	$(venv)/bin/python -m pip install --quiet --no-deps gptqmodel==7.7.0 optimum==2.3.0 \
		torchao==0.18.0 defuser device-smi logbar ninja protobuf pypcre threadpoolctl tokenicer
	$(venv)/bin/python -m pytest -q -m slow tests/loader/test_quantizers.py

docs: $(STAMP)
	$(BIN)/python docs/reference.py

# The pictures of README and docs/; needs Chromium.
pictures: $(STAMP)
	$(BIN)/python docs/pictures.py

# The catalogue in the wheel, made anew: make catalog UNSLOTH=folder/of/an/unpacked/wheel
catalog: $(STAMP)
	$(BIN)/python -m mdl.resolver.unsloth_table $(UNSLOTH)

clean:
	rm -rf $(VENV) $(VENV)-* .demo dist build .coverage* .mypy_cache .ruff_cache .pytest_cache
