"""What README and documents refer to exists, and what they show runs as written."""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest

from onelap import PROJECT
from onelap.cli import parse
from tests.conftest import toy_notes

README = PROJECT / "README.md"
DOCUMENTS = sorted((PROJECT / "docs").glob("*.md"))
PAGES = [*sorted(PROJECT.glob("*.md")), *DOCUMENTS, *sorted((PROJECT / "data").glob("*/*.md"))]
HISTORY = PROJECT / "docs/LOG.md"  # its entries name files as they were called at the time
NOT_RUN = {  # why a command is only parsed
    "fetch": "needs the network",
    "label": "needs a person at a terminal",
    "run": "needs minutes, a card or a base from the hub: test_lap.py runs it",
}
OTHER_STATUS = {"doctor": 2}  # on a machine on which a lap would fail, one that is short of memory for example
RUN, OTHER_RUN = "outputs/20261121-090000_full", "outputs/20261122-090000_full"
STARTERS = ("onelap", "make", "accelerate", ".venv/bin/python")
STATIONS = [path.parent.name for path in (PROJECT / "lib/onelap").glob("*/__init__.py")]
COPIED_NOTES = ("learning-portuguese", "home-server")  # sample notes that the README sorts

NAMES_A_TEST = re.compile(r"^(?!pytest ).*\btest_\w+(\.py|…)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
each_document = pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: path.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """List (language, text) of the fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """List the code in running text and in tables."""
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", text)]


def shown_lines(page: Path) -> list[str]:
    """List the lines of blocks without a language; a line that goes on after a backslash is one, comments are gone."""
    lines = [line for language, text in blocks(page) if not language for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(re.sub(r"\s+#\s.*", "", line).split()) for line in lines]


def only_onelap(lines: list[str]) -> list[str]:
    """List the commands among lines that call `onelap`, on Windows too."""
    windows = ".venv\\Scripts\\"
    lines = [line.replace("\\", "/") if line.startswith(windows) else line for line in lines]
    lines = [line.removeprefix(".venv/bin/").removeprefix(".venv/Scripts/") for line in lines]
    return [line for line in lines if line.startswith("onelap ")]


def runnable() -> list[str]:
    """List every command of all pages that needs neither a card, nor the network, nor a person."""
    lines = [line for page in PAGES for line in only_onelap(shown_lines(page))]
    return [line for line in dict.fromkeys(lines) if line.split()[1] not in NOT_RUN or "--resume" in line]


def shown_below(command: str) -> list[str]:
    """List the lines of the block below the one that shows this command."""
    text = "\n".join(map(read, DOCUMENTS))
    return text.partition(f"\n{command}\n```\n\n```\n")[2].partition("\n```\n")[0].splitlines()


def words_of(command: str) -> list[str]:
    return shlex.split(command.partition(" > ")[0].replace("…", "x"))[1:]


def slug(heading: str) -> str:
    """Make the anchor of a heading as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# What is referred to


@each_page
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in map(slug, re.findall(r"^#+ (.*)", read(file), re.MULTILINE)), target


@each_page
def test_named_tests_exist_under_their_whole_name_or_marked_prefix(page):
    assert [span for span in spans(page) if NAMES_A_TEST.search(span) and not names_a_test(span)] == []


def names_a_test(span: str) -> bool:
    """Look for test_a.py, test_a.py::test_name, test_a.py::test_name[case] or test_a.py::test_begins_like_this_…"""
    parts = re.fullmatch(r"(?:tests/)?(test_\w+\.py)(?:::(test_\w+)(…?)(?:\[(\w+)\])?)?", span)
    if not parts or not (PROJECT / "tests" / parts[1]).exists():
        return False
    _, name, prefix, case = parts.groups()
    code = read(PROJECT / "tests" / parts[1])
    functions = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    exists = not name or any(test.startswith(name) if prefix else test == name for test in functions)
    return exists and (not case or f'"{case}"' in code)


def test_a_test_that_does_not_exist_is_noticed():
    file = Path(__file__).name
    assert names_a_test(f"{file}::test_a_test_that_does_not_exist_is_noticed") and names_a_test(
        f"{file}::test_a_test_…"
    )
    wrong = ["test_gone.py", f"{file}::test_a_test_", f"{file}::test_gone_…", f"{file}::", f"…::{file}"]
    assert not [span for span in wrong if names_a_test(span)]


@each_page
def test_named_paths_exist(page):
    if page == HISTORY:
        pytest.skip("names files as they were called at the time")
    code = " ".join([*spans(page), *(text for _, text in blocks(page))]).replace("\\", "/")
    for path in re.findall(r"(?<![\w./])((?:lib|notebooks|params|data|docs|tests|tools|benchmarks)/[\w./*-]*)", code):
        assert any(PROJECT.glob(path.rstrip("./"))), path
    for path in re.findall(rf"(?<![\w./])((?:{'|'.join(STATIONS)})/\w+\.py)", code):
        assert (PROJECT / "lib/onelap" / path).exists(), path


@each_page
def test_named_programs_know_the_options_they_are_shown_with(page):
    makefile = read(PROJECT / "Makefile")
    for line in [*shown_lines(page), *spans(page)]:
        for target in re.findall(r"^make ([a-z][\w-]*)", line):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
        for module in re.findall(r" -m (onelap[\w.]*)", line):
            assert importlib.util.find_spec(module), line
        for script, rest in re.findall(r"\b((?:benchmarks|tools)/\w+\.py)(.*)", line):
            options = re.findall(r"(?<=\s)--[\w-]+", rest)
            assert not [option for option in options if f'"{option}"' not in read(PROJECT / script)], line


@each_page
def test_diffs_start_from_the_code(page):
    for language, text in blocks(page):
        lines = []
        for line in text.splitlines() if language == "diff" else []:
            if line.startswith(" # "):
                path = PROJECT / line.split()[-1]
                cells = nbformat.read(path, as_version=4).cells if path.suffix == ".ipynb" else []
                lines = "\n".join(cell.source for cell in cells).splitlines() or read(path).splitlines()
            elif line[0] in "- ":
                assert line[1:] in lines, line


# What is shown


def test_readme_is_read_in_two_minutes_and_has_the_two_commands():
    lines = read(README).splitlines()
    assert len(lines) <= 130
    assert {"make lap", "make test"} <= {re.sub(r"\s+#.*", "", line) for line in lines}


@each_document
def test_documents_open_with_the_command_they_are_about(page):
    opening = re.match(r"# [^\n]+\n\n```\n(\S+) ", read(page))
    assert opening and opening[1] in STARTERS


@each_page
def test_blocks_are_of_a_language_that_is_checked_here(page):
    assert {language for language, _ in blocks(page)} <= {"", "python", "diff"}


@each_page
def test_onelap_commands_are_understood_by_the_parser(page):
    for command in only_onelap([*shown_lines(page), *spans(page)]):
        words = words_of(command)
        if len(words) > 1 or words[0] in ("doctor", "runs"):
            parse(words)
        else:  # the name of a command, which needs more words
            with pytest.raises(SystemExit, match="0"):
                parse([*words, "--help"])


@pytest.fixture(scope="module")
def owner(lap, tmp_path_factory):
    """The options of a process that is started by the owner of a vault, in a folder with two finished runs."""
    place = tmp_path_factory.mktemp("owner")
    vault = place / "home/vault"
    (vault / "Inbox").mkdir(parents=True)
    for number, note in enumerate(toy_notes(60)):
        head = f"---\nkind: {note['kind']}\nsource: {note['source']}\n---\n"
        (vault / f"{number}.md").write_text(head + note["text"], encoding="utf-8")
        (vault / f"Inbox/{number}.md").write_text(note["text"], encoding="utf-8")
    for run in (RUN, OTHER_RUN):
        shutil.copytree(lap[0], place / run)
    for source in COPIED_NOTES:
        shutil.copytree(PROJECT / "data/sample_notes" / source, place / "data/sample_notes" / source)
    fonts = matplotlib.get_cachedir()  # finding them takes time
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"HOME": str(place / "home"), "USERPROFILE": str(place / "home")}
    return {"cwd": place, "env": os.environ | home | {"PATH": path, "MPLCONFIGDIR": fonts}}


RUN_ALL = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from onelap.cli import main

results = {}
for number, (command, words, target) in enumerate(json.loads(sys.argv[1])):
    out, err = target or f"{number}.out", f"{number}.err"
    with open(out, "w") as stdout, open(err, "w") as stderr, redirect_stdout(stdout), redirect_stderr(stderr):
        status = main(words)
    results[command] = [status, *(open(name, encoding="utf-8").read() for name in (out, err))]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(owner):
    """{command: [status, standard output, standard error]} of all runnable commands, in one process: it starts once."""
    asked = []
    for command in runnable():
        target = command.partition(" > ")[2]
        concrete = command.replace("RUN_A", RUN).replace("RUN_B", OTHER_RUN).replace(" DIR", " merged")
        words = words_of(re.sub(r"(outputs/)?\bRUN\b", RUN, concrete))
        if words[0] == "sort" and "--run" not in words:
            words += ["--run", RUN]
        if words == ["runs"]:
            words += ["--outputs", "outputs"]
        asked.append((command, words, target))
    process = [sys.executable, "-c", RUN_ALL, json.dumps(asked)]
    line = json.dumps({"id": 1, "text": "milk, eggs"}) + "\n"
    ended = subprocess.run(process, input=line, capture_output=True, text=True, encoding="utf-8", **owner)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("command", runnable(), ids=lambda command: command[:60])
def test_onelap_commands_run_as_written(command, results, owner):
    status, out, err = results[command]
    assert status in {0, OTHER_STATUS.get(command.split()[1], 0)}, err
    assert out.strip() and "Traceback" not in out + err
    if "--all" in command:
        assert shown_below(command) and set(shown_below(command)) <= set(out.splitlines())
    if "> sorted.jsonl" in command:
        assert len(out.splitlines()) == 60
    if "export" in command:
        assert (owner["cwd"] / "merged/model.safetensors").exists()


def test_every_runnable_kind_of_command_is_shown():
    assert {"doctor", "plan", "report", "sort", "runs", "export", "run"} <= {line.split()[1] for line in runnable()}


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in read(page)], ids=lambda page: page.name)
def test_python_blocks_run_as_written(page, owner):
    for code in (text for language, text in blocks(page) if language == "python"):
        program = code.replace('"sort", "-"', f'"sort", "-", "--run", "{RUN}"')
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **owner)
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 2, "an answer for each of the two notes"
