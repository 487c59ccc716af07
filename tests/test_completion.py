"""Tab completion and help of every command, as a shell and a newcomer ask for them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onelap.lap.parameters import SET_BY_THE_RUNNER, read_schema

COMMANDS = ["run", "plan", "doctor", "fetch", "runs", "report", "notes", "label", "sort", "export"]
HEAVY = {"torch", "transformers", "pandas", "sklearn", "papermill"}
BIN = Path(sys.executable).parent
BASH = """
eval "$(register-python-argcomplete onelap)"
COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9; COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
read -ra COMP_WORDS <<< "$1"; [[ "$1" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete onelap "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(line):
    result = subprocess.run(
        ["bash", "-c", BASH, "bash", line],
        env={"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr
    return {word.strip() for word in result.stdout.splitlines()}


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("onelap s", {"sort"}),
        ("onelap sort --", {"--run", "--arm", "--format", "--min-confidence", "--help"}),
        ("onelap sort x --format ", {"jsonl", "csv", "table"}),
        ("onelap run params/one_lap.yaml -p epo", {"epochs="}),
    ],
)
def test_bash_completes_commands_options_choices_and_parameters(line, expected):
    assert completed(line) == expected


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_completion_of_p_offers_every_parameter():
    assert completed("onelap plan params/one_lap.yaml -p ") == {f"{name}=" for name in read_schema()} - {
        f"{SET_BY_THE_RUNNER}="
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_a_sentence_with_an_example(command, onelap):
    result = onelap(command, "--help")
    assert result.returncode == 0
    assert re.search(r"^[A-Z][^.]+\.$", result.stdout, re.MULTILINE)
    assert re.search(rf"example: onelap {command}\b", " ".join(result.stdout.split()))


def test_help_lists_every_command(onelap):
    assert re.findall(r"^ {4}(\w+) ", onelap("--help").stdout, re.MULTILINE) == COMMANDS


def test_help_waits_for_no_large_library():
    command = [sys.executable, "-X", "importtime", "-m", "onelap.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    imported = set(re.findall(r"\| +(\w+)$", result.stderr, re.MULTILINE))
    assert result.returncode == 0 and "argparse" in imported and not imported & HEAVY
