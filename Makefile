# make run    set up once, then open the dashboard
# make test   set up once, then run every test
# make check  formatter, linter, types, tests, known faults of dependencies
# make coverage  the tests once more, and the lines of core that they do not run
# make lowest  the tests of the library with the lowest versions that it takes
# make bench  set up once, then measure (some hours; leave the machine alone) into benchmarks/
# make figures  draw the original experiment's figures into figures/ (MODEL=gpt2 names another model)
# make docs   the documents as a site, in build/docs; make gallery draws its figures again
# make agreement  sweep 200 tweets by noise and 200 pairs into assets/ (some hours; goes on where it ended)
# make screenshots  take the pictures of the documentation again

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Python 3.11 to 3.13 that can make an environment: `python3` where it is one, else the newest there.
PYTHONS := python3 python3.13 python3.12 python3.11
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet
STREAMLIT_OPTIONS ?=
BENCH_OPTIONS ?=
FIGURES_OPTIONS ?=
MODEL ?=
PYTEST_OPTIONS ?=
AUDIT := pip-audit==2.10.1
LOWEST := tests/charts tests/data tests/exporting tests/models tests/patching tests/probes tests/sweeps tests/tracing
PEERS := causal-tracer transformer-lens

# An environment whose Python is gone (upgraded, removed) is made again.
ifneq ($(wildcard $(VENV)/.created),)
  $(shell $(BIN)/python -c '' 2>/dev/null || rm -f $(VENV)/.created)
endif

.PHONY: help run setup test browser check check-static audit coverage lowest figures agreement docs gallery screenshots format bench bench-peers lock clean

help:
	@sed -n 's/^# make/make/p' Makefile

run: setup
	$(BIN)/python -m streamlit run app.py --server.showEmailPrompt=false $(STREAMLIT_OPTIONS)

# Looks each time whether anything is missing; that takes a moment when nothing is.
setup: $(VENV)/.runtime-installed
	@$(BIN)/python -m core setup

# The browser comes first, so that nobody waits for the rest to hear that there is none.
test: browser $(VENV)/.dev-installed setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

browser: $(VENV)/.playwright-installed
	@$(BIN)/python tests/support/chromium.py

check: check-static test audit

check-static: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# pip-audit asks PyPI for known faults of what is pinned. What it finds is an error; that it cannot
# be had here, or gets no answers, is only said.
audit: $(VENV)/.created
	@if ! test -x .venv-audit/bin/pip-audit; then \
	  $(BIN)/python -m venv --clear .venv-audit; \
	  .venv-audit/bin/python -m pip install --disable-pip-version-check --no-input --quiet $(AUDIT) \
	    || echo "The dependencies were not audited: $(AUDIT) cannot be installed from this index."; \
	fi
	@if test -x .venv-audit/bin/pip-audit; then \
	  .venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip \
	    --progress-spinner off > .venv-audit/report.txt 2>&1 || true; \
	  grep -v "could not be audited" .venv-audit/report.txt; \
	  echo "$$(grep -c 'could not be audited' .venv-audit/report.txt) of" \
	    "$$(grep -c '==' constraints.txt) pinned packages could not be looked up."; \
	  ! grep -q '^Found [0-9]* known vulnerabilit' .venv-audit/report.txt; \
	fi

coverage: $(VENV)/.dev-installed setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov $(PYTEST_OPTIONS)

lowest: $(VENV)/.created
	$(BIN)/python -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --no-input --quiet \
	  -r requirements-lowest.txt $$(grep -E '^(hypothesis|playwright|pypdfium2|pytest)' requirements-dev.txt | cut -d' ' -f1)
	.venv-lowest/bin/python -m pytest -m "not embedded and not browser" --ignore tests/sweeps/test_ray_cluster.py \
	  $(LOWEST) $(PYTEST_OPTIONS)

# FIGURES_OPTIONS go to `python -m core figures`: FIGURES_OPTIONS="--columns one --font serif".
figures: setup
	$(BIN)/python -m core figures $(if $(MODEL),--model $(MODEL)) $(FIGURES_OPTIONS)

docs: $(VENV)/.dev-installed
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo "The site is in build/docs: open build/docs/index.html."

gallery: $(VENV)/.dev-installed setup
	PYTHONPATH=tests/support $(BIN)/python tests/support/gallery.py

agreement: setup
	$(BIN)/python -m core corruptions --model smollm2-135m-instruct --out assets/noise-and-pairs-smollm2.json

screenshots: $(VENV)/.dev-installed setup
	PYTHONPATH=. $(BIN)/python tests/support/screenshots.py

format: $(VENV)/.dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# BENCH_OPTIONS go to benchmarks/trace.py: BENCH_OPTIONS=--quick takes some minutes.
bench: setup bench-peers
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.kernels $(filter --quick,$(BENCH_OPTIONS))
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.probes
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.paint
	$(BIN)/python -m benchmarks.anytime
	$(BIN)/python -m benchmarks.settled
	$(BIN)/python -m benchmarks.antithetic
	$(BIN)/python -m benchmarks.estimates
	$(BIN)/python -m benchmarks.waiting
	$(BIN)/python -m benchmarks.verdicts
	$(BIN)/python -m benchmarks.drawing
	$(BIN)/python -m benchmarks.interventions
	$(BIN)/python -m benchmarks.trace $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.results

# Tools that SentiTrace is compared with, each in an environment of its own.
bench-peers: $(PEERS:%=.venv-peers/%/.installed)

# After a change of requirements*.txt: try it in a new environment, then record what it brought.
lock: $(VENV)/.dev-installed
	$(BIN)/python -m pip freeze --disable-pip-version-check | sed 's/+[a-z0-9]*$$//' > constraints.txt

# Leaves what was fetched (SENTITRACE_HOME) alone.
clean:
	rm -rf $(VENV) .venv-lowest .venv-peers .venv-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamps are made last, so an interrupted step is done again.
$(VENV)/.created:
	@found=; for python in $(PYTHONS); do \
	  if $$python -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11, 3.12 or 3.13 with venv was found: install one (on Debian and Ubuntu: sudo apt install python3-venv)." >&2; \
	  exit 1; \
	fi; \
	if ! { $(BIN)/python -c '$(SUITABLE)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	  echo "Making the environment $(VENV) with $$($$found --version) ..."; \
	  $$found -m venv --clear $(VENV) || exit 1; \
	fi
	@touch $@

$(VENV)/.playwright-installed: requirements-dev.txt constraints.txt $(VENV)/.created
	@$(INSTALL) "$$(grep '^playwright==' requirements-dev.txt)" -c constraints.txt
	@touch $@

$(VENV)/.runtime-installed: requirements.txt constraints.txt $(VENV)/.created
	@echo "Installing what SentiTrace needs; the first time this takes some minutes ..."
	@$(INSTALL) -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.dev-installed: requirements-dev.txt $(VENV)/.runtime-installed
	@echo "Installing what the tests need ..."
	@$(INSTALL) -r requirements-dev.txt -c constraints.txt
	@touch $@

.venv-peers/%/.installed: benchmarks/peers/%.txt $(VENV)/.created
	@echo "Installing $*, to compare with; this takes a minute or two ..."
	@$(BIN)/python -m venv --clear .venv-peers/$*
	@.venv-peers/$*/bin/python -m pip install --disable-pip-version-check --no-input --quiet -r $<
	@touch $@
