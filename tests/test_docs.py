"""What README and docs point at exists, and what they show runs as written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from onelap import PROJECT
from onelap.cli import parse
from tests.conftest import toy_notes

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *(PROJECT / "data").glob("*/*.md")])
WHAT_IT_NEEDS = {  # why a command of the README is not run here
    "fetch": "the network",
    "label": "a person at a terminal",
    "run": "a base from the hub, or minutes: test_lap.py and test_resume.py run it",
    "accelerate": "two cards: test_distributed.py runs it on two processes",
}
RUN = "outputs/20261121-090000_full"  # as the README calls it
BARE = ("doctor", "runs")  # complete without a word more


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Lines of fenced blocks, and code in the text, that call `onelap`."""
    text = page.read_text(encoding="utf-8")
    shown = [line for language, block in blocks(page) if not language for line in block.splitlines()]
    shown += re.findall(r"`(onelap [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = (re.sub(r"\s+#\s.*", "", line).strip().removeprefix(".venv/bin/") for line in shown)
    return list(dict.fromkeys(line.replace("\n", " ") for line in lines if line.startswith("onelap ")))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_tests_that_are_named_exist(page):
    for file, name in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(test_\w+))?", page.read_text(encoding="utf-8")):
        source = (PROJECT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {name}" in source, f"{file}::{name}"


def test_files_that_the_readme_lists_exist():
    (listed,) = [block for _, block in blocks(PROJECT / "README.md") if block.startswith("notebooks/")]
    for line in listed.splitlines():
        assert (PROJECT / line.split()[0]).exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_command_that_is_shown_is_understood(page):
    for command in commands(page):
        words = shlex.split(command.partition(" > ")[0].replace("…", "x"))[1:]
        if len(words) > 1 or words[0] in BARE:  # else it is only the name
            parse(words)


@pytest.fixture
def owner(lap, tmp_path):
    """Somebody with a vault and a finished run, in an environment that is activated."""
    home = tmp_path / "home"
    (home / "vault/Inbox").mkdir(parents=True)
    for number, note in enumerate(toy_notes(60)):
        head = f"---\nkind: {note['kind']}\nsource: {note['source']}\n---\n"
        (home / f"vault/{number}.md").write_text(head + note["text"], encoding="utf-8")
        (home / f"vault/Inbox/{number}.md").write_text(note["text"], encoding="utf-8")
    shutil.copytree(lap[0], tmp_path / RUN)
    fonts = matplotlib.get_cachedir()  # to find them takes time
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"cwd": tmp_path, "env": os.environ | {"HOME": str(home), "PATH": path, "MPLCONFIGDIR": fonts}}


def test_the_readmes_commands_run_as_written(owner, tmp_path):
    """Those that need neither a card, nor the network, nor a person; RUN and DIR stand for a run and a folder."""
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    done = []
    for line in commands(PROJECT / "README.md"):
        name = line.split()[1]
        only_named = line.split()[-1] == name and name not in BARE
        if name in WHAT_IT_NEEDS or only_named or "RUN_A" in line or line == "onelap sort -":
            continue
        command = re.sub(r"(outputs/)?\bRUN\b", RUN, line).replace(" DIR", " merged")
        if name == "sort" and "--run" not in command:
            command = command.replace("sort ", f"sort --run {RUN} ")
        result = subprocess.run(command, shell=True, capture_output=True, text=True, encoding="utf-8", **owner)
        assert result.returncode == 0 or name in BARE, f"{command}: {result.stderr}"
        assert "Traceback" not in result.stderr
        done.append(name)
    assert {"doctor", "plan", "report", "sort", "runs", "export"} <= set(done)
    assert len((tmp_path / "sorted.jsonl").read_text(encoding="utf-8").splitlines()) == 60
    assert (tmp_path / "merged/model.safetensors").exists()


def test_the_readmes_python_runs_as_written(owner, tmp_path):
    shown = [code for language, code in blocks(PROJECT / "README.md") if language == "python"]
    assert len(shown) == 2
    for code in shown:
        program = code.replace('"sort", "-"', f'"sort", "-", "--run", "{RUN}"')
        command = [sys.executable, "-c", program]
        result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **owner)
        assert result.returncode == 0, result.stderr
        assert len(result.stdout.splitlines()) == 2
