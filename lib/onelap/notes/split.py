"""Train, validation and test: stratified by kind, all notes of a source on one side, frozen.

A random split flatters: notes of one author share subjects and phrases, and a classifier that has seen them is asked
about the next author in daily use. Near-duplicates stay on one side with their sources for the same reason.
"""

import hashlib
import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onelap import PROJECT, UserError, expand_path, require_utf8
from onelap.machine.names import normalize
from onelap.machine.store import read_json, write_json

PARTS = ["train", "validation", "test"]
SET_ASIDE = "set aside"
MIN_SOURCES = 3  # one for each part
MAX_CLUSTER = 0.2  # of all notes; a larger cluster shares a template, not subjects
ORDERS = 20  # in which clusters are tried; more did not find better splits
MAX_ORDERED = 1000  # clusters; more are tried in one order only
MAX_PREFERRED_IN_TEST = 0.5  # of the notes of the preferred style


def locate_split(name: str) -> Path:
    """Resolve `split_dir`: a relative one is the project's, wherever a lap is run. Raises UserError for a bad path."""
    return require_utf8(PROJECT / expand_path(name))


class FrozenSplit:
    """The part of every note that was ever split, in a file below `folder`: a vault may grow, and test stays test.

    Another notes' path, share or seed has a file of its own; delete it to draw anew. A deleted note's entry stays.
    """

    def __init__(self, folder: Path, notes_path: Path, shares: dict[str, float], seed: int):
        self.drawn_for = {"notes_path": str(notes_path.resolve()), "shares": shares, "seed": seed}
        digest = hashlib.sha256(json.dumps(self.drawn_for, sort_keys=True).encode()).hexdigest()
        name = f"_{digest[:10]}.json"  # behind a name that may be that of a link, in files of version 0.1
        self.path = min(folder.glob(f"*{name}"), default=folder / f"{notes_path.resolve().stem}{name}")
        stored = read_json(self.path) if self.path.exists() else {"parts": {}, "by_source": None}
        self.parts = {unicodedata.normalize("NFC", identity): part for identity, part in stored["parts"].items()}
        self.by_source: bool | None = stored["by_source"]  # how the notes were split; None before the first split

    def add(self, notes: pd.DataFrame, by_source: bool) -> None:
        """Store the column `part`, except for notes that were set aside: these are decided again next time."""
        kept = notes[notes["part"] != SET_ASIDE]
        self.parts |= dict(zip(kept["id"], kept["part"], strict=True))
        self.by_source = by_source
        write_json(self.path, self.drawn_for | {"by_source": by_source, "parts": self.parts})


def enough_sources(notes: pd.DataFrame) -> bool:
    """Tell whether there are enough sources to keep each on one side."""
    return notes.loc[notes["source"] != "", "source"].map(normalize).nunique() >= MIN_SOURCES


def split_notes(
    notes: pd.DataFrame,
    pairs: pd.DataFrame,
    shares: dict[str, float],
    seed: int,
    frozen_parts: dict[str, str],
    by_source: bool,
    preferred: str = "",
) -> pd.DataFrame:
    """Add the columns `cluster` and `part` (train, validation, test or set aside) to `notes`.

    `pairs` are near-duplicates, by position in `notes`; `shares` are those of validation and test among all notes;
    `frozen_parts` is {id: part} of earlier splits; `preferred` is the style that the test prefers. A cluster holds the
    notes of one source (a single note without a source, or unless `by_source`), and those of the sources that share a
    near-duplicate with it.

    Set aside are: of two near-duplicates in different parts (their cluster would exceed `MAX_CLUSTER`, or the frozen
    split has them apart) the new one, else the one in train, else the one in validation; a note that changed its
    source, where the others of that source are in another part; and of two near-duplicates in test, of which one is of
    the preferred style, the other one if it is new: the same thought is tested once.

    Raises UserError where a part would be empty, or a kind would have no note in train.
    """
    has_source = (notes["source"] != "") & by_source
    source, names = pd.factorize(("source " + notes["source"].map(normalize)).where(has_source, "note " + notes["id"]))
    linked = coo_array((np.ones(len(pairs)), (source[pairs["first"]], source[pairs["second"]])), shape=[len(names)] * 2)
    cluster = connected_components(linked, directed=False)[1][source]
    too_large = np.bincount(cluster)[cluster] > MAX_CLUSTER * len(notes)
    cluster = np.unique(np.where(too_large, len(names) + source, cluster), return_inverse=True)[1]

    rank = notes["id"].map(frozen_parts).map(PARTS.index, na_action="ignore")
    # Where most notes of a source are, the later part of equals.
    of_source = pd.Series(source).map(pd.crosstab(source, rank).iloc[:, ::-1].idxmax(axis=1))
    placed = of_source.fillna(of_source.groupby(cluster).transform("max"))
    like_test = (notes["style"] == preferred) & (preferred != "")
    placed = placed.fillna(_place(notes["kind"], like_test, cluster, placed, shares, seed)).astype(int).to_numpy()

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
    return notes.assign(cluster=cluster, part=part)


def _copies(pairs: pd.DataFrame, placed: np.ndarray, new: np.ndarray, like_test: pd.Series) -> np.ndarray:
    """(notes,) which near-duplicates are set aside, because their pair is apart or would be tested twice."""
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    aside, like = np.zeros(len(placed), dtype=bool), like_test.to_numpy()
    for copy, other in (first, second), (second, first):
        goes = np.where(new[copy] == new[other], placed[copy] < placed[other], new[copy])
        tested_twice = (placed[copy] == PARTS.index("test")) & like[other] & ~like[copy] & new[copy]
        aside[copy[np.where(placed[copy] == placed[other], tested_twice, goes)]] = True
    return aside


def _place(
    kinds: pd.Series, like_test: pd.Series, cluster: np.ndarray, placed: pd.Series, shares: dict[str, float], seed: int
) -> pd.Series:
    """(notes,) positions in PARTS; a cluster without one goes where its kinds are missing most, the largest first."""
    strata = pd.get_dummies(kinds + like_test.map({True: " preferred", False: ""}), dtype=float)
    by_cluster = strata.groupby(cluster).sum().to_numpy()  # (clusters, strata)
    frozen = strata.groupby(placed.to_numpy()).sum().reindex(range(len(PARTS)), fill_value=0.0).to_numpy()
    target = _targets(kinds, like_test, strata, shares)
    sizes = by_cluster.sum(axis=1)
    # One large source in a small part makes its figure that source's: variance grows with the squared sizes.
    lumpiness = np.outer(sizes**2, 1 / target.sum(axis=1))
    waiting = np.unique(cluster[placed.isna()])
    tried = []
    for order in range(ORDERS if len(waiting) < MAX_ORDERED else 1):
        queue = np.random.default_rng([seed, order]).permutation(waiting)
        queue = queue[np.argsort(-sizes[queue], kind="stable")]
        counts, choice = frozen.copy(), np.zeros(len(by_cluster), dtype=int)
        for number in queue:  # as scikit-learn's StratifiedGroupKFold does for parts of equal size
            growth = _distance(counts + by_cluster[number], target) - _distance(counts, target)
            choice[number] = (growth + lumpiness[number]).argmin()
            counts[choice[number]] += by_cluster[number]
        for empty in np.flatnonzero(counts.sum(axis=1) == 0):  # few large sources: each part needs one
            enough_left = (counts[0] - by_cluster >= np.sign(by_cluster)).all(axis=1)  # in train
            spared = [number for number in queue if choice[number] == 0 and enough_left[number]]
            if spared:
                choice[spared[-1]] = empty
                counts[[0, empty]] += [-by_cluster[spared[-1]], by_cluster[spared[-1]]]
        tried.append((_distance(counts, target).sum() + lumpiness[waiting, choice[waiting]].sum(), choice))
    _, best = min(tried, key=lambda each: each[0])
    return pd.Series(best[cluster])


def _targets(kinds: pd.Series, like_test: pd.Series, strata: pd.DataFrame, shares: dict[str, float]) -> np.ndarray:
    """(parts, strata) notes wanted: each kind by the shares, in test as many preferred ones as it may have."""
    in_all, in_test = strata.sum().to_numpy(), {}
    for kind, preferred in like_test.groupby(kinds):
        wanted, available = shares["test"] * len(preferred), preferred.sum()
        taken = min(wanted, max(MAX_PREFERRED_IN_TEST, shares["test"]) * available)
        in_test |= {f"{kind} preferred": taken, kind: wanted - taken}
    test = strata.columns.map(in_test).to_numpy(dtype=float)
    validation = (in_all - test) * shares["validation"] / (1 - shares["test"])
    return np.stack([in_all - test - validation, validation, test])


def _distance(counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(parts,) distance of counts from the target: chi-squared, where less than one note counts as one."""
    return ((counts - target) ** 2 / np.maximum(target, 1)).sum(axis=1)
