# Everything works from a fresh clone with Python 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := stepaudio recipes eval streaming webui tests benchmarks
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test setup check format wheel clean

# The core only: what transcription needs.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

# Every extra and console script.
$(VENV)/.setup: $(VENV)/.core
	$(BIN)/python -m pip install -c constraints.txt -e ".[eval,train,serve,bench,webui,dev]"
	touch $@

demo: $(VENV)/.core
	$(BIN)/stepaudio asr examples/audio --format table

setup: $(VENV)/.setup

# Processes of one thread each. Compiled modules are kept: many tests start commands.
test: $(VENV)/.setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

check: $(VENV)/.setup
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.setup
	$(BIN)/ruff format $(PACKAGES)
	$(BIN)/ruff check --fix $(PACKAGES)

wheel: $(VENV)/.setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel --outdir dist

clean:
	rm -rf $(VENV) dist build
