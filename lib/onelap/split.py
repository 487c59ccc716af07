"""Train, validation and test: stratified by kind, all notes of a source on one side.

A random split flatters: notes of one author share subjects and phrases, and a classifier
that has seen them is asked about the next author in daily use.
"""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from onelap import UserError

MIN_SOURCES = 3  # one for each part
SHUFFLES = 20  # candidate splits that are looked at; more did not find better ones
FOLDS = 20  # small folds that are joined up to the share asked for


def split_notes(notes: pd.DataFrame, test_share: float, validation_share: float, seed: int) -> pd.DataFrame:
    """Add the column `part` (train, validation or test) to `notes`.

    Shares are of all notes. A note without a source is its own group, and so is every note where
    fewer than `MIN_SOURCES` sources are known; `grouped(notes)` says which it was. Raises
    UserError where a kind would not be trained at all.
    """
    known = (notes["source"] != "") & grouped(notes)
    groups = ("source " + notes["source"]).where(known, "note " + notes["id"])
    part = pd.Series("train", index=notes.index)
    part[_fold(notes["kind"], groups, test_share, seed)] = "test"
    rest = part == "train"
    part[_fold(notes["kind"][rest], groups[rest], validation_share / (1 - test_share), seed)] = "validation"
    untrained = set(notes["kind"]) - set(notes["kind"][part == "train"])
    if untrained:
        raise UserError(
            f"kind {', '.join(sorted(untrained))}: its notes come from so few sources that none is left to train on; "
            "add notes of that kind from other sources"
        )
    return notes.assign(part=part)


def grouped(notes: pd.DataFrame) -> bool:
    """Whether there are enough sources to keep each on one side."""
    return notes.loc[notes["source"] != "", "source"].nunique() >= MIN_SOURCES


def _fold(kinds: pd.Series, groups: pd.Series, share: float, seed: int) -> pd.Index:
    """Index of the notes whose groups come nearest to the share and to the kinds' proportions."""
    codes = kinds.astype("category").cat.codes.to_numpy()
    overall = np.bincount(codes)
    folds = min(FOLDS, groups.nunique(), overall.max())
    candidates = []
    for shuffle in range(seed * SHUFFLES, (seed + 1) * SHUFFLES):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=shuffle)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            parts = [fold for _, fold in splitter.split(codes, codes, groups)]
        # The first folds hold the groups with the most uneven kinds: take them in another order.
        order = np.random.default_rng(shuffle).permutation(folds)
        candidates += [np.concatenate([parts[fold] for fold in order[:joined]]) for joined in range(1, folds)]

    def distance(chosen: np.ndarray) -> float:
        if not len(chosen):
            return np.inf
        inside = np.bincount(codes[chosen], minlength=len(overall))
        # Total variation distance of the kinds, and how far the size is off.
        off = abs(inside / len(chosen) - overall / len(codes)).sum() / 2 + abs(len(chosen) / len(codes) - share)
        # A kind that is wholly inside could not be learnt, one wholly outside not be measured.
        return off + (inside == overall).sum() + 0.1 * (inside == 0).sum()

    return kinds.index[np.sort(min(candidates, key=distance))]
