# `make demo` restores a photograph and shows how; `make test` runs every test; `make docs` builds the site, `make dist` the
# packages. All install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := test lint docs dist
PYTEST_WORKERS ?= auto
SITE ?= out/site
JOBS ?= 2

.PHONY: demo test test-fast lint format docs dist install clean

demo: $(VENV)/.installed
	$(BIN)/diffinv compare --prior=photo --size=160 --fit=resize --tasks=inpaint_random,super_resolution \
	  --methods=sdedit,score_ald,dps,balanced --output=out/demo --overwrite
	$(BIN)/diffinv reconstruct --prior=faces --input=diffinv/data/face.png --task=inpaint_box --method=dps \
	  --num_samples=4 --output=out/demo-faces --overwrite
	@echo "open out/demo/report.html, and look at out/demo-faces/face-sheet.png"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses=$(PYTEST_WORKERS)

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses=$(PYTEST_WORKERS) -m "not slow"

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -n -W --keep-going -j $(JOBS) -d $(SITE)-doctrees docs $(SITE)
	@echo "open $(SITE)/index.html"

dist: $(VENV)/.installed-dist
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/check_distribution.py --folder=dist

# All that the targets need, in one go.
install: $(VENV)/.created
	$(PIP) --editable '.[test,lint,docs,dist]'
	touch $(VENV)/.installed
	touch $(EXTRAS:%=$(VENV)/.installed-%)

$(VENV)/.created: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "diffinv needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created
	$(PIP) --editable .
	touch $@

$(EXTRAS:%=$(VENV)/.installed-%): $(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) out build dist docs/_made *.egg-info .pytest_cache .ruff_cache .mypy_cache
