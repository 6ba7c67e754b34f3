# SPDX-License-Identifier: Apache-2.0
# One command each: `make demo`, `make test`, `make lint`. Everything is installed into .venv first; if ROS 2 is
# sourced it is used, elsewhere its wheels come from the package registry (Jazzy, or SVD_VLM_ROS_DISTRO=kilted).

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3.10 || command -v python3)
SVD_VLM_ROS_DISTRO ?= jazzy
TESTS ?= test
TORCH_THREADS ?= 1
# Processes that share the test modules; each takes up to 2 GB.
WORKERS ?= 2
MINUTES ?= 60
SOAK ?= soak
CASES ?= 2000
OUT ?= /tmp

# A sourced ROS has its own versions of the ROS packages.
ifdef ROS_DISTRO
CONSTRAINTS := constraints.txt
unexport SVD_VLM_ROS_DISTRO
else
CONSTRAINTS := constraints-$(SVD_VLM_ROS_DISTRO).txt
export SVD_VLM_ROS_DISTRO
endif

# pip's build environment takes no -c option, only these: the former before pip 25.3, the latter from then on.
PIP := PIP_CONSTRAINT=$(abspath $(CONSTRAINTS)) PIP_BUILD_CONSTRAINT=$(abspath $(CONSTRAINTS)) \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)/bin/python -m pip install --quiet

# Folders are named too, so that a deleted file counts as a change.
SOURCES := $(shell find svd_vlm_ros action msg src srv cmake launch config examples -not -name '*.pyc' -not -name __pycache__ 2>/dev/null) \
	CMakeLists.txt package.xml pyproject.toml setup.py
INSTALLED := $(VENV)/.installed-$(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help venv install demo test any-image soak annotate export-large kernels-arm lint format dist clean

help:  ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(VENV)/bin/python  ## Make the virtual environment

install: $(INSTALLED)  ## Install the package into it, again after every change

demo: $(INSTALLED)  ## A simulated camera, the node and eight questions over real topics and services
	@$(VENV)/bin/svd-vlm demo

test: $(INSTALLED) $(VENV)/.tools  ## Run the tests against what is installed (TESTS=test/node for a part)
	@OMP_NUM_THREADS=$(TORCH_THREADS) $(VENV)/bin/pytest -n $(WORKERS) --dist loadfile $(TESTS)

soak: $(INSTALLED)  ## The node under load and faults for MINUTES=60: soak.md and soak.json
	@$(VENV)/bin/python benchmark/soak.py --minutes $(MINUTES) --out $(SOAK)

any-image: $(INSTALLED) $(VENV)/.tools  ## Images of known answer in every encoding and damage: right or NO_IMAGE (CASES=2000)
	@ANY_IMAGE_CASES=$(CASES) OMP_NUM_THREADS=$(TORCH_THREADS) $(VENV)/bin/pytest -s --timeout 0 test/node/test_any_image.py

annotate: $(INSTALLED)  ## A bag of 300 images annotated, killed half-way and gone on with
	@$(VENV)/bin/python benchmark/annotate.py

export-large: $(INSTALLED) $(VENV)/.tools  ## ONNX above 2 GB: 8 layers in fp16 beside torch, all of 7B in int4 (OUT=/tmp)
	@$(VENV)/bin/python benchmark/export_large.py --out $(OUT)

kernels-arm:  ## The kernels for ARM, compiled and run by qemu (apt: g++-aarch64-linux-gnu qemu-user-static)
	@mkdir -p build
	aarch64-linux-gnu-g++ -std=c++17 -O3 -fno-math-errno -fopenmp -static -march=armv8.2-a+dotprod -DINSTRUCTIONS=neon \
		src/low_bit_kernel.cpp test/models/low_bit_check.cpp -o build/low_bit_check_arm
	qemu-aarch64-static build/low_bit_check_arm

lint: $(INSTALLED) $(VENV)/.tools  ## Check style, format, types and who imports whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy examples
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.tools  ## Bring the code into its format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

dist: $(VENV)/bin/python  ## An sdist, and a wheel from it, into dist/ (for this Python and this ROS)
	@$(PIP) build
	@rm -rf dist
	@PIP_CONSTRAINT=$(abspath $(CONSTRAINTS)) PIP_BUILD_CONSTRAINT=$(abspath $(CONSTRAINTS)) $(VENV)/bin/python -m build --outdir dist .

clean:  ## Remove the virtual environment and all that was built
	rm -rf $(VENV) build dist install log .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not sys.version_info >= (3, 10))' \
		|| { echo "Python 3.10 or newer is needed; make PYTHON=/path/to/python3 chooses one." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps of the other distribution go: an environment holds one.
$(INSTALLED): $(SOURCES) $(CONSTRAINTS) constraints.txt | $(VENV)/bin/python
	@echo "Installing svd_vlm_ros into $(VENV): a few minutes the first time, a minute after a change."
	@rm -f $(VENV)/.installed-*
	@$(PIP) .
	@touch $@

# The package is there already: this adds what its extras name.
$(VENV)/.tools: pyproject.toml constraints.txt | $(INSTALLED)
	@$(PIP) 'svd_vlm_ros[test,lint]'
	@touch $@
