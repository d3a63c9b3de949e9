# `make demo` and `make test` set up what they need by themselves; a second run of any target is quick.
.DEFAULT_GOAL := help
.PHONY: help setup demo test faults check lint format clean

BIN := .venv/bin

help: ## Say what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: ## Create .venv and install the program into it: .venv/bin/sentinel
	@scripts/setup

demo: setup ## Show everything on this machine: cameras, people found, annotated streams, events (ARGS="--streams 3")
	@$(BIN)/sentinel demo $(ARGS)

test: ## Install what the tests need and run them all, with coverage (ARGS="-k outbox" goes to pytest)
	@scripts/setup-test-peers
	@scripts/setup --dev --torch
	@scripts/test $(ARGS)

faults: ## Break everything that can break, at full size (half an hour), and write docs/reliability.md (ARGS as for test)
	@scripts/setup-test-peers
	@scripts/setup --dev --torch
	@scripts/faults $(ARGS)

check: ## Lint, types, layers, spelling, packaging
	@scripts/setup --dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	VALIDATE_PYPROJECT_NO_NETWORK=1 $(BIN)/validate-pyproject pyproject.toml

lint: check ## The same as check

format: ## Format the code and repair what ruff can repair
	@scripts/setup --dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv and everything that is made anew
	rm -rf .venv .coverage .coverage.* htmlcov build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
