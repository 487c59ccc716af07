"""The model card of an export, from the record of its run; no word of any note."""

from pathlib import Path

from huggingface_hub import ModelCardData

from onelap import find_path
from onelap.arms.base import on_hub
from onelap.lap.run import Run
from onelap.machine.store import read_json
from onelap.verdict.sentences import hundredths, percent, points_with_interval, with_interval

USES = {"train": "learn from", "validation": "choose by", "test": "test on"}
MADE_WITH = ("torch", "transformers", "peft", "bitsandbytes")

CARD = """---
{header}
---

# Which kind of note is this: {kinds}?

{base}, fine-tuned with QLoRA on one person's notes to name the kind of a note. Adapter and base are merged, in 16 bits.

## Result

{sentence}.

On the same {n} test notes, frozen before training:

| arm | right (95 % interval) | macro-F1 (95 % interval) | calibration error |
|---|---|---|---|
{arms}

This folder was scored again after merging: {again} right. Of {n} answers, {changed} differ from the adapter's on
the 4-bit base ({difference}), probabilities by at most {largest:.3f}.
The verdict is the same.

## Data

| notes to | {columns} |
|---|{rule}
{data}

{sources}

## How to ask it

`classifier.json` holds the prompt, the kinds, and what turns scores into probabilities. With nothing but transformers:

```python
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(".")  # where this file is
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
asked = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))


def tokens(text, **options):
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]


def probabilities(note):
    words, fit = tokens(note, split_special_tokens=True), asked["note_tokens"]
    if len(words) > fit:  # the middle goes
        words = words[: round(fit * 2 / 3)] + words[round(fit * 2 / 3) - fit :]
    prompt, scores = tokens(asked["before"]) + words + tokens(asked["after"]), []
    for kind, answer in asked["answers"].items():
        written = tokens(answer)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
        score = logits.float().log_softmax(-1).gather(1, torch.tensor([written]).T).sum()
        scores.append(score / asked["label_temperature"] + asked["offsets"][kind])
    return dict(zip(asked["answers"], (torch.stack(scores) / asked["temperature"]).softmax(0).tolist()))
```

That computes in 16 bits, so that probabilities may differ from the run's by a hundredth. What was learnt from had no
front matter, no tags and no marks of links. {threshold}

A program that generates can send `before`, the note and `after` as a prompt, and read the kind that is written; it gets
no probabilities, and should hold the answer to the kinds: of {generated} test notes that were asked freely,
{not_parsed} got an answer that names none.

## Limits

- It knows the notes of one person. On anybody else's it was not measured.
- The intervals are what {n} test notes can tell. {seeds}
- It names a kind for any text. What it is not sure of is better left to a person.
- It was measured on notes of at most {max_length} tokens with the prompt; a longer one loses its middle.
- The licence of the base holds for this model too.

Made with {versions}.
"""


def model_card(run: Run, difference: dict, base: Path) -> str:
    """The card's text; `difference` is what `export.check_verdict` returns."""
    found, manifest, asked = read_json(run.comparison_path), run.read_manifest(), run.scoring
    arms, kinds, versions = found["arms"], manifest["kinds"], run.record["versions"]
    sure, seeds = arms["qlora"]["sure_enough"], len(arms["qlora"]["seeds"])
    fetched = not find_path(asked["base_model"]).exists()
    header = ModelCardData(
        base_model=on_hub(asked["base_model"])[0] if fetched else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["text-classification", "qlora", "notes"],
    )
    measured = [
        [arm, with_interval(one["accuracy"]), with_interval(one["macro_f1"]), hundredths(one["ece"])]
        for arm, one in arms.items()
    ]
    counted = [[use, *(manifest["notes"][part].get(kind, 0) for kind in kinds)] for part, use in USES.items()]
    covered, right = percent(sure["coverage"]["value"]), with_interval(sure["accuracy"])
    threshold = "No threshold reached the wanted accuracy: no answer is sure."
    if sure["threshold"] is not None:
        certain = f"From {sure['threshold']:.2f} on an answer is sure"
        threshold = f"{certain}: {covered} of the test notes, {right} of them right."
    return CARD.format(
        header=header.to_yaml(),
        kinds=", ".join(kinds),
        base=asked["base_model"] if fetched else base.name,
        sentence=found["sentence"],
        n=difference["n"],
        arms=_rows(measured),
        again=percent(difference["accuracy"]),
        changed=difference["changed"],
        largest=difference["largest"],
        generated=arms["qlora"]["generating"]["n"],
        not_parsed=arms["qlora"]["generating"]["not_parsed"],
        difference=points_with_interval(difference["difference"]),
        columns=" | ".join(kinds),
        rule="---|" * len(kinds),
        data=_rows(counted),
        sources=_sources(manifest),
        threshold=threshold,
        seeds="One seed: another training may do some points better or worse." if seeds == 1 else f"{seeds} seeds.",
        max_length=asked["max_length"],
        versions=", ".join(f"{package} {versions[package]}" for package in MADE_WITH),
    )


def _sources(manifest: dict) -> str:
    known = {source for sources in manifest["sources"].values() for source in sources if source}
    if manifest["split_by_source"]:
        return f"From {len(known)} sources; notes of one source are never both learnt from and tested on."
    return (
        f"From {len(known)} known sources, too few to keep apart: notes of one may be both learnt from and tested on."
    )


def _rows(table: list[list]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in table)
