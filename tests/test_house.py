"""The layout of the library: which folder may import which, and how large it may be."""

import ast
import graphlib
from pathlib import Path

import pytest

from onelap import PROJECT

LIBRARY = PROJECT / "lib" / "onelap"
STATIONS = ["daily", "lap", "qlora", "arms", "verdict", "notes", "machine"]  # each imports only from those after it
STRANGERS = {"notes", "arms", "verdict"}  # which do not know of each other
MODULES = {path.relative_to(LIBRARY).with_suffix("").as_posix(): path for path in LIBRARY.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Modules of the library that a file imports, in functions too, without those that only a type checker reads."""
    tree, modules = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onelap":
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        modules |= {name.removeprefix("onelap.").replace(".", "/") for name in names if name.startswith("onelap.")}
    return modules & set(MODULES)


def station_of(module: str) -> str:
    return module.split("/")[0]


def test_every_module_belongs_to_a_station_or_is_the_command():
    outside = {module for module in MODULES if station_of(module) not in STATIONS}
    assert outside == {"__init__", "cli", "commands"}
    assert all((LIBRARY / station / "__init__.py").read_text(encoding="utf-8").strip() for station in STATIONS)


@pytest.mark.parametrize("module", sorted(module for module in MODULES if station_of(module) in STATIONS))
def test_module_imports_only_from_stations_below_its_own(module):
    own = STATIONS.index(station_of(module))
    for imported in imports_of(MODULES[module]):
        assert station_of(imported) in STATIONS[own:], f"{module} imports {imported}"
        if station_of(module) in STRANGERS:
            assert station_of(imported) in {station_of(module), "machine"}, f"{module} imports {imported}"


def test_modules_do_not_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter({module: imports_of(path) for module, path in MODULES.items()}).static_order()
    assert set(order) == set(MODULES), "and CycleError names one"


def test_notebooks_prepare_their_process_and_import_nothing_of_daily():
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        source = path.read_text(encoding="utf-8")
        assert "onelap.machine import guard, process" in source and "onelap.daily" not in source, path.name


def lines_of(*stations: str) -> int:
    paths = [path for module, path in MODULES.items() if station_of(module) in stations]
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def test_library_stays_small_enough_to_read_in_an_evening():
    apart = [MODULES["qlora/plan"], MODULES["verdict/figures"]]
    evening = lines_of("notes", "arms", "qlora", "verdict") - sum(path.read_text().count("\n") for path in apart)
    assert evening <= 3000
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in MODULES.values()) <= 6500
