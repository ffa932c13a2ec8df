# `make demo` and `make test` set up what they need in .venv on a fresh machine (Python 3.11, pip).
PYTHON ?= python3
BIN := .venv/bin
# A stamp per set of extras: pip runs again only when pyproject.toml has changed.
DEMO := .venv/.installed-demo
DEV := .venv/.installed-dev

.PHONY: demo test lint clean

demo: $(DEMO)
	$(BIN)/siasearch demo

test: $(DEV) lint
	$(BIN)/python -m pytest

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

$(DEMO): pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(DEV): pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
