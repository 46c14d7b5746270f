# `make` alone lists the targets. PYTHON and TORCH_SPEC choose the environment: scripts/setup_env.sh.
SHELL := /bin/bash
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8
QUICK := $(patsubst %,tests/test_%.py,minimal_example operators operator_contracts candidates ngrams tree \
  no_copies search decoder_runtime described_decoder imports parts plain fallbacks cost_model)
TABLES := PATH="$(CURDIR)/$(BIN):$$PATH" scripts/tables/all.sh
KERNEL_COVERAGE := OMP_NUM_THREADS=1 $(BIN)/python scripts/kernel_coverage.py
DEMO := PATH="$(CURDIR)/$(BIN):$$PATH" examples/docstring_summarization/run.sh

.PHONY: help env test-quick test test-all test-kernels check-build lint docs demo demo-smoke examples-smoke tables-smoke bench bench-smoke clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

env: ## the environment in .venv, made or completed
	@scripts/setup_env.sh

test-quick: env ## two minutes of them: operators, tree, search, decoders, fallbacks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(QUICK)

test: env ## the fast tests
	$(PYTEST) -m "not slow"

test-all: env ## all tests
	$(PYTEST)

test-kernels: env ## the kernels in every size, under sanitizers, by instruction set; their lines
	$(PYTEST) -m slow tests/test_cuda_kernels.py tests/test_cuda_candidates.py \
	  tests/test_compiled_operators.py
	$(KERNEL_COVERAGE)

check-build: env ## the wheel in an environment of its own; the machine code of the CUDA kernels
	scripts/check_wheel.sh
	$(BIN)/python scripts/check_ptx.py --check

lint: env ## ruff, mypy, clang-format; the workflow, the issue forms and the citation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \
	  | xargs -r $(BIN)/clang-format --dry-run --Werror
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms \
	  .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github/workflows

docs: env ## the site, in build/site; its pictures are those that the script draws
	$(BIN)/python docs/pictures/draw.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

demo: env ## train, generate with stock and EL-attention, compare
	$(DEMO)

demo-smoke: env ## the demo in short form, with all model families, for CI
	for family in transformer bart lm; do $(DEMO) --profile smoke --family $$family || exit; done

examples-smoke: env ## the other examples on tiny data and models, for CI
	$(PYTEST) tests/test_examples_scripts.py

tables-smoke: env ## the paper's tables on tiny random models, for CI
	OMP_NUM_THREADS=1 $(TABLES) --profile smoke --again

bench: env ## time generation beside stock fairseq, Transformers and CTranslate2; half an hour
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/bench/run.sh

bench-smoke: env ## the same on a tiny random model, for CI
	$(PYTEST) -m slow tests/test_bench.py

clean: ## remove the environment, build products and caches
	rm -rf .venv .venv.log build dist ./*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f el_attention/_C*.so el_attention/_C.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
