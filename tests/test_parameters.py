"""Parameter files and overrides, held against the notebooks' own parameters cells."""

import ast
import re

import pytest
import yaml

from onelap import PROJECT, UserError
from onelap.lap.parameters import NOTEBOOKS, read_parameters, read_schema

FILES = sorted((PROJECT / "params").glob("*.yaml"))


def test_there_are_the_four_files():
    assert [path.stem for path in FILES] == ["embedded", "full", "llama31_8b_12gb", "one_lap"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_names_every_parameter_and_explains_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# onelap run params/{path.name}"), "the first line is the command that runs it"
    assert set(yaml.safe_load(text)) == set(read_schema()) - {"run_dir"}
    assert read_parameters(path)[1] == []  # every name, type and range
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+: ", line):
            assert lines[number - 1].startswith("#   "), f"{line} has no explanation above it"


def test_embedded_holds_the_defaults():
    """By hand in JupyterLab, the notebooks run the embedded lap."""
    defaults = {name: parameter.default for name, parameter in read_schema().items() if name != "run_dir"}
    given, _ = read_parameters(PROJECT / "params/embedded.yaml")
    given.pop("run_dir")
    assert given == defaults


def test_a_parameter_of_two_notebooks_is_the_same_in_both():
    seen = {}
    for path in NOTEBOOKS:
        for name, parameter in read_schema([path]).items():
            if name in seen:
                assert (parameter.type, parameter.default) == (seen[name].type, seen[name].default), name
            seen[name] = parameter


def test_no_parameter_hides_from_papermill():
    """Papermill skips a line with a second `=`; every assignment of the cell must be in the schema."""
    import nbformat

    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        names = {node.target.id for node in ast.parse(cell.source).body}
        assert names == set(read_schema([path]))
        assert all(parameter.meaning for parameter in read_schema([path]).values())


def test_all_problems_are_reported_together(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "max_lenght: 256\nlearning_rate: 2e-4\nepochs: many\nmicro_batch: 2.5\nshow_text: 1\ntest_share: 0.9\n"
        "run_dir: here\n",
        encoding="utf-8",
    )
    _, problems = read_parameters(path, ["lora_rnak=4", "seed=x", "nothing"])
    assert set(problems) == {
        "max_lenght: unknown parameter; did you mean max_length?",
        "learning_rate: expected float, found str '2e-4' (YAML reads 2e-4 as text: write 2.0e-04)",
        "epochs: expected float, found str 'many'",
        "micro_batch: expected int, found float 2.5",
        "show_text: expected bool, found int 1",
        "test_share: expected 0.05 to 0.5, found 0.9",
        "run_dir: the run folder is chosen on the command line, with --run DIR",
        "lora_rnak: unknown parameter; did you mean lora_rank?",
        "seed: expected int, found str 'x'",
        "-p nothing: expected name=value",
    }


def test_overrides_win_and_take_the_parameter_s_type(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("epochs: 2\nkind_field: label\n", encoding="utf-8")
    overrides = ["learning_rate=2e-4", "source_field=author=x", "show_text=true", "max_length=128"]
    values, problems = read_parameters(path, overrides)
    assert not problems
    assert values["epochs"] == 2.0 and isinstance(values["epochs"], float)
    assert values["learning_rate"] == 2e-4
    assert values["source_field"] == "author=x"
    assert values["show_text"] is True
    assert values["max_length"] == 128
    assert values["kind_field"] == "label"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"- a\n- b\n", "expected lines `name: value`, found a list"),
        (b"a: [1\n", "not valid YAML"),
        (b"\xff\xfe\x00", "expected a YAML file in UTF-8"),
    ],
)
def test_a_file_that_is_no_parameter_file(tmp_path, content, expected):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read_parameters(path)


def test_a_missing_file_lists_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"no such parameter file; there are params/embedded.yaml"):
        read_parameters(tmp_path / "none.yaml")
