"""Giving kinds to notes, one key at a time, the most useful first.

Labels go into a small file beside the notes (`notes.labels_path`), never into the notes.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from prompt_toolkit.application import Application
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import HSplit, Layout, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.widgets import TextArea
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from onelap import UserError
from onelap.arms.cheap import tfidf_features, tfidf_model
from onelap.machine.store import write_text
from onelap.notes.read import labels_path

KEYS = "1234567890ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of the kinds; lower-case letters do other things
REVIEW_FOLDS = 20  # more find more wrong kinds: each note's model has seen nearly all others


def most_useful_first(unlabelled: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """The unlabelled notes with the columns `suggestion, confidence`, the most useful to label first.

    Useful are notes unlike every labelled one (`none` has no examples at first: they are there)
    and notes that a quick model is unsure of; the mean of both ranks decides. Unlike: one minus
    the cosine to the nearest labelled note in TF-IDF. Unsure: the margin between the two likeliest
    kinds (Settles 2009, Active Learning Literature Survey, section 3.1).
    """
    if labelled["kind"].nunique() < 2 or unlabelled.empty or not _has_words(labelled):
        return unlabelled.assign(suggestion="", confidence=np.nan)
    model = tfidf_model().fit(labelled["text"], labelled["kind"])
    vectors = model[:-1].transform(unlabelled["text"])
    nearest = (vectors @ model[:-1].transform(labelled["text"]).T).max(axis=1).toarray().ravel()
    probabilities = model[-1].predict_proba(vectors)
    ordered = np.sort(probabilities, axis=1)
    useful = pd.Series(-nearest).rank() + pd.Series(ordered[:, -2] - ordered[:, -1]).rank()
    suggested = unlabelled.assign(
        suggestion=model.classes_[probabilities.argmax(axis=1)], confidence=probabilities.max(axis=1)
    )
    return suggested.iloc[useful.sort_values(ascending=False, kind="stable").index]


def most_suspicious_first(notes: pd.DataFrame) -> pd.DataFrame:
    """The notes whose kind a model that has not seen them contradicts, with the column `suggestion`.

    Ordered by how far the score of the given kind is below the likeliest other one's, out of fold
    ("normalized margin" of confident learning, Northcutt et al. 2021, https://arxiv.org/abs/1911.00068).
    Ridge regression, because a few wrong kinds bend it less than logistic regression: docs/LOG.md.
    """
    counts = notes["kind"].value_counts()
    notes = notes[notes["kind"].map(counts) > 1]  # one alone cannot be predicted from others
    if notes["kind"].nunique() < 2 or not _has_words(notes):
        raise UserError("to review kinds, expected two kinds or more with two notes of each; label more notes first")
    folds = min(REVIEW_FOLDS, notes["kind"].value_counts().min())
    vectors = tfidf_features(in_notes=2).fit_transform(notes["text"])
    kinds = np.unique(notes["kind"])
    scores = cross_val_predict(
        RidgeClassifier(alpha=1.0, class_weight="balanced", fit_intercept=False),
        vectors,
        notes["kind"],
        cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        method="decision_function",
    )
    scores = np.stack([-scores, scores], axis=1) if len(kinds) == 2 else scores
    given = notes["kind"].to_numpy()[:, None] == kinds
    others = np.where(given, -np.inf, scores)
    margin = scores[given] - others.max(axis=1)
    found = notes.assign(suggestion=kinds[others.argmax(axis=1)], confidence=np.nan)
    return found.iloc[np.argsort(margin, kind="stable")[: (margin < 0).sum()]]


def _has_words(notes: pd.DataFrame) -> bool:
    """False where there is nothing but emoji and single letters, of which no model can be made."""
    return notes["text"].str.contains(r"\w\w").any()


class Labelling:
    """A walk through notes; what was labelled is on disk at once, so that quitting loses nothing."""

    def __init__(self, queue: pd.DataFrame, notes_path: Path):
        self.queue = queue.to_dict(orient="records")
        self.file = labels_path(notes_path)
        self.position = 0
        self.done: list[bool] = []
        """For each note behind us: whether it was labelled, else it was skipped."""

    @property
    def note(self) -> dict | None:
        """The note at hand; None at the end."""
        return self.queue[self.position] if self.position < len(self.queue) else None

    def label(self, kind: str) -> None:
        """Store the kind of the note at hand and go on."""
        torn = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")
        with self.file.open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n" * torn + json.dumps({"id": self.note["id"], "kind": kind}, ensure_ascii=False) + "\n")
        self._go_on(labelled=True)

    def skip(self) -> None:
        """Leave the note at hand as it is; it comes again next time."""
        self._go_on(labelled=False)

    def undo(self) -> None:
        """Take the last step back."""
        if self.done:
            self.position -= 1
            if self.done.pop():
                *kept, _ = self.file.read_text(encoding="utf-8").split("\n")[:-1]
                write_text(self.file, "".join(line + "\n" for line in kept))

    def _go_on(self, labelled: bool) -> None:
        self.position += 1
        self.done.append(labelled)


def walk(labelling: Labelling, kinds: list[str]) -> None:
    """The terminal's full screen: one key a note, until `q` or the last one."""
    keys = KeyBindings()
    text = TextArea(read_only=True, scrollbar=True, wrap_lines=True)

    def head() -> str:
        note = labelling.note
        if note is None:
            return ""
        given = f"now {note['kind']}, " if note.get("kind") else ""
        sure = "" if np.isnan(note["confidence"]) else f" ({note['confidence']:.0%})"
        guess = f"{note['suggestion']}?{sure}" if note["suggestion"] else ""
        return f" {labelling.position + 1} of {len(labelling.queue)}   {note['id']}   {given}{guess}"

    keys_of_kinds = dict(zip(KEYS, kinds, strict=False))
    choices = "  ".join(f"{key} {kind}" for key, kind in keys_of_kinds.items())
    foot = f" {choices}   Enter as suggested   s skip   u undo   q quit   ↑ ↓ PgUp PgDn scroll"
    application = Application(
        layout=Layout(
            HSplit(
                [
                    Window(FormattedTextControl(head), height=1, style="reverse"),
                    text,
                    Window(FormattedTextControl(foot), height=2, style="reverse", wrap_lines=True),
                ]
            ),
            focused_element=text,
        ),
        key_bindings=keys,
        full_screen=True,
    )

    def show() -> None:
        if labelling.note is None:
            application.exit()
        else:
            text.text = labelling.note["text"]
            text.buffer.cursor_position = 0

    def bind(key: str, action) -> None:
        @keys.add(key, eager=True)
        def _(event):
            if labelling.note is not None:
                action()
                show()

    for key, kind in keys_of_kinds.items():
        bind(key, lambda kind=kind: labelling.label(kind))
    bind("s", labelling.skip)
    bind("u", labelling.undo)
    bind("enter", lambda: labelling.note["suggestion"] and labelling.label(labelling.note["suggestion"]))
    for key in ("q", "c-c"):
        keys.add(key, eager=True)(lambda event: event.app.exit())
    application.run(pre_run=show)
