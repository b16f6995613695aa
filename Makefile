# The commands of the project. `make help` lists them; CONTRIBUTING.md says when to use which.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PY := .venv/bin/python
PYTHON ?= python3
# How many processes `make test` and `make wheel` run tests in. One more than the usual two cores, because many tests wait for processes.
JOBS ?= 3
PROTOS := protos/mainspring/v1
GENERATED := common/mainspring/v1
ARGS ?=
SECONDS ?= 120
SEED ?=
DB ?= mariadb
EVERY ?= 5
REPORT ?=

.PHONY: help env demo test test-mysql chaos fuzz simulate soak lint types imports protos verify wheel check bench bench-placement bench-strategies clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp a group of packages, so that a second run installs nothing.
.venv/.installed-%: pyproject.toml constraints.txt .ci/environment
	@PYTHON=$(PYTHON) .ci/environment $*

env: .venv/.installed-dev  ## Make .venv with the project and the tools, at pinned versions

demo: .venv/.installed-demo  ## Clean up real calendars on an embedded cluster, and show what happened
	@$(PY) -m examples.calendar_cleanup.demo $(ARGS)

test: env  ## Run all tests (ARGS="-k name" for some); gets MariaDB, MySQL, Prometheus, nginx and Redis when none are there
	@.ci/mariadb
	@.ci/mysql
	@.ci/prometheus
	@.ci/mariadb-dump
	@.ci/nginx
	@.ci/redis
	@.ci/schemas
	@$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-mysql: env  ## Run all that runs on a database server on a real MySQL: store, logins, ownership, whole clusters
	@.ci/mysql
	@$(PY) -m pytest --database-server=mysql -m mysql -n $(JOBS) --dist worksteal $(ARGS)

chaos: env  ## Break a cluster of real processes at random under load, and check it (SECONDS, SEED, DB, EVERY, REPORT)
	@.ci/mariadb
	@.ci/network
	@$(PY) -m tests.chaos --seconds $(SECONDS) --db $(DB) --every $(EVERY) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT)) $(ARGS)

fuzz: env  ## Send nonsense to all ports of real coordinators, and check that they live and nothing changes (SEED, MESSAGES, REPORT)
	@.ci/mariadb
	@$(PY) -m tests.fuzz --messages $(or $(MESSAGES),100000) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT)) $(ARGS)

simulate: env  ## Run many simulated clusters (SEED=n RUNS=n EVENTS=n JOBS=n; ARGS=--story tells each event of one)
	@$(PY) -m tests.simulation --runs $(or $(RUNS),100) --events $(or $(EVENTS),2000) --jobs $(JOBS) \
	    $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: env  ## Let a cluster run for long at half of its peak, and see that nothing grows (MINUTES, REPORT)
	@.ci/mariadb
	@$(PY) -m tests.soak --minutes $(or $(MINUTES),30) $(if $(REPORT),--report $(REPORT)) $(ARGS)

lint: env  ## Check the style of Python, of the shell scripts' syntax and of the protos
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@.venv/bin/buf lint
	@for script in .ci/*; do bash -n "$$script" || exit 1; done

types: env  ## Check the types with mypy and pyright
	@$(PY) -m mypy & PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright; pyright=$$?; wait $$! && exit $$pyright

imports: env  ## Check who may import whom, and that the engine is pure
	@.venv/bin/lint-imports

protos: env  ## Write the Python side of the wire contract
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m grpc_tools.protoc -I protos --python_out=common --grpc_python_out=common \
	    --mypy_out=quiet:common --mypy_grpc_out=quiet:common $(PROTOS)/*.proto

verify: protos  ## Check that the generated files are up to date
	@git diff --exit-code --stat -- $(GENERATED) || { echo "the files above were not generated from $(PROTOS); commit what 'make protos' wrote" >&2; exit 1; }

wheel: env  ## Build the wheel and test it in an environment of its own
	@JOBS=$(JOBS) .ci/wheel

check: lint types imports verify wheel test  ## All of the checks and all tests

bench: env  ## Measure (BENCH_JSON=file writes the figures)
	@.ci/mariadb
	@$(PY) -m bench $(ARGS)

bench-placement: env  ## Measure what the choice of a worker costs, in small and large fleets (ARGS=--json)
	@$(PY) -m bench.placement $(ARGS)

bench-strategies: env  ## Compare the strategies on recorded workflows by simulation (MAINSPRING_TRACES=folder, ARGS=--json)
	@$(PY) -m bench.strategies $(ARGS)

clean:  ## Remove the environment, caches and what was built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .mainspring
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
