# `make` alone lists the targets. PYTHON and TORCH_SPEC choose the environment: scripts/tools/setup_env.sh.
SHELL := /bin/bash
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8
QUICK := tests/ops/test_operators.py tests/ops/test_operator_contracts.py tests/ops/test_candidates.py \
  tests/fairseq_plugin/test_ngrams.py tests/state tests/decoder tests/search tests/cost tests/project/test_imports.py \
  tests/project/test_plain.py tests/examples/test_minimal_example.py \
  $(patsubst %,tests/fairseq_plugin/test_%.py,no_copies described_decoder parts fallbacks)
TABLES := PATH="$(CURDIR)/$(BIN):$$PATH" scripts/research/tables/all.sh
KERNEL_COVERAGE := OMP_NUM_THREADS=1 $(BIN)/python scripts/tools/kernel_coverage.py
DEMO := PATH="$(CURDIR)/$(BIN):$$PATH" examples/docstring_summarization/run.sh

.PHONY: help env test-quick test test-rest test-all test-kernels check-build gpu-dry-run lint docs demo demo-smoke examples-smoke tables-smoke bench bench-smoke clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

env: ## the environment in .venv, made or completed
	@scripts/tools/setup_env.sh

test-quick: env ## two minutes of them: operators, tree, search, decoders, fallbacks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(QUICK)

test: env ## the fast tests
	$(PYTEST) --dist worksteal -m "not slow"

test-rest: env ## what `test` leaves out for its time: longer tests, more combinations
	$(PYTEST) --dist worksteal -m rest

test-all: env ## all tests
	$(PYTEST)

test-kernels: env ## the kernels in every size, under sanitizers, by instruction set; their lines
	$(PYTEST) -m "slow and not rest" tests/csrc/test_cuda_kernels.py tests/csrc/test_cuda_candidates.py \
	  tests/ops/test_compiled_operators.py
	$(KERNEL_COVERAGE)

check-build: env ## the wheel in an environment of its own; the machine code of the CUDA kernels
	scripts/tools/check_wheel.sh
	$(BIN)/python scripts/tools/check_ptx.py --check

gpu-dry-run: env ## the acceptance on a GPU, all but its launches, for CI
	OMP_NUM_THREADS=1 PYTHON=$(BIN)/python scripts/gpu/accept.sh build/gpu-dry-run --dry-run

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
	$(PYTEST) tests/examples/test_examples_scripts.py

tables-smoke: env ## the paper's tables on tiny random models, for CI
	OMP_NUM_THREADS=1 $(TABLES) --profile smoke --again

bench: env ## time generation beside stock fairseq, Transformers and CTranslate2; half an hour
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/benchmarks/run.sh

bench-smoke: env ## the same on a tiny random model, for CI
	$(PYTEST) -m slow tests/scripts/test_bench.py

clean: ## remove the environment, build products and caches
	rm -rf .venv .venv.log build dist ./*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f el_attention/_C*.so el_attention/_C.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
