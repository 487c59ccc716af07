"""One HTML file of a run, for reading: the result first, then the five executed notebooks with their code folded."""

import base64
import json
import re
from pathlib import Path

import nbformat
from jinja2 import Environment, FileSystemLoader
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from onelap import PROJECT
from onelap.lap.parameters import NOTEBOOKS
from onelap.lap.run import Run
from onelap.machine.guard import read_log
from onelap.machine.store import read_json, write_text
from onelap.verdict.compare import TUNED
from onelap.verdict.tables import arms_table

TEMPLATES = Path(__file__).parents[1] / "templates"
MAIN_FIGURES = {  # what stands above the notebooks: figures by the tag of their cell, and what they show
    "figure:accuracies": "accuracy of every arm on the same test notes, with 95 % intervals",
    "figure:recalls": "share of the notes of each kind that were found, before and after",
}


def write_report(run: Run, file: Path) -> None:
    """Write the report of a run, with whatever is there of it, as one file that needs nothing from anywhere else."""
    record, parameters = json.loads(_without_places(json.dumps([run.record, run.parameters])))
    executed = [run.path / path.name for path in NOTEBOOKS if (run.path / path.name).exists()]
    notebooks = {path.stem: nbformat.reads(_without_places(path.read_text("utf-8")), as_version=4) for path in executed}
    comparison = read_json(run.comparison_path) if run.comparison_path.exists() else None
    look = {"template_name": "notebook", "extra_template_basedirs": [str(TEMPLATES)]}
    exporter = HTMLExporter(**look, exclude_input_prompt=True, exclude_output_prompt=True)
    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("report.html")
    text = page.render(
        name=run.path.name,
        record=record,
        refused=read_log(run.path),
        comparison=comparison,
        table=arms_table(comparison["arms"]) if comparison else None,
        tuned=TUNED,
        figures=_main_figures([cell for notebook in notebooks.values() for cell in notebook.cells]),
        notebooks={stem: exporter.from_notebook_node(notebook)[0] for stem, notebook in notebooks.items()},
        parameters=parameters,
        light=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
        dark=HtmlFormatter(style="github-dark").get_style_defs(".highlight"),
    )
    write_text(file, text)


def _without_places(text: str) -> str:
    """Shorten the folders of this project and of this person: whose machine it was is nobody's business."""
    for place, short in ((PROJECT, "."), (Path.home(), "~")):
        if len(place.parts) > 2:  # not `/`, nor `/app`, which may be anything
            # As it is, and with its backslashes doubled once and twice, as JSON and Python do.
            for written in (str(place), json.dumps(str(place))[1:-1], json.dumps(json.dumps(str(place)))[3:-3]):
                text = re.sub(re.escape(written) + r"(?![\w.-])", lambda _, short=short: short, text)
    return text


def _main_figures(cells: list[nbformat.NotebookNode]) -> list[dict[str, str]]:
    """Find the figures that tell the result: what each shows, its image as a data URL, its reading as HTML."""
    figures = []
    for cell in cells:
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        reading = "\n\n".join(data["text/markdown"] for data in shown if "text/markdown" in data)
        for tag in MAIN_FIGURES.keys() & set(cell.metadata.get("tags", [])):
            for image in (image for data in shown for image in _images(data)):
                figures.append({"title": MAIN_FIGURES[tag], "image": image, "reading": markdown2html(reading)})
    return figures


def _images(data: dict) -> list[str]:
    if "image/svg+xml" in data:
        return [f"data:image/svg+xml;base64,{base64.b64encode(data['image/svg+xml'].encode()).decode()}"]
    return [f"data:image/png;base64,{data['image/png']}"] if "image/png" in data else []
