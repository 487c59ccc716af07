"""Labelling notes in the terminal, one key a note; labels are stored in a file beside the notes, never in them."""

import json
from functools import partial
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
from onelap.notes.labels import labels_path

KIND_KEYS = "1234567890ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # lower-case letters are the other commands
WORD = r"\w\w"  # from emoji and single letters alone no model can be made
REVIEW_FOLDS = 20  # more folds find more wrong kinds: each note's model is trained on nearly all others


def most_useful_first(unlabelled: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """Order the unlabelled notes, the most useful to label first, with the columns `suggestion` and `confidence`.

    Useful are notes unlike the nearest labelled note, by cosine similarity (which finds the first examples of `none`),
    and notes of whose kind a TF-IDF model is unsure, by the margin between the two likeliest kinds (Settles 2009,
    Active Learning Literature Survey, section 3.1); the mean of both ranks decides.
    """
    if labelled["kind"].nunique() < 2 or unlabelled.empty or not labelled["text"].str.contains(WORD).any():
        return unlabelled.assign(suggestion="", confidence=np.nan)
    model = tfidf_model().fit(labelled["text"], labelled["kind"])
    vectors = model[:-1].transform(unlabelled["text"])
    nearest = (vectors @ model[:-1].transform(labelled["text"]).T).max(axis=1).toarray().ravel()
    probabilities = model[-1].predict_proba(vectors)
    ordered = np.sort(probabilities, axis=1)
    usefulness = pd.Series(-nearest).rank() + pd.Series(ordered[:, -2] - ordered[:, -1]).rank()
    suggestions = model.classes_[probabilities.argmax(axis=1)]
    suggested = unlabelled.assign(suggestion=suggestions, confidence=probabilities.max(axis=1))
    return suggested.iloc[usefulness.sort_values(ascending=False, kind="stable").index]


def most_suspicious_first(notes: pd.DataFrame) -> pd.DataFrame:
    """Select the notes whose kind a model that has not seen them contradicts, with the column `suggestion`.

    The order is that of the normalized margin of confident learning: how far the score of the given kind is below
    that of the likeliest other kind, out of fold (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068). The model
    is ridge regression, which a few wrong kinds bend less than logistic regression (docs/LOG.md). Raises UserError
    for fewer than two kinds with two notes each.
    """
    notes = notes[notes["kind"].duplicated(keep=False)]  # a kind of one note cannot be predicted from other notes
    if notes["kind"].nunique() < 2 or not notes["text"].str.contains(WORD).any():
        raise UserError("to review kinds, expected two kinds or more with two notes of each; label more notes first")
    model = RidgeClassifier(alpha=1.0, class_weight="balanced", fit_intercept=False)
    vectors = tfidf_features(min_notes=2).fit_transform(notes["text"])
    folds = StratifiedKFold(min(REVIEW_FOLDS, notes["kind"].value_counts().min()), shuffle=True, random_state=0)
    scores = cross_val_predict(model, vectors, notes["kind"], cv=folds, method="decision_function")
    kinds = np.unique(notes["kind"])
    scores = np.stack([-scores, scores], axis=1) if len(kinds) == 2 else scores
    given = notes["kind"].to_numpy()[:, None] == kinds
    others = np.where(given, -np.inf, scores)
    margin = scores[given] - others.max(axis=1)
    suspicious = notes.assign(suggestion=kinds[others.argmax(axis=1)], confidence=np.nan)
    return suspicious.iloc[np.argsort(margin, kind="stable")[: (margin < 0).sum()]]


class Labelling:
    """A walk through notes. Each label is stored at once, so that quitting loses nothing."""

    def __init__(self, queue: pd.DataFrame, notes_path: Path):
        """Raises UserError where the labels cannot be written."""
        self.queue = queue.to_dict(orient="records")
        self.file = labels_path(notes_path)
        try:
            self.file.open("a").close()
            if self.file.stat().st_size == 0:
                self.file.unlink()
        except OSError as error:
            raise UserError(f"{self.file}: the labels cannot be written: {error.strerror}; move the notes") from None
        self.steps: list[bool] = []  # for each note that is done: True for a labelled one, False for a skipped one

    @property
    def note(self) -> dict | None:
        """The note to label now; None at the end."""
        return self.queue[len(self.steps)] if len(self.steps) < len(self.queue) else None

    def label(self, kind: str) -> None:
        """Store the kind of the present note and move to the next one."""
        torn = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")  # a write was cut off
        with self.file.open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n" * torn + json.dumps({"id": self.note["id"], "kind": kind}, ensure_ascii=False) + "\n")
        self.steps.append(True)

    def skip(self) -> None:
        """Move to the next note; the skipped one comes again next time."""
        self.steps.append(False)

    def undo(self) -> None:
        """Take back the last label or skip."""
        if self.steps and self.steps.pop():
            *kept, _ = self.file.read_text(encoding="utf-8").split("\n")[:-1]
            write_text(self.file, "".join(line + "\n" for line in kept))


def walk(labelling: Labelling, kinds: list[str]) -> None:
    """Show the notes on the terminal's full screen and act on one key a note, until `q` or the last note."""
    keys = KeyBindings()
    kind_of_key = dict(zip(KIND_KEYS, kinds, strict=False))
    choices = "  ".join(f"{key} {kind}" for key, kind in kind_of_key.items())
    footer = f" {choices}   Enter as suggested   s skip   u undo   q quit   ↑ ↓ PgUp PgDn scroll"
    head, text = FormattedTextControl(), TextArea(read_only=True, scrollbar=True, wrap_lines=True)
    above = Window(head, height=1, style="reverse", wrap_lines=True)
    below = Window(FormattedTextControl(footer), height=2, style="reverse", wrap_lines=True)
    layout = Layout(HSplit([above, text, below]), focused_element=text)
    application = Application(layout=layout, key_bindings=keys, full_screen=True)

    def show() -> None:
        note = labelling.note
        if note is None:
            return application.exit()
        present = f"now {note['kind']}, " if note.get("kind") else ""
        confidence = "" if np.isnan(note["confidence"]) else f" ({note['confidence']:.0%})"
        suggestion = f"{note['suggestion']}?{confidence}" if note["suggestion"] else ""
        head.text = f" {len(labelling.steps) + 1} of {len(labelling.queue)}   {note['id']}   {present}{suggestion}"
        text.text = note["text"]

    actions = {key: partial(labelling.label, kind) for key, kind in kind_of_key.items()}
    actions |= {"s": labelling.skip, "u": labelling.undo, "q": application.exit, "c-c": application.exit}
    actions["enter"] = lambda: labelling.note["suggestion"] and labelling.label(labelling.note["suggestion"])
    for key, action in actions.items():

        @keys.add(key, eager=True)
        def _(event, action=action):
            if labelling.note is not None:
                action()
                show()

    application.run(pre_run=show)
