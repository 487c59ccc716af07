"""What is installed: pins, constraints, every way to install, and the workflows that try them."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from onelap import PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
LAP_PINS = PYPROJECT["project"]["dependencies"]
TEST_PINS = PYPROJECT["project"]["optional-dependencies"]["test"]
CONSTRAINT_LINES = [
    line
    for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
INSTALL = re.compile(r"pip install .*--editable")
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


def constraints(environment: dict[str, str] | None = None) -> dict[str, str]:
    """The version of every package that constraints.txt pins on this machine, or on one with other markers."""
    pins = {}
    for line in CONSTRAINT_LINES:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert canonicalize_name(requirement.name) not in pins, f"{line}: the package has two versions here"
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return pins


def installed_packages() -> dict[str, str]:
    """The version of every package that the project needs on this machine, found by following requirements."""
    versions, queue = {}, [(Requirement(pin).name, "") for pin in LAP_PINS + TEST_PINS]
    seen = set(queue)
    while queue:
        name, extra = queue.pop()
        distribution = importlib.metadata.distribution(name)
        versions[canonicalize_name(name)] = distribution.version.partition("+")[0]  # 2.13.0+cpu is a build of 2.13.0
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needs = {(requirement.name, wanted) for wanted in ["", *requirement.extras]}
                queue += needs - seen
                seen |= needs
    return versions


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_constraints_agree_with_every_pin(platform, python):
    names = {"linux": ("posix", "Linux", "x86_64"), "win32": ("nt", "Windows", "AMD64")}
    os_name, system, machine = names.get(platform, ("posix", "Darwin", "arm64"))
    environment = {"sys_platform": platform, "os_name": os_name, "platform_system": system, "platform_machine": machine}
    environment |= {"python_version": python, "python_full_version": f"{python}.9"}
    pinned = constraints(environment)
    for pin in LAP_PINS + TEST_PINS + PYPROJECT["build-system"]["requires"]:
        name, version = pin.split("==")
        assert pinned.get(canonicalize_name(name)) == f"=={version}", f"{pin}: `make constraints`"


def test_constraints_are_exact_and_hold_no_address():
    for line in CONSTRAINT_LINES:
        assert re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+( ; [\w\s.'<>=!()*]+)?", line), line


def test_constraints_pin_every_installed_package():
    pinned = constraints()
    for name, version in installed_packages().items():
        assert pinned.get(name) == f"=={version}", f"{name} {version} is installed: `make clean test`"


def test_a_lap_installs_what_library_and_notebooks_import():
    code = [path.read_text(encoding="utf-8") for path in (PROJECT / "lib").rglob("*.py")]
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        code += [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    imported = set()
    for node in (node for source in code for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
    owners = importlib.metadata.packages_distributions()
    third_party = imported - set(sys.stdlib_module_names) - {"onelap"}
    needed = {canonicalize_name(owners[module][0]) for module in third_party} | {"jupyterlab"}
    assert {canonicalize_name(pin.split("==")[0]) for pin in LAP_PINS} == needed


def test_the_table_of_dependencies_lists_every_pin():
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+) \| (?!for \|)\S", section, re.MULTILINE)
    assert sorted(rows) == sorted(pin.split("==")[0] for pin in LAP_PINS + TEST_PINS)


# Every way to install


def test_conda_installs_with_the_constraints():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert {"--constraint constraints.txt", "--editable ."} <= set(pip)
    assert environment["variables"] == {"PYTHONUTF8": "1"}


@pytest.mark.skipif(not shutil.which("make"), reason="no make, as on Windows")
@pytest.mark.parametrize(("target", "installed"), [("lap", ["."]), ("test", [".", "'.[test]'"])])
def test_make_installs_with_the_constraints(target, installed):
    command = ["make", "--dry-run", "--always-make", target]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    lines = [line for line in printed.splitlines() if INSTALL.search(line)]
    assert [line.split()[-1] for line in lines] == installed
    assert all("--constraint constraints.txt" in line for line in lines)


@pytest.mark.parametrize("path", [*DOCUMENTS, *WORKFLOWS], ids=lambda path: path.name)
def test_every_written_install_command_uses_the_constraints(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        assert not INSTALL.search(line) or "--constraint constraints.txt" in line, line


# Workflows


def test_the_windows_workflow_runs_the_written_commands():
    """All lines of the documents for PowerShell but `setx`, which no running process notices."""
    blocks = [
        block.splitlines()
        for path in DOCUMENTS
        for block in re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]
    (install,) = [block for block in blocks if "setx PYTHONUTF8 1" in block]
    (test,) = [block for block in blocks if block[-1:] == [r".venv\Scripts\python -m pytest"]]
    jobs = yaml.safe_load((PROJECT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]
    scripts = [step["run"].splitlines() for step in jobs["windows"]["steps"] if "run" in step]
    commands = [script[1] for script in scripts if script[0] == "chcp 932"]
    assert commands == [line for line in install + test if not line.startswith("setx")]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "command",
    [["actionlint", "-shellcheck=", "-pyflakes="], ["zizmor", "--offline", "--no-progress", "--persona=auditor"]],
    ids=lambda command: command[0],
)
def test_workflows_have_no_findings(command, path):
    program = shutil.which(command[0], path=sysconfig.get_path("scripts"))
    result = subprocess.run([program, *command[1:], path], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
