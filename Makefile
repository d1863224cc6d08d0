# Everything that a command needs is installed into .venv first. `make PYTHON=...` names the Python of .venv; name it each
# time, for .venv is made again when the Python changes.
RUN = .venv/bin
TESTED = 3.11
ifndef PYTHON
PYTHON := $(shell for version in $(TESTED) 3.12 3.13 3.14; do \
	python$$version -c '' 2>/dev/null && echo python$$version && break; done)
endif
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
# Of a .venv of that version: one of another version lacks the file, and is made again.
INSTALLED = .venv/installed-for-$(VERSION)

.PHONY: study check install test test-all test-browser test-slurm format clean help

# make             run the default study
study: $(INSTALLED)
	$(RUN)/snakemake all --quiet reason
	@echo "Look at results/plots/ and results/summary.md; '$(RUN)/snakemake --report report.html' joins them, with captions."

# make check       say in a minute whether a study can do what it asks for; CONFIG=study.yaml names another than the default
CONFIG = config/config.yaml
check: $(INSTALLED)
	$(RUN)/snakemake check --quiet reason --configfile $(CONFIG)
	$(RUN)/snakemake all --dry-run --quiet rules --configfile $(CONFIG)
	@cat results/check.md

# make install     install what is needed, no more
install: $(INSTALLED)

# make test        check what a change can break, in less than five minutes on two cores
test: $(INSTALLED)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/snakefmt --check workflow
	$(RUN)/snakemake --lint
	$(RUN)/mypy
	$(RUN)/pytest -m "not slow and not slurm and not browser" --cov --cov-report=
	@echo "covered: $$($(RUN)/coverage report --format=total) % of the lines and branches in scripts/"

# make test-all    test all else that needs neither cluster nor browser: kills, every dry run, every bad input (as root a full disk, too)
test-all: $(INSTALLED)
	$(RUN)/pytest -m slow

# make test-browser  test the page of a study in a headless Chromium (with ELAGAGE_REQUIRE_CHROMIUM=1 as root on Debian installs it)
test-browser: $(INSTALLED)
	$(RUN)/pytest -m browser

# make test-slurm  test the cluster profile on a Slurm that is installed and started on this machine (root, Debian)
test-slurm: $(INSTALLED)
	$(RUN)/python tests/slurm_cluster.py --dry-run
	$(RUN)/pytest -m slurm

# make format      format code and workflow
format: $(INSTALLED)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/snakefmt workflow
	$(RUN)/python workflow/schemas/document.py

# make clean       remove results and caches, not .venv
clean:
	if [ -d results ]; then find results/ -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +; fi
	rm -rf .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*

# make help        print these lines
help:
	@sed -n 's/^# \(make \)/\1/p' Makefile

$(INSTALLED): requirements.txt requirements-test.txt requirements-lock.txt
	$(if $(VERSION),,$(error there is no $(or $(PYTHON),Python $(TESTED) to 3.14) here; name one with 'make PYTHON=...'))
	$(if $(filter-out $(TESTED),$(VERSION)),@echo "make: takes Python $(VERSION); the tested one is $(TESTED)")
	$(PYTHON) -m venv $(if $(wildcard $(INSTALLED)),,--clear) .venv
	$(RUN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint requirements-lock.txt \
		--requirement requirements.txt --requirement requirements-test.txt
	touch $@
