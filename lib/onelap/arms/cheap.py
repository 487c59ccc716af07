"""Contenders without training of a language model: majority, length and markup, TF-IDF, sentence embeddings."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler, normalize

from onelap.arms.base import locate_base

# What is counted in a text, by a pattern each; words are never looked at.
MARKUP = {
    "lines": r"\n", "blank lines": r"\n[ \t]*\n", "bullets": r"(?m)^[ \t]*[-*+・][ \t]",
    "numbers": r"(?m)^[ \t]*\d+[.)][ \t]", "headings": r"(?m)^#+[ \t]", "check boxes": r"\[[ xX]\]",
    "code": r"`", "links": r"https?://|\]\(", "quotes": r"(?m)^[ \t]*>", "digits": r"\d",
    "questions": r"[?？]", "exclamations": r"[!！]", "capitals": r"[A-Z]", "colons": r"[:：]",
}  # fmt: skip


def majority_model() -> DummyClassifier:
    """Make a model that gives every note the kinds' shares among the training notes."""
    return DummyClassifier(strategy="prior")


def tfidf_features(min_notes: int = 1) -> FeatureUnion:
    """Make TF-IDF of word n-grams, and of character n-grams (in `min_notes` or more) for languages without spaces."""
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=min_notes),
    )


def tfidf_model() -> Pipeline:
    """Make TF-IDF with logistic regression."""
    return make_pipeline(tfidf_features(), _classifier(10.0))


def markup_model() -> Pipeline:
    """Make logistic regression on a text's length and on how often each pattern of MARKUP occurs in it."""
    return make_pipeline(FunctionTransformer(_count_markup), StandardScaler(), _classifier(1.0))


def embeddings_model(folder: str) -> Pipeline:
    """Make logistic regression on the vectors of a sentence-embedding model in a Hugging Face folder.

    A vector is the mean of the last layer over a text's tokens (at most 512), scaled to length one, as most such models
    are trained for. Raises UserError where the folder does not hold a model.
    """
    base = locate_base(folder)

    def vectors(texts: pd.Series) -> np.ndarray:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        local = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(base, **local)
        model, rows = AutoModel.from_pretrained(base, dtype="float32", **local).eval(), []
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            with torch.no_grad():
                rows.append(model(**tokens).last_hidden_state[0].mean(dim=0).numpy())
        return normalize(np.stack(rows))

    return make_pipeline(FunctionTransformer(vectors), _classifier(10.0))


def _classifier(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)


def _count_markup(texts: pd.Series) -> np.ndarray:
    """(notes, 1 + patterns) logarithms of the length in characters and of the counts."""
    counts = [texts.str.len(), *(texts.str.count(pattern) for pattern in MARKUP.values())]
    return np.log1p(np.stack(counts, axis=1))


def learn(
    model: Pipeline | DummyClassifier, train: pd.DataFrame, texts: pd.Series, kinds: list[str]
) -> tuple[np.ndarray, float]:
    """Train on `train` and score `texts`; returns probabilities (notes, kinds), and seconds a note to score."""
    scorer = TextScorer(model, train, kinds)
    start = time.perf_counter()
    probabilities = scorer.probabilities(texts)
    return probabilities, (time.perf_counter() - start) / len(texts)


class TextScorer:
    """A model of texts, trained on notes (columns `text`, `kind`)."""

    def __init__(self, model: Pipeline | DummyClassifier, train: pd.DataFrame, kinds: list[str]):
        self.model, self.kinds = model.fit(train["text"], train["kind"]), kinds

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(notes, kinds)."""
        return _in_order(self.model.predict_proba(pd.Series(texts)), self.model.classes_, self.kinds)


def out_of_fold(model: Pipeline, inputs: pd.Series | np.ndarray, notes: pd.DataFrame, kinds: list[str]) -> np.ndarray:
    """Compute probabilities, (notes, kinds), by models that have not seen the note, nor any note of its `cluster`.

    Three folds, two where a kind has only two notes. They are random without a column `cluster`, with fewer clusters
    than folds, and where a fold would learn from a single kind.
    """
    folds = max(2, min(3, notes["kind"].value_counts().min()))
    clusters, kinds_of = notes.get("cluster"), notes["kind"].to_numpy()
    at_random = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(inputs, kinds_of))
    splits = at_random
    if clusters is not None and clusters.nunique() >= folds:
        splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(inputs, kinds_of, clusters))
    splits = splits if all(len(set(kinds_of[seen])) > 1 for seen, _ in splits) else at_random
    probabilities = cross_val_predict(model, inputs, kinds_of, cv=splits, method="predict_proba")
    return _in_order(probabilities, np.unique(kinds_of), kinds)


def _in_order(probabilities: np.ndarray, known: Sequence[str], kinds: list[str]) -> np.ndarray:
    """Probabilities in the order of `kinds`; zero for a kind that is not `known`."""
    return pd.DataFrame(probabilities, columns=known).reindex(columns=kinds, fill_value=0.0).to_numpy()
