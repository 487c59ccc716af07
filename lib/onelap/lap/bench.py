"""One arm, calibrated on the validation notes and measured on the test notes."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from onelap.arms.calibration import Calibration, fit
from onelap.lap.run import Run
from onelap.notes.split import PARTS
from onelap.verdict.metrics import is_right, measure, measure_sure, predictions_table, rate


@dataclass
class Contender:
    """The answers of an arm, and what is measured of them."""

    predictions: pd.DataFrame  # on the test notes
    metrics: dict
    validation: pd.DataFrame  # predictions on the validation notes
    calibration: Calibration | None


class Bench:
    """The notes on which all arms of a run are measured."""

    def __init__(self, run: Run, target: float):
        """`target` is the accuracy wanted of the answers that count as sure."""
        self.run, self.target, self.kinds = run, target, run.read_manifest()["kinds"]
        self.train, self.validation, self.test = (run.read_part(part) for part in PARTS)
        self.texts = [*self.validation["text"], *self.test["text"]]  # the order of all probabilities

    def measure(self, probabilities: np.ndarray, seconds: float, gb: dict, start: Calibration | None) -> Contender:
        """Measure an arm by its probabilities, (validation + test notes, kinds).

        `gb` is `PeakMemory.gb`, measured while they were made. Temperature and threshold are added to the calibration
        `start`; an arm that gives no probabilities has none. The metrics have the accuracy on the validation notes:
        choices between arms are made on it, never on the test.
        """
        n, calibration = len(self.validation), None
        if start:
            calibration = fit(start, probabilities[:n], self.validation["kind"], self.target)
            probabilities = calibration.apply(probabilities)
        validation = predictions_table(self.validation, probabilities[:n], self.kinds, seconds)
        predictions = predictions_table(self.test, probabilities[n:], self.kinds, seconds)
        metrics = measure(predictions, self.test["cluster"], self.kinds)
        metrics |= {"validation_accuracy": rate(is_right(validation)), "peak_memory_gb": gb}
        metrics["sure_enough"] = measure_sure(predictions, calibration.threshold if calibration else None)
        return Contender(predictions, metrics, validation, calibration)

    def write(self, arm: str, contender: Contender, **model: object) -> None:
        """Write an arm; `model` is what scores notes besides the base, in numbers."""
        sorter = {"calibration": asdict(contender.calibration)} if contender.calibration else {}
        self.run.write_arm(arm, contender.predictions, contender.metrics, contender.validation, sorter | model)
