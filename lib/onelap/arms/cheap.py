"""The contenders that need no training of a language model: majority, length and markup, TF-IDF, embeddings.

Probabilities are of shape (notes, kinds), columns in the order of `kinds`.
"""

import time

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler, normalize

from onelap.arms.base import locate_base

MARKUP = {
    "lines": r"\n",
    "blank lines": r"\n[ \t]*\n",
    "bullets": r"(?m)^[ \t]*[-*+・][ \t]",
    "numbers": r"(?m)^[ \t]*\d+[.)][ \t]",
    "headings": r"(?m)^#+[ \t]",
    "check boxes": r"\[[ xX]\]",
    "code": r"`",
    "links": r"https?://|\]\(",
    "quotes": r"(?m)^[ \t]*>",
    "digits": r"\d",
    "questions": r"[?？]",
    "exclamations": r"[!！]",
    "capitals": r"[A-Z]",
    "colons": r"[:：]",
}
"""What is counted in a text, by a pattern each; the wording is never looked at."""


def majority_model() -> DummyClassifier:
    """The kinds' shares among the training notes, the same for every note."""
    return DummyClassifier(strategy="prior")


def tfidf_features(in_notes: int = 1) -> FeatureUnion:
    """TF-IDF of word n-grams, and of character n-grams for languages without spaces, found in `in_notes` or more."""
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=in_notes),
    )


def tfidf_model() -> Pipeline:
    """TF-IDF with logistic regression."""
    return make_pipeline(tfidf_features(), _classifier(10.0))


def markup_model() -> Pipeline:
    """Logistic regression on a text's length and how often each pattern of MARKUP occurs in it."""
    return make_pipeline(FunctionTransformer(_markup_of), StandardScaler(), _classifier(1.0))


def _classifier(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)


def _markup_of(texts: pd.Series) -> np.ndarray:
    """(notes, 1 + patterns) logarithms of the length in characters and of the counts."""
    counts = [texts.str.len(), *(texts.str.count(pattern) for pattern in MARKUP.values())]
    return np.log1p(np.stack(counts, axis=1))


def learn(
    model: Pipeline | DummyClassifier, train: pd.DataFrame, texts: pd.Series, kinds: list[str]
) -> tuple[np.ndarray, float]:
    """Train on `train`, score `texts`: (probabilities, seconds a note to score)."""
    model.fit(train["text"], train["kind"])
    start = time.perf_counter()
    scored = pd.DataFrame(model.predict_proba(texts), columns=model.classes_)
    seconds = (time.perf_counter() - start) / len(texts)
    return scored.reindex(columns=kinds, fill_value=0.0).to_numpy(), seconds


def embeddings_model(folder: str) -> Pipeline:
    """Logistic regression on a sentence-embedding model's vectors; a Hugging Face folder on this machine.

    The mean of the last layer over a text's tokens, at most 512, of length one: what most
    such models are trained for. Raises UserError where the folder is no model.
    """
    base = locate_base(folder)

    def vectors(texts: pd.Series) -> np.ndarray:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        model = AutoModel.from_pretrained(base, dtype="float32", trust_remote_code=False).eval()
        found = []
        for text in texts:
            read = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            with torch.no_grad():
                found.append(model(**read).last_hidden_state[0].mean(dim=0).numpy())
        return normalize(np.stack(found))

    return make_pipeline(FunctionTransformer(vectors), _classifier(10.0))


def out_of_fold(model: Pipeline, notes: pd.DataFrame, groups: pd.Series | None) -> pd.DataFrame:
    """Each note's probabilities by a model that has not seen it, nor any note of its group; a column a kind.

    Three folds, two where a kind has only two notes; `groups` None splits at random.
    """
    folds = max(2, min(3, notes["kind"].value_counts().min()))
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    split = splitter(folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(model, notes["text"], notes["kind"], groups=groups, cv=split, method="predict_proba")
    return pd.DataFrame(predicted, index=notes.index, columns=np.unique(notes["kind"]))
