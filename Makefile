# Two commands for everyone:  make demo  and  make test.  The others are for working on the project.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-gpu test-stand-in lint fix wheel-test export clean

demo: $(VENV)/.runtime  ## set up the runtime and embed the model card's texts
	$(BIN)/gte demo

test: $(VENV)/.dev  ## set up everything and run all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

export: $(VENV)/.dev  ## trace the committed graphs again
	$(BIN)/gte-export trace models/gte-multilingual-base/config.json -o models/gte-multilingual-base
	$(BIN)/gte-export trace models/gte-mini -o models/gte-mini
	$(BIN)/gte-export trace tests/data/gte-tiny-random -o tests/data/gte-tiny-random/graphs

test-gpu: $(VENV)-gpu/.ready  ## what needs an NVIDIA GPU; skipped with a reason where there is none
	$(VENV)-gpu/bin/gte doctor --provider cuda || true
	$(VENV)-gpu/bin/python -m pytest -m gpu tests/gpu

test-stand-in: $(VENV)-gpu/.ready  ## the real CUDA provider on a CUDA without a GPU; needs gcc
	$(VENV)-gpu/bin/python -m pytest -m stand_in tests/stand_in

wheel-test:  ## the wheel alone, in an environment of its own
	rm -rf $(VENV)-wheel dist
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w dist .
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt "$$(ls dist/gte_runtime-*.whl)[cpu]"
	cd dist && GTE_CACHE=$(CURDIR)/dist/cache ../$(VENV)-wheel/bin/gte demo
	cd dist && ../$(VENV)-wheel/bin/python -c "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'onnx', 'transformers')))"

clean:
	rm -rf $(VENV) $(VENV)-gpu $(VENV)-wheel dist

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[cpu]"
	touch $@

# torch first and by itself: its version decides where its wheel comes from, and gte-export only checks it.
$(VENV)/.dev: $(VENV)/.runtime export/pyproject.toml export/constraints.txt
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) -c constraints.txt -c export/constraints.txt "torch==2.13.0"
	$(PIP) -c constraints.txt -c export/constraints.txt -e ".[cpu,arrow]" -e ./export --group dev
	touch $@

# An environment of its own: onnxruntime and onnxruntime-gpu install over each other. NVIDIA's libraries come from the
# system or, with `make test-gpu EXTRAS=gpu,cuda`, from packages of 0.5 GB.
EXTRAS ?= gpu
$(VENV)-gpu/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e ".[$(EXTRAS)]" --group test
	touch $@
