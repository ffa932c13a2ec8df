# `make demo` and `make test` set up what they need in .venv on a fresh machine (Python 3.11, pip).
PYTHON ?= python3
BIN := .venv/bin
# A process for every core: threads of theirs for arithmetic would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal
# A stamp per set of extras: pip runs again only when pyproject.toml has changed.
DEMO := .venv/.installed-demo
DEV := .venv/.installed-dev

# Tests start hundreds of processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test pytest quick lint docs coverage clean

demo: $(DEMO)
	$(BIN)/siasearch demo

# All that continuous integration runs, side by side; the last lines name what has failed.
test: $(DEV)
	$(MAKE) --no-print-directory --keep-going --jobs 3 lint docs pytest

# Tests run in parallel; `pytest -n 0` runs them one by one.
pytest: $(DEV)
	$(PYTEST)

# Leaves out the tests that are marked slow.
quick: lint
	$(PYTEST) -m "not slow"

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Builds the site in build/docs; a broken link is an error.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Which lines and branches the tests run, also in the processes that they start.
coverage: $(DEV)
	$(PYTEST) --cov --cov-report term:skip-covered --cov-report html:build/coverage

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
