# make demo    install into .venv, then a whole federation on this machine; a report at the end
# make test    lint, types and every test that is not slow (what CI runs)
# make faults  kill, cut and corrupt a federation on this machine, beside plain Flower: one table
# make privacy what docs/privacy.md claims, measured: audits, attacks and controls that must fail
#
# PYTHON  interpreter that .venv is made with; 3.11 or newer
# JOBS    processes that run the tests; each file of tests stays in one
# TORCH   what `pip install` is given for PyTorch. For an NVIDIA machine the default is right; for the
#         CPU build where none lies on the machine:
#         make install TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PACKAGES := cardionets_core server client simulations

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install fmt lint types test test-slow faults privacy clean help

help:
	@sed -n '1,11s/^# \{0,1\}//p' Makefile

install: $(STAMP)

# PyTorch comes first and keeps its version: the constraint on it would otherwise pull another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name another: make install PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(TORCH)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/pip install -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $(STAMP)

demo: install
	$(BIN)/cardionets-simulate scenario=demo

fmt: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))

test: lint types
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

faults: install
	$(BIN)/python -m simulations.faults

# dp-accounting needs attrs below 24 and the rest needs more, so it has an environment of its own;
# where it cannot be installed, the table says so and goes on without it.
$(PEERS)/.installed: Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install dp-accounting==0.6.0
	@touch $@

privacy: install
	-@$(MAKE) --no-print-directory $(PEERS)/.installed
	$(BIN)/python -m simulations.privacy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
