PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow coverage lint hooks docs dist smoke supply bench bench-train \
  bench-eval bench-data bench-forge bench-serve soak

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(VENV)/.stamp  ## make .venv with pinned dependencies (the CPU build of torch first)

$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[serve,web,docs,dev]'
	touch $@

quickstart: setup  ## the whole system in miniature, offline
	$(BIN)/ziya-visual quickstart --out runs/quickstart

test: setup  ## the fast tests
	$(BIN)/pytest -q -m 'not slow and not soak and not gpu'

test-slow: setup  ## the tests that take minutes: the quickstart and its floors
	$(BIN)/pytest -q -m 'slow and not gpu'

coverage: setup  ## the fast tests with their subprocesses measured; fails below 90 % of src
	rm -f .coverage*
	$(BIN)/coverage run -m pytest -q -m 'not slow and not soak and not gpu'
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

lint: setup  ## style, types, layers, and the measures of the tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/test_architecture.py

hooks: setup  ## lint before every commit (pre-commit, with the tools of .venv)
	$(BIN)/pre-commit install

dist: setup  ## sdist and wheel under dist/, the wheel built from the sdist
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python .ci/same_wheel.py dist

smoke: dist  ## the wheel in a clean environment: its commands, the quickstart's phases on a handful of scenes
	PYTHON=$(PYTHON) .ci/smoke

supply: smoke  ## what the wheel pulls in: docs/licences.md, dist/sbom.cdx.json, known vulnerabilities
	build/wheel/bin/python .ci/licences.py docs/licences.md
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
	  -o dist/sbom.cdx.json build/wheel/bin/python
	$(BIN)/python .ci/audit.py

docs: setup  ## the site, strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench-train: setup  ## training steps beside stock Trainer: runs/bench/train.json
	$(BIN)/python benchmarks/train.py

bench: setup  ## timings beside peers: JSON under runs/bench
	$(BIN)/python benchmarks/packed.py
	$(BIN)/python benchmarks/load.py

bench-eval: setup  ## scoring and asking beside their peers: runs/bench/eval.json
	$(BIN)/python benchmarks/eval.py

bench-data: setup  ## importing, decoding, shuffling, the leak guard: runs/bench/data.json
	$(BIN)/python benchmarks/data.py

bench-forge: setup  ## the forge against its targets (PEER_PYTHON=... beside distilabel): runs/bench/forge.json
	$(BIN)/python benchmarks/forge.py

bench-serve: setup  ## answers beside transformers serve: runs/bench/serve.json
	$(BIN)/python benchmarks/serve.py

soak: setup  ## what takes longer: the quickstart from scratch, the parts compared, and two more seeds
	rm -rf runs/soak
	$(BIN)/pytest -q -m 'soak and not gpu'
	for seed in 1 2; do $(BIN)/ziya-visual quickstart --out runs/soak/$$seed --seed $$seed || exit 1; done
	$(BIN)/python benchmarks/seeds.py runs/soak/0 runs/soak/1 runs/soak/2
