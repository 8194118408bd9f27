# What there is to do with a clone. Needs make and Python 3.11 or newer; all else is fetched into .venv.

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
IN_VENV := .venv/bin/python -m
PIP := $(IN_VENV) pip --quiet --no-input --disable-pip-version-check
CATALOGUES := $(patsubst %.po,%.mo,$(wildcard widget/translations/*/LC_MESSAGES/messages.po))
MAKEFLAGS += --no-print-directory

.DELETE_ON_ERROR:
.PHONY: help run install test check chaos bench format lock browser

help:
	@echo "make run      the widget, a sandbox Openfield and a campaign site that embeds it, until Ctrl-C"
	@echo "make install  .venv with everything, for developers"
	@echo "make test     all tests; make test ARGS='-k signup' runs some"
	@echo "make check    what CI runs: format, lint, types, imports, tests"
	@echo "make chaos    kills everything while 10,000 take part, and looks what came of it; ARGS='--seed 7' repeats a plan"
	@echo "make bench    measures the outbox and the first screen; docs/BENCHMARKS.md says what, and how to read it"
	@echo "make format   puts the code in form"
	@echo "make lock     pins the newest versions that pyproject.toml allows"

run: .venv/runtime $(CATALOGUES)
	@$(IN_VENV) flask demo

install: .venv/development $(CATALOGUES)

test: install browser
	@$(IN_VENV) pytest $(ARGS)

check: install
	@$(IN_VENV) ruff format --check
	@$(IN_VENV) ruff check
	@$(IN_VENV) mypy
	@.venv/bin/lint-imports --no-logo
	@$(MAKE) test

chaos: install
	@$(IN_VENV) tests.faults.chaos $(ARGS)

bench: install
	@$(IN_VENV) benchmarks.outbox submissions
	@$(IN_VENV) benchmarks.outbox drain
	@$(IN_VENV) benchmarks.first_screen
	@$(IN_VENV) benchmarks.where

format: install
	@$(IN_VENV) ruff check --fix-only
	@$(IN_VENV) ruff format

# Both locks are for every platform and Python that we support, and hold hashes but no addresses.
LOCK = uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock:
	@$(LOCK) pyproject.toml -o requirements.lock
	@$(LOCK) pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

# The virtual environment: what the product needs, and what its developers need besides

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, as python3." >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/runtime: requirements.lock | .venv/bin/python
	@echo "Installing what the widget needs"
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

.venv/development: requirements-dev.lock | .venv/bin/python
	@echo "Installing what developing the widget needs"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch .venv/runtime $@

%.mo: %.po | .venv/runtime
	@$(IN_VENV) babel.messages.frontend --quiet compile --input-file=$< --output-file=$@

# The tests' browser: the system's Chromium where there is one or Debian's can be installed, otherwise Playwright's own
browser: .venv/development
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && grep -qsx 'ID=debian' /etc/os-release; then \
		echo "Installing Chromium for the tests"; \
		apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium fonts-liberation >/dev/null; \
	else $(IN_VENV) playwright install chromium; fi
