"""Train, validation and test: stratified by kind, all notes of a source on one side, frozen.

A random split flatters: notes of one author share subjects and phrases, and a classifier
that has seen them is asked about the next author in daily use. Near-duplicates stay on one
side with their sources, for the same reason. The test prefers notes of the style that will be
sorted (raw ones), and leaves half of them to learn from.

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
from onelap.machine.names import normalize
from onelap.machine.store import read_json, write_json

PARTS = ["train", "validation", "test"]
MIN_SOURCES = 3  # one for each part
LARGEST_JOINED = 0.2  # of all notes; what hangs together beyond that shares a template, not subjects
ORDERS = 20  # orders in which groups are tried; more did not find better splits
SET_ASIDE = "set aside"
PREFERRED_IN_TEST = 0.5  # of the notes of the preferred style, at most


class FrozenSplit:
    """The part of every note that was ever split, in a file below `folder`.

    Another notes' path, share or seed has a file of its own; to draw anew, delete the file. A
    deleted note's entry stays, and touches no other note.
    """

    def __init__(self, folder: Path, notes_path: Path, shares: dict[str, float], seed: int):
        self.drawn_for = {"notes_path": str(notes_path.resolve()), "shares": shares, "seed": seed}
        digest = hashlib.sha256(json.dumps(self.drawn_for, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{notes_path.stem}_{digest[:10]}.json"

        memory = read_json(self.path) if self.path.exists() else {"parts": {}, "by_source": None}
        self.parts: dict[str, str] = memory["parts"]
        """{id of a note: its part}; empty before the first split."""
        self.by_source: bool | None = memory["by_source"]
        """Whether the notes were split by source; None before the first split."""

    def add(self, notes: pd.DataFrame, by_source: bool) -> None:
        """Remember the column `part`; what was set aside is decided again next time."""
        kept = notes[notes["part"] != SET_ASIDE]
        self.parts |= dict(zip(kept["id"], kept["part"], strict=True))
        self.by_source = by_source
        write_json(self.path, self.drawn_for | {"by_source": by_source, "parts": self.parts})


def split_notes(
    notes: pd.DataFrame,
    pairs: pd.DataFrame,
    shares: dict[str, float],
    seed: int,
    remembered: dict[str, str],
    by_source: bool,
    preferred: str = "",
) -> pd.DataFrame:
    """Add the columns `group` and `part` (train, validation, test or set aside) to `notes`.

    `pairs` are near-duplicates, by position in `notes`; `shares` those of validation and test among
    all notes; `remembered` the parts of notes that were split before; `preferred` the style that
    test prefers. A note without a source is its own group, and so is every note unless `by_source`.
    Groups that share a near-duplicate go together. Where they cannot (they would be more than
    `LARGEST_JOINED`, or the memory has them apart), one copy is set aside: the new one, or else the
    one in train, or else in validation. A note that changed its source is set aside where the
    other notes of that source are in another part. Of two copies in test, of
    which one is of the preferred style, the other is set aside if it is new: the same thought is
    tested once. Raises UserError where a part would be empty or a kind not be trained at all.
    """
    known = (notes["source"] != "") & by_source
    group, names = pd.factorize(("source " + notes["source"].map(normalize)).where(known, "note " + notes["id"]))
    linked = coo_array((np.ones(len(pairs)), (group[pairs["first"]], group[pairs["second"]])), shape=[len(names)] * 2)
    joined = connected_components(linked, directed=False)[1][group]
    too_large = np.bincount(joined)[joined] > LARGEST_JOINED * len(notes)
    joined = np.unique(np.where(too_large, len(names) + group, joined), return_inverse=True)[1]

    rank = notes["id"].map(remembered).map(PARTS.index, na_action="ignore")  # test is the last and the most protected
    by_group = pd.Series(_usual_rank(rank, group, len(names))[group])
    placed = by_group.fillna(by_group.groupby(joined).transform("max"))
    like_test = (notes["style"] == preferred) & (preferred != "")
    placed = placed.fillna(_place(notes["kind"], like_test, joined, placed, shares, seed)).astype(int).to_numpy()

    new = rank.isna().to_numpy()
    moved = ~new & (rank != placed).to_numpy()
    part = np.where(moved | _copies(pairs, placed, new, like_test), SET_ASIDE, np.array(PARTS)[placed])
    untrained = sorted(set(notes["kind"]) - set(notes["kind"][part == "train"]))
    empty = [name for name in PARTS if name not in part]
    if untrained or empty:
        missing = f"no note of the kind {', '.join(untrained)} for train" if untrained else f"none for {empty[0]}"
        raise UserError(
            f"expected sources enough for train, validation and test, found {notes['source'].nunique()} of which "
            f"{missing} is left; add notes from other sources, name another source_field, or delete the split's file "
            "in split_dir to draw anew"
        )
    return notes.assign(group=joined, part=part)


def _usual_rank(rank: pd.Series, group: np.ndarray, groups: int) -> np.ndarray:
    """(groups,) where most of a group's notes are, the more protected of equals; NaN for a new group."""
    counts = np.zeros((groups, len(PARTS)))
    old = rank.notna().to_numpy()
    np.add.at(counts, (group[old], rank[old].astype(int)), 1)
    usual = len(PARTS) - 1 - counts[:, ::-1].argmax(axis=1)
    return np.where(counts.any(axis=1), usual, np.nan)


def _copies(pairs: pd.DataFrame, placed: np.ndarray, new: np.ndarray, like_test: pd.Series) -> np.ndarray:
    """(notes,) which of two near-duplicates is set aside, where they are in two parts or one in test is enough."""
    aside = np.zeros(len(placed), dtype=bool)
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    apart = placed[first] != placed[second]
    drop_first = np.where(new[first] == new[second], placed[first] < placed[second], new[first])
    aside[first[apart & drop_first]] = True
    aside[second[apart & ~drop_first]] = True
    like = like_test.to_numpy()
    for copy, other in (first, second), (second, first):
        tested_twice = ~apart & (placed[copy] == PARTS.index("test")) & like[other] & ~like[copy]
        aside[copy[tested_twice & new[copy]]] = True
    return aside


def enough_sources(notes: pd.DataFrame) -> bool:
    """Whether there are enough sources to keep each on one side."""
    return notes.loc[notes["source"] != "", "source"].map(normalize).nunique() >= MIN_SOURCES


def _place(
    kinds: pd.Series, like_test: pd.Series, joined: np.ndarray, placed: pd.Series, shares: dict[str, float], seed: int
) -> pd.Series:
    """(notes,) parts as positions in PARTS; a group without one goes where its kinds are missing most.

    Greedy, the largest groups first, as scikit-learn's StratifiedGroupKFold does for parts of
    equal size; the best of several orders is taken.
    """
    strata = pd.get_dummies(kinds + like_test.map({True: " preferred", False: ""}), dtype=float)
    by_group = strata.groupby(joined).sum().to_numpy()  # (groups, strata)
    old = strata.groupby(placed.to_numpy()).sum().reindex(range(len(PARTS)), fill_value=0.0).to_numpy()
    target = _targets(kinds, like_test, strata, shares)
    sizes = by_group.sum(axis=1)
    # One large source in a small part makes its figure that source's: variance grows with the squared sizes.
    lumpiness = np.outer(sizes**2, 1 / target.sum(axis=1))
    waiting = np.unique(joined[placed.isna()])
    best, least = np.zeros(len(by_group), dtype=int), np.inf
    for order in range(ORDERS if len(waiting) < 1000 else 1):
        queue = np.random.default_rng([seed, order]).permutation(waiting)
        queue = queue[np.argsort(-sizes[queue], kind="stable")]
        counts, choice = old.copy(), np.zeros(len(by_group), dtype=int)
        for number in queue:
            growth = _off(counts + by_group[number], target) - _off(counts, target)
            choice[number] = (growth + lumpiness[number]).argmin()
            counts[choice[number]] += by_group[number]
        for empty in np.flatnonzero(counts.sum(axis=1) == 0):  # few large sources: each part needs one
            left = counts[0] - by_group  # what train would keep
            enough = (left >= np.sign(by_group)).all(axis=1)
            spared = [number for number in queue if choice[number] == 0 and enough[number]]
            if spared:
                choice[spared[-1]] = empty
                counts[[0, empty]] += [-by_group[spared[-1]], by_group[spared[-1]]]
        off = _off(counts, target).sum() + lumpiness[waiting, choice[waiting]].sum()
        if off < least:
            best, least = choice, off
    return pd.Series(best[joined])


def _targets(kinds: pd.Series, like_test: pd.Series, strata: pd.DataFrame, shares: dict[str, float]) -> np.ndarray:
    """(parts, strata) notes wanted: each kind by the shares, in test as many preferred ones as it may have."""
    in_all = strata.sum()
    in_test = {}
    for kind, preferred in like_test.groupby(kinds):
        wanted, there = shares["test"] * len(preferred), preferred.sum()
        taken = min(wanted, max(PREFERRED_IN_TEST, shares["test"]) * there)
        in_test |= {f"{kind} preferred": taken, kind: wanted - taken}
    test = in_all.index.map(in_test).to_numpy(dtype=float)
    validation = (in_all.to_numpy() - test) * shares["validation"] / (1 - shares["test"])
    return np.stack([in_all.to_numpy() - test - validation, validation, test])


def _off(counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(parts,) how far counts are from the target: chi-squared, where less than one note counts as one."""
    return ((counts - target) ** 2 / np.maximum(target, 1)).sum(axis=1)
