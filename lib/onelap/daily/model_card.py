"""The model card of an export, from the record of its run and templates/model_card.md; it quotes no note."""

from pathlib import Path

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from onelap import find_path
from onelap.lap.run import Run
from onelap.machine.hub import split_name
from onelap.machine.store import read_json
from onelap.verdict import sentences
from onelap.verdict.compare import TUNED

TEMPLATES = Path(__file__).parents[1] / "templates"
MADE_WITH = ("torch", "transformers", "peft", "bitsandbytes")


def write_model_card(run: Run, check: dict, base: Path) -> str:
    """Return the model card's text; `check` is the result of `export.check_verdict`, `base` the folder of the base."""
    comparison, manifest, scoring = read_json(run.comparison_path), run.read_manifest(), run.scoring
    on_this_machine = find_path(scoring["base_model"]).exists()  # then its name is a path, which is not shown
    header = ModelCardData(
        base_model=None if on_this_machine else split_name(scoring["base_model"])[0],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["text-classification", "qlora", "notes"],
    )
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    return templates.get_template("model_card.md").render(
        vars(sentences),  # how numbers are written
        header=header.to_yaml(),
        kinds=manifest["kinds"],
        base=base.name if on_this_machine else scoring["base_model"],
        comparison=comparison,
        tuned=comparison["arms"][TUNED],
        check=check,
        manifest=manifest,
        sources=len({source for part in manifest["sources"].values() for source in part if source}),
        scoring=scoring,
        versions=[f"{package} {run.record['versions'][package]}" for package in MADE_WITH],
    )
