# `make demo` and `make test` set up what they need, in .venv; nothing outside this folder changes.
# Where packages come from is pip's own configuration (PIP_INDEX_URL and the like are honoured).

PYTHON ?= python3
VENV ?= .venv
OUT ?= mithridate-report
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
READY := $(VENV)/.installed
PEERS := $(VENV)/.peers

.PHONY: help venv demo test lint docs bench-env clean

help:
	@echo "make demo       set up, find a planted backdoor in the embedded digits, say where the report lies"
	@echo "make test       set up, run the tests"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation, into docs/_build/html"
	@echo "make bench-env  add the peer libraries that benchmarks/ compares with"
	@echo "make clean      remove the environment and everything built"

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install python3-venv (Debian: apt install python3-venv)" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), a few minutes the first time"
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

demo: venv
	$(BIN)/mithridate demo --out $(OUT)
	@echo "The report lies at $(abspath $(OUT))/report.html"

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: venv
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench-env: $(PEERS)

# torchattacks asks for torchvision and for a requests of 2021, and imports neither: without
# its dependencies, all of which the other two bring, it runs (docs/decisions/0005). adv-lib asks for
# torchvision and visdom, for distances and plots: benchmarks/optimality.py gives it empty ones.
$(PEERS): $(READY)
	$(PIP) --no-build-isolation -e '.[dev,bench]'
	$(PIP) --no-deps torchattacks adv-lib
	@touch $@

clean:
	rm -rf $(VENV) docs/_build docs/reference/api docs/tutorial/in-a-notebook.md .mypy_cache .ruff_cache .pytest_cache .hypothesis
