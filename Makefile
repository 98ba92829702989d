# `make demo` restores a photograph and shows how; `make test` runs every test. Both install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast clean

demo: $(VENV)/.installed
	$(BIN)/diffinv compare --prior=photo --steps=30 --tasks=inpaint_random,super_resolution,gaussian_blur \
	  --methods=sdedit,score_ald,dps --output=out/demo --overwrite
	$(BIN)/diffinv reconstruct --prior=faces --input=diffinv/data/face.png --task=inpaint_box --method=dps \
	  --num_samples=4 --output=out/demo-faces --overwrite
	@echo "open out/demo/report.html, and look at out/demo-faces/face-sheet.png"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-test
	DIFFINV_TEST_XLA_LEVEL=0 $(BIN)/python -m pytest -m "not slow"

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "diffinv needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info
