"""The worth of a setting, without the test notes: every other note is answered by a model that has not seen its source.

    .venv/bin/python benchmarks/out_of_fold.py outputs/RUN                             # as the run was made
    .venv/bin/python benchmarks/out_of_fold.py outputs/RUN -p learning_rate=4e-4 -p seed=1

Takes the training and validation notes of a run, holds the sources of each of three folds out in turn, trains on
the rest, and compares with TF-IDF on the same folds. The rows of docs/LOG.md's tables come from here; those before
this file came from an earlier form of it.
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
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import score
from onelap.lap.parameters import read_parameters
from onelap.lap.run import Run
from onelap.machine.precision import choose_precision
from onelap.qlora.recipe import Recipe
from onelap.qlora.training import prepare_trainer, train
from onelap.verdict.compare import compare
from onelap.verdict.metrics import measure, predictions_table
from onelap.verdict.sentences import with_interval

FOLDS = 3
HOURS = 100.0


def qlora(notes: pd.DataFrame, held_out: pd.DataFrame, kinds: list[str], parameters: dict) -> np.ndarray:
    """Probabilities, (notes, kinds), of an adapter trained on `notes` to the last epoch: nothing chooses one."""
    recipe = Recipe.of(parameters | {"evaluations": 1, "checkpoint_minutes": 1000.0})
    base = locate_base(parameters["base_model"])
    prompt = build_prompt(load_tokenizer(base), kinds, parameters["max_length"])
    precision = choose_precision(parameters["precision"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        trainer = prepare_trainer(base, prompt, precision, recipe, notes, notes[:8], path / "training")
        train(trainer, path / "adapter", 3600 * HOURS)
        return score(trainer.model, prompt, held_out["text"].tolist(), parameters["score_batch"])[0]


def main() -> None:
    """Accuracy, macro-F1 and the difference to TF-IDF, with intervals from resampled sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("-p", dest="parameter", action="append", default=[], metavar="name=value")
    options = parser.parse_args()
    run = Run(options.run)
    parameters, problems = read_parameters(run.parameters, options.parameter)
    if problems:
        raise UserError("; ".join(problems))
    kinds = run.read_manifest()["kinds"]
    notes = pd.concat([run.read_part("train"), run.read_part("validation")], ignore_index=True)
    found = {"tfidf": np.zeros((len(notes), len(kinds))), "qlora": np.zeros((len(notes), len(kinds)))}
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for seen, unseen in folds.split(notes, notes["kind"], notes["cluster"]):
        fold, held_out = notes.iloc[seen], notes.iloc[unseen]
        found["tfidf"][unseen], _ = learn(tfidf_model(), fold, held_out["text"], kinds)
        found["qlora"][unseen] = qlora(fold, held_out, kinds, parameters)
    predictions = {arm: predictions_table(notes, one, kinds, 0.0) for arm, one in found.items()}
    for arm, table in predictions.items():
        rates = measure(table, notes["cluster"], kinds)
        print(f"{arm}: {with_interval(rates['accuracy'])}, macro-F1 {with_interval(rates['macro_f1'])}")
    pair = compare("tfidf", predictions["tfidf"], "qlora", predictions["qlora"], notes["cluster"])
    value, low, high = (100 * pair["difference"][name] for name in ("value", "low", "high"))
    sources = notes["cluster"].nunique()
    print(f"{len(notes)} notes of {sources} sources; qlora less tfidf {value:+.1f} points ({low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
