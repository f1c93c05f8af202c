# make setup | demo | demo-hmr | test | reproduce | reproduce-gpu | lint | test-full | test-onedl | clean
PYTHON ?= python3
# A GPU user's choice, e.g. TORCH="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cu130"
TORCH ?= torch==2.13.0
# make test ARGS="tests/test_compat.py -k nms"
ARGS ?=

# The name of a file, which may hold quotes and dollars: neither make nor the shell is to read it.
override IMAGE := $(value IMAGE)
export IMAGE

VENV := .venv
PIP := pip install --quiet --disable-pip-version-check
PY := $(VENV)/bin/python
# One thread per test process: two processes share the machine, and more threads would only fight.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-hmr test reproduce reproduce-gpu lint test-full test-onedl clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done  ## build .venv (about a minute, nothing is compiled; TORCH= chooses the torch build)

demo: setup  ## segment pictures, dense and accelerated (IMAGE=path for your own)
	@$(PY) -W ignore tools/demo.py $${IMAGE:+--image "$$IMAGE"}

demo-hmr: setup  ## people as meshes, in drawn crowds (IMAGE=path for a picture of yours, ARGS="--number 8")
	@$(PY) -W ignore tools/demo_hmr.py $${IMAGE:+--image "$$IMAGE"} $(ARGS)

test: setup  ## the tests
	$(PYTEST) $(PY) -m pytest -q -n 2 $(ARGS)

reproduce: setup  ## every result of the pages again: hours, goes on where it stopped (ARGS="--list" names them, "--quick" tries each)
	$(PY) -W ignore tools/misc/reproduce.py $(ARGS)

# With any python that has torch for CUDA and the packages of setup.py; PY=.venv/bin/python for that of make setup.
reproduce-gpu: OUT ?= work_dirs/gpu
reproduce-gpu: MINUTES ?= 4
reproduce-gpu: PY := $(PYTHON)
reproduce-gpu:  ## on a GPU machine: the CUDA tests (100 s at most), then the latency tables (OUT=folder, MINUTES=4)
	mkdir -p $(OUT)
	-timeout -s INT 100 $(PY) -m pytest -q -m gpu --tb=short -p no:cacheprovider $(GPU_TESTS) 2>&1 | tee $(OUT)/tests.log
	$(PY) -W ignore tools/misc/gpu_report.py --out $(OUT) --minutes $(MINUTES)

# By name: the others import what a GPU machine need not have. Quick ones first.
GPU_TESTS := tests/test_static_paths.py tests/test_core tests/test_analysis/test_latency.py \
	tests/test_analysis/test_benchmark.py tests/contract/test_graphs.py tests/test_ext_standin.py

lint: setup  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test-full: .venv-full/.done  ## the tests on the compiled mmcv (5 minutes to build), stand-in ops held against its ops
	$(PYTEST) MMTOKEN_TEST_COMPILED=1 .venv-full/bin/python -m pytest -q -n 2 $(ARGS)

test-onedl: .venv-onedl/.done  ## the tests on the maintained fork of OpenMMLab
	$(PYTEST) .venv-onedl/bin/python -m pytest -q -n 2 $(ARGS)

clean:  ## remove what make built, the environments too
	rm -rf $(VENV) .venv-full .venv-onedl build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache mmtoken/.mim model-index.yml
	find mmtoken tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------------ environments
# Each is brought up to date when setup.py or the model index changes; pip leaves alone what is right already.
short_of_room := "less than 3 GB are free on " $$6 ", pip may end in an error; TMPDIR= moves its temporary files"

%/.done: | check-python
	@echo "[1/3] environment $*"
	@$*/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $*
	@df -Pk $* "$${TMPDIR:-/tmp}" | awk 'NR > 1 && $$4 < 3e6 && !said[$$6]++ {print $(short_of_room)}'
	@echo "[2/3] packages (about a minute, several with the CUDA build of torch)"
	@$(packages)
	@echo "[3/3] a first import"
	@$*/bin/python -W ignore -c "import mmtoken, mmseg.models, mmdet.models; print('mmtoken', mmtoken.__version__, 'is ready')"
	@touch $@

$(VENV)/.done .venv-full/.done .venv-onedl/.done: setup.py $(wildcard configs/*/metafile.yml)

# torch stands in the same command as the rest, so that nothing pulls another build of it.
$(VENV)/.done: packages = $(PY) -m $(PIP) $(TORCH) -e '.[mm,pretrain,test,demo]'

# mmcv 2.1's setup.py needs pkg_resources (setuptools < 81), torch and no isolation; -g0 halves the compile.
define full_packages
.venv-full/bin/python -m pip install $(TORCH) 'setuptools>=77,<81' wheel ninja psutil numpy
CFLAGS=-g0 MAX_JOBS=2 .venv-full/bin/python -m pip install --no-build-isolation mmcv==2.1.0 \
	mmengine==0.10.7 mmdet==3.3.0 mmsegmentation==1.2.2 ftfy regex
.venv-full/bin/python -m pip install -e '.[test]'
endef
.venv-full/.done: packages = $(full_packages)

.venv-onedl/.done: packages = .venv-onedl/bin/python -m $(PIP) $(TORCH) -e '.[onedl,test]'

.PHONY: check-python
check-python:
	@$(PYTHON) -c 'import sys, ensurepip; assert sys.version_info >= (3, 10)' 2>/dev/null || \
		{ echo 'mmtoken needs Python 3.10 or newer with venv (Debian: apt install python3-venv); PYTHON= names it'; exit 1; }
