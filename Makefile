# Everything runs in .venv; `make demo` and `make test` set it up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint clean

setup: $(READY)

# lmms-eval's own requirements exclude a math-verify that works, and latex2sympy2 wants an antlr4 of its own
# (docs/lmms_eval.md).
# uv resolves torch and torchvision from one index; plain pip may mix builds that do not fit together.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps lmms-eval==0.7.3
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --target $(VENV)/latex2sympy2 \
		latex2sympy2==1.9.1 antlr4-python3-runtime==4.7.2
	touch $@

demo: setup
	$(BIN)/mmhicra train --config configs/tiny.yaml --overwrite
	$(BIN)/mmhicra report runs/tiny

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs build dist *.egg-info
