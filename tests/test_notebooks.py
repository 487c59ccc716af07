"""The notebooks: how they are laid out and stored, what they show, and explore.ipynb on whatever runs there are."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import pytest
import yaml

from onelap import PROJECT
from onelap.lap.parameters import NOTEBOOKS
from onelap.lap.report import MAIN_FIGURES
from onelap.lap.run import Run
from onelap.machine.store import write_json
from onelap.verdict import figures

EXPLORE = PROJECT / "notebooks" / "explore.ipynb"
ALL = [*NOTEBOOKS, EXPLORE]
MAX_LINES = 20  # of a cell


def cells_of(path):
    return nbformat.read(path, as_version=4).cells


def code_of(path):
    """The code cells without the parameters, whose lines are as many as there are parameters."""
    cells = [cell for cell in cells_of(path) if cell.cell_type == "code"]
    return [cell for cell in cells if "parameters" not in cell.metadata.get("tags", [])]


def text_of(cell):
    """All that a cell shows as text or Markdown."""
    shown = [output.get("data", {}) for output in cell.get("outputs", [])]
    printed = [output.get("text", "") for output in cell.get("outputs", [])]
    return "\n".join([*printed, *(data.get("text/markdown") or data.get("text/plain", "") for data in shown)])


# The layout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_opens_with_its_purpose_and_states_its_finding_last(path):
    cells = cells_of(path)
    assert re.match(rf"# {path.stem[:2]} · [\w ]+\n\n\*\*Reads\*\* .*\*\*Writes\*\* ", cells[0].source)
    headings = [cell.source for cell in cells if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    last = next(heading for heading in reversed(headings) if not heading.startswith("## Try it"))
    assert last in ("## Finding", "## Verdict")
    assert "say(" in cells[[cell.source for cell in cells].index(last) + 1].source


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebook_has_a_claim_for_each_short_code_cell(path):
    title, *setup = cells_of(path)[:4]
    assert [cell.cell_type for cell in (title, *setup)] == ["markdown", *["code"] * 3], "parameters, guard, imports"
    cells = cells_of(path)[4:]
    assert {cell.cell_type for cell in cells[::2]} == {"markdown"}
    assert {cell.cell_type for cell in cells[1::2]} == {"code"}
    assert max(cell.source.count("\n") + 1 for cell in cells[1::2]) <= MAX_LINES


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebook_reads_every_figure_aloud(path):
    """A figure without `say` would be a picture without its sentence."""
    drawing = "|".join(name for name in vars(figures) if not name.startswith("_") and name != "without_glyphs")
    for cell in code_of(path):
        for call in re.finditer(rf"figures\.({drawing})\(", cell.source):
            assert cell.source[: call.start()].rstrip().endswith("say("), cell.source


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebook_is_stored_stripped(path):
    """With the very command of the pre-commit configuration."""
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (entry,) = [hook["entry"] for hook in hooks if hook["id"] == "nbstripout"]
    command = [sys.executable, *shlex.split(entry)[1:], "--verify", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout


# What a finished lap shows


def test_executed_notebooks_state_findings_as_prose_and_without_noise(lap):
    for path in NOTEBOOKS:
        cells = cells_of(lap[0] / path.name)
        for cell in (cell for cell in cells if cell.cell_type == "code"):
            streams = [output for output in cell.outputs if output.output_type == "stream"]
            assert not [output for output in streams if output.name == "stderr"], cell.source
            assert not any("Warning" in output.text for output in streams), cell.source
        (finding,) = [index for index, cell in enumerate(cells) if cell.source in ("## Finding", "## Verdict")]
        shown = [output.get("data", {}) for output in cells[finding + 1].outputs]
        assert shown and all("text/markdown" in data for data in shown), path.stem


def test_main_figures_of_the_report_keep_their_tags_and_their_readings(lap):
    tagged = {tag: cell for cell in cells_of(lap[0] / "05_compare.ipynb") for tag in cell.metadata.get("tags", [])}
    assert set(MAIN_FIGURES) <= set(tagged)
    for tag in MAIN_FIGURES:
        image, reading = (output["data"] for output in tagged[tag].outputs)
        assert "image/svg+xml" in image and "%" in reading["text/markdown"]


def test_own_notes_are_shown_by_id_only_with_the_prompt_around_them(lap):
    """That no word of them is shown anywhere is tested with the canary."""
    shown = "\n".join(text_of(cell) for cell in cells_of(lap[0] / "01_data_prep.ipynb"))
    assert "Which kind of note is this: " in shown and "[text of the note]" in shown
    assert json.loads((lap[0] / "dataset/manifest.json").read_text(encoding="utf-8"))["sample_notes"] is False


def test_run_may_show_text_where_it_is_asked_to_and_of_the_sample_notes(tmp_path):
    run = Run(tmp_path)
    for samples, show_text, allowed in ((False, False, False), (False, True, True), (True, False, True)):
        write_json(run.manifest_path, {"sample_notes": samples})
        assert run.may_show_text(show_text) is allowed
    write_json(run.manifest_path, {"kinds": []})
    assert not run.may_show_text(False), "a run of an earlier version"


def test_evaluate_ends_with_a_note_to_try_and_its_probabilities(lap):
    *_, heading, cell = cells_of(lap[0] / "04_evaluate.ipynb")
    assert heading.source.startswith("## Try it") and re.match(r'note = "\w.*"\n', cell.source)
    percents = re.findall(r"(\d+) %\n?", cell.outputs[-1]["data"]["text/plain"])
    assert len(percents) == 5 and sum(map(int, percents)) == pytest.approx(100, abs=3)


# explore.ipynb


def explore(outputs, tmp_path, **parameters):
    """Execute it; returns what its cells show, and the number of its figures."""
    notebook = papermill.execute_notebook(
        str(EXPLORE), str(tmp_path / "explored.ipynb"), {"outputs": str(outputs), **parameters}, progress_bar=False
    )
    figures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/svg" in str(output)]
    assert not any(output.output_type == "stream" for cell in notebook.cells for output in cell.get("outputs", []))
    assert notebook.cells[-1].source == "" and notebook.cells[-2].source.startswith("## Try it here")
    return "\n".join(map(text_of, notebook.cells)), len(figures)


def test_explore_opens_on_an_empty_folder(tmp_path):
    shown, figures = explore(tmp_path, tmp_path)
    assert "There are 0 runs" in shown and "None of these runs has begun to train." in shown and figures == 0


def test_explore_compares_a_finished_run_with_one_under_way_and_an_old_one(lap, tmp_path):
    outputs = tmp_path / "outputs"
    finished = shutil.copytree(lap[0], outputs / "20261122-090000_finished")
    under_way = outputs / "20261123-090000_under_way"
    under_way.mkdir()
    write_json(under_way / "run.json", {"status": "running", "started": "2026-11-23T09:00:00+00:00"})
    shutil.copytree(finished / "dataset", under_way / "dataset")
    log = (finished / "training/log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (under_way / "training").mkdir()
    (under_way / "training/log.jsonl").write_text("".join(log[:2]) + log[2][:20], encoding="utf-8")
    old = shutil.copytree(lap[0], outputs / "20261121-090000_old")
    predictions = pd.read_json(old / "arms/qlora/predictions.jsonl", lines=True, dtype={"predicted": str})
    predictions.loc[0, "predicted"] = next(kind for kind in ("value", "none") if kind != predictions["predicted"][0])
    predictions.to_json(old / "arms/qlora/predictions.jsonl", lines=True, orient="records")
    for name, started in (("20261122-090000_finished", "2026-11-22"), ("20261121-090000_old", "2026-11-21")):
        record = json.loads((outputs / name / "run.json").read_text(encoding="utf-8"))
        write_json(outputs / name / "run.json", record | {"started": f"{started}T09:00:00+00:00"})
    manifest = json.loads((old / "dataset/manifest.json").read_text(encoding="utf-8"))
    del manifest["sample_notes"]
    write_json(old / "dataset/manifest.json", manifest)

    shown, figures = explore(outputs, tmp_path)
    assert "There are 3 runs" in shown and figures == 3
    assert "Step 2, epoch" in shown, "the whole lines of the newest log"
    assert "The two give different answers to 1 of the" in shown
    shown, figures = explore(outputs, tmp_path, runs="20261121-090000_old")
    assert "This takes two runs that have begun to train." in shown and "This takes two evaluated runs." in shown
    assert figures == 2
