# make train: a ResNet on the embedded digits, logs and checkpoints under runs/
# make test:  everything the tests need, then the tests
# Both begin from a bare python3 with pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: train test check exhaustive docs board benchmark parity clean

train: $(VENV)/train
	$(BIN)/python scripts/cifar10.py --log-dir runs/digits --checkpoint-dir runs/digits $(ARGS)

test: $(VENV)/dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist load $(ARGS)

# lint, format, types, and the tests that take longer
check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "slow and not exhaustive" -n 2 $(ARGS)

# what takes too long for CI: every option of the fused optimizers, every model of the zoo
exhaustive: $(VENV)/dev
	$(BIN)/python -m pytest -m exhaustive -n 2 $(ARGS)

# the documentation as a site, in site/; what is not as it should be is an error
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

board: $(VENV)/train
	$(BIN)/tensorboard --logdir runs

benchmark: $(VENV)/dev
	$(BIN)/python scripts/benchmark.py
	$(BIN)/python scripts/tables.py

# the conformance kits over torch's classes, these and those of peers
parity: $(VENV)/peers
	$(BIN)/python scripts/parity.py --update $(ARGS)
	$(BIN)/python scripts/divergence.py --log-dir runs/parity --picture

$(VENV)/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
