# The index of what can be done here. Every target makes its own virtual environment when there is none.
#   make run        train and evaluate tasks/ner.yaml, and write runs/ner with its report
#   make test       lint, types and tests (the ones that CI runs)
#   make check      lint and types alone
#   make format     format the code
#   make test-all   the long checks too
#   make bench      benchmarks against peers; prints tables
#   make wheel      build the wheel into dist/

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed

.PHONY: run test check format test-all bench wheel clean

run: $(INSTALLED)
	$(BIN)/ebmstruct run tasks/ner.yaml --force

test: check
	$(BIN)/python -m pytest -q -m "not slow"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-all: check
	$(BIN)/python -m pytest -q

bench: $(BENCH_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

wheel: $(INSTALLED)
	$(BIN)/python -m build --wheel

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache
