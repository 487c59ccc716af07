"""Notes that repeat each other: the same text, a tidied copy, a passage pasted twice.

A near-duplicate on the other side of the split is a test note that was learnt by heart.
Overlap is measured on runs of 16 bytes (letters and digits only, in lower case), which works
in languages that write without spaces, and is exact: no sketch that could miss a pair.
Shingles and their containment: Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900
"""

import re

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

RUN = 16  # bytes of UTF-8: three or four English words, five kanji
CONTAINED = 0.25  # share of the shorter note's runs that the other one has too: a near-duplicate
MIN_SHARED = 20  # runs, about 35 letters; less is a common phrase
COMMON_IN = 50  # notes that have a run, above which it is a template's line, not a passage
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that the rolling hash loses no bits (Knuth's golden ratio)


def drop_duplicates(notes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one note of each text (white space folded).

    Returns (kept, dropped); dropped has columns `id, same_as, same_kind`. A text that occurs
    with two kinds keeps the first by id; `same_kind` is False for the other.
    """
    folded = notes["text"].str.split().str.join(" ")
    first = notes.groupby(folded, sort=False)[["id", "kind"]].transform("first")
    repeated = first["id"] != notes["id"]
    dropped = pd.DataFrame({"id": notes["id"], "same_as": first["id"], "same_kind": first["kind"] == notes["kind"]})
    return notes[~repeated].reset_index(drop=True), dropped[repeated].reset_index(drop=True)


def near_duplicates(notes: pd.DataFrame) -> pd.DataFrame:
    """Pairs of notes of which one holds a good part of the other.

    Columns `id, like, shared` (share of the shorter note's runs, 0 to 1), `same_kind`, and the
    positions `first, second` of the two in `notes`; most alike first.
    """
    runs, length = _repeated_runs(notes["text"].tolist())
    runs = runs[:, np.bincount(runs.indices, minlength=runs.shape[1]) <= COMMON_IN]
    shared = _upper(runs @ runs.T)
    first, second = shared.coords
    share = shared.data / np.minimum(length[first], length[second])
    alike = (share >= CONTAINED) & (shared.data >= MIN_SHARED)
    first, second, share = first[alike], second[alike], share[alike]
    ids, kinds = notes["id"].to_numpy(), notes["kind"].to_numpy()
    pairs = pd.DataFrame(
        {
            "id": ids[first],
            "like": ids[second],
            "shared": share,
            "same_kind": kinds[first] == kinds[second],
            "first": first,
            "second": second,
        }
    )
    return pairs.sort_values("shared", ascending=False, ignore_index=True)


def _upper(matrix: csr_array) -> coo_array:
    """Each pair once, none with itself."""
    pairs = matrix.tocoo()
    row, column = pairs.coords
    keep = row < column
    return coo_array((pairs.data[keep], (row[keep], column[keep])), shape=pairs.shape)


def _repeated_runs(texts: list[str]) -> tuple[csr_array, np.ndarray]:
    """(notes, runs) of ones for the runs of RUN bytes that occur more than once, and (notes,) runs of each note.

    A run is known by its rolling hash of 64 bits. Few of a vault's runs are repeated, so that
    what is kept of 50,000 notes is small.
    """
    folded = [re.sub(r"[\W_]+", "", text.lower()).encode() for text in texts]
    lengths = np.array([len(text) for text in folded])
    codes = np.frombuffer(b"".join(folded), dtype=np.uint8)
    hashes = np.zeros(max(0, len(codes) - RUN + 1), dtype=np.uint64)
    for offset in range(RUN):
        hashes = hashes * _BASE + codes[offset : offset + len(hashes)]
    note = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    inside = note[: len(hashes)] == note[RUN - 1 :][: len(hashes)]
    hashes, note = hashes[inside], note[: len(hashes)][inside]
    repeated = _repeated(hashes)
    column = np.searchsorted(repeated, hashes)
    kept = column < len(repeated)
    kept[kept] = repeated[column[kept]] == hashes[kept]
    ones = np.ones(kept.sum(), dtype=np.int32)
    runs = csr_array((ones, (note[kept], column[kept])), shape=(len(texts), len(repeated)))
    runs.sum_duplicates()
    runs.data[:] = 1
    return runs, np.maximum(1, lengths - RUN + 1)


def _repeated(values: np.ndarray) -> np.ndarray:
    """The values that occur more than once, sorted."""
    ordered = np.sort(values)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
