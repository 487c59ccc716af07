"""Parameters: the notebooks' own parameters cells are the schema.

One line a parameter: `name: type = literal  # meaning, unit [low, high]`. The range is optional; for
a text it is a choice, `[one|another]`. Papermill's inspection reads the cells, so a second `=` on a
line is not allowed (papermill would not see that parameter).
"""

import ast
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from papermill import inspect_notebook

from onelap import PROJECT, UserError
from onelap.machine.store import read_yaml

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("0*.ipynb"))
TYPES = {"str": str, "int": int, "float": float, "bool": bool}
SET_BY_THE_RUNNER = "run_dir"


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

    def problem_with(self, value: object) -> str | None:
        """What is wrong with `value`, as one sentence, or None."""
        fits = isinstance(value, self.type) and (self.type is bool or not isinstance(value, bool))
        if not fits:
            hint = ""
            if self.type is float and isinstance(value, str) and _converted(value, float) is not None:
                hint = f" (YAML reads {value} as text: write {_converted(value, float):.1e})"
            found = f"{type(value).__name__} {value!r}"
            return f"{self.name}: expected {self.type.__name__}, found {found}{hint}"
        if self.type in (int, float) and not self.low <= value <= self.high:
            return f"{self.name}: expected {self.low:g} to {self.high:g}, found {value!r}"
        if self.choices and value not in self.choices:
            return f"{self.name}: expected one of {', '.join(self.choices)}, found {value!r}"
        return None


def read_schema(notebooks: list[Path] = NOTEBOOKS) -> dict[str, Parameter]:
    """Every parameter of the given notebooks (the five of a lap by default), by name."""
    schema = {}
    for path in notebooks:
        for name, found in inspect_notebook(str(path)).items():
            value = ast.literal_eval(found["default"])
            limits = re.search(r"\[(\S+), (\S+)\]$", found["help"])
            low, high = (float(limit) for limit in limits.groups()) if limits else (-1e300, 1e300)
            listed = re.search(r"\[(\w+(?:\|\w+)+)\]$", found["help"])
            choices = tuple(listed[1].split("|")) if listed else ()
            kind = TYPES[found["inferred_type_name"]]
            schema[name] = Parameter(name, kind, value, found["help"], low, high, choices)
    return schema


def read_parameters(source: Path | dict | None, overrides: list[str] = ()) -> tuple[dict[str, object], list[str]]:
    """All parameters of a lap: defaults, then those of a file or of an earlier run, then `name=value` overrides.

    Returns (values, problems), so that problems of other sorts can be told in the same message:
    unknown names with the nearest known one, wrong types, values out of range, malformed
    overrides. Raises UserError where the file is none.
    """
    schema = read_schema()
    given, problems = _read_file(source) if isinstance(source, Path) else dict(source or {}), []
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            problems.append(f"-p {override}: expected name=value")
        elif name in schema:
            value = _converted(text, schema[name].type)
            given[name] = text if value is None else value
        else:
            given[name] = text
    values = {name: parameter.default for name, parameter in schema.items()}
    for name, value in given.items():
        if name == SET_BY_THE_RUNNER:
            problems.append("run_dir: the run folder is chosen on the command line, with --run DIR")
        elif name not in schema:
            problems.append(_unknown(name, list(schema)))
        else:
            if schema[name].type is float and type(value) is int:
                value = float(value)
            problem = schema[name].problem_with(value)
            problems.append(problem)
            values[name] = values[name] if problem else value
    return values, [problem for problem in problems if problem]


def _read_file(path: Path) -> dict[str, object]:
    if not path.exists():
        known = ", ".join(sorted(f"params/{file.name}" for file in (PROJECT / "params").glob("*.yaml")))
        raise UserError(f"{path}: no such parameter file; there are {known}")
    return {str(name): value for name, value in read_yaml(path).items()}


def _converted(text: str, kind: type) -> object | None:
    """The text of a command-line override as a value of that type, or None."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    try:
        return kind(text)
    except ValueError:
        return None


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"{name}: unknown parameter; {hint}"
