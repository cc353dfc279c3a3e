# What a developer of Milepost does, by name. `make help` lists it.

PYTHON ?= python3
VENV := .venv
EXTRAS ?= dev,sample
ARGS ?=
# One more than the cores that tests are timed on: most wait for processes.
WORKERS ?= 3

BIN := $(VENV)/bin
COMMA := ,
STAMP := $(VENV)/.made-with-$(subst $(COMMA),-,$(EXTRAS))
# A file to a worker, in the order that tests/conftest.py chooses.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PACKAGES := engine service clients/python/milepost clients/load examples tests tools

# Tests start hundreds of processes; without bytecode files each compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
# Every target with a description; none is a file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*## .*/\1/p' $(MAKEFILE_LIST))

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP) ## Make or renew .venv (PYTHON=python3.12; EXTRAS=dev,sample,bench)

$(STAMP): pyproject.toml clients/python/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e 'clients/python[cli]' -e '.[$(EXTRAS)]'
	@touch $@

run: env ## Start the service on ./data with the sample data and its journey (ARGS are passed on)
	$(BIN)/milepost demo --data data $(ARGS)

test: env ## Run the tests (ARGS="tests/engine -k sequence"; WORKERS=0 for one process)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-cluster: env ## Compare plans over ClickHouse with the oracle: one server, then 2 shards of 2 (WORLDS=1000; CLICKHOUSE=HOST:PORT+HOST:PORT,… for servers of your own)
	@if [ -n "$(CLICKHOUSE)" ] || $(BIN)/python -m tests.engine.backends.clickhouse.library; then \
		export MILEPOST_TEST_CLICKHOUSE="$(CLICKHOUSE)" MILEPOST_TEST_CLUSTER=1 && \
		$(BIN)/python -m pytest tests/engine/backends/clickhouse tests/bench/test_cluster.py tests/service/test_store_in_cluster.py tests/service/test_mapped_events.py tests/service/test_move_to_cluster.py $(ARGS) && \
		$(BIN)/python -m pytest tests/conformance -k clickhouse $(ARGS) && \
		$(BIN)/python -m tests.engine.backends.clickhouse.campaign --jobs 2 --worlds $(or $(WORLDS),100) && \
		if [ -z "$(CLICKHOUSE)" ]; then \
			$(BIN)/python -m tests.engine.backends.clickhouse.campaign --jobs 2 --worlds $(or $(WORLDS),100) --shards 2 --replicas 2; \
		fi; \
	else \
		echo "SKIPPED: no ClickHouse can be had, so plans over a cluster were not tested" >&2; \
	fi

kill-cluster: env ## Kill and stop servers of a ClickHouse cluster while rows come in, and check every answer (ROUNDS=200; ARGS="--seed 7")
	$(BIN)/python -m tests.engine.backends.clickhouse.library
	$(BIN)/python -m tests.engine.backends.clickhouse.faults --rounds $(or $(ROUNDS),20) $(ARGS)

wheels: ## Build both packages into dist/
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ./clients/python .

packages: env ## Build both packages and use what was built (PYTHONS="python3.11 python3.13" installs it from the index into a fresh environment of each)
	$(BIN)/python tools/try_packages.py $(PYTHONS)

quick: lint ## Lint, then the tests nearest to what changed since main, in about a minute (AGAINST=main~3)
	$(BIN)/python tools/quick.py --against $(or $(AGAINST),main)

coverage: env ## Run the tests and print the share of lines and branches that they run (ARGS as for test)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(PARALLEL) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: env ## Check style, types, the contract, and that stubs, reference pages and the synchronous client are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/python -m tools.check_contract
	$(BIN)/python -m tools.generate_protos --check
	$(BIN)/python -m tools.generate_openapi --check
	$(BIN)/python -m tools.generate_reference --check
	$(BIN)/python tools/generate_client.py --check
	@$(MAKE) --no-print-directory node ARGS=--check

format: env ## Put the code into the form that lint wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

hooks: env ## Check style and stubs before each commit (local hooks, no network)
	$(BIN)/pre-commit install

protos: env ## Generate from protos/: the stubs of Python and TypeScript, service/web/openapi.json, docs/reference
	$(BIN)/python -m tools.generate_protos
	$(BIN)/python -m tools.generate_openapi
	$(BIN)/python -m tools.generate_reference
	@$(MAKE) --no-print-directory node

client: env ## Generate the synchronous client in clients/python/milepost/client from milepost/aio
	$(BIN)/python tools/generate_client.py

node: env ## Generate the TypeScript code in clients/node/src/gen from protos/ (needs npm)
	@if command -v npm >/dev/null; then \
		$(MAKE) --no-print-directory clients/node/node_modules && $(BIN)/python -m tools.generate_node $(ARGS); \
	else \
		echo "SKIPPED: npm is not installed, so clients/node/src/gen was neither made nor checked" >&2; \
	fi

clients/node/node_modules: clients/node/package.json clients/node/package-lock.json
	cd clients/node && npm ci --ignore-scripts
	@touch $@

test-node: env ## Check, build and test the Node client and its example against a real service (needs node 20 and npm)
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
		$(MAKE) --no-print-directory node ARGS=--check && \
		cd clients/node && MILEPOST_PYTHON="$(abspath $(BIN)/python)" npm test; \
	else \
		echo "SKIPPED: node and npm are not installed, so the Node client was not tested" >&2; \
	fi

descriptors: env ## Write dist/milepost.binpb: the contract and its imports, for protoc --descriptor_set_in and grpcurl -protoset
	$(BIN)/python -m tools.contract dist/milepost.binpb

languages: env ## Generate Go and Java code and compile an example of each (needs Debian's packages; skipped without)
	$(BIN)/python -m tools.try_languages

breaking: env ## Check that the contract breaks no caller of AGAINST (a git ref; default: the last release)
	$(BIN)/python -m tools.check_contract --breaking $(if $(AGAINST),--against $(AGAINST))

bench: env ## Run the benchmarks (ARGS are passed on)
	$(BIN)/python -m tests.bench $(ARGS)

instructions: env ## Count instructions of fixed questions and compare with tests/bench/instructions.json (ARGS=--write renews it)
	$(BIN)/python -m tests.bench.instructions $(ARGS)

load: env ## Put a load on a service and print calls, errors and latencies (ARGS="studio --seconds 30"; ARGS="--target HOST:PORT")
	$(BIN)/python -m clients.load $(ARGS)

profile: ## Record a running service with py-spy into profile.svg (ARGS="--pid 1234 --seconds 30")
	@test -x $(BIN)/py-spy || $(MAKE) env EXTRAS=$(EXTRAS),bench
	$(BIN)/python tools/profile_service.py $(ARGS)

kill: env ## Kill the service again and again and check what it kept (ROUNDS=1000; ARGS="--seed 7 --jobs 2")
	$(BIN)/python -m tests.faults.kill_rounds --rounds $(or $(ROUNDS),20) $(ARGS)

watch-properties: env ## Watch through kills, restores and broken connections and check what a watch promises (CHANGES=1000000; ARGS="--seed 7")
	$(BIN)/python -m tests.faults.watch_properties --changes $(or $(CHANGES),1000000) $(ARGS)

deliveries: env ## Kill the service while it delivers and check what arrives (KIND=webhook CHANGES=1000000 KILLS=50; ARGS="--seed 7")
	$(BIN)/python -m tests.faults.delivery_campaign --kind $(or $(KIND),webhook) --changes $(or $(CHANGES),1000000) --kills $(or $(KILLS),50) $(ARGS)

restarts: env ## Stop the service under load and start it again, and check how calls end (ROUNDS=200; ARGS="--readers 1")
	$(BIN)/python -m tests.faults.restarts --rounds $(or $(ROUNDS),20) $(ARGS)

soak: env ## Put mixed load on a service for a long time; memory, threads and descriptors stay flat (MINUTES=30; ARGS="--readers 0")
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),30) $(ARGS)

clock: env ## Let the clock jump under random worlds and compare what is left with the oracle (ROUNDS=200; ARGS="--seed 7 --jobs 2")
	$(BIN)/python -m tests.faults.clock_rounds --rounds $(or $(ROUNDS),20) $(ARGS)

properties: env ## Run the property tests with many times the examples of `make test` (TIMES=20; ARGS="tests/engine")
	MILEPOST_TEST_TIMES=$(or $(TIMES),10) $(BIN)/python -m pytest $(PARALLEL) -m hypothesis --timeout 0 $(ARGS)

model: env ## Walk at random over a store and compare with the oracle (OPERATIONS=200000; ARGS="--seed 7 --jobs 2")
	$(BIN)/python -m tests.engine.backends.local.walk.campaign --operations $(or $(OPERATIONS),200000) $(ARGS)

fuzz-criteria: env ## Compare random criteria with the oracle (WORLDS=20000; ARGS="--seed 7 --jobs 2")
	$(BIN)/python -m tests.oracle.campaign --worlds $(or $(WORLDS),20000) $(ARGS)

mutations: env ## Put faults into copies of the engine and check that random worlds find each (WORLDS=300; ARGS="--seed 7")
	$(BIN)/python -m tests.faults.mutation_run --worlds $(or $(WORLDS),300) $(ARGS)

fuzz-calls: env ## Send anything to every method and check how the calls end (CALLS=100000; ARGS="--seed 7")
	$(BIN)/python -m tests.faults.fuzz_calls --calls $(or $(CALLS),100000) $(ARGS)

fuzz-deliveries: env ## Compare what connections write with the oracle, through edits (WORLDS=2000; ARGS="--seed 7")
	$(BIN)/python -m tests.service.delivery.delivered_worlds --worlds $(or $(WORLDS),200) $(ARGS)

damage: env ## Damage a store byte by byte and check what it answers (FLIPS=300; ARGS="--seed 7 --jobs 2")
	$(BIN)/python -m tests.faults.damage --flips $(or $(FLIPS),300) $(ARGS)

deploy-files: env ## Check the files of docs/deploy with the tools that are installed (ARGS=--strict: all must be)
	$(BIN)/python tools/check_deploy.py $(ARGS)

clean: ## Remove the environment, the caches and what the builds left (never ./data)
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
