"""Parameter files and overrides, checked against the notebooks' own parameters cells."""

import ast
import re

import nbformat
import pytest
import yaml

from onelap import PROJECT, UserError
from onelap.lap.parameters import NOTEBOOKS, SET_BY_THE_RUNNER, inspect, inspect_quickly, read_parameters, read_schema

EMBEDDED = PROJECT / "params/embedded.yaml"
FILES = sorted((PROJECT / "params").glob("*.yaml"))
RECIPES = [path for path in FILES if path != EMBEDDED]
KEY = re.compile(r"(\w+): ")


def defaults() -> dict:
    return {name: parameter.default for name, parameter in read_schema().items() if name != SET_BY_THE_RUNNER}


def content(path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def header(path) -> str:
    """The comment before the first empty line, as one line."""
    lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines)


def keys_without_comment(path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for above, line in zip(["", *lines], lines, strict=False) if KEY.match(line) and above[:2] != "# "]


# The files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameter_file_resolves_without_problems(path):
    values, problems = read_parameters(path)
    assert problems == []
    assert set(values) == set(read_schema())
    assert values | content(path) == values, "what the file says is what a run gets"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameter_file_header_names_command_hours_memory_and_licence(path):
    text = header(path)
    assert text.startswith(f"onelap run params/{path.name}")
    for word in (r"\d+ (hours?|minutes)|[Tt]wo minutes", r"\d GB of (VRAM|memory)", r"Licence of \S+"):
        assert re.search(word, text), f"{path.name} does not say {word}"
    if "GB card (RTX" in text:
        assert "not yet measured on such a card" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_holds_only_what_differs_each_with_its_reason(path):
    same = [name for name, value in content(path).items() if value == defaults()[name]]
    assert not same, "the notebooks' defaults already say so"
    assert not keys_without_comment(path)
    assert 15 <= len(path.read_text(encoding="utf-8").splitlines()) <= 30


def test_embedded_file_explains_every_parameter_once_and_states_its_default():
    """By hand in JupyterLab, the notebooks run the embedded lap."""
    names = [key[1] for line in EMBEDDED.read_text(encoding="utf-8").splitlines() if (key := KEY.match(line))]
    assert sorted(names) == sorted(defaults())
    assert not keys_without_comment(EMBEDDED)
    assert content(EMBEDDED) == defaults()


def test_embedded_file_states_limits_as_the_notebooks_do():
    """A range such as `0.05 to 0.5` in the comment above a key is that of the parameters cell."""
    explained = re.findall(r"((?:#   .*\n)+)(\w+): ", EMBEDDED.read_text(encoding="utf-8"))
    schema, checked = read_schema(), []
    for comment, name in explained:
        for low, high in re.findall(r"\b([\d.]+) to ([\d.]*\d)\b", comment.replace("\n#  ", "")):
            assert (float(low), float(high)) == (schema[name].low, schema[name].high), name
            checked.append(name)
        assert all(choice in comment for choice in schema[name].choices), name
    assert checked


# The schema


def test_parameter_of_several_notebooks_is_the_same_in_each():
    seen = {}
    for path in NOTEBOOKS:
        for name, parameter in read_schema([path]).items():
            first = seen.setdefault(name, parameter)
            for field in ("type", "default", "low", "high", "choices", "meaning"):
                assert getattr(parameter, field) == getattr(first, field), f"{name} in {path.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_cell_hides_no_line_from_papermill(path):
    """Papermill skips a line with a second `=`; every assignment of the cell must be in the schema."""
    cells = nbformat.read(path, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert {node.target.id for node in ast.parse(cell.source).body} == set(read_schema([path]))
    assert all(parameter.meaning for parameter in read_schema([path]).values())


# Problems and overrides


def test_all_problems_are_reported_together(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "epochs: many\nmicro_batch_tokens: 2.5\nshow_text: 1\ntest_share: 0.9\nprecision: half\n", encoding="utf-8"
    )
    assert set(read_parameters(path, ["seed=x", "nothing"])[1]) == {
        "epochs: expected float, found str 'many'",
        "micro_batch_tokens: expected int, found float 2.5",
        "show_text: expected bool, found int 1",
        "test_share: expected 0.05 to 0.5, found 0.9",
        "precision: expected one of auto, bf16, fp16, fp32, found 'half'",
        "seed: expected int, found str 'x'",
        "-p nothing: expected name=value",
    }


def test_parameter_file_with_unknown_key_names_the_nearest_one(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("max_lenght: 256\ntexture_field: style\n", encoding="utf-8")
    assert read_parameters(path, ["lora_rnak=4"])[1] == [
        "max_lenght: unknown parameter; did you mean max_length?",
        "texture_field: unknown parameter; did you mean style_field?",
        "lora_rnak: unknown parameter; did you mean lora_rank?",
    ]


def test_number_that_yaml_reads_as_text_is_refused_with_the_right_spelling(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("learning_rate: 2e-4\n", encoding="utf-8")
    expected = "learning_rate: expected float, found str '2e-4' (YAML reads 2e-4 as text: write 2.0e-04)"
    assert read_parameters(path)[1] == [expected]


def test_run_folder_in_a_file_or_override_is_refused_with_the_option_to_use(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("run_dir: here\n", encoding="utf-8")
    refused = ["run_dir: the run folder is chosen on the command line, with --run DIR"]
    assert read_parameters(path)[1] == read_parameters(EMBEDDED, ["run_dir=here"])[1] == refused


def test_overrides_win_and_take_the_type_of_the_parameter(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("epochs: 2\nkind_field: label\nmax_length: 512\n", encoding="utf-8")
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
    ("written", "expected"),
    [
        (b"- a\n- b\n", "expected YAML lines `name: value` in UTF-8, found a list"),
        (b"a: [1\n", "but reading failed: while parsing a flow sequence"),
        (b"\xff\xfe\x00", "but reading failed: 'utf-8' codec can't decode byte 0xff"),
    ],
    ids=["list", "broken", "binary"],
)
def test_file_that_is_not_a_parameter_file_is_refused(tmp_path, written, expected):
    path = tmp_path / "bad.yaml"
    path.write_bytes(written)
    with pytest.raises(UserError, match=expected):
        read_parameters(path)


def test_missing_parameter_file_lists_the_ones_that_exist(tmp_path):
    with pytest.raises(UserError, match=r"no such parameter file; there are .*params/one_lap.yaml"):
        read_parameters(tmp_path / "none.yaml")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_quick_reading_of_a_parameters_cell_finds_what_papermill_does(notebook):
    quick = inspect_quickly(notebook)
    slow = {name: {key: line[key] for key in quick[name]} for name, line in inspect(notebook).items()}
    assert quick == slow and "run_dir" in quick
