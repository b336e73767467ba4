# Two commands do everything on a fresh machine with Python, a C compiler and make:
#   make demo    a virtual environment, the package, and the main job on a real scan
#   make test    the same environment, the demo, then lint, types and tests
PYTHON ?= python3
VENV := build/venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc src -name '*.c' -o -name '*.h' -o -name '*.map' -o -name '*.py' -o -name '*.csv')

PEERS := build/peers
MNN := build/mnn
# Numba's account of what it compiled knows no newer.
COVERAGE := 'coverage>=7.10,<7.11'

.PHONY: demo test lint check long soak free-threaded scoreboard bench peers docs-bench wheel release clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The stamp is newer than every source exactly when the installed package is what the checkout holds.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[numba,imaging,bench,test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/voxconv demo

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

check: $(VENV)/installed
	$(BIN)/python -m pytest

test: demo lint check

# What takes minutes, or a tool that is not everywhere: sanitizers, emulated processors, Numba's cache, two builds.
long: $(VENV)/installed
	$(BIN)/python -m pytest -m long

# An interpreter without the global lock, for the tests and callers that are run on one.
FREE_THREADED := build/free-threaded
free-threaded: $(FREE_THREADED)/installed

$(FREE_THREADED)/installed: $(VENV)/installed
	tests/soak/free-threaded $(FREE_THREADED)
	touch $@

# Every long run, the time shared out among them, into the ledger; then the scoreboard from that.
SECONDS ?= 3600
soak: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(COVERAGE)
	$(BIN)/python tests/soak all --seconds $(SECONDS)
	$(BIN)/python tests/soak render

scoreboard: $(VENV)/installed
	$(BIN)/python tests/soak render

bench: $(VENV)/installed
	$(BIN)/python -m pytest bench --benchmark-json=build/benchmark.json

# Other libraries to measure against, whose adapters are tested there; one whose pins clash with the others' has an
# environment of its own.
peers: $(PEERS)/installed

$(PEERS)/installed: $(SOURCES)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet 'torch==2.13.0' onnxruntime onnx openvino ncnn jax scipy
	$(PEERS)/bin/python -m pip install --quiet '.[numba,bench]' $(COVERAGE)
	$(PYTHON) -m venv $(MNN)
	$(MNN)/bin/python -m pip install --quiet MNN numpy cffi
	touch $@

# Some ten minutes, on an otherwise idle machine.
BENCH := VOXCONV_BENCH_PYTHON_MNN=$(MNN)/bin/python $(PEERS)/bin/voxconv bench
REPORTS := build/bench-input.json build/bench-weight.json build/bench-pool.json \
  build/bench-transposed.json build/bench-step.json

docs-bench: $(PEERS)/installed
	$(BENCH) table32_b4 --direction input --seconds 1 --save build/bench-input.json
	$(BENCH) table32_b4 --direction weight --seconds 1 --save build/bench-weight.json
	$(BENCH) pool --direction forward,indices,input --seconds 0.5 --save build/bench-pool.json
	$(BENCH) transposed --direction forward,input,weight --seconds 0.5 --save build/bench-transposed.json
	$(BENCH) networks --direction step --seconds 4 --backend native,native-strict --peers torch,torch_cl,jax \
	  --save build/bench-step.json
	$(BENCH) table32 --save build/bench-forward.json --plot docs/benchmarks.png \
	  --markdown docs/benchmarks.md --also $(REPORTS)

wheel: $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# Wheel and source archive of the commit, built twice from pinned tools, with a statement of what they came from.
release:
	.ci/release

clean:
	rm -rf build dist
