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
WITH_OPENVINO = .venv/openvino-for-$(VERSION)

.PHONY: study new elsewhere check compare install openvino test coverage test-all test-browser test-slurm format clean help

CONFIG = config/config.yaml
# Not every shell replaces the ~ of CONFIG=~/study.yaml.
override CONFIG := $(patsubst ~/%,$(HOME)/%,$(CONFIG))
# The folder of a study is that of its configuration; of a file in config/ it is this one. Sets them in the shell.
PLACE = [ -f "$(CONFIG)" ] || { echo "make: there is no file '$(CONFIG)'; name one with CONFIG=..." >&2; exit 1; }; \
	folder=$$(cd "$$(dirname "$(CONFIG)")" && pwd -P); config=$$folder/$$(basename "$(CONFIG)"); \
	if [ "$$folder" = "$(CURDIR)/config" ]; then folder="$(CURDIR)"; fi
OF_STUDY = $(if $(CORES),--cores $(CORES)) --snakefile workflow/Snakefile --directory "$$folder" --configfile "$$config"

# make             run the default study
# make study       run a study: CONFIG=path/to/study.yaml, on all cores unless CORES=2; its folder gets the results; ARGS='--forcerun plot' is for Snakemake
study: $(INSTALLED)
	@$(PLACE); $(RUN)/snakemake all $(OF_STUDY) $(ARGS)

# make new         start a study: STUDY=folder PHOTOS=folder, and MODEL=file.py:build WEIGHTS=file for a model of your own
new: $(INSTALLED)
	@$(RUN)/python tools/new_study.py "$(STUDY)" "$(PHOTOS)" $(if $(MODEL),--model "$(MODEL)") \
		$(if $(WEIGHTS),--weights "$(WEIGHTS)")

# make elsewhere   after a study, make results/elsewhere.pyz: Python runs it on another machine; CONFIG= and CORES= as for study
elsewhere: $(INSTALLED)
	@$(PLACE); $(RUN)/snakemake results/elsewhere.pyz $(OF_STUDY) && \
		echo "Copy $$folder/results/elsewhere.pyz to another machine with ONNX Runtime and NumPy, and run: python elsewhere.pyz"

# make check       say in a minute whether a study can do what it asks for, and how long on all cores; CONFIG= and CORES= as for study
check: $(INSTALLED)
	@$(PLACE); $(RUN)/snakemake check $(OF_STUDY) && $(RUN)/snakemake all --dry-run --quiet rules $(OF_STUDY) && \
		cat "$$folder/results/check.md"

# make compare     say what differs between two runs of a study: A=folder B=folder
compare: $(INSTALLED)
	@$(RUN)/python tools/compare_studies.py "$(A)" "$(B)"

# make install     install what is needed, no more
install: $(INSTALLED)

# make openvino    install OpenVINO, too, for studies whose evaluation.runtimes name it
openvino: $(WITH_OPENVINO)

QUICK = not slow and not slurm and not browser

# make test        check what a change can break, in about a quarter of an hour on two cores
test: $(WITH_OPENVINO)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/snakefmt --check workflow
	$(RUN)/snakemake --lint
	$(RUN)/mypy
	$(RUN)/pytest -m "$(QUICK)"

# make coverage    say which lines and branches in scripts/ make test reaches; the tests take a third longer
coverage: $(WITH_OPENVINO)
	$(RUN)/pytest -m "$(QUICK)" --cov --cov-report=
	$(RUN)/coverage report

# make test-all    test all else that needs neither cluster nor browser: kills, every dry run, every bad input (as root a full disk, too)
test-all: $(WITH_OPENVINO)
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

# make clean       remove the results of a study and caches, not .venv; CONFIG= as for study
clean:
	@$(PLACE); rm -rf "$$folder/.snakemake"; if [ -d "$$folder/results" ]; then \
		find "$$folder/results/" -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +; fi
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*

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

$(WITH_OPENVINO): $(INSTALLED) requirements-openvino.txt
	$(RUN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint requirements-lock.txt \
		--requirement requirements-openvino.txt
	touch $@
