# Everything runs on this machine. `make` lists the targets; prerequisites.sh installs missing programs.
#
#   INSTALL=no make run                  only lists missing programs
#   RING_TIMEOUT_SECONDS=10 make run     environment variables set parameters of template.yaml

.DEFAULT_GOAL := help
.PHONY: help run up down regions call invoke client screenshot test checks lint deny unit simulate simulate-proof e2e chaos soak dist bench
.PHONY: e2e-here faults-here chaos-here soak-here regions-here region-loss-here

CARGO_RUN := local/tools/run.sh ringback-local
NEEDS := local/tools/prerequisites.sh
# The test binaries of e2e/ that need a running stack, so that plain `cargo test` leaves them alone: on a plain stack, on
# one with FAULTS=yes CALL_WAITING=busy, and on one in two regions. `secrecy` runs last: it reads the logs that the others leave.
STACK_TESTS := --test stack --test secrecy --test faults --test regions
# Writes the results of the other tests of `make chaos` into docs/promises.md.
PAGE_TEST := page::
# Long enough to answer a call in, short enough to wait for its end.
TEST_RING_TIMEOUT_SECONDS := 10
# How often to ask Exotel for the state of a call: the minimum of the template.
TEST_EXOTEL_CHECK_SECONDS := 10
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: ## start the local stack, and stay until Ctrl-C
	@$(NEEDS) stack $(CARGO_RUN) run

up: ## start the local stack in the background
	@$(NEEDS) stack $(CARGO_RUN) up

down: ## stop the local stack
	@$(NEEDS) build $(CARGO_RUN) down

regions: ## start the local stack in two regions, and stay until Ctrl-C
	@$(NEEDS) regions $(CARGO_RUN) regions

call: ## place a call through the running stack, and answer it with a simulated phone
	@$(NEEDS) build $(CARGO_RUN) call

invoke: ## send an example event to its function with `sam local invoke` and Docker, on the running stack: EVENT=console-page
	@$(NEEDS) build $(CARGO_RUN) invoke $(or $(EVENT),$(error set EVENT, for example EVENT=console-page; events/README.md lists all))

client: ## an interactive client of the WebSocket API; ARGS='--url wss://… --token …' for another than the running stack's
	@$(NEEDS) build local/tools/run.sh ringback-client $(ARGS)

screenshot: ## take the README's picture of the console, on the running stack
	cargo test --workspace --locked --test stack -- --exact console::phone::a_test_call_rings_is_accepted_heard_and_hung_up_on_the_page
	cp target/local/console.png docs/console.png

test: ## check everything: format, lints, licences, unit and end-to-end tests
	@$(NEEDS) test $(MAKE) --no-print-directory checks

checks: lint deny unit e2e

lint: ## formatting, clippy, and the template
	cargo fmt --all --check
	cargo clippy --workspace --locked --lib --bins --examples --tests -- -D warnings
	# With `--tests` beside them, cargo would pass over these.
	cargo clippy --workspace --locked $(STACK_TESTS) -- -D warnings
	@local/tools/lint-template.sh

deny: ## licences, sources and known vulnerabilities of the dependencies
	@local/tools/deny.sh

# How long the simulation runs new seeds, beside the other tests.
unit: export SIMULATE_SECONDS ?= 60
unit: ## tests that need only cargo
ifeq ($(NEXTEST),yes)
	cargo nextest run --workspace --locked
	cargo test --workspace --doc --locked --quiet
else
	cargo test --workspace --locked
endif

simulate: ## simulated calls with faults for MINUTES=1, on all cores; ARGS='--seed 42' shows one
	local/tools/run.sh simulate --minutes $(or $(MINUTES),1) $(ARGS)

# Not part of `make test`, because it compiles the simulation once for each fault.
simulate-proof: ## put each past fault back, let the simulation find it, and write docs/simulation.md
	simulation/prove.sh

# Second calls are refused there, so that each call also shows that nobody stays busy.
FAULTS_STACK := FAULTS=yes CALL_WAITING=busy $(NEEDS) stack $(CARGO_RUN) test-env
e2e chaos soak: export RING_TIMEOUT_SECONDS := $(TEST_RING_TIMEOUT_SECONDS)
e2e chaos soak: export EXOTEL_CHECK_SECONDS := $(TEST_EXOTEL_CHECK_SECONDS)
e2e: ## end-to-end tests on three stacks: a plain one, one with faults, one in two regions
	$(NEEDS) test $(CARGO_RUN) test-env $(MAKE) --no-print-directory e2e-here
	$(FAULTS_STACK) $(MAKE) --no-print-directory faults-here
	$(NEEDS) regions $(CARGO_RUN) test-regions $(MAKE) --no-print-directory regions-here

chaos: export REGION_LOST_BOTH_WAYS := yes
chaos: ## inject every kind of failure during calls, and write docs/promises.md
	$(FAULTS_STACK) $(MAKE) --no-print-directory chaos-here
	$(NEEDS) regions $(CARGO_RUN) test-regions $(MAKE) --no-print-directory region-loss-here
	cargo test --workspace --locked --test faults -- --ignored --nocapture $(PAGE_TEST)

soak: export MINUTES ?= 30
soak: ## mixed calls with random faults for MINUTES=30
	$(FAULTS_STACK) $(MAKE) --no-print-directory soak-here

# The WebRTC phone of a test: JsSIP in one file, for a browser.
WEBRTC_PHONE := e2e/tests/stack/webrtc/dist/phone.js
$(WEBRTC_PHONE): e2e/tests/stack/webrtc/phone.js e2e/tests/stack/webrtc/package.json
	cd e2e/tests/stack/webrtc && npm install --no-package-lock --no-audit --no-fund --silent && npm run --silent build

# CDK, for the test that includes a release's template in a CDK stack.
CDK := e2e/tests/stack/cdk/node_modules
$(CDK): e2e/tests/stack/cdk/package.json
	cd $(@D) && npm install --no-package-lock --no-audit --no-fund --silent
	@touch $@

# The targets below need a stack that runs already. Its tests share two extensions, so they run one at a time: nextest
# groups them (.config/nextest.toml), `cargo test` gets --test-threads 1.
CARGO_TEST := cargo test --workspace --locked
CARGO_NEXTEST := cargo nextest run --workspace --locked

# On a plain stack:
e2e-here: $(WEBRTC_PHONE) $(CDK)
ifeq ($(NEXTEST),yes)
	$(CARGO_NEXTEST) --no-fail-fast --test stack
	$(CARGO_NEXTEST) --test secrecy
else
	$(CARGO_TEST) --test stack -- --test-threads 1
	$(CARGO_TEST) --test secrecy
endif

# On a stack with FAULTS=yes and CALL_WAITING=busy:
faults-here:
ifeq ($(NEXTEST),yes)
	$(CARGO_NEXTEST) --test faults
else
	$(CARGO_TEST) --test faults -- --test-threads 1
endif

chaos-here:
ifeq ($(NEXTEST),yes)
	$(CARGO_NEXTEST) --test faults --run-ignored only --no-fail-fast -E 'not test($(PAGE_TEST))'
else
	$(CARGO_TEST) --test faults -- --ignored --nocapture --test-threads 1 --skip $(PAGE_TEST)
endif

soak-here:
	$(CARGO_TEST) --test faults -- --ignored --nocapture soak::

# On a stack in two regions:
region-loss-here: REGION_TEST := losing_the_primary_region_loses_no_call
regions-here region-loss-here:
ifeq ($(NEXTEST),yes)
	$(CARGO_NEXTEST) --test regions $(REGION_TEST)
else
	$(CARGO_TEST) --test regions -- --nocapture --test-threads 1 $(REGION_TEST)
endif

FUNCTIONS := $(notdir $(wildcard functions/*))
# `dev` packs the programs of the local stack, which is enough to try the archive.
DIST_PROFILE := release

dist: ## make the release archive of this machine's architecture, in target/release-archives
	@$(NEEDS) build cargo build --locked --profile $(DIST_PROFILE) $(if $(filter dev,$(DIST_PROFILE)),--workspace) $(FUNCTIONS:%=--bin %)
	cargo build --locked --profile $(DIST_PROFILE) --workspace --bin ringback --bin ringback-local
	target/$(DIST_PROFILE:dev=debug)/ringback-local dist

# One part of the bench: cold, warm, instructions, size, scale, cost or end-to-end.
PART :=
# The last one runs an Asterisk and the proxy in front of it.
BENCH_NEEDS = $(if $(filter-out end-to-end,$(PART)),,$(NEEDS) stack)
# `dev` is enough to check that the stand-ins answer all requests, for example with PART=cost; its figures are not for the page.
BENCH_PROFILE := shipped
BENCH_TARGET := target/$(BENCH_PROFILE:dev=debug)
BENCHED := hello floor $(FUNCTIONS)

# Not part of `make test`, because it needs the whole machine.
bench: export CARGO_PROFILE_RELEASE_STRIP := none
bench: bench/node/dist/index.mjs bench/express/node_modules ## measure the cost of a call, into bench/README.md; PART=cold for one part
	cargo build --locked --profile $(BENCH_PROFILE) --workspace --bin ringback-bench
	# The functions and what they are compared with, with the features of a deployment.
	cargo build --locked --profile $(BENCH_PROFILE) $(BENCHED:%=-p %)
	mkdir -p $(BENCH_TARGET)/bench
	for it in floor-sdk $(BENCHED); do strip -o $(BENCH_TARGET)/bench/$$it $(BENCH_TARGET)/$$it || exit 1; done
	$(BENCH_NEEDS) $(BENCH_TARGET)/ringback-bench $(if $(filter shipped,$(BENCH_PROFILE)),,--dry) $(PART)

bench/%/node_modules: bench/%/package.json
	cd $(@D) && npm install --no-package-lock --no-audit --no-fund --silent
	@touch $@

bench/node/dist/index.mjs: bench/node/index.mjs bench/node/node_modules
	cd bench/node && npm run --silent build
