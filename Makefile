# `make` runs the default study, `make test` all checks; both install what they need into .venv first.
PYTHON ?= python3.11
RUN = .venv/bin

.PHONY: study install test format clean help

study: .venv/installed
	$(RUN)/snakemake all --quiet reason
	@echo "Look at results/plots/ and results/summary.md; '$(RUN)/snakemake --report report.html' joins them, with captions."

install: .venv/installed

test: .venv/installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/snakefmt --check workflow
	$(RUN)/snakemake --lint
	$(RUN)/pytest

format: .venv/installed
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/snakefmt workflow
	$(RUN)/python workflow/schemas/document.py

# Removes results and caches, not .venv.
clean:
	rm -rf results .snakemake .pytest_cache .ruff_cache

help:
	@echo "make         install what is needed and run the default study"
	@echo "make install install what is needed, no more"
	@echo "make test    run all checks"
	@echo "make format  format code and workflow"
	@echo "make clean   remove results and caches"

.venv/installed: requirements.txt requirements-test.txt requirements-lock.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); name a Python 3.11 with 'make PYTHON=...'" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint requirements-lock.txt \
		--requirement requirements.txt --requirement requirements-test.txt
	touch $@
