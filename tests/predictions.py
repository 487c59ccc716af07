"""Predictions for tests, from strings: one letter a note."""

import numpy as np
import pandas as pd

from onelap.verdict.metrics import predictions_table

KINDS = ["a", "b", "c"]


def predict(truth: str, predicted: str, confidence: float = 0.8) -> pd.DataFrame:
    """Make predictions with one confidence; "aab" has two notes of kind a and one of kind b."""
    rest = (1 - confidence) / 2
    rows = np.array([[confidence if kind == guess else rest for kind in KINDS] for guess in predicted])
    notes = pd.DataFrame({"id": [str(number) for number in range(len(truth))], "kind": list(truth)})
    return predictions_table(notes, rows, KINDS, seconds=0.25)


def clusters_of(count: int, size: int = 4) -> pd.Series:
    """Put so many notes into clusters of this size."""
    return pd.Series([f"s{number // size}" for number in range(count)])
