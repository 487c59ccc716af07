"""The worth of a setting: every note is answered by a model that has not seen its source.

    .venv/bin/python benchmarks/out_of_fold.py params/embedded.yaml --out before.jsonl
    .venv/bin/python benchmarks/out_of_fold.py params/embedded.yaml -p epochs=4.0 --against before.jsonl

Holds the sources of each of three folds out in turn, trains on the others to the last epoch, and compares with TF-IDF
on the same folds, and with the answers that an earlier call wrote. It also lets each model write its answer to the
first notes of its fold. All notes are used: a setting chosen here is chosen by the test notes of a lap, too.
The tables of docs/LOG.md come from earlier forms of this file.
"""

from onelap.machine import process

process.prepare()  # before the libraries are imported

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from onelap import UserError
from onelap.arms.base import load_tokenizer, locate_base
from onelap.arms.cheap import learn, tfidf_model
from onelap.arms.endpoint import generate, parse_answer
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import score
from onelap.lap.parameters import read_parameters
from onelap.machine.precision import choose_precision
from onelap.machine.store import read_lines
from onelap.notes.duplicates import drop_duplicates
from onelap.notes.fields import Fields
from onelap.notes.vault import locate_notes, read_notes
from onelap.qlora.recipe import Recipe
from onelap.qlora.training import prepare_trainer, train
from onelap.verdict.compare import compare
from onelap.verdict.metrics import measure, predictions_table
from onelap.verdict.sentences import points_with_interval, with_interval

FOLDS = 3
HOURS = 100.0
WRITTEN = 34  # notes of each fold that are also answered by free generation


def qlora(notes: pd.DataFrame, held_out: pd.DataFrame, kinds: list[str], parameters: dict) -> tuple[np.ndarray, int]:
    """Probabilities, (notes, kinds), and how many of the first `WRITTEN` notes get the scored kind by generation."""
    recipe = Recipe.of(parameters | {"evaluations": 1, "checkpoint_minutes": 1000.0})
    base, texts = locate_base(parameters["base_model"]), held_out["text"].tolist()
    prompt = build_prompt(load_tokenizer(base), kinds, parameters["max_length"])
    precision = choose_precision(parameters["precision"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        trainer = prepare_trainer(base, prompt, precision, recipe, notes, notes[:8], path / "training")
        train(trainer, path / "adapter", 3600 * HOURS)
        probabilities, _ = score(trainer.model, prompt, texts, parameters["score_batch"])
        answers, _ = generate(trainer.model, prompt, texts[:WRITTEN], parameters["score_batch"])
    scored = [kinds[column] for column in probabilities[: len(answers)].argmax(axis=1)]
    return probabilities, sum(parse_answer(one, kinds) == kind for one, kind in zip(answers, scored, strict=True))


def main() -> None:
    """Accuracy, macro-F1 and differences, with intervals from resampled sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path, help="a parameter file")
    parser.add_argument("-p", dest="parameter", action="append", default=[], metavar="name=value")
    parser.add_argument("--out", type=Path, help="write the answers there")
    parser.add_argument("--against", type=Path, help="compare with the answers in this file")
    options = parser.parse_args()
    parameters, problems = read_parameters(options.params, options.parameter)
    if problems:
        raise UserError("; ".join(problems))
    fields = Fields.of(parameters)
    notes, _ = drop_duplicates(read_notes(locate_notes(parameters["notes_path"]), fields).notes, {})
    notes, kinds = notes.reset_index(drop=True), [kind for kind in fields.kinds if kind in set(notes["kind"])]
    found = {arm: np.zeros((len(notes), len(kinds))) for arm in ("tfidf", "qlora")}
    written = 0
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for seen, unseen in folds.split(notes, notes["kind"], notes["source"]):
        fold, held_out = notes.iloc[seen], notes.iloc[unseen]
        found["tfidf"][unseen], _ = learn(tfidf_model(), fold, held_out["text"], kinds)
        found["qlora"][unseen], same = qlora(fold, held_out, kinds, parameters)
        written += same
    predictions = {arm: predictions_table(notes, one, kinds, 0.0) for arm, one in found.items()}
    if options.out:
        predictions["qlora"].to_json(options.out, orient="records", lines=True, force_ascii=False)
    for arm, table in predictions.items():
        rates = measure(table, notes["source"], kinds)
        print(f"{arm}: {with_interval(rates['accuracy'])}, macro-F1 {with_interval(rates['macro_f1'])}")
    others = {"tfidf": predictions["tfidf"]}
    others |= {options.against.name: pd.DataFrame(read_lines(options.against))} if options.against else {}
    print(
        f"{len(notes)} notes of {notes['source'].nunique()} sources; {written} of {FOLDS * WRITTEN} written as scored"
    )
    for name, table in others.items():
        pair = compare(name, table, "qlora", predictions["qlora"], notes["source"])
        print(f"qlora less {name}: {points_with_interval(pair['difference'])}")


if __name__ == "__main__":
    main()
