"""The arms that need no language model: majority and TF-IDF.

Each returns probabilities of shape (notes, kinds), columns in the order of `kinds`.
"""

import time

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union


def majority(train: pd.DataFrame, texts: list[str], kinds: list[str]) -> np.ndarray:
    """The kinds' shares among the training notes, the same for every note."""
    shares = train["kind"].value_counts(normalize=True).reindex(kinds, fill_value=0.0)
    return np.tile(shares.to_numpy(), (len(texts), 1))


def tfidf(train: pd.DataFrame, texts: list[str], kinds: list[str]) -> tuple[np.ndarray, float]:
    """TF-IDF with logistic regression; returns (probabilities, seconds a note to score).

    Word n-grams carry English; character n-grams carry languages that write without spaces.
    """
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=2000),
    )
    model.fit(train["text"], train["kind"])
    start = time.perf_counter()
    scored = pd.DataFrame(model.predict_proba(texts), columns=model.classes_)
    seconds = (time.perf_counter() - start) / len(texts)
    return scored.reindex(columns=kinds, fill_value=0.0).to_numpy(), seconds
