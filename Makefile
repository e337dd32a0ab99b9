# Every target does the set-up it needs. PYTHON=... chooses the interpreter, ARGS=... goes on to pytest or pip-compile.

PYTHON ?=
ARGS ?=
STAMP := .venv/.complete
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest
PARALLEL := -n auto --maxprocesses 8
NONE_SELECTED := [ $$? -eq 5 ]

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-deploy test test-slow test-e2e test-all check bench bench-quick bench-setup bench-check lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv with the pinned packages, nothing else

$(STAMP): requirements.lock requirements-torch.txt pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

demo: $(STAMP) ## train eight synthetic merchants together; a table, and runs/demo/report.html
	.venv/bin/pp-sim demo --out runs/demo

demo-deploy: $(STAMP) ## a platform and three merchants as real processes train a short plan over TLS; runs/deploy
	.venv/bin/pp-sim deploy --out runs/deploy

test: $(STAMP) ## the fast tests: all but slow and e2e
	$(PYTEST) $(PARALLEL) -m "not slow and not e2e" $(ARGS)

test-slow: $(STAMP) ## the slow tests
	$(PYTEST) $(PARALLEL) -m "slow and not e2e" $(ARGS) || $(NONE_SELECTED)

test-e2e: $(STAMP) ## the end-to-end tests: real runs, real files
	$(PYTEST) $(PARALLEL) --dist loadfile -m e2e $(ARGS) || $(NONE_SELECTED)

test-all: ## test, test-slow and test-e2e, one after the other
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-slow
	@$(MAKE) --no-print-directory test-e2e

check: $(STAMP) ## format and lint (ruff), types (mypy --strict), layers; with CI=true format only looks
	.venv/bin/ruff format $(if $(filter true,$(CI)),--check)
	.venv/bin/ruff check
	.venv/bin/mypy
	$(PYTEST) -q tests/test_layers.py

bench: $(STAMP) ## measure everything, beside its peers where it has any; writes benchmarks/results
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.bench $(ARGS)

bench-quick: $(STAMP) ## the same in under three minutes, without the slowest peers; writes runs/bench
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.bench --quick $(ARGS)

bench-setup: $(STAMP) ## install the peers, each into its own environment under benchmarks/.envs
	@PYTHON="$(PYTHON)" sh benchmarks/setup.sh $(ARGS)

bench-check: $(STAMP) ## measure again and fail where a figure is 10 % worse than committed
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.check $(ARGS)

lock: ## write requirements.lock anew from pyproject.toml
	@sh scripts/lock.sh $(ARGS)

clean: ## remove .venv and all caches; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
