# make demo    one route server, forwarders and a BGP router, with real packets
# make test    everything; installs what it needs, says what it skipped and why
# make check   lint, types, unit tests: under a minute
# make bench   the table of figures
# make fuzz    100 000 random UPDATEs against a running route server, and 1 000 000 random and mutated chunks of XMPP
#              streams; FUZZ_COUNT and FUZZ_SEED, XMPP_FUZZ_COUNT and XMPP_FUZZ_SEED say how many and which
# make soak    1000 clients, ten of which stop reading, while everything changes, and 10 000 random scenarios of several
#              route servers in memory: some ten minutes each
# make mutants breaks the programs on purpose, one rule at a time, and sees that scenarios notice
# make interop every interop test, and the tables of docs/interop.md from what they show
#
# CI=true turns a missing peer or kernel from a skip into a failure.

PYTHON ?= python3
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest
UNIT := $(wildcard tests/bgp tests/xmpp tests/rib tests/schema tests/forwarder tests/core tests/replay tests/packaging \
	tests/test_layers.py tests/test_docs.py)

.PHONY: demo test check bench fuzz soak mutants interop bootstrap lint unit whole kernel

demo: bootstrap
	$(VENV)/python deploy/demo/run.py $(if $(KEEP),--keep)

test: bootstrap
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory whole
	$(MAKE) --no-print-directory kernel

check: bootstrap
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit

bench: bootstrap
	$(VENV)/python -m bench.run

fuzz: bootstrap
	FUZZ_COUNT=$${FUZZ_COUNT:-100000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
	XMPP_FUZZ_COUNT=$${XMPP_FUZZ_COUNT:-1000000} XMPP_FUZZ_SEED=$${XMPP_FUZZ_SEED:-$$(date +%s)} $(PYTEST) -q -s tests/fuzz

soak: bootstrap
	SOAK_SCALE=$${SOAK_SCALE:-10} $(PYTEST) -q -s tests/soak

mutants: bootstrap
	$(VENV)/python -m tests.world.mutants

interop: bootstrap
	$(PYTEST) tests/interop --write-interop

bootstrap:
	@$(PYTHON) deploy/bootstrap.py

lint:
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

unit:
	$(PYTEST) -q -n 2 -m "not kernel and not interop" $(UNIT)

whole:
	$(PYTEST) -m "not kernel"

# Natively where the kernel has all it takes, else in one VM for the whole suite (booting costs more than a test).
# 125: the VM did not start or died; it has said why.
kernel:
	@if $(VENV)/python deploy/vm/run.py --probe; then \
		$(PYTEST) -m kernel tests/kernel; \
	else \
		$(VENV)/python deploy/vm/run.py --timeout 3600 -- $(PYTEST) -m kernel tests/kernel; code=$$?; \
		if [ $$code -eq 125 ] && [ "$$CI" != true ]; then \
			echo "kernel tests skipped: no kernel for them here, see above"; \
		else \
			exit $$code; \
		fi; \
	fi
