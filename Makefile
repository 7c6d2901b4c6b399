PYTHON ?= python3

.PHONY: check test bench
check:
	ruff check .
	ruff format --check .
	mypy

test:
	./tests/run

bench:
	$(PYTHON) -m tests.bench --tar "$(TAR)"  # TAR: a Debian tree, see docs/measurements.md
