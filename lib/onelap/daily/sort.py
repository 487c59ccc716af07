"""Sorting new notes with a run's adapter, which stays loaded: a note then costs one forward pass.

from onelap.sorting import Sorter

sorter = Sorter.load("outputs/20261121-090000_full")
for answer in sorter.sort(["Water early; the midday sun burnt it.", "milk, eggs"]):
    print(answer.kind, answer.confidence, answer.sure)
"""

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
from onelap.notes.markup import plain, split_front_matter
from onelap.notes.read import Fields

DIGITS = 4  # of a probability; what is beyond depends on the notes that were scored beside it


@dataclass(frozen=True)
class Answer:
    """What kind a note is of."""

    kind: str | None
    """The likeliest; None for a note without words, or one that the model cannot score."""
    confidence: float
    """Its probability; 0 where there is no kind."""
    probabilities: dict[str, float]
    sure: bool
    """Whether the confidence reaches the threshold; where it does not, the note is better left for a person."""


NO_ANSWER = Answer(None, 0.0, {}, False)


@dataclass(frozen=True)
class Classifier:
    """What of a run sorts notes."""

    base: Path
    adapter: Path
    prompt: Prompt
    calibration: Calibration
    precision: Precision
    score_batch: int

    @classmethod
    def of(cls, run: Run) -> "Classifier":
        """Raises UserError for a run that was not evaluated, a damaged adapter, a base that is not here or another."""
        asked, record = run.scoring, run.record
        hashes = record["hashes"]
        for file, name in {"adapter_model.safetensors": "adapter", CALIBRATION: "calibration"}.items():
            if hash_files(run.require(run.adapter_path / file, "03_train and 04_evaluate")) != hashes.get(name):
                raise UserError(
                    f"{run.adapter_path / file}: expected the file that the run has made, found a damaged or another "
                    f"one; `onelap run --resume {run.path}` makes it again"
                )
        base = locate_base(asked["base_model"])
        # Reading all of a large base takes seconds: only where its files are not as they were when it was.
        if stamp_files(base) != record.get("base_stamp") and hash_files(base) != hashes["base"]:
            raise UserError(
                f"base_model {base}: expected the base that {run.path.name} was made with, found other files"
            )
        prompt = build_prompt(load_tokenizer(base), run.read_manifest()["kinds"], asked["max_length"])
        if prompt.digest != hashes["prompts"]["qlora"]:
            raise UserError(f"{run.path}: expected the prompt that the adapter has learnt, found other prompt tokens")
        # Where training overflowed, so would sorting; else whatever this device does best.
        precision = choose_precision("fp32" if record.get("precision") == "fp32" else "auto")
        calibration = Calibration.load(run.adapter_path)
        return cls(base, run.adapter_path, prompt, calibration, precision, asked["score_batch"])


class Sorter:
    """A model that is loaded, and all that makes its scores an answer."""

    def __init__(self, scorer: Scorer, calibration: Calibration, fields: Fields, threshold: float | None):
        self.scorer, self.calibration, self.fields = scorer, calibration, fields
        self.threshold = threshold
        """Confidence from which an answer is sure; None: none is."""

    @classmethod
    def load(cls, run: Run | str | Path, min_confidence: float | None = None) -> "Sorter":
        """Load the base and the adapter of a run, given by its folder or its name below outputs/.

        `min_confidence` (0 to 1) stands in for the run's own threshold, which may be none: then no
        answer is sure. Raises UserError as `Classifier.of` does.

        >>> Sorter.load("20261121-090000_full", min_confidence=0.8)  # doctest: +SKIP
        """
        run = run if isinstance(run, Run) else find_run(str(run), PROJECT / "outputs")
        classifier = Classifier.of(run)
        model = load_adapter(load_base(classifier.base, classifier.precision), classifier.adapter)
        calibration, fields = classifier.calibration, Fields.of(run.read_manifest()["fields"])
        threshold = calibration.threshold if min_confidence is None else min_confidence
        return cls(Scorer(model, classifier.prompt, classifier.score_batch), calibration, fields, threshold)

    def sort(self, texts: Sequence[str]) -> list[Answer]:
        """An answer for each text, in their order; Markdown is read as it was in training.

        Any text will do: what is too long loses its middle, chat tokens are plain text.

        >>> sorter.sort(["milk, eggs"])  # doctest: +SKIP
        [Answer(kind='none', confidence=0.93, probabilities={'decision': 0.01, ...}, sure=True)]
        """
        words = [self._words(text) for text in texts]
        scored = [index for index, text in enumerate(words) if text]
        answers = [NO_ANSWER] * len(words)
        if scored:
            probabilities = self.calibration.apply(self._probabilities([words[index] for index in scored]))
            for index, row in zip(scored, probabilities, strict=True):
                answers[index] = self._answer(row)
        return answers

    def _words(self, text: str) -> str:
        """The text as training had it; half an emoji, which JSON can carry, becomes a mark."""
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        _, body, _ = split_front_matter(whole)
        return plain(body, self.fields.kinds, self.fields.kind)[0]

    def _probabilities(self, texts: list[str]) -> np.ndarray:
        """(texts, kinds); not a number for a text that makes the model overflow, and for no other."""
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
