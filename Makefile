# One command per thing that people do here. `make` alone lists them.
#
# Everything sets itself up first (dev/setup.sh: .venv from the lock files, RabbitMQ from the system's packages). With
# AMQP_URL given, that broker is used instead of a private one.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench proof chaos chaos-night kills losses lock clean

PYTHON_FILES := bridge dev bench tests
SEED := 1
MINUTES := 3
NIGHT_SEEDS := $(shell seq 101 120)
NIGHT_MINUTES := 20
PIN := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

demo: ## broker, simulator and bridge on this machine, with real requests to watch
	@sh dev/setup.sh
	@PYTHONDONTWRITEBYTECODE=1 .venv/bin/python dev/demo.py

test: check ## everything: the checks, then all tests against a real RabbitMQ node
	@sh dev/setup.sh --dev
	@.venv/bin/python -m pytest -p dev.strict --numprocesses 3 --dist loadgroup

check: ## format, lint, types, imports, shell and image files, full coverage of the pure rooms
	@sh dev/setup.sh --dev --no-broker
	@.venv/bin/ruff format --check $(PYTHON_FILES)
	@.venv/bin/ruff check $(PYTHON_FILES)
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/shellcheck dev/setup.sh .ci/run
	@.venv/bin/hadolint Dockerfile
	@.venv/bin/python dev/pure_rooms.py

bench: ## what reading a push costs as it grows; messages per second and CPU per message, next to the naive way
	@sh dev/setup.sh --dev
	@.venv/bin/python bench/decode.py
	@.venv/bin/python bench/run.py

proof: ## three long runs of the real process; ends with one JSON object
	@sh dev/setup.sh --dev
	@.venv/bin/python dev/proof.py

chaos: ## the real process under the faults of a SEED for so many MINUTES, and a ledger check (docs/chaos.md)
	@sh dev/setup.sh --dev
	@.venv/bin/python -m dev.chaos.run --seed $(SEED) --minutes $(MINUTES)

chaos-night: ## the same for NIGHT_SEEDS, NIGHT_MINUTES each; names the seeds that failed
	@sh dev/setup.sh --dev
	@failed=; for seed in $(NIGHT_SEEDS); do \
		.venv/bin/python -m dev.chaos.run --seed $$seed --minutes $(NIGHT_MINUTES) || failed="$$failed $$seed"; \
	done; echo "failed:$${failed:- none}" >&2; test -z "$$failed"

losses: ## a thousand sessions lost and built anew, in search of anything that is left behind
	@sh dev/setup.sh --dev
	@LOSSES=1000 .venv/bin/python -m pytest tests/amqp/test_session.py -k losses

kills: ## KILLS random deaths of the real process from SEED on; ends with one JSON object
	@sh dev/setup.sh --dev
	@.venv/bin/python dev/kills.py --kills $(or $(KILLS),200) --seed $(or $(SEED),1)

lock: ## resolve the dependencies anew and write the three lock files
	@sh dev/setup.sh --dev --no-broker
	$(PIN) --upgrade pyproject.toml -o requirements.lock
	$(PIN) --upgrade pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock
	$(PIN) --upgrade --group build -c requirements-dev.lock -o requirements-build.lock

clean: ## remove .venv and everything that the other commands left in this folder
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find $(PYTHON_FILES) -name __pycache__ -type d -prune -exec rm -rf {} +
