# make demo    compress, evaluate and report the demo model (runtime dependencies only)
# make test    build the wheel, install it apart from the sources and test that
# make check   lint, format, types, import rules, generated documents
# make bench   the benchmarks behind docs/
# make clean   remove everything that make made
#
# Needs python3 >= 3.11 with venv. Packages come from whatever index pip is configured for.

PYTHON ?= python3
VENV := .venv
TEST_VENV := .venv-test
PEERS_VENV := .venv-peers
PYTEST_ARGS ?=
# Real models and images, for the benchmarks and for tests that are skipped without them.
SHARED ?= ../shared
SOURCES := pyproject.toml README.md LICENSE $(shell find src -type f -not -path '*/__pycache__/*')

# Foreign packages must not leak into the environments made here.
unexport PYTHONPATH
unexport PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test check bench browser reference format clean

define create_venv
@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is " + sys.version.split()[0] + ", and 3.11 or newer is needed\nhint: make PYTHON=python3.12 …")'
@echo "creating $(1) …"
@$(PYTHON) -m venv $(1)
endef

demo: $(VENV)/.runtime
	$(VENV)/bin/ranksmith compress demo --output demo-bundle --overwrite
	$(VENV)/bin/ranksmith evaluate demo-bundle --data src/ranksmith/demo/test.npz
	@echo
	@echo "The report, with every figure: $(CURDIR)/demo-bundle/report.html"

test: $(TEST_VENV)/.wheel browser
	RANKSMITH_TEST_WHEEL=1 $(TEST_VENV)/bin/python -m pytest \
	  --cov=ranksmith --cov-report=term:skip-covered --cov-fail-under=90 $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python tools/cli_reference.py --check
	$(VENV)/bin/python tools/generate_proto.py --check

bench: $(VENV)/.dev $(PEERS_VENV)/.peers
	$(VENV)/bin/python benchmarks/layers.py $(SHARED)/models/resnet50-v1.onnx
	$(VENV)/bin/python benchmarks/compress.py demo
	$(VENV)/bin/python benchmarks/compress.py $(SHARED)/models/resnet50-v1.onnx \
	  --data $(SHARED)/data/imagenet-sample --preprocess imagenet
	$(VENV)/bin/python benchmarks/serving --peers-python $(PEERS_VENV)/bin/python \
	  --model $(SHARED)/models/resnet20-cifar10.onnx --model $(SHARED)/models/resnet50-v1.onnx

reference: $(VENV)/.dev
	$(VENV)/bin/python tools/cli_reference.py

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The report is looked at in a real browser. Where none can be installed, those tests are skipped and say so.
browser:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "no Chromium and no apt-get: the browser tests will be skipped"; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then run=""; \
	elif sudo -n true 2>/dev/null; then run="sudo -n"; \
	else echo "no Chromium and no right to install it: the browser tests will be skipped"; exit 0; fi; \
	echo "installing Chromium …"; \
	{ $$run apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$run apt-get install -qq -y --no-install-recommends chromium; } >/dev/null \
	  || echo "Chromium could not be installed: the browser tests will be skipped"

clean:
	rm -rf $(VENV) $(TEST_VENV) $(PEERS_VENV) dist demo-bundle htmlcov .coverage .coverage.* \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: pyproject.toml
	$(call create_venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(call create_venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.runtime

# What benchmarks/serving compares with pins a good deal.
$(PEERS_VENV)/.peers: benchmarks/serving/requirements.txt
	$(call create_venv,$(PEERS_VENV))
	$(PEERS_VENV)/bin/python -m pip install --quiet --requirement $<
	@touch $@

$(TEST_VENV)/.wheel: $(SOURCES)
	$(call create_venv,$(TEST_VENV))
	rm -rf dist
	$(TEST_VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(TEST_VENV)/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	$(TEST_VENV)/bin/python -m pip install --quiet "$$(echo dist/*.whl)[dev]"
	@touch $@
