# Needs make and Python 3.11 or later, nothing else. PYTHON=... chooses another interpreter.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
WORKERS ?= 2
MARKERS ?= not gpu and not extras and not slow
DEMO_DIR ?= demo

# One thread each: several threads on a busy machine are slower than one, and sums keep their order.
export OMP_NUM_THREADS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-extras lint format install clean

install: .venv/installed
demo: .venv/installed
	.venv/bin/vidseg demo --out $(DEMO_DIR) --force

test: .venv/installed
	.venv/bin/python -m pytest -n $(WORKERS) -m "$(MARKERS)" $(ARGS)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# The extras need torchvision, whose ordinary build wants the ordinary torch: a second environment.
test-extras: .venv-extras/installed
	.venv-extras/bin/python -m pytest -m extras $(ARGS)

# torch goes in first and alone: later steps then find the pinned build and leave it as it is.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "vidseg needs Python 3.11 or later; put one on PATH or say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv-extras/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "vidseg needs Python 3.11 or later; put one on PATH or say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv-extras
	grep -v '^torch==' constraints.txt > .venv-extras/constraints.txt
	.venv-extras/bin/python -m pip install --quiet --constraint .venv-extras/constraints.txt torch torchvision timm transformers segmentation-models-pytorch
	.venv-extras/bin/python -m pip install --quiet --constraint .venv-extras/constraints.txt --editable '.[dev,flow,timm,transformers,smp]'
	@touch $@

clean:
	rm -rf .venv .venv-extras build dist $(DEMO_DIR)
