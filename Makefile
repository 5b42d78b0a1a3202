# make reproduce   every figure of the paper from the embedded data (profile quick)
# make test        the tests that take seconds; make test-all for all of them
# Both create .venv when it is missing and need nothing but Python 3.11 or newer, and make.

PYTHON ?= python3
PROFILE ?= quick
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Beside the environment: hippynn asks an installed Triton for a GPU.
TRITON := $(VENV)/triton
# Libraries that GPAW is built on. A build without FFTW is replaced, and a cached one never used.
DFT_LIBRARIES := g++ libxc-dev libopenblas-dev libfftw3-dev

# Two processes of one thread each: the tests compute on systems too small for more.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
PYTEST := $(THREADS) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: reproduce figures book dft test test-all test-device test-faults lint clean help
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

reproduce: $(STAMP)  ## data to figures; PROFILE=laptop for longer trainings (hours)
	$(BIN)/kdlib run --profile $(PROFILE)

figures: $(STAMP)  ## draw the shipped figures again from the data beside them
	$(BIN)/kdlib figures

book: PROFILE := laptop
book: $(STAMP)  ## executed notebooks as web pages in docs/; PROFILE=quick for another run's
	$(BIN)/kdlib book --profile $(PROFILE)

dft: $(STAMP)  ## GPAW, to label more frames; builds it, with Debian's compiler and libraries
	dpkg -s $(DFT_LIBRARIES) >/dev/null || apt-get install -y $(DFT_LIBRARIES)
	$(BIN)/python -c 'import sys; from gpaw.fftw import have_fftw; sys.exit(not have_fftw())' 2>/dev/null \
		|| CC=g++ GPAW_CONFIG=$(CURDIR)/al_pbe/gpaw_siteconfig.txt $(BIN)/python -m pip install \
		--quiet --constraint constraints.txt --no-cache-dir --no-binary gpaw --force-reinstall --no-deps gpaw
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dft]'

test: $(STAMP)  ## the fast tests, minutes on two cores
	$(PYTEST) -m 'not slow and not notebooks'

test-all: $(STAMP)  ## all tests: the smoke run of the notebooks, killed and resumed work
	$(PYTEST)

test-device: $(STAMP) $(TRITON)/.installed  ## kernels of a GPU, by Triton's interpreter on the CPU
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(PYTEST) tests/hipnn/device

test-faults: $(STAMP)  ## kdlib run and kdlib distill killed at many moments and resumed; hours
	$(THREADS) $(BIN)/python tests/faults/moments.py

lint: $(STAMP)  ## style of code and notebooks, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb al_pbe/*.ipynb

clean:  ## remove results, caches and builds; the environment stays
	rm -rf results build dist *.egg-info .pytest_cache .ruff_cache
	find kdlib tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kdlib needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(TRITON)/.installed: constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target $(TRITON) triton
	touch $@
