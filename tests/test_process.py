"""The settings of a process: importing the library changes none of them, the command and the notebooks make them."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from onelap.lap.parameters import NOTEBOOKS
from onelap.machine.process import IRRELEVANT_LOGGERS, IRRELEVANT_WARNINGS

VARIABLES = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
# Defined in the process that is examined, without anything of the library.
SETTINGS = """
import gc, json, logging, os, signal, sys, warnings

def settings():
    mask = os.umask(0o077)
    os.umask(mask)
    loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if hasattr(one, "level"))]
    return {
        "environment": dict(os.environ),
        "gc": [gc.isenabled(), *gc.get_threshold()],
        "warnings": [[action, message and message.pattern] for action, message, *_ in warnings.filters],
        "levels": {one.name: one.level for one in loggers},
        "handlers": {one.name: len(one.handlers) for one in loggers},
        "umask": mask,
        "signals": {number: repr(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
        "hooks": [sys.excepthook.__module__, sys.displayhook.__module__],
        "streams": [[stream.encoding, stream.errors] for stream in (sys.stdout, sys.stderr)],
    }
"""


def run_fresh(code: str, text: str = "") -> list:
    """Run code in a new process without our variables; returns the JSON of the last line that it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "NO_PROXY")}
    result = subprocess.run(
        [sys.executable, "-c", SETTINGS + code],
        input=text, capture_output=True, text=True, encoding="utf-8", timeout=120, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_importing_the_package_changes_nothing():
    before, after = run_fresh("before = settings()\nimport onelap\nprint(json.dumps([before, settings()]))")
    assert after == before


@pytest.mark.parametrize(
    "statement",
    [
        "from onelap.daily.sort import Sorter",
        "from onelap.lap import doctor, report, runner; from onelap.qlora import plan, training",
        "import onelap.cli",
        "from onelap.verdict import figures",
    ],
)
def test_importing_a_module_changes_no_more_than_its_libraries_do(statement):
    """Some of these change settings themselves: another process imports the same ones without ours."""
    code = "print(json.dumps([[name for name in sys.modules if name.split('.')[0] != 'onelap'], settings()]))"
    modules, ours = run_fresh(f"{statement}\n{code}")
    code = """
import contextlib, importlib
for name in json.load(sys.stdin):
    with contextlib.suppress(Exception):  # it is not a module's own name
        importlib.import_module(name)
print(json.dumps(settings()))
"""
    libraries = run_fresh(code, text=json.dumps(modules))
    assert ours == libraries
    assert not VARIABLES.keys() & ours["environment"].keys()


def assert_prepared(settings: dict) -> None:
    assert VARIABLES.items() <= settings["environment"].items() and settings["environment"]["NO_PROXY"] == "*"
    assert settings["gc"] == [True, 100_000, 10, 10]
    assert {("ignore", message) for message in IRRELEVANT_WARNINGS} <= set(map(tuple, settings["warnings"]))
    assert {settings["levels"][name] for name in IRRELEVANT_LOGGERS} == {40}  # only errors


def test_command_prepares_its_process_before_it_imports_libraries():
    settings, libraries = run_fresh(
        """
from onelap import cli, commands
def doctor(options):
    print(json.dumps([settings(), sorted({"torch", "transformers"} & sys.modules.keys())]))
commands.doctor = doctor
cli.main(["doctor"])
"""
    )
    assert_prepared(settings)
    assert libraries == []
    assert settings["umask"] == 0o077 and "lambda" in settings["signals"]["15"]


def test_fetch_may_reach_the_hub_without_telemetry():
    code = """
from onelap import cli, commands
def fetch(options):
    print(json.dumps(settings()))
commands.fetch = fetch
cli.main(["fetch", "params/embedded.yaml"])
"""
    environment = run_fresh(code)["environment"]
    assert {name: environment[name] for name in VARIABLES} == VARIABLES | {"HF_HUB_OFFLINE": "0"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cell_of_a_notebook_prepares_its_process(path):
    """The first cell after the parameters."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert "parameters" in cells[0].metadata["tags"]
    code = 'print(json.dumps([settings(), sorted({"torch", "transformers"} & sys.modules.keys())]))'
    settings, libraries = run_fresh(f"{cells[1].source}\n{code}")
    assert_prepared(settings)
    assert libraries == []
