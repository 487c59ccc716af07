# Linux convenience. The same steps for Windows are in the README; `onelap` does the work.
PYTHON ?= python3
ONELAP := .venv/bin/onelap

.PHONY: help lap test test-long base example clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

lap: .venv/.installed  ## install if needed, then one lap on the CPU with the embedded base
	$(ONELAP) run params/embedded.yaml

test: .venv/.installed  ## install if needed, then every test
	.venv/bin/python -m pytest

test-long: .venv/.installed  ## the tests that take minutes each
	.venv/bin/python -m pytest -m long -n 0

base: .venv/.installed  ## train the embedded base from scratch (about an hour on two cores)
	.venv/bin/python tools/make_base.py

example: .venv/.installed  ## one lap, and from it the report and the picture that the README shows
	.venv/bin/python tools/make_example.py

clean:  ## remove the environment; runs under outputs/ stay
	rm -rf .venv

# The stamp is written last: an interrupted installation is taken up again, a finished one is not repeated.
.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	.venv/bin/python -m ipykernel install --sys-prefix --env PYTHONUTF8 1
	@touch $@
