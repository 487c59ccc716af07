"""Sorting new notes with the arm of a run that did best, which stays loaded (docs/SORTING.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelap import PROJECT, UserError
from onelap.arms.base import load_adapter, load_base, load_tokenizer, locate_base
from onelap.arms.blend import BlendScorer
from onelap.arms.calibration import Calibration
from onelap.arms.cheap import TextScorer, tfidf_model
from onelap.arms.probe import Probe, ProbeScorer, keep_layers
from onelap.arms.prompts import Prompt, build_prompt
from onelap.arms.scoring import Scorer
from onelap.lap.history import find_run
from onelap.lap.run import Run
from onelap.machine.precision import Precision, choose_precision
from onelap.machine.store import hash_files, stamp_files
from onelap.notes.fields import Fields
from onelap.notes.read import clean
from onelap.verdict.compare import TUNED

DIGITS = 4  # of a probability; further digits depend on the notes that were scored in the same batch


@dataclass(frozen=True)
class Answer:
    """The kind of a note."""

    kind: str | None  # the likeliest kind; None for a note without words, or one that the model cannot score
    confidence: float  # its probability; 0 where there is no kind
    probabilities: dict[str, float]
    sure: bool  # whether the confidence reaches the threshold; where it does not, the note is better left for a person


NO_ANSWER = Answer(None, 0.0, {}, False)


@dataclass(frozen=True)
class PromptedBase:
    """The base of a finished run with the prompt that was learnt, checked to be the run's own."""

    base: Path
    prompt: Prompt
    precision: Precision

    @classmethod
    def of(cls, run: Run) -> "PromptedBase":
        """Check a run. Raises UserError where base or prompt are missing or others."""
        scoring, record = run.scoring, run.record
        base, hashes = locate_base(scoring["base_model"]), record["hashes"]
        # Reading all of a large base takes seconds: it is done only where the files' sizes or times have changed.
        if stamp_files(base) != record.get("base_stamp") and hash_files(base) != hashes["base"]:
            raise UserError(f"base_model {base}: expected the base of {run.path.name}, found other files")
        prompt = build_prompt(load_tokenizer(base), run.read_manifest()["kinds"], scoring["max_length"])
        if prompt.digest != hashes["prompts"][TUNED]:
            raise UserError(f"{run.path}: expected the prompt that was learnt, found another one; make a new run")
        # Where training overflowed, sorting would too; else the best formats of this device.
        precision = choose_precision("fp32" if record.get("precision") == "fp32" else "auto")
        return cls(base, prompt, precision)


def load_scorer(run: Run, arm: str):
    """Load what computes the `probabilities(texts)` of an arm of SORTERS. Raises UserError where it is not the run's.

    Nothing is unpickled: TF-IDF learns again from the run's training notes, in seconds, and the others are numbers.
    """
    sorter = run.read_sorter(arm)
    if arm == "blend":
        return BlendScorer([load_scorer(run, member) for member in sorter["weights"]], list(sorter["weights"].values()))
    if arm == "tfidf":
        return TextScorer(tfidf_model(), run.read_part("train"), run.read_manifest()["kinds"])
    prompted, batch = PromptedBase.of(run), run.scoring["score_batch"]
    model = load_base(prompted.base, prompted.precision)
    if arm == TUNED:
        return Scorer(load_adapter(model, run.own_adapter()), prompted.prompt, batch)
    probe = Probe(**sorter["probe"])
    keep_layers(model, max(probe.layers))
    return ProbeScorer(Scorer(model, prompted.prompt, batch), probe)


class Sorter:
    """A loaded arm, and everything that turns its scores into an answer."""

    def __init__(self, scorer, calibration: Calibration, fields: Fields, threshold: float | None):
        self.scorer, self.calibration, self.fields = scorer, calibration, fields
        self.threshold = threshold  # the confidence from which an answer is sure; with None no answer is

    @classmethod
    def load(cls, run: Run | str | Path, min_confidence: float | None = None, arm: str | None = None) -> "Sorter":
        """Load a run, folder or name below outputs/: its winner or another `arm` of SORTERS. Raises UserError.

        `min_confidence` replaces the arm's threshold.
        """
        run = run if isinstance(run, Run) else find_run(str(run), PROJECT / "outputs")
        arm = arm or run.winner
        scorer, calibration = load_scorer(run, arm), Calibration(**run.read_sorter(arm)["calibration"])
        threshold = calibration.threshold if min_confidence is None else min_confidence
        return cls(scorer, calibration, Fields.from_json(run.read_manifest()["fields"]), threshold)

    def sort(self, texts: Sequence[str]) -> list[Answer]:
        """Answer each raw text, in order. Any text is allowed; Markdown is read as in training."""
        return self.answer([clean(text, self.fields) for text in texts])

    def answer(self, texts: Sequence[str]) -> list[Answer]:
        """Answer each text of the notes' reader (`notes.read`), in order; an empty one gets `NO_ANSWER`."""
        scored = [text for text in texts if text]
        rows = iter(self.calibration.apply(self._probabilities(scored)) if scored else [])
        return [self._answer(next(rows)) if text else NO_ANSWER for text in texts]

    def _probabilities(self, texts: list[str]) -> np.ndarray:
        """(texts, kinds); NaN for a text that makes the model overflow, and for no other."""
        try:
            return self.scorer.probabilities(texts)
        except FloatingPointError:
            if len(texts) == 1:
                return np.full((1, len(self.calibration.offsets)), np.nan)
            return np.concatenate([self._probabilities([text]) for text in texts])

    def _answer(self, probabilities: np.ndarray) -> Answer:
        if np.isnan(probabilities).any():
            return NO_ANSWER
        by_kind = dict(zip(self.calibration.offsets, map(float, probabilities.round(DIGITS)), strict=True))
        kind = list(by_kind)[probabilities.argmax()]
        sure = self.threshold is not None and probabilities.max() >= self.threshold
        return Answer(kind, by_kind[kind], by_kind, bool(sure))
