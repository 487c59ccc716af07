"""Train, validation and test: stratified by kind, all notes of a source on one side.

A random split flatters: notes of one author share subjects and phrases, and a classifier
that has seen them is asked about the next author in daily use.
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from onelap import UserError

MIN_SOURCES = 3  # one for each part
SHUFFLES = 20  # candidate splits that are looked at; more did not find better ones


def split_notes(notes: pd.DataFrame, test_share: float, validation_share: float, seed: int) -> pd.DataFrame:
    """Add the column `part` (train, validation or test) to `notes`.

    Shares are of all notes. With fewer than `MIN_SOURCES` sources every note is its own
    group; `grouped(notes)` says which it was. Raises UserError where a part lacks a kind that
    training needs.
    """
    groups = notes["source"] if grouped(notes) else notes["id"]
    part = pd.Series("train", index=notes.index)
    part[_fold(notes["kind"], groups, test_share, seed)] = "test"
    rest = part == "train"
    share_of_rest = validation_share / (1 - test_share)
    chosen = _fold(notes["kind"][rest], groups[rest], share_of_rest, seed)
    part[chosen] = "validation"
    untrained = set(notes["kind"]) - set(notes["kind"][part == "train"])
    if untrained:
        raise UserError(
            f"all notes of kind {', '.join(sorted(untrained))} come from one or two sources and none is left "
            "to train on: add notes of that kind from other sources"
        )
    return notes.assign(part=part)


def grouped(notes: pd.DataFrame) -> bool:
    """Whether there are enough sources to keep each on one side."""
    return notes["source"].nunique() >= MIN_SOURCES


def _fold(kinds: pd.Series, groups: pd.Series, share: float, seed: int) -> pd.Index:
    """Index of the notes in the fold that comes nearest to the share and to the kinds' proportions."""
    folds = min(max(2, round(1 / share)), groups.nunique(), int(kinds.value_counts().max()))
    overall = kinds.value_counts()
    best, best_distance = None, np.inf
    for shuffle in range(SHUFFLES):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + shuffle)
        for _, fold in splitter.split(kinds, kinds, groups):
            inside = kinds.iloc[fold].value_counts().reindex(overall.index, fill_value=0)
            # Total variation distance of the kinds, and how far the size is off.
            off = (inside / len(fold) - overall / len(kinds)).abs().sum() / 2
            off += abs(len(fold) / len(kinds) - share)
            # A kind that is wholly inside the fold could not be learnt.
            distance = off + (inside == overall).sum()
            if distance < best_distance:
                best, best_distance = kinds.index[fold], distance
    return best
