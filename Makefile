# make demo    simulate a planet, learn its weather, forecast it, score the forecast
# make test    every test, and formatting, lint, types and import direction
# make check   those four alone
# make format  put the code into its format
#
# The first one to run makes .venv; PYTHON=python3.12 chooses another Python, TORCH_INDEX another
# build of PyTorch (CONTRIBUTING.md).

PYTHON ?= $(shell for p in .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done || true)
BIN := .venv/bin
CODE := src tests benchmarks tools

.PHONY: demo test check format setup-demo setup-test
.DEFAULT_GOAL := test

demo: setup-demo
	$(BIN)/weathermixer demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

check: setup-test
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-test
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

setup-demo: ; @$(call bootstrap,planet)
setup-test: ; @$(call bootstrap,dev grib planet test)

define bootstrap
	if [ -z "$(PYTHON)" ]; then \
		echo "Error: no Python 3.11 or newer was found: install one, or name it with PYTHON=..." >&2; \
		exit 2; \
	fi; \
	$(PYTHON) tools/bootstrap.py $(1)
endef
