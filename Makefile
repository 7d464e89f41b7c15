# make sweep   a fresh machine -> environment -> the sample sweep -> best model and report
# make test    environment -> lint, types and every test
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SWEEP ?= tune_jobs/sweeps/sample.yaml
export PYTHONDONTWRITEBYTECODE :=

.PHONY: sweep test lint unit ray environment development clean

sweep: environment
	$(PY) -m tune_jobs run $(SWEEP)

test: development lint unit ray

lint: development
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: development
	$(PY) -m pytest -m "not ray and not gpu"

ray: development
	$(PY) -m pytest -m ray

environment: $(VENV)/.runtime
development: $(VENV)/.development

# torch goes first and alone: the exact pin finds a CPU build where one is at hand, and nothing later may replace it.
$(VENV)/.runtime: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
