"""Train, validation and test: stratified by kind, all notes of a source on one side, frozen.

A random split flatters: notes of one author share subjects and phrases, and a classifier
that has seen them is asked about the next author in daily use. Near-duplicates stay on one
side with their sources, for the same reason.

Which note is in which part is kept in a file of its own, so that a vault may grow: a note that
was in test stays in test, a new one goes where its source is.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onelap import UserError
from onelap.runs import PARTS, read_json, write_json

MIN_SOURCES = 3  # one for each part
LARGEST_JOINED = 0.2  # of all notes; what hangs together beyond that shares a template, not subjects
ORDERS = 20  # orders in which groups are tried; more did not find better splits
SET_ASIDE = "set aside"


class Memory:
    """The part of every note that was ever split, in a file below `folder`.

    Another notes' path, share or seed has a file of its own; to draw anew, delete the file. A
    deleted note's entry stays, and touches no other note.
    """

    def __init__(self, folder: Path, notes_path: Path, shares: dict[str, float], seed: int):
        self.drawn_for = {"notes_path": str(notes_path.resolve()), "shares": shares, "seed": seed}
        digest = hashlib.sha256(json.dumps(self.drawn_for, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{notes_path.stem}_{digest[:10]}.json"

    def read(self) -> dict[str, str]:
        """{id of a note: its part}; empty before the first split."""
        return read_json(self.path)["parts"] if self.path.exists() else {}

    def add(self, notes: pd.DataFrame) -> None:
        """Remember the column `part`; what was set aside is decided again next time."""
        kept = notes[notes["part"] != SET_ASIDE]
        write_json(
            self.path, self.drawn_for | {"parts": self.read() | dict(zip(kept["id"], kept["part"], strict=True))}
        )


def split_notes(
    notes: pd.DataFrame, pairs: pd.DataFrame, shares: dict[str, float], seed: int, remembered: dict[str, str]
) -> pd.DataFrame:
    """Add the columns `group` and `part` (train, validation, test or set aside) to `notes`.

    `pairs` are near-duplicates, by position in `notes`; `shares` those of validation and test among
    all notes; `remembered` the parts of notes that were split before. A note without a source is
    its own group, and so is every note where fewer than `MIN_SOURCES` sources are known. Groups
    that share a near-duplicate go together. Where they cannot (they would be more than
    `LARGEST_JOINED`, or the memory has them apart), one copy is set aside: the new one, or else the one
    in train, or else in validation. Raises UserError where a kind would not be trained at all.
    """
    known = (notes["source"] != "") & grouped(notes)
    group, names = pd.factorize(("source " + notes["source"]).where(known, "note " + notes["id"]))
    linked = coo_array((np.ones(len(pairs)), (group[pairs["first"]], group[pairs["second"]])), shape=[len(names)] * 2)
    joined = connected_components(linked, directed=False)[1][group]
    too_large = np.bincount(joined)[joined] > LARGEST_JOINED * len(notes)
    joined = np.unique(np.where(too_large, len(names) + group, joined), return_inverse=True)[1]

    rank = notes["id"].map(remembered).map(PARTS.index, na_action="ignore")  # test is the last and the most protected
    rank_of_group = rank.groupby(group).max().reindex(range(len(names)))
    rank_of_joined = rank.groupby(joined).max()
    placed = pd.Series(rank_of_group.to_numpy()[group]).fillna(pd.Series(joined).map(rank_of_joined))
    new = placed.isna().to_numpy()
    placed[new] = _place(notes["kind"], joined, placed, shares, seed)[new]
    placed = placed.astype(int).to_numpy()

    aside = (rank.fillna(pd.Series(placed)) != placed).to_numpy(copy=True)
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    differ, lower = placed[first] != placed[second], placed[first] < placed[second]
    new = rank.isna().to_numpy()
    drop_first = np.where(new[first] == new[second], lower, new[first])
    aside[first[differ & drop_first]] = True
    aside[second[differ & ~drop_first]] = True
    part = np.where(aside, SET_ASIDE, np.array(PARTS)[placed])
    untrained = set(notes["kind"]) - set(notes["kind"][part == "train"])
    if untrained:
        raise UserError(
            f"kind {', '.join(sorted(untrained))}: its notes come from so few sources that none is left to train on; "
            "add notes of that kind from other sources"
        )
    return notes.assign(group=joined, part=part)


def grouped(notes: pd.DataFrame) -> bool:
    """Whether there are enough sources to keep each on one side."""
    return notes.loc[notes["source"] != "", "source"].nunique() >= MIN_SOURCES


def _place(kinds: pd.Series, joined: np.ndarray, placed: pd.Series, shares: dict[str, float], seed: int) -> np.ndarray:
    """(notes,) parts as positions in PARTS; a group without one goes where its kinds are missing most.

    Greedy, the largest groups first, as scikit-learn's StratifiedGroupKFold does for parts of
    equal size; the best of several orders is taken.
    """
    by_kind = pd.crosstab(joined, kinds).to_numpy()  # (groups, kinds)
    old = (
        pd.crosstab(placed.fillna(-1).to_numpy(), kinds.to_numpy()).reindex(range(len(PARTS)), fill_value=0).to_numpy()
    )
    new = np.unique(joined[placed.isna()])
    share = np.array([1 - sum(shares.values()), *(shares[part] for part in PARTS[1:])])
    target = np.outer(share, by_kind.sum(axis=0))
    sizes = by_kind.sum(axis=1)
    # One large source in a small part makes its figure that source's: variance grows with the squared sizes.
    lumpiness = np.outer(sizes.astype(float) ** 2, 1 / target.sum(axis=1))
    best, least = np.zeros(len(by_kind), dtype=int), np.inf
    for order in range(ORDERS if len(new) < 1000 else 1):
        rng = np.random.default_rng([seed, order])
        queue = rng.permutation(new)
        queue = queue[np.argsort(-sizes[queue], kind="stable")]
        counts, choice = old.astype(float), np.zeros(len(by_kind), dtype=int)
        for number in queue:
            growth = ((counts + by_kind[number] - target) ** 2 - (counts - target) ** 2) / target
            choice[number] = (growth.sum(axis=1) + lumpiness[number]).argmin()
            counts[choice[number]] += by_kind[number]
        off = ((counts - target) ** 2 / target).sum() + lumpiness[new, choice[new]].sum()
        if off < least:
            best, least = choice, off
    return best[joined]
