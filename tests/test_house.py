"""The layout of the library: which folder may import which, and how large it may be."""

import ast
import graphlib
from collections.abc import Iterable

import nbformat
import pytest

from onelap import PROJECT

LIBRARY = PROJECT / "lib" / "onelap"
STATIONS = ["daily", "lap", "qlora", "arms", "verdict", "notes", "machine"]  # each imports only from those after it
STRANGERS = {"notes", "arms", "verdict"}  # they do not import each other
MODULES = {path.relative_to(LIBRARY).with_suffix("").as_posix(): path for path in LIBRARY.rglob("*.py")}


def imports_in(code: str) -> set[str]:
    """List the modules of the library that code imports, in functions too, but not those for type checkers only."""
    tree, modules = ast.parse(code), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        names = []
        assert not getattr(node, "level", 0), "relative imports are not followed here"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onelap":
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        modules |= {name.removeprefix("onelap.").replace(".", "/") for name in names if name.startswith("onelap.")}
    return modules & set(MODULES)


def imports_of(module: str) -> set[str]:
    return imports_in(MODULES[module].read_text(encoding="utf-8"))


def station_of(module: str) -> str:
    return module.split("/")[0]


def test_every_module_belongs_to_a_station_or_is_the_command():
    outside = {module for module in MODULES if station_of(module) not in STATIONS}
    assert outside == {"__init__", "cli", "commands"}
    assert all((LIBRARY / station / "__init__.py").read_text(encoding="utf-8").strip() for station in STATIONS)


@pytest.mark.parametrize("module", sorted(module for module in MODULES if station_of(module) in STATIONS))
def test_module_imports_only_from_stations_below_its_own(module):
    own = STATIONS.index(station_of(module))
    for other in imports_of(module):
        assert station_of(other) in STATIONS[own:], f"{module} imports {other}"
        if station_of(module) in STRANGERS:
            assert station_of(other) in {station_of(module), "machine"}, f"{module} imports {other}"


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {module: imports_of(module) for module in MODULES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(MODULES), "a CycleError names one"


def test_imports_are_found_in_functions_and_not_where_only_type_checkers_read():
    code = """
import onelap.cli
from onelap import UserError, commands
from onelap.notes import read
if TYPE_CHECKING:
    from onelap.lap.run import Run
def later():
    from onelap.machine.store import read_json
"""
    assert imports_in(code) == {"cli", "commands", "notes/read", "machine/store"}


@pytest.mark.parametrize("path", sorted((PROJECT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_imports_nothing_of_daily(path):
    cells = nbformat.read(path, as_version=4).cells
    modules = imports_in("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    assert "machine/guard" in modules and "daily" not in map(station_of, modules)


def lines_of(modules: Iterable[str]) -> int:
    return sum(MODULES[module].read_text(encoding="utf-8").count("\n") for module in modules)


def test_library_stays_small_enough_to_read_in_an_evening():
    core = {module for module in MODULES if station_of(module) in {"notes", "arms", "qlora", "verdict"}}
    assert lines_of(core - {"qlora/plan", "verdict/figures"}) <= 3200
    assert lines_of(MODULES) <= 7412
