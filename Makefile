# make demo   sets everything up, runs a cluster on this machine with GraySort on it, and reports
# make test   sets everything up and passes the tests
# The rest are the steps these two are made of.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
QUICK  := "not bench and not proof and not gpu"
WORKERS ?= 2
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := build-essential python3-dev python3-venv liburing-dev liblmdb-dev libfuse3-dev fuse3 pkg-config etcd-server fio openmpi-bin

# Programs start by the hundred in the tests: they read compiled modules, like installed programs do.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup system native fmt lint types test proof bench demo lock protos clean

setup: $(VENV)/.installed native

system: $(VENV)/.system

$(VENV)/.system: Makefile
	@mkdir -p $(VENV)
	@dpkg-query -W -f='$${Status}\n' $(PACKAGES) 2>/dev/null | grep -c 'ok installed' | grep -qx $(words $(PACKAGES)) \
	  || { $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; }
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml setup.py $(VENV)/.system
	@PY=$$(command -v $(PYTHON) || command -v python3); $$PY -c 'import sys; assert sys.version_info >= (3, 11), f"3fs needs Python 3.11 or newer, found {sys.version}"'; \
	  $$PY -m venv $(VENV)
	$(BIN)/python -m pip install -q uv
	UV_FIND_LINKS=$${UV_FIND_LINKS:-$$PIP_FIND_LINKS} VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $@

native: $(VENV)/.installed
	@$(BIN)/python -m threefs.native.build

fmt: $(VENV)/.installed
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: $(VENV)/.installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy -p threefs

# The last two start many processes themselves and have seconds to meet: nothing runs beside them.
test: setup lint types
	$(BIN)/pytest -m $(QUICK) -n $(WORKERS) --dist loadfile --ignore tests/cluster --ignore tests/simulation
	$(BIN)/pytest -m $(QUICK) tests/cluster tests/simulation

proof: setup
	$(BIN)/pytest -m proof --hypothesis-profile search --timeout 3600 -o tmp_path_retention_policy=failed
	$(BIN)/pytest -m "hypothesis and not gpu" --hypothesis-profile search

bench: setup
	$(BIN)/pytest -m bench --timeout 3600 tests/benchmarks

demo: setup
	$(BIN)/3fs dev demo

protos: $(VENV)/.installed
	$(BIN)/python -m threefs.proto.generate

lock:
	UV_FIND_LINKS=$${UV_FIND_LINKS:-$$PIP_FIND_LINKS} $(BIN)/uv pip compile -q --no-header --no-annotate --no-emit-index-url --no-emit-find-links --all-extras --group dev --python-version 3.11 -o requirements.lock pyproject.toml
	sed -i 's/+cpu$$//' requirements.lock

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache native/*.so native/_*.c
