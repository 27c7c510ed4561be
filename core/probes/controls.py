"""Does a probe know more than what should know less? Controls, on the same texts and folds.

- majority: always says the more frequent label;
- raw rule: P(good) > P(bad), with nothing learned;
- shuffled labels: the same probe, taught labels that were dealt out at random. The difference in
  accuracy is the probe's selectivity (Hewitt & Liang 2019, "Designing and Interpreting Probes with
  Control Tasks", EMNLP): what it owes to the representation and not to its own capacity. A control
  task there gives each word a random label; here each group of equal texts gets one;
- untrained twin: the same probe on the same model with random weights;
- bag of words: a logistic regression on words and word pairs (tf-idf), without any model;
- VADER lexicon: a logistic regression on the compound score of Hutto & Gilbert (2014), "VADER: A
  Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM, the standard
  rule-based analyser. Its makers also rated the data sets that are built in, and on the tweets it
  is nearly always right: there, not to beat it says less against a probe than elsewhere.

A control that needs no fitting still predicts the held-out texts of the same folds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..models.model import Model
from ..prompts.prompt import word_token
from ..statistics import Array
from .encoding import Progress, encode
from .probe import Probe, word_tokens
from .scores import Control, Labels, mean_score, score
from .training import (
    Readings,
    check_origin,
    groups_of,
    one_thread,
    predict_held_out,
    readings_of,
    regression,
    split,
)

if TYPE_CHECKING:
    import pandas as pd


def with_controls(
    probe: Probe,
    model: Model,
    tweets: pd.DataFrame,
    *,
    twin: Model | None = None,
    progress: Progress | None = None,
) -> Probe:
    """The probe with controls in its report; `Report.verdict` then says whether it beats them.

    Args:
        model: the model that the probe was trained on.
        tweets: the texts that it was trained on.
        twin: the model's untrained twin (`load_model(..., untrained=True)`); that control is left
            out without it.
        progress: called with (texts encoded by the twin, texts in all), at the end repeatedly with
            all. An exception ends the work.

    Raises:
        UserError: these are not the probe's model, twin or texts.
    """
    check_origin(probe, model, tweets)
    _check_twin(twin, model)
    if twin is not None:  # encoded first, with all threads; the fits need one
        encode(twin, tweets["text"], template=probe.template, progress=progress)
    with one_thread():
        controls = _controls(probe, model, tweets, twin, progress)
    return replace(probe, report=replace(probe.judged, controls=controls))


def _controls(
    probe: Probe,
    model: Model,
    tweets: pd.DataFrame,
    twin: Model | None,
    progress: Progress | None,
) -> tuple[Control, ...]:
    labels, groups = tweets["label"].to_numpy(), groups_of(tweets)
    splits = split(labels, groups, probe.judged.folds, probe.seed)
    right = _right(np.array(probe.judged.log_odds), labels)

    def alive() -> None:
        if progress is not None:
            progress(len(labels), len(labels))

    def control(name: str, about: str, log_odds: Array, truth: Labels = labels) -> Control:
        return Control(
            name=name,
            about=about,
            scores=score(truth, log_odds, groups),
            gain=mean_score(right - _right(log_odds, truth), groups),
        )

    def readings(of: Model) -> Readings:
        encoding = encode(of, tweets["text"], template=probe.template)
        words = word_tokens(model, probe)
        return readings_of(encoding, of, probe.features, words, len(probe.words_positive))

    def held_out(of: Readings, truth: Labels) -> Array:
        return predict_held_out(of, truth, groups, splits, probe.seed, alive)

    own = readings(model)
    dealt = deal_labels(labels, groups, probe.seed)
    controls = [
        control("the majority class", "always the more frequent label", _majority(labels, splits)),
        control(
            "the raw rule",
            f"P({probe.words[0].strip()}) > P({probe.words[1].strip()}), nothing learned",
            raw_rule(probe, model, tweets),
        ),
        control(
            "shuffled labels",
            "the same probe taught random labels; the difference is its selectivity",
            held_out(replace(own, layers=(probe.layer,), penalties=(probe.penalty,)), dealt),
            dealt,
        ),
    ]
    if twin is not None:
        controls.append(
            control(
                "the untrained twin",
                "the same probe on the same model with random weights",
                held_out(readings(twin), labels),
            )
        )
    for name, about, log_odds in (
        ("bag of words", "logistic regression on words and word pairs, no model", bag_of_words),
        (
            "the VADER lexicon",
            "its compound score, no model; by the makers of the built-in data sets",
            lexicon,
        ),
    ):
        alive()
        controls.append(control(name, about, log_odds(tweets, labels, splits)))
    return tuple(controls)


def raw_rule(probe: Probe, model: Model, tweets: pd.DataFrame) -> Array:
    """log P(good) - log P(bad) of the probe's first words: (texts,), in nats."""
    encoding = encode(model, tweets["text"], template=probe.template)
    log_probs = encoding.log_probs(model, [word_token(model, word) for word in probe.words])
    ratio: Array = log_probs[:, 0] - log_probs[:, 1]
    return ratio


def deal_labels(labels: Labels, groups: Labels, seed: int) -> Labels:
    """The groups' labels, dealt out to the groups anew: (texts,)."""
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    dealt: Labels = np.random.default_rng(seed).permutation(labels[first])[number]
    return dealt


def bag_of_words(tweets: pd.DataFrame, labels: Labels, splits: Any) -> Array:
    """Held-out log-odds of a logistic regression on words and word pairs: (texts,)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\S+")
    return _held_out(
        make_pipeline(counts, LogisticRegression(C=10.0, max_iter=1000)),
        tweets["text"].to_numpy(dtype=object),
        labels,
        splits,
    )


def lexicon(tweets: pd.DataFrame, labels: Labels, splits: Any) -> Array:
    """Held-out log-odds of a logistic regression on VADER's compound score: (texts,)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    compound = [[analyser.polarity_scores(text)["compound"]] for text in tweets["text"]]
    return _held_out(regression(1.0), np.array(compound), labels, splits)


def _majority(labels: Labels, splits: Any) -> Array:
    from scipy.special import logit
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import cross_val_predict

    prior = cross_val_predict(
        DummyClassifier(strategy="prior"),
        np.zeros((len(labels), 1)),
        labels,
        cv=splits,
        method="predict_proba",
    )
    log_odds: Array = logit(prior[:, 1])
    return log_odds


def _held_out(estimator: Any, values: Any, labels: Labels, splits: Any) -> Array:
    from sklearn.model_selection import cross_val_predict

    log_odds: Array = cross_val_predict(
        estimator, values, labels, cv=splits, method="decision_function"
    )
    return log_odds


def _right(log_odds: Array, labels: Labels) -> Array:
    right: Array = ((log_odds > 0) == (labels == 1)).astype(np.float64)
    return right


def _check_twin(twin: Model | None, model: Model) -> None:
    if twin is not None and not (twin.untrained and twin.layers == model.layers):
        raise UserError(
            f"The model {twin.name!r} is not an untrained twin of {model.name!r}; "
            "load it with untrained=True."
        )
