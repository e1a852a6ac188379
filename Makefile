# make demo      simulate a planet, learn its weather, forecast it, score the forecast
# make test      the checks below, and the tests that show each feature: under ten minutes on two cores
# make test-all  these, then the rest: every mesh, every size, every way to fail
# make test-exhaustive  the rest alone; with SHARE=0/24 the first 24th of it
# make test-integrations the workflows of Earth2Studio, which take long to import, on our exports
# make coverage  the tests of make test, with the share of the code that they run
# make check     formatting, lint, types, import direction, spelling, and links between documents
# make format    put the code into its format
# make docs      the site, with a reference of the code, in build/docs
# make test-site look at that site, in a browser too where one is installed
# make notebooks run the tutorials again, and keep what they show
# make package   wheels and sdist, and each wheel tried in an empty environment
# make hooks     check what a commit touches before each commit
#
# The first one to run makes .venv; PYTHON=python3.12 chooses another Python, TORCH_INDEX another
# build of PyTorch (CONTRIBUTING.md).

PYTHON ?= $(shell for p in .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done || true)
BIN := .venv/bin
CODE := src tests benchmarks tools examples docs
DOCUMENTS := $(wildcard *.md docs/*.md .github/*.md .github/*/*.md)
# What is checked, in this order. The hooks of .pre-commit-config.yaml run the same.
CHECKS := check-format check-lint check-types check-imports check-spelling check-links
# Three at once on two cores: many tests wait for processes that they started.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadscope

NOTEBOOKS := $(addprefix docs/notebooks/,$(addsuffix .ipynb,first-forecast your-own-era5 several-ranks another-network))

.PHONY: demo test test-all test-exhaustive test-notebooks test-integrations test-site coverage check format docs notebooks package hooks setup-demo setup-work $(CHECKS)
.DEFAULT_GOAL := test

demo: setup-demo
	$(BIN)/weathermixer demo

test: check
	$(PYTEST)

test-all: test test-exhaustive

test-exhaustive: setup-work
	$(PYTEST) -m exhaustive $(if $(SHARE),--share $(SHARE))

# One after the other: they share a planet.
test-notebooks: setup-work
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" tests/test_notebooks.py

# In one process: what they import takes half a minute.
test-integrations: setup-work
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" tests/in_earth2studio/test_workflows.py

# The site that make docs made.
test-site: setup-work
	WEATHERMIXER_SITE=build/docs $(BIN)/python -m pytest tests/test_site.py

coverage: setup-work
	$(PYTEST) --cov

check: setup-work
	@$(MAKE) --no-print-directory $(CHECKS)

check-format:
	$(BIN)/ruff format --check $(CODE)
check-lint:
	$(BIN)/ruff check $(CODE)
check-types:
	$(BIN)/mypy
check-imports:
	$(BIN)/lint-imports
check-spelling:
	$(BIN)/codespell $(CODE) $(DOCUMENTS) .ci .devcontainer .github Makefile pyproject.toml
check-links:
	$(BIN)/python tools/check_links.py $(DOCUMENTS)

format: setup-work
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# Pages of modules that are gone would be built again, so the reference is made anew each time.
docs: setup-work
	rm -rf build/docs docs/api
	$(BIN)/python -m sphinx --jobs auto --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "the site is build/docs/index.html"

notebooks: setup-work
	$(BIN)/python tools/run_notebooks.py $(NOTEBOOKS)

# Build's own environment takes its versions from here.
package: setup-work
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build --wheel --outdir dist packages/jigsaw
	$(BIN)/python tools/try_wheel.py dist/weathermixer-*.whl
	$(BIN)/python tools/try_wheel.py dist/weathermixer_jigsaw-*.whl

hooks: setup-work
	$(BIN)/pre-commit install

setup-demo: ; @$(call bootstrap,planet)
setup-work: ; @$(call bootstrap,dev docs grib planet test)

define bootstrap
	if [ -z "$(PYTHON)" ]; then \
		echo "Error: no Python 3.11 or newer was found: install one, or name it with PYTHON=..." >&2; \
		exit 2; \
	fi; \
	$(PYTHON) tools/bootstrap.py $(1)
endef
