"""The worth of an arm or of a setting: every note is answered by a model that has not seen its source.

    .venv/bin/python benchmarks/out_of_fold.py params/laptop.yaml --language en
    .venv/bin/python benchmarks/out_of_fold.py params/embedded.yaml --qlora --out before.jsonl
    .venv/bin/python benchmarks/out_of_fold.py params/embedded.yaml --qlora -p epochs=4.0 --against before.jsonl

Holds the sources of each of three folds out in turn. TF-IDF, the probe of the base and their blend learn from the other
sources, and choose layers, penalties, weights and thresholds among these; with --qlora the base is trained on them to
the last epoch, and also writes its answers to the first notes of its fold. All notes are used: a setting of QLoRA that
is chosen here is chosen by the test notes of a lap, too. The tables of docs/LOG.md come from this file and from earlier
forms of it.
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
from onelap.arms.base import load_base, load_tokenizer, locate_base
from onelap.arms.blend import BLENDED, blend, fit_weights
from onelap.arms.calibration import adjust_for_skew, fit
from onelap.arms.cheap import learn, out_of_fold, tfidf_model
from onelap.arms.endpoint import generate, parse_answer
from onelap.arms.probe import fit_probe
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import Scorer, score
from onelap.lap.parameters import read_parameters
from onelap.machine.precision import choose_precision
from onelap.machine.store import read_lines
from onelap.notes.duplicates import drop_duplicates
from onelap.notes.fields import Fields
from onelap.notes.vault import guess_languages, locate_notes, read_notes
from onelap.qlora.recipe import Recipe
from onelap.qlora.training import prepare_trainer, train
from onelap.verdict.compare import TUNED, compare
from onelap.verdict.metrics import confidence, is_right, measure, predictions_table
from onelap.verdict.sentences import percent, points_with_interval, with_interval

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


def read(parameters: dict, language: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Notes without duplicates, of one language where it is given, with the column `cluster`; and their kinds."""
    fields = Fields.of(parameters)
    notes, _ = drop_duplicates(read_notes(locate_notes(parameters["notes_path"]), fields).notes, {})
    if language:
        notes = notes[np.array(guess_languages(notes["text"].tolist())) == language]
    notes = notes.reset_index(drop=True)
    return notes.assign(cluster=notes["source"]), [kind for kind in fields.kinds if kind in set(notes["kind"])]


def hidden_means(notes: pd.DataFrame, kinds: list[str], parameters: dict) -> np.ndarray:
    """Compute what `Scorer.hidden_means` returns of the untuned base."""
    base = locate_base(parameters["base_model"])
    prompt = build_prompt(load_tokenizer(base), kinds, parameters["max_length"])
    model = load_base(base, choose_precision(parameters["precision"]))
    return Scorer(model, prompt, parameters["score_batch"]).hidden_means(notes["text"].tolist())


def cheap(
    notes: pd.DataFrame, held_out: pd.DataFrame, means: np.ndarray, unseen: np.ndarray, kinds: list[str], target: float
) -> dict[str, tuple[np.ndarray, float]]:
    """Answer with TF-IDF, probe and blend: {arm: (calibrated probabilities, threshold)}."""
    probe, on_train = fit_probe(np.delete(means, unseen, axis=0), notes, kinds)
    seen = {"probe": on_train, "tfidf": out_of_fold(tfidf_model(), notes["text"], notes, kinds)}
    answers = {"probe": probe.probabilities(means[unseen])}
    answers["tfidf"], _ = learn(tfidf_model(), notes, held_out["text"], kinds)
    weights = fit_weights([seen[arm] for arm in BLENDED], notes["kind"], kinds)
    print(f"layers {sorted(probe.layers)}; weights {dict(zip(BLENDED, np.round(weights, 2).tolist(), strict=True))}")
    for part in (seen, answers):
        part["blend"] = blend([part[arm] for arm in BLENDED], weights)
    uncorrected = adjust_for_skew(notes["kind"], kinds, 0.0)
    calibrations = {arm: fit(uncorrected, seen[arm], notes["kind"], target) for arm in seen}
    return {arm: (one.apply(answers[arm]), one.threshold or np.inf) for arm, one in calibrations.items()}


def main() -> None:
    """Accuracy, macro-F1, sure answers and differences, with intervals from resampled sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path, help="a parameter file")
    parser.add_argument("-p", dest="parameter", action="append", default=[], metavar="name=value")
    parser.add_argument("--language", help="only notes that are guessed to be in this language, such as en")
    parser.add_argument("--qlora", action="store_true", help="train the base, too, which takes long")
    parser.add_argument("--out", type=Path, help="write the answers of QLoRA, or of the blend, there")
    parser.add_argument("--against", type=Path, help="compare with the answers in this file")
    options = parser.parse_args()
    parameters, problems = read_parameters(options.params, options.parameter)
    if problems:
        raise UserError("; ".join(problems))
    notes, kinds = read(parameters, options.language)
    means = hidden_means(notes, kinds, parameters)
    arms = ["tfidf", "probe", "blend", *([TUNED] if options.qlora else [])]
    found, sure, written = {arm: np.zeros((len(notes), len(kinds))) for arm in arms}, {}, 0
    for seen, unseen in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(
        notes, notes["kind"], notes["source"]
    ):
        fold, held_out = notes.iloc[seen].reset_index(drop=True), notes.iloc[unseen]
        for arm, (probabilities, threshold) in cheap(
            fold, held_out, means, unseen, kinds, parameters["target_accuracy"]
        ).items():
            found[arm][unseen] = probabilities
            sure.setdefault(arm, np.zeros(len(notes), bool))[unseen] = probabilities.max(axis=1) >= threshold
        if options.qlora:
            found[TUNED][unseen], same = qlora(fold, held_out, kinds, parameters)
            written += same
    predictions = {arm: predictions_table(notes, one, kinds, 0.0) for arm, one in found.items()}
    if options.out:
        predictions[arms[-1]].to_json(options.out, orient="records", lines=True, force_ascii=False)
    print(f"{len(notes)} notes of {notes['source'].nunique()} sources")
    for arm, table in predictions.items():
        rates = measure(table, notes["source"], kinds)
        print(f"{arm}: {with_interval(rates['accuracy'])}, macro-F1 {with_interval(rates['macro_f1'])}", end="")
        if arm in sure:
            print(
                f"; sure {percent(sure[arm].mean())}, {percent(is_right(table)[sure[arm]].mean())} of them right",
                end="",
            )
        print(f"; mean confidence {percent(confidence(table).mean())}")
    pairs = [("tfidf", arm) for arm in arms[1:]] + [("probe", "blend")]
    others = {options.against.name: pd.DataFrame(read_lines(options.against))} if options.against else {}
    pairs += [(name, arms[-1]) for name in others]
    for a, b in pairs:
        pair = compare(a, (others | predictions)[a], b, predictions[b], notes["source"])
        print(f"{b} less {a}: {points_with_interval(pair['difference'])}")
    if options.qlora:
        print(f"{written} of {FOLDS * WRITTEN} written as scored")


if __name__ == "__main__":
    main()
