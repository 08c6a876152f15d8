# Two commands for everyone:  make demo  and  make test.  The others are for working on the project.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
UV = 0.13.9
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check lint fix test-clients test-ray test-floors test-newest test-gpu test-stand-in wheel-test mteb-test fuzz soak export clean

demo: $(VENV)/.runtime  ## set up the runtime and embed the model card's texts
	$(BIN)/gte demo

test: $(VENV)/.dev  ## set up everything and run all tests
	$(BIN)/python -m pytest -n auto

check: lint  ## for every save, under a minute: lint, types, import contracts, the runtime's fast tests
	GTE_FUZZ=0.1 $(BIN)/python -m pytest -n auto -q -m "not slow" tests/runtime

# The oldest releases that pyproject.toml allows, on the oldest Python; and the newest that the registry has.
FLOORS = "numpy==1.26.0" "onnxruntime==1.24.1" "tokenizers==0.22.0" "huggingface_hub==0.34.0" "click==8.1.0" "pyarrow==17.0.0" "zstandard==0.22.0"
OLDEST_PYTHON ?= $(shell command -v python3.11 || echo $(PYTHON))
test-floors:  ## the runtime's fast tests with the oldest dependencies
	$(OLDEST_PYTHON) -c "import sys; assert sys.version_info[:2] == (3, 11), sys.version"
	test -x $(VENV)-floors/bin/python || $(OLDEST_PYTHON) -m venv $(VENV)-floors
	$(VENV)-floors/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	$(VENV)-floors/bin/python -m pip --disable-pip-version-check install --quiet $(FLOORS) -e ".[cpu,jobs]" --group test
	$(VENV)-floors/bin/python -m pytest -n auto -q -m "not slow" tests/runtime

test-newest:  ## the same with the newest ones
	test -x $(VENV)-newest/bin/python || $(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	$(VENV)-newest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade --upgrade-strategy eager -e ".[cpu,jobs]" --group test
	$(VENV)-newest/bin/python -m pytest -n auto -q -m "not slow" tests/runtime

# Their requirements contradict each other and ours, so each folder has an environment; uv makes them in a fifth of pip's
# time. torch first, by pip, for the reason given below.
CLIENTS = $(VENV)-clients
test-clients: $(VENV)/.dev  ## other people's clients against a live server
	test -x $(CLIENTS)/uv/bin/uv || { $(PYTHON) -m venv $(CLIENTS)/uv && $(CLIENTS)/uv/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV); }
	cp tests/clients/frameworks/package.json $(CLIENTS) && cd $(CLIENTS) && npm install --silent --no-audit --no-fund --no-package-lock
	set -e; for each in frameworks alibaba infinity openapi evaluation stores peers; do \
	  here=tests/clients/$$each; python=$(CLIENTS)/$$each/bin/python; \
	  test -x $$python || $(PYTHON) -m venv $(CLIENTS)/$$each; \
	  torch=$$(grep ^torch== $$here/requirements.txt || true); test -z "$$torch" || $$python -m pip --disable-pip-version-check install --quiet $$torch; \
	  UV_SYSTEM_CERTS=1 $(CLIENTS)/uv/bin/uv pip install --quiet --python $$python -r $$here/requirements.txt; \
	  GTE_CLI=$(CURDIR)/$(BIN)/gte GTE_PEERS=$(CURDIR)/$(CLIENTS) GTE_NODE_MODULES=$(CURDIR)/$(CLIENTS)/node_modules $$python -m pytest -c tests/clients/pytest.ini $$here; \
	done

# Ray brings 80 MB and starts processes of its own.
test-ray:  ## jobs on a local Ray, in an environment of its own
	test -x $(VENV)-ray/bin/python || $(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	$(VENV)-ray/bin/python -m pip --disable-pip-version-check install --quiet -e ".[cpu,ray]" pandas --group test
	RAY_USAGE_STATS_ENABLED=0 $(VENV)-ray/bin/python -m pytest -q tests/runtime/jobs/test_ray.py

lint: $(VENV)/.dev  ## style, types, and which folder may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

export: $(VENV)/.dev  ## trace the committed graphs again
	$(BIN)/gte-export trace models/gte-multilingual-base/config.json -o models/gte-multilingual-base
	$(BIN)/gte-export trace models/gte-mini -o models/gte-mini
	for name in gte-multilingual-reranker-base gte-base-en-v1.5 gte-large-en-v1.5; do \
	  $(BIN)/gte-export trace models/$$name/recipe.toml -o models/$$name || exit 1; done
	$(BIN)/gte-export trace tests/data/gte-tiny-random -o tests/data/gte-tiny-random/graphs
	$(BIN)/gte-export trace tests/data/gte-tiny-reranker -o tests/data/gte-tiny-reranker/graphs
	$(BIN)/python -m gte_export.probe runtime/gte_runtime/device/int8_probe.onnx

test-gpu: $(VENV)-gpu/.ready  ## what needs an NVIDIA GPU; skipped with a reason where there is none
	$(VENV)-gpu/bin/gte doctor --provider cuda || true
	$(VENV)-gpu/bin/python -m pytest -m gpu tests/gpu

test-stand-in: $(VENV)-gpu/.ready  ## the real CUDA provider on a CUDA without a GPU; needs gcc
	$(VENV)-gpu/bin/python -m pytest -m stand_in tests/stand_in

# The second build is of a copy with other times, modes and paths. SOURCES is what goes into the wheel.
SOURCES = pyproject.toml README.md LICENSE CHANGELOG.md .gitignore runtime models
SBOM = dist/gte-runtime.cdx.json
wheel-test:  ## the wheel alone, in an environment of its own; built twice, one hash; its SBOM
	rm -rf $(VENV)-wheel dist
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w dist .
	mkdir -p dist/again && (umask 077 && cp -r $(SOURCES) dist/again)
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w dist/again ./dist/again
	cmp dist/gte_runtime-*.whl dist/again/gte_runtime-*.whl && sha256sum dist/gte_runtime-*.whl && rm -rf dist/again
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt "$$(ls dist/gte_runtime-*.whl)[cpu]"
	cd dist && GTE_CACHE=$(CURDIR)/dist/cache ../$(VENV)-wheel/bin/gte demo
	cd dist && ../$(VENV)-wheel/bin/python -c "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'onnx', 'transformers')))"
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt "$$(ls dist/gte_runtime-*.whl)[cpu,server,jobs]"
	test -x $(VENV)-release/bin/python || $(PYTHON) -m venv $(VENV)-release
	$(VENV)-release/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	$(VENV)-release/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt --group release
	$(VENV)-release/bin/cyclonedx-py environment --output-reproducible --mc-type library --pyproject pyproject.toml --of JSON -o $(SBOM) $(VENV)-wheel/bin/python
	$(VENV)-wheel/bin/python tests/sbom.py $(SBOM)

mteb-test: $(VENV)-mteb/.mteb  ## mteb's evaluation of our models, in an environment of its own
	$(VENV)-mteb/bin/python -m pytest -p no:cacheprovider tests/contract/test_mteb.py

# Every property test tries FACTOR times its usual number of examples; hypothesis keeps what failed in .hypothesis.
FACTOR ?= 100
fuzz: $(VENV)/.dev  ## damaged input for every reader, and 300 interruptions, for minutes rather than seconds
	GTE_FUZZ=$(FACTOR) $(BIN)/python -m pytest -n auto -q tests/runtime/test_readers.py tests/runtime/bundle/test_damage.py \
	  tests/runtime/checkpoint/test_safetensors.py tests/runtime/tokenization/test_prefix.py tests/export/test_graph_facts.py \
	  tests/runtime/test_interruptions.py

# LEAK=answers, threads, descriptors or vectors is a server that must fail it.
SECONDS ?= 1800
soak: $(VENV)/.dev  ## half an hour of all kinds of traffic: memory, threads, descriptors, and every vector bit for bit
	$(BIN)/python tests/soak.py --seconds $(SECONDS) $(if $(LEAK),--leak $(LEAK))

clean:
	rm -rf $(VENV) $(VENV)-gpu $(VENV)-release $(VENV)-wheel $(VENV)-mteb $(VENV)-clients $(VENV)-ray $(VENV)-floors $(VENV)-newest dist

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[cpu]"
	touch $@

# torch first and by itself: its version decides where its wheel comes from, and gte-export only checks it.
$(VENV)/.dev: $(VENV)/.runtime export/pyproject.toml export/constraints.txt
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) -c constraints.txt -c export/constraints.txt "torch==2.13.0"
	$(PIP) -c constraints.txt -c export/constraints.txt -e ".[cpu,jobs,server]" -e ./export --group dev
	touch $@

# Its releases of transformers and huggingface_hub are later than those of gte-export.
$(VENV)-mteb/.mteb: pyproject.toml
	$(PYTHON) -m venv $(VENV)-mteb
	$(VENV)-mteb/bin/python -m pip --disable-pip-version-check install --quiet "torch==2.13.0"
	$(VENV)-mteb/bin/python -m pip --disable-pip-version-check install --quiet "torch==2.13.0" "mteb==2.26.24" "pytest>=8" "onnxruntime>=1.24"
	$(VENV)-mteb/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -e .
	touch $@

# An environment of its own: onnxruntime and onnxruntime-gpu install over each other. NVIDIA's libraries come from the
# system or, with `make test-gpu EXTRAS=gpu,cuda`, from packages of 0.5 GB.
EXTRAS ?= gpu
$(VENV)-gpu/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e ".[$(EXTRAS)]" --group test
	touch $@
