# make sweep   a fresh machine -> environment -> the sample sweep -> best model and report
# make test    environment -> lint, types and every test but the longest
# make long    the longest tests: machines over SSH, a job on Slurm, every block of README.md
# make coverage   lines of the pure rooms that the tests without Ray reach; fails under 95 %
# make lock    writes requirements.lock anew after a change of requirements*.txt; keeps what still fits
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SWEEP ?= tune_jobs/sweeps/sample.yaml
# Two files of tests at a time, each by one process in its order; `make test SIDE_BY_SIDE=` runs them one after another.
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder
export PYTHONDONTWRITEBYTECODE :=
unit ray long coverage: export OMP_NUM_THREADS := 1

.PHONY: sweep test lint unit ray long coverage lock environment development clean

sweep: environment
	$(PY) -m tune_jobs run $(SWEEP)

test: development lint unit ray

lint: development
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: development
	$(PY) -m pytest $(SIDE_BY_SIDE) --durations 15 -m "not ray and not gpu"

ray: development
	$(PY) -m pytest $(SIDE_BY_SIDE) --durations 15 -m "ray and not long"

long: development
	$(PY) -m pytest $(SIDE_BY_SIDE) --durations 15 -m long

coverage: development
	$(PY) -m coverage run -m pytest -m "not ray and not gpu and not long"
	$(PY) -m coverage report

lock: environment
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
	  requirements.txt requirements-dev.txt requirements-gpu.txt --output-file requirements.lock

environment: $(VENV)/.runtime
development: $(VENV)/.development

# torch goes first and alone: the exact pin finds a CPU build where one is at hand, and nothing later may replace it.
$(VENV)/.runtime: requirements.txt requirements.lock
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -r requirements.txt
	touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
