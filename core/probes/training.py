"""How is a probe fitted and judged?

By scikit-learn, and by a cross-validation in which texts that say the same are never on both sides.
Of hidden states, the layer and the strength of the L2 penalty are chosen by the log loss of an
inner cross-validation. For the report that is done anew inside each outer fold, on its training
part alone, so the choice cannot flatter the report.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..data import datasets, labelling
from ..errors import UserError
from ..models.model import Model
from ..prompts.prompt import word_token
from ..prompts.template import DEFAULT_SUFFIX, Template
from ..showing import counter
from ..statistics import Array, t_quantile
from .encoding import Encoding, Progress, encode
from .probe import (
    Features,
    Probe,
    Words,
    check_layer,
    check_model,
    is_hidden,
    word_features,
    words_of,
)
from .scores import (
    Labels,
    LayerScore,
    LearningScore,
    Report,
    Score,
    mean_score,
    score,
)

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline


FOLDS = 5
INNER_FOLDS = 3
PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Strengths (scikit-learn's C) to choose from for a hidden state's regression."""


LAYER_PENALTY = 0.01
"""C while layers are compared; which layer is best hardly depends on it."""


LEARNING_SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the training texts at which the learning curve is read."""


def train_probe(
    model: Model,
    tweets: pd.DataFrame,
    *,
    features: Features = "logit_pair",
    template: Template | str = DEFAULT_SUFFIX,
    words: Words | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    dataset: str = "",
    name: str = "",
    read_as: str = "",
    by_layer: bool = True,
    progress: Progress | Literal[True] | None = None,
) -> Probe:
    """Fit a probe and judge it by cross-validation; `core.probes.controls` adds controls.

    Args:
        tweets: columns `text` and `label` (1 positive, 0 negative). Where there is a column
            `group`, texts of one group stay in one fold; without one, texts that differ only in
            case or white space do. A column `row` numbers the source's rows.
        features: see `FEATURES`; also "hidden:18" and the like.
        words: the positive and the negative word, for "verbalizers" each may be a list; every word
            must be one token. A probe of hidden states names them for proxies that read words.
        template: what stands around each text: a suffix, a text such as "Review: {tweet}
            Sentiment:", or a `core.Template`, which can be in the model's chat format.
        folds: of the cross-validation that makes the report.
        seed: of the folds.
        dataset, name: what a person calls the data and the probe.
        read_as: how his own data were read, see `labelling.LabelledTable.read_as`.
        by_layer: also report the accuracy of every layer's state, see `with_layers`.
        progress: called with (texts encoded, texts in all), at the end repeatedly with all. An
            exception ends the work. True draws a bar.

    Raises:
        UserError: unknown features, a word of several tokens, labels that cannot be learned from,
            a text that the model cannot read (`core.data.readable` leaves those out).
    """
    positive, negative = words_of(features, words)
    template = Template.of(template).rendered(model.tokenizer, model.name)
    check_layer(features, model.layers)
    token_ids = [word_token(model, word) for word in (*positive, *negative)]
    groups = groups_of(tweets)
    labels = tweets["label"].to_numpy()
    _check_labels(labels, groups, folds)
    splits = split(labels, groups, folds, seed)
    told = counter(progress, "Training a probe")
    encoding = encode(model, tweets["text"], template=template, progress=told)
    total = len(encoding)

    def alive() -> None:
        if told is not None:
            told(total, total)

    readings = readings_of(encoding, model, features, token_ids, len(positive))
    with one_thread():
        log_odds = predict_held_out(readings, labels, groups, splits, seed, alive)
        chosen = choose(readings, labels, groups, seed)
        values = readings.values(chosen.layer)
        fitted = regression(chosen.penalty).fit(values, labels)
        alive()
        learning = _learning_curve(chosen.penalty, values, labels, splits, seed)
        layers = (
            _layer_curve(encoding, labels, groups, splits, lambda _: alive()) if by_layer else ()
        )
        scores = score(labels, log_odds, groups)
    return Probe(
        features=features,
        model_name=model.name,
        model_identity=model.identity,
        model_revision=model.revision,
        suffix=template.suffix,
        before=template.before,
        prompt_format=template.format,
        opening=template.opening,
        closing=template.closing,
        words_positive=positive,
        words_negative=negative,
        layer=chosen.layer,
        penalty=chosen.penalty,
        **numbers_of(fitted),
        report=report_of(tweets, scores, folds, log_odds, learning=learning, layers=layers),
        dataset=dataset,
        dataset_hash=datasets.fingerprint(tweets),
        embedding_std=encoding.embedding_std,
        seed=seed,
        name=name,
        read_as=read_as,
        versions=_versions(),
    )


def numbers_of(fitted: Pipeline) -> dict[str, Any]:
    """Those fields of a probe that a fitted `regression` gives."""
    scaler, regress = fitted.named_steps["scale"], fitted.named_steps["regress"]
    return {
        "mean": tuple(map(float, scaler.mean_)),
        "scale": tuple(map(float, scaler.scale_)),
        "coefficients": tuple(map(float, regress.coef_[0])),
        "intercept": float(regress.intercept_[0]),
    }


def report_of(
    tweets: pd.DataFrame,
    scores: dict[str, Score],
    folds: int,
    log_odds: Array,
    *,
    held_out: Labels | slice = slice(None),
    **curves: Any,
) -> Report:
    """A report on the held-out ones of some texts, and what was predicted of them."""
    rows = tweets["row"].to_numpy() if "row" in tweets else np.arange(len(tweets))
    labels = tweets["label"].to_numpy()[held_out]
    return Report(
        scores=scores,
        folds=folds,
        rows=tuple(int(row) for row in rows[held_out]),
        labels=tuple(cast("Literal[0, 1]", int(label)) for label in labels),
        log_odds=tuple(map(float, log_odds)),
        **curves,
    )


def with_layers(
    probe: Probe,
    model: Model,
    tweets: pd.DataFrame,
    *,
    progress: Progress | None = None,
) -> Probe:
    """The probe with the accuracy of every layer's state in its report, whatever it reads itself.

    Where in the model can the sentiment be read? A regression on the last position's state after
    each block, of one penalty, judged on the folds of the probe.

    Args:
        model: the model that the probe was trained on.
        tweets: the texts that it was trained on.
        progress: called with (layers judged, layers in all). An exception ends the work.

    Raises:
        UserError: these are not the probe's model or texts.
    """
    check_origin(probe, model, tweets)
    labels, groups = tweets["label"].to_numpy(), groups_of(tweets)
    splits = split(labels, groups, probe.judged.folds, probe.seed)
    encoding = encode(model, tweets["text"], template=probe.template)

    def alive(layer: int) -> None:
        if progress is not None:
            progress(layer, encoding.layers)

    with one_thread():
        layers = _layer_curve(encoding, labels, groups, splits, alive)
    return replace(probe, report=replace(probe.judged, layers=layers))


def trained_on(probe: Probe, tweets: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a data set that a probe was trained on, in its report's order; None of another.

    A probe leaves out texts that its model cannot read; what it was trained on are then some of the
    rows.
    """
    if probe.report is None:
        return None
    candidates = [tweets]
    if "row" in tweets:
        candidates.append(tweets[tweets["row"].isin(probe.report.rows)])
    for own in candidates:
        if len(own) == probe.report.n and datasets.fingerprint(own) == probe.dataset_hash:
            return own
    return None


def check_origin(probe: Probe, model: Model, tweets: pd.DataFrame) -> None:
    """Refuse a model or texts that are not those which the probe was trained on."""
    check_model(probe, model)
    if datasets.fingerprint(tweets) != probe.dataset_hash:
        raise UserError(
            "These are not the texts that the probe was trained on; give those, in their order."
        )


@dataclass(frozen=True)
class Choice:
    """One way to fit a probe."""

    layer: int | None  # None for features made of words
    penalty: float  # scikit-learn's C


@dataclass(frozen=True)
class Readings:
    """What a probe of certain features can be fitted on, and the ways to choose from."""

    values: Callable[[int | None], Array]  # layer -> (texts, features)
    layers: tuple[int | None, ...]
    penalties: tuple[float, ...]


def readings_of(
    encoding: Encoding, model: Model, features: Features, token_ids: Sequence[int], positive: int
) -> Readings:
    """The feature matrices of encoded texts.

    Args:
        token_ids: of the words, positive ones first.
        positive: how many of the words are positive.
    """
    if not is_hidden(features):
        read = word_features(features, encoding.log_probs(model, token_ids), positive)
        return Readings(lambda _: read, (None,), (1.0,))
    _, _, layer = features.partition(":")
    layers = (int(layer),) if layer else tuple(range(encoding.layers))
    return Readings(lambda layer: encoding.states(layer or 0).astype(np.float64), layers, PENALTIES)


def regression(penalty: float) -> Pipeline:
    """A logistic regression with an L2 penalty, on standardised features, not fitted yet."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline(
        [("scale", StandardScaler()), ("regress", LogisticRegression(C=penalty, max_iter=1000))]
    )


def one_thread() -> AbstractContextManager[object]:
    """Fit with one thread: these products are so small that threads mostly wait for each other."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def groups_of(tweets: pd.DataFrame) -> Labels:
    """Numbers from 0 of the texts that must not be on both sides of a split: (texts,).

    Raises:
        UserError: a row has no text or no label.
    """
    labelling.check_frame(tweets)
    if "group" in tweets:
        numbers: Labels = np.unique(tweets["group"].to_numpy(), return_inverse=True)[1]
        return numbers
    return labelling.text_groups(tweets["text"])


Splits = list[tuple[Labels, Labels]]
"""Indices of the training and of the held-out texts of each fold."""


def split(labels: Labels, groups: Labels, folds: int, seed: int) -> Splits:
    """Stratified folds that hold groups together.

    Raises:
        UserError: a fold would have to learn from one label alone.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits: Splits = list(splitter.split(labels, labels, groups))
    if any(len(np.unique(labels[train])) < 2 for train, _ in splits):
        raise UserError(
            f"The texts cannot be split into {folds} folds that each learn from both labels, "
            "because texts that say the same stay together; give more different texts or use "
            "fewer folds."
        )
    return splits


def choose(readings: Readings, labels: Labels, groups: Labels, seed: int) -> Choice:
    """The layer, then the penalty, of least log loss in a cross-validation within these texts."""
    return _choose(readings, np.arange(len(labels)), labels, groups, seed)


def predict_held_out(
    readings: Readings,
    labels: Labels,
    groups: Labels,
    splits: Splits,
    seed: int,
    alive: Callable[[], None] = lambda: None,
) -> Array:
    """Log-odds of every text by the fold that did not train on it: (texts,), to 6 decimals.

    Args:
        alive: called before each fold; an exception ends the work.
    """
    log_odds = np.empty(len(labels))
    for train, held_out in splits:
        alive()
        chosen = _choose(readings, train, labels, groups, seed)
        values = readings.values(chosen.layer)
        fitted = regression(chosen.penalty).fit(values[train], labels[train])
        log_odds[held_out] = fitted.decision_function(values[held_out])
    return log_odds.round(6)


def _choose(readings: Readings, texts: Labels, labels: Labels, groups: Labels, seed: int) -> Choice:
    from sklearn.metrics import log_loss
    from sklearn.model_selection import cross_val_predict

    layer, penalty = readings.layers[0], readings.penalties[0]
    if len(readings.layers) == len(readings.penalties) == 1:
        return Choice(layer, penalty)
    known = labels[texts]
    inner = split(known, groups[texts], INNER_FOLDS, seed)

    def loss(values: Array, penalty: float) -> float:
        probabilities = cross_val_predict(
            regression(penalty), values, known, cv=inner, method="predict_proba"
        )
        return float(log_loss(known, probabilities, labels=[0, 1]))

    if len(readings.layers) > 1:
        layer = min(
            readings.layers, key=lambda layer: loss(readings.values(layer)[texts], LAYER_PENALTY)
        )
    values = readings.values(layer)[texts]
    return Choice(layer, min(readings.penalties, key=lambda penalty: loss(values, penalty)))


def _layer_curve(
    encoding: Encoding,
    labels: Labels,
    groups: Labels,
    splits: Splits,
    alive: Callable[[int], None],
) -> tuple[LayerScore, ...]:
    from sklearn.model_selection import cross_val_predict

    curve = []
    for layer in range(encoding.layers):
        alive(layer)
        values = encoding.states(layer).astype(np.float64)
        predicted = cross_val_predict(regression(LAYER_PENALTY), values, labels, cv=splits)
        right = (predicted == labels).astype(np.float64)
        curve.append(LayerScore(layer, mean_score(right, groups)))
    return tuple(curve)


def _learning_curve(
    penalty: float, values: Array, labels: Labels, splits: Splits, seed: int
) -> tuple[LearningScore, ...]:
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection import learning_curve

    with warnings.catch_warnings():
        # A few of few texts may all have one label; such a point is left out below.
        warnings.simplefilter("ignore", FitFailedWarning)
        warnings.filterwarnings("ignore", "Removed duplicate entries", RuntimeWarning)
        texts, _, accuracies = learning_curve(
            regression(penalty),
            values,
            labels,
            cv=splits,
            train_sizes=np.array(LEARNING_SHARES),
            shuffle=True,
            random_state=seed,
            scoring="accuracy",
        )
    reach = t_quantile(len(splits) - 1) / np.sqrt(len(splits))
    points = []
    for count, found in zip(texts, accuracies, strict=True):
        mean, half = float(found.mean()), float(reach * found.std(ddof=1))
        if np.isfinite(mean):
            points.append(LearningScore(int(count), Score(mean, mean - half, mean + half)))
    return tuple(points)


def _check_labels(labels: NDArray[Any], groups: Labels, folds: int) -> None:
    strange = sorted({str(label) for label in labels if label not in (0, 1)})
    if strange:
        raise UserError(
            f"Labels must be 0 (negative) or 1 (positive), but {', '.join(strange[:3])} is among "
            "them."
        )
    if folds < 2:
        raise UserError(f"Cross-validation needs at least 2 folds, not {folds}.")
    for label, name in ((0, "negative"), (1, "positive")):
        count = len(np.unique(groups[labels == label]))
        if count < folds:
            raise UserError(
                f"The data has {count} different {name} texts, too few for {folds} folds; "
                f"give at least {folds} of each label."
            )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "scikit-learn", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
