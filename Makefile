# make run    starts Wattbus with a small fleet of simulated meters
# make test   formatter, linter, strict types, then every test
# make bench  Wattbus beside others, all suites; make bench ARGS="ingest-1 --quick" for less
#             (see benchmarks/README.md)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test bench format clean

run: $(READY)
	@$(BIN)/wattbus serve --demo 5

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 4 --dist worksteal

bench: $(READY)
	$(BIN)/python -m benchmarks.peers.install
	$(BIN)/python -m benchmarks $(or $(ARGS),all)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
