# `make demo` shows Daybreak, `make test` proves it. Both install what they need into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
# A file's tests share a worker, and what they start; the files begin in conftest.py's order. Three
# workers on two cores: one of them mostly waits for Airflow and its pages.
PYTEST := python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Bytecode is compiled once, at installation: without it every process pays 6 to 30 s of imports.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help java chromium install install-dev demo airflow test test-all lint types unit format lock clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(UV): requirements-build.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: name a newer one, as in make PYTHON=python3.12 demo"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python has no venv module: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-build.txt
	@touch $@

# Each stamp holds for one lock: a changed lock installs again.
$(VENV)/.installed: $(UV) requirements.txt pyproject.toml
	@echo "Installing the lock into $(VENV) (about two minutes the first time)"
	@$(UV) pip install --quiet --compile-bytecode -r requirements.txt
	@$(UV) pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@$(UV) pip install --quiet --compile-bytecode -r requirements-dev.txt
	@touch $@

# Java is the system's: root on Debian and its kin gets it here, anybody else is told how.
java:
	@command -v java >/dev/null || test -x "$$JAVA_HOME/bin/java" || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update && \
	  apt-get -qq install --yes --no-install-recommends openjdk-17-jre-headless; } || \
	echo "No Java: pipelines on Spark need one (sudo apt-get install openjdk-17-jre-headless)"

# And so is the browser: for the tests of Airflow's pages, which are skipped without one.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test -x "$$CHROMIUM" || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update && \
	  apt-get -qq install --yes --no-install-recommends chromium; } || \
	echo "No Chromium: tests of Airflow's pages are skipped (sudo apt-get install chromium)"

install: $(VENV)/.installed java ## .venv with the locked packages and the daybreak command

install-dev: $(VENV)/.installed-dev java chromium ## the same, with what the tests need

demo: install ## real data, trained models, one night's run, its report
	@daybreak demo

airflow: install-dev ## a whole Airflow on this machine, on PostgreSQL (PORT=8080)
	@python -m daybreak.local_airflow --port $(or $(PORT),8080) $(if $(DATABASE),--database $(DATABASE))

test: install-dev lint types unit ## lint, types, import rules and every test

unit: install-dev
	@$(PYTEST)

test-all: install-dev lint types ## the same, and the long proofs
	@DAYBREAK_LONG_TESTS=1 $(PYTEST)

lint: install-dev ## ruff and the import rules
	@ruff check .
	@ruff format --check .
	@lint-imports --no-cache

types: install-dev ## mypy
	@mypy

format: install-dev ## rewrite the code in the project's format
	@ruff check --fix .
	@ruff format .

lock: $(UV) ## compile the .in files into their locks
	@for name in requirements requirements-dev requirements-scoring; do \
	  $(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header \
	    --upgrade $$name.in --output-file $$name.txt; done

clean: ## remove .venv and everything that Daybreak made here
	@rm -rf $(VENV) .daybreak .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
