# `make demo` and `make test` are all a newcomer needs: each makes .venv, installs what it needs, and runs.
#
#   make demo    execute notebooks/quickstart.ipynb in a real kernel; results in build/
#   make test    run the tests                       (ARGS="-k tail -x" goes to pytest)
#   make test-matrix   the browser tests with ipykernel 6.31, 7.3 and the newest, each in a venv of its own under build/
#   make lab     open JupyterLab on the quickstart   (ARGS="--no-browser --port 8890" goes to Jupyter)
#   make check   ruff format, ruff check, mypy --strict
#   make dist    an sdist, and from that alone, without node and network, a wheel; both in build/dist
#   make bench   measure everything beside its rivals: table and picture in build/bench/   (ARGS=--quick for a look)
#   make clean   remove .venv, build/, the built front end and caches
#
# Another Python: `make clean`, then `make PYTHON=python3.12 test`.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A kernel of this .venv goes before one of the same name in the user's home.
export JUPYTER_PREFER_ENV_PATH := 1

# A stamp is named after what was installed and where: an edited pyproject.toml or a moved folder installs again, and
# so does an edited front end, which an install builds.
KEY := $(shell { pwd; cat pyproject.toml src/frontend/*.js src/frontend/*.css src/frontend/*.json; } | cksum | cut -d ' ' -f 1)
DEMO := $(VENV)/.installed-demo-$(KEY)
TEST := $(VENV)/.installed-test-$(KEY)
LAB := $(VENV)/.installed-lab-$(KEY)
BENCH := $(VENV)/.installed-bench-$(KEY)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two pips in one .venv harm each other
.PHONY: help demo test test-matrix lab check dist bench clean install-test

help:
	@sed -n 's/^#   //p' Makefile

demo: $(DEMO)
	$(PY) notebooks/execute.py notebooks/quickstart.ipynb --to build $(ARGS)

test: $(TEST)
	@$(PY) tests/browser/find_browser.py
	$(if $(strip $(ARGS)),$(PY) -m pytest -q $(ARGS),$(PY) tests/all_at_once.py)

test-matrix: $(TEST)
	@$(PY) tests/browser/find_browser.py
	$(PY) tests/browser/matrix.py $(ARGS)

lab: $(LAB)
	$(PY) -m jupyterlab notebooks/quickstart.ipynb $(ARGS)

check: $(TEST)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

dist: $(TEST)
	$(PY) -m pip install -q build hatchling
	rm -rf build/dist
	$(PY) -m build --no-isolation --sdist --outdir build/dist .
	tar -C build/dist -xzf build/dist/ipyelastic-*.tar.gz
	PATH=/nonexistent PIP_NO_INDEX=1 $(CURDIR)/$(PY) -m build --no-isolation --wheel --outdir build/dist build/dist/ipyelastic-*/

bench: $(BENCH)
	$(PY) tests/bench/bench.py $(ARGS)

install-test: $(TEST)

clean:
	rm -rf src/frontend/node_modules src/ipyelastic/notebook/static
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find src tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO): WANTED := '.[demo]' 'nbclient>=0.10' 'nbconvert>=7.16'
$(TEST): WANTED := '.[test]'
$(LAB): WANTED := '.[lab,demo]'
$(BENCH): WANTED := '.[test,bench]'

$(DEMO) $(TEST) $(LAB) $(BENCH): | $(PY)
	@echo "installing into $(VENV), once: ipyelastic$(patsubst '.%',%,$(firstword $(WANTED)))"
	@$(PY) -m pip install -q -e $(WANTED)
	@rm -f $(@:%-$(KEY)=%)-* && touch $@

# Targets of its own making only: a .venv whose Python is gone is made anew, a half-made one never stays.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "ipyelastic needs Python 3.10 or newer and $(PYTHON) is not; try: make PYTHON=python3.11 ..."; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) \
	  || { rm -rf $(VENV); echo "no venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
