"""Notes that repeat each other: the same text, a tidied copy, a passage pasted twice.

A near-duplicate on the other side of the split is a test note that was learnt by heart.
Overlap is measured on runs of 16 bytes (letters and digits only, in lower case), which works
in languages that write without spaces, and is exact: no sketch that could miss a pair.
Shingles and their containment: Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900
"""

import re
import unicodedata
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

from onelap.notes.split import PARTS

_WEB_ADDRESS = re.compile(r"https?://\S+")  # two notes on one page need not be alike
RUN = 16  # bytes of UTF-8: three or four English words, five kanji
CONTAINED = 0.25  # share of the shorter note's runs that the other one has too: a near-duplicate
MOSTLY = 0.5  # the same where runs count that many notes have: a copy, not a template
MIN_SHARED = 20  # runs, about 35 letters; less is a common phrase
COMMON_IN = 50  # notes that have a run, above which it is a template's line, not a passage
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that the rolling hash loses no bits (Knuth's golden ratio)


def drop_duplicates(notes: pd.DataFrame, remembered: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one note of each text; case, spaces and punctuation do not count.

    Returns (kept, dropped); dropped has columns `id, same_as, same_kind`. Kept is the one that the
    split remembers in test, else in validation, else in train, else the first by id. `same_kind`
    is False for one that has another kind than the one kept.
    """
    folded = notes["text"].map(_letters)
    folded = folded.where(folded != "", notes["text"])  # emoji only
    protected = notes["id"].map(remembered).map(PARTS.index, na_action="ignore").fillna(-1)
    ordered = notes.assign(protected=protected).sort_values(["protected", "id"], ascending=[False, True])
    first = ordered.groupby(folded, sort=False)[["id", "kind"]].transform("first").reindex(notes.index)
    repeated = first["id"] != notes["id"]
    dropped = pd.DataFrame({"id": notes["id"], "same_as": first["id"], "same_kind": first["kind"] == notes["kind"]})
    return notes[~repeated].reset_index(drop=True), dropped[repeated].reset_index(drop=True)


def near_duplicates(notes: pd.DataFrame) -> pd.DataFrame:
    """Pairs of notes of which one holds a good part of the other.

    Columns `id, like, shared` (share of the shorter note's runs, 0 to 1), `same_kind`, and the
    positions `first, second` of the two in `notes`; most alike first.
    """
    runs, length = _repeated_runs([_letters(_WEB_ADDRESS.sub("", text)) for text in notes["text"]])
    common = np.bincount(runs.indices, minlength=runs.shape[1]) > COMMON_IN
    passages, in_all = runs[:, ~common] @ runs[:, ~common].T, _chained(runs[:, common])
    shared = _upper(passages + in_all)
    first, second = shared.coords
    shorter = np.minimum(length[first], length[second])
    share, of_passages = shared.data / shorter, np.asarray(passages.tocsr()[first, second]).ravel()
    alike = (of_passages >= np.maximum(CONTAINED * shorter, MIN_SHARED)) | (share >= MOSTLY) & (
        shared.data >= MIN_SHARED
    )
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


def _chained(runs: csr_array) -> csr_array:
    """Runs shared by each note and the next one that has the run, where all pairs would be too many.

    Many copies of one text hang together in such a chain; notes that share a template's lines
    do not, since that is a small part of them.
    """
    by_run = runs.tocsc()
    by_run.sort_indices()
    run_of = np.repeat(np.arange(by_run.shape[1]), np.diff(by_run.indptr))
    same = run_of[1:] == run_of[:-1]
    pairs = by_run.indices[:-1][same], by_run.indices[1:][same]
    return coo_array((np.ones(same.sum(), dtype=np.int32), pairs), shape=(runs.shape[0],) * 2).tocsr()


def _letters(text: str) -> str:
    """Letters and digits only, in lower case, each written in one way."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def _upper(matrix: csr_array) -> coo_array:
    """Each pair once, none with itself."""
    pairs = matrix.tocoo()
    row, column = pairs.coords
    keep = row < column
    return coo_array((pairs.data[keep], (row[keep], column[keep])), shape=pairs.shape)


def _repeated_runs(letters: list[str]) -> tuple[csr_array, np.ndarray]:
    """(notes, runs) of ones for the runs of RUN bytes that occur more than once, and (notes,) runs of each note.

    A run is known by its rolling hash of 64 bits. Few of a vault's runs are repeated, so that
    what is kept of 50,000 notes is small.
    """
    folded = [text.encode() for text in letters]
    lengths = np.array([len(text) for text in folded])
    codes = np.frombuffer(b"".join(folded), dtype=np.uint8)
    hashes = np.zeros(max(0, len(codes) - RUN + 1), dtype=np.uint64)
    for offset in range(RUN):
        hashes = hashes * _BASE + codes[offset : offset + len(hashes)]
    note = np.repeat(np.arange(len(letters), dtype=np.int32), lengths)
    inside = note[: len(hashes)] == note[RUN - 1 :][: len(hashes)]
    hashes, note = hashes[inside], note[: len(hashes)][inside]
    repeated = _repeated(hashes)
    column = np.searchsorted(repeated, hashes)
    kept = column < len(repeated)
    kept[kept] = repeated[column[kept]] == hashes[kept]
    ones = np.ones(kept.sum(), dtype=np.int32)
    runs = csr_array((ones, (note[kept], column[kept])), shape=(len(letters), len(repeated)))
    runs.sum_duplicates()
    runs.data[:] = 1
    return runs, np.maximum(1, lengths - RUN + 1)


def _repeated(values: np.ndarray) -> np.ndarray:
    """The values that occur more than once, sorted."""
    ordered = np.sort(values)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
