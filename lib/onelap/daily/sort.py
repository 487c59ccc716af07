"""Sorting new notes with a run's adapter, which stays loaded: a note then costs one forward pass (docs/SORTING.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelap import PROJECT, UserError
from onelap.arms.base import load_adapter, load_base, load_tokenizer, locate_base
from onelap.arms.calibration import FILE as CALIBRATION
from onelap.arms.calibration import Calibration
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
class Classifier:
    """The parts of a finished run that sort notes, checked to be the run's own."""

    base: Path
    adapter: Path
    prompt: Prompt
    calibration: Calibration
    precision: Precision
    score_batch: int

    @classmethod
    def of(cls, run: Run) -> "Classifier":
        """Check a run. Raises UserError where it was not evaluated, or adapter or base are missing or changed."""
        scoring, record = run.scoring, run.record
        hashes = record["hashes"]
        for file, name in {"adapter_model.safetensors": "adapter", CALIBRATION: "calibration"}.items():
            if hash_files(run.require(run.adapter_path / file, "03_train and 04_evaluate")) != hashes.get(name):
                raise UserError(
                    f"{run.adapter_path / file}: expected the file that the run has made, found a damaged or another "
                    f"one; `onelap run --resume {run.path}` makes it again"
                )
        base = locate_base(scoring["base_model"])
        # Reading all of a large base takes seconds: it is done only where the files' sizes or times have changed.
        if stamp_files(base) != record.get("base_stamp") and hash_files(base) != hashes["base"]:
            raise UserError(f"base_model {base}: expected the base of {run.path.name}, found other files")
        prompt = build_prompt(load_tokenizer(base), run.read_manifest()["kinds"], scoring["max_length"])
        if prompt.digest != hashes["prompts"][TUNED]:
            raise UserError(f"{run.path}: expected the prompt that was learnt, found another one; make a new run")
        # Where training overflowed, sorting would too; else the best formats of this device.
        precision = choose_precision("fp32" if record.get("precision") == "fp32" else "auto")
        calibration = Calibration.load(run.adapter_path)
        return cls(base, run.adapter_path, prompt, calibration, precision, scoring["score_batch"])


class Sorter:
    """A loaded model, and everything that turns its scores into an answer."""

    def __init__(self, scorer: Scorer, calibration: Calibration, fields: Fields, threshold: float | None):
        self.scorer, self.calibration, self.fields = scorer, calibration, fields
        self.threshold = threshold  # the confidence from which an answer is sure; with None no answer is

    @classmethod
    def load(cls, run: Run | str | Path, min_confidence: float | None = None) -> "Sorter":
        """Load a run, folder or name below outputs/; `min_confidence` replaces its threshold. Raises UserError."""
        run = run if isinstance(run, Run) else find_run(str(run), PROJECT / "outputs")
        classifier = Classifier.of(run)
        model = load_adapter(load_base(classifier.base, classifier.precision), classifier.adapter)
        calibration, fields = classifier.calibration, Fields.from_json(run.read_manifest()["fields"])
        threshold = calibration.threshold if min_confidence is None else min_confidence
        return cls(Scorer(model, classifier.prompt, classifier.score_batch), calibration, fields, threshold)

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
