"""Parameters: the notebooks' own parameters cells are the schema.

One line a parameter: `name: type = literal  # meaning, unit [low, high]`. The range is optional; for a text it is a
choice, `[one|another]`. A line may hold only one `=`: papermill's inspection, which reads the cells, skips others.
"""

import ast
import difflib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import yaml

from onelap import PROJECT, UserError
from onelap.machine.files import printable
from onelap.machine.store import read_yaml

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("0*.ipynb"))
TYPES = {"str": str, "int": int, "float": float, "bool": bool}
SET_BY_THE_RUNNER = "run_dir"
NEW_NAMES = {"texture_field": "style_field", "textures": "styles"}  # of parameters that earlier versions had
ORIGIN_COLUMN = 48  # of the lines that `explain_parameters` writes


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: type
    default: object
    meaning: str
    low: float
    high: float
    choices: tuple[str, ...]
    notebook: str

    def problem_with(self, value: object) -> str | None:
        """Describe in one sentence why `value` is not allowed; None where it is."""
        if type(value) is not self.type:
            number = _converted(value, self.type) if isinstance(value, str) else None
            hint = f" (YAML reads {value} as text: write {number:.1e})" if type(number) is float else ""
            return f"{self.name}: expected {self.type.__name__}, found {type(value).__name__} {value!r}{hint}"
        if self.type in (int, float) and not self.low <= value <= self.high:
            return f"{self.name}: expected {self.low:g} to {self.high:g}, found {value!r}"
        if self.choices and value not in self.choices:
            return f"{self.name}: expected one of {', '.join(self.choices)}, found {value!r}"
        if self.type is str and value != printable(value):
            return f"{self.name}: expected text in UTF-8, found {value!r}"
        return None


def inspect(notebook: Path) -> dict[str, dict[str, str]]:
    """Read a notebook's parameters cell with papermill."""
    from papermill import inspect_notebook  # here, because it takes seconds

    return inspect_notebook(unformatted(notebook))


def inspect_quickly(notebook: Path) -> dict[str, dict[str, str]]:
    """Read a notebook's parameters cell as `inspect` does, for commands that start in half a second."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = next((cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])), [])
    parts = (re.fullmatch(r"(\w+): (\w+) = (.*?)  # (.*)\n?", line).groups() for line in lines)
    return {name: {"inferred_type_name": kind, "default": value, "help": text} for name, kind, value, text in parts}


def read_schema(notebooks: list[Path] = NOTEBOOKS, inspect: Callable[[Path], dict] = inspect) -> dict[str, Parameter]:
    """Read every parameter of the notebooks (the five of a lap by default), by name, as the first of them has it."""
    schema = {}
    for path in notebooks:
        for name, line in inspect(path).items():
            value, meaning = ast.literal_eval(line["default"]), line["help"]
            limits = re.search(r"\[(\S+), (\S+)\]$", meaning)
            low, high = (float(limit) for limit in limits.groups()) if limits else (-1e300, 1e300)
            choice = re.search(r"\[(\w+(?:\|\w+)+)\]$", meaning)
            choices, kind = tuple(choice[1].split("|")) if choice else (), TYPES[line["inferred_type_name"]]
            schema.setdefault(name, Parameter(name, kind, value, meaning, low, high, choices, path.stem))
    return schema


def unformatted(path: Path) -> str:
    """Write a path so that papermill, which formats it with the parameters, leaves its braces as they are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def read_parameters(source: Path | dict | None, overrides: list[str] = (), inspect=inspect) -> tuple[dict, list[str]]:
    """Resolve all parameters of a lap: defaults, then a file or an earlier run's values, then `name=value` overrides.

    Returns (values, problems): unknown names (with the nearest parameter), wrong types, values out of range, malformed
    overrides. Raises UserError for a file that is missing or not a parameter file.
    """
    schema = read_schema(inspect=inspect)
    stored = {NEW_NAMES.get(name, name): value for name, value in source.items()} if isinstance(source, dict) else {}
    wanted, problems = _read_file(source) if isinstance(source, Path) else stored, []
    for override in overrides:
        name, separator, text = override.partition("=")
        if separator:
            wanted[name] = _converted(text, schema[name].type) if name in schema else text
        else:
            problems.append(f"-p {override}: expected name=value")
    values = {name: parameter.default for name, parameter in schema.items()}
    for name, value in wanted.items():
        if name in schema and schema[name].type is float and type(value) is int:
            value = float(value)
        if name == SET_BY_THE_RUNNER:
            problems.append("run_dir: the run folder is chosen on the command line, with --run DIR")
        elif name not in schema:
            near = [NEW_NAMES[name]] if name in NEW_NAMES else difflib.get_close_matches(name, schema, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"the parameters are {', '.join(sorted(schema))}"
            problems.append(f"{name}: unknown parameter; {hint}")
        elif problem := schema[name].problem_with(value):
            problems.append(problem)
        else:
            values[name] = value
    return values, problems


def explain_parameters(values: dict[str, object], path: Path, overrides: list[str]) -> Iterator[str]:
    """Yield resolved parameters as lines of a parameter file: the meaning of each, its value, and its origin.

    `path` and `overrides` are what `read_parameters` resolved the values from.
    """
    in_file, overridden = _read_file(path), {override.partition("=")[0] for override in overrides}
    parameters = [parameter for parameter in read_schema().values() if parameter.name != SET_BY_THE_RUNNER]
    yield f"# Every parameter below its meaning [range]; a value is from {path.name} (file), from -p, or the default."
    for notebook, group in groupby(parameters, key=lambda parameter: parameter.notebook):
        yield f"\n# {notebook}"
        for parameter in group:
            name, value = parameter.name, values[parameter.name]
            origin = "-p" if name in overridden else "file" if name in in_file else "default"
            instead = f", default {_as_yaml(parameter.default)}" if value != parameter.default else ""
            yield f"#   {parameter.meaning}"
            yield f"{f'{name}: {_as_yaml(value)}':{ORIGIN_COLUMN}}  # {origin}{instead}"


def _as_yaml(value: object) -> str:
    return yaml.safe_dump({"_": value}, allow_unicode=True, width=1e9).removeprefix("_:").strip()


def _read_file(path: Path) -> dict[str, object]:
    if not path.exists():
        files = ", ".join(sorted(f"params/{file.name}" for file in (PROJECT / "params").glob("*.yaml")))
        raise UserError(f"{path}: no such parameter file; there are {files}")
    values = {str(name): value for name, value in read_yaml(path).items()}
    if path.with_name("run.json").exists():  # the file of a run, which names that run's folder
        values.pop(SET_BY_THE_RUNNER, None)
    return values


def _converted(text: str, kind: type) -> object:
    """Return the text as a value of that type; where it cannot be one, as it is."""
    with suppress(KeyError, ValueError):
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    return text
