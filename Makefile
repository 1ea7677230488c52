PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CACHES := .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: setup demo test check long chaos bench constraints clean

setup: $(STAMP)

# setuptools comes first and pinned, so that the editable build needs no unpinned one.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,examples]'
	@touch $@

demo: setup
	$(BIN)/python -m examples.demo

# The tests share out over the machine's cores; a worker that is done takes over from another.
# Compiled modules are kept, whatever the environment says: many tests start processes.
PYTEST = PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/.pytest_cache/bytecode \
	$(BIN)/pytest --numprocesses auto --dist worksteal

test: setup
	$(PYTEST)

# pytest last: its summary line ends the output.
check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST)

long: setup
	$(BIN)/pytest -m long

# Kills worker processes while plans run on them: about five minutes.
chaos: setup
	$(BIN)/python -m tests.cluster.chaos

bench: setup
	$(BIN)/python -m benchmarks

# Pins what a fresh installation brings today.
constraints:
	rm -rf build/fresh
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet --editable '.[dev,examples]'
	build/fresh/bin/python -m pip freeze --all --exclude pip --exclude-editable > constraints.txt
	rm -rf build/fresh

clean:
	rm -rf .venv build dist *.egg-info $(CACHES)
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
