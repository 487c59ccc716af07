"""Notes that repeat each other: the same text, a tidied copy, a passage pasted twice.

A near-duplicate on the other side of the split is a test note that was learnt by heart. Overlap is measured on
shingles of 16 bytes (letters and digits only, in lower case), which works in languages that write without spaces.
Shingles and their containment: Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900
"""

import re
import unicodedata
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array, triu
from sklearn.feature_extraction.text import HashingVectorizer

from onelap.notes.split import PARTS

_WEB_ADDRESS = re.compile(r"https?://\S+")  # two notes about one page need not be alike
SHINGLE = 16  # bytes of UTF-8: three or four English words, five kanji
MIN_CONTAINED = 0.25  # share of the shorter note's shingles that the other one has too, in a near-duplicate
MIN_CONTAINED_WITH_COMMON = 0.5  # the same where common shingles count: a copy, not a shared template
MIN_SHARED = 20  # shingles, about 35 letters; less is a common phrase
COMMON = 50  # notes; a shingle that more notes have is a line of a template, not a passage
_HASHES = 2**31 - 1  # the most that HashingVectorizer has; a few collisions do not reach MIN_SHARED


def drop_duplicates(notes: pd.DataFrame, frozen_parts: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one note of each text; case, spaces and punctuation do not count.

    Returns (kept, dropped); dropped has the columns `id, same_as, same_kind`. `frozen_parts` is {id: part}: the note
    that is kept is the one frozen in test, else in validation, else in train, else the first by id.
    """
    letters = notes["text"].map(lambda text: _letters(text) or text)  # emoji have no letters
    rank = notes["id"].map(frozen_parts).map(PARTS.index, na_action="ignore").fillna(-1)
    ordered = notes.assign(rank=rank).sort_values(["rank", "id"], ascending=[False, True])
    first = ordered.groupby(letters, sort=False)[["id", "kind"]].transform("first").reindex(notes.index)
    repeated = first["id"] != notes["id"]
    dropped = pd.DataFrame({"id": notes["id"], "same_as": first["id"], "same_kind": first["kind"] == notes["kind"]})
    return notes[~repeated].reset_index(drop=True), dropped[repeated].reset_index(drop=True)


def near_duplicates(notes: pd.DataFrame) -> pd.DataFrame:
    """Find the pairs of notes of which one contains a good part of the other.

    Columns `shared` (share of the shorter note's shingles, 0 to 1), the positions `first, second` of the two in
    `notes`, `id, like` (their ids) and `same_kind`; most alike first.
    """
    letters = [_letters(_WEB_ADDRESS.sub("", text)) for text in notes["text"]]
    table = HashingVectorizer(analyzer=_shingles_of, n_features=_HASHES, norm=None, dtype=np.int32).transform(letters)
    hashes, column, notes_with = np.unique(table.indices, return_inverse=True, return_counts=True)
    entries = np.ones(len(column), dtype=np.int32), column, table.indptr
    shingles = csr_array(entries, shape=(len(letters), len(hashes)))[:, notes_with > 1]  # few
    count = np.array([max(1, len(text.encode()) - SHINGLE + 1) for text in letters])
    common = np.bincount(shingles.indices, minlength=shingles.shape[1]) > COMMON
    rare_shared, common_shared = shingles[:, ~common] @ shingles[:, ~common].T, _chained(shingles[:, common])
    shared = triu(rare_shared + common_shared, k=1).tocoo()
    first, second = shared.coords
    shorter = np.minimum(count[first], count[second])
    share, rare = shared.data / shorter, np.asarray(rare_shared.tocsr()[first, second]).ravel()
    passage = rare >= np.maximum(MIN_CONTAINED * shorter, MIN_SHARED)
    copy = (share >= MIN_CONTAINED_WITH_COMMON) & (shared.data >= MIN_SHARED)
    pairs = pd.DataFrame({"shared": share, "first": first, "second": second})[passage | copy]
    one, other = (notes.iloc[pairs[side]].set_index(pairs.index) for side in ("first", "second"))
    pairs = pairs.assign(id=one["id"], like=other["id"], same_kind=one["kind"] == other["kind"])
    return pairs.sort_values("shared", ascending=False, ignore_index=True)


def _letters(text: str) -> str:
    """Letters and digits only, in lower case, each written in one way."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def _shingles_of(letters: str) -> list[bytes]:
    data = letters.encode()
    return [data[start : start + SHINGLE] for start in range(len(data) - SHINGLE + 1)]


def _chained(shingles: csr_array) -> csr_array:
    """(notes, notes) shingles shared by each note and the next one that has them; all pairs would be too many."""
    note, shingle = shingles.tocsc().tocoo().coords  # ordered by shingle, then by note
    same = shingle[1:] == shingle[:-1]
    pairs = note[:-1][same], note[1:][same]
    return coo_array((np.ones(same.sum(), dtype=np.int32), pairs), shape=(shingles.shape[0],) * 2).tocsr()
