"""What is corrected after training, without training again: the pull towards frequent kinds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from onelap.runs import write_json

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Probabilities p become softmax(log p + offset), an offset in nats a kind."""

    offsets: dict[str, float]

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """(notes, kinds), columns in the order of the offsets."""
        with np.errstate(divide="ignore"):
            return softmax(np.log(probabilities) + list(self.offsets.values()), axis=1)

    def save(self, adapter: Path) -> None:
        """Beside the adapter's weights, since it belongs to them."""
        write_json(adapter / FILE, {"offsets": self.offsets})


def against_skew(trained_on: pd.Series, kinds: list[str], strength: float) -> Calibration:
    """Logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314): rare kinds are named more readily.

    `trained_on` are the training notes' kinds. A strength of 1 takes their shares out wholly, which
    costs accuracy; 0 leaves them in. What was measured is in docs/LOG.md.
    """
    shares = trained_on.value_counts(normalize=True)
    return Calibration({kind: float(-strength * np.log(shares[kind])) for kind in kinds})
