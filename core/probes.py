"""How does one read a sentiment from the model? Features, and a fitted probe.

The original experiment predicts a tweet's labelled sentiment from P(" good") and P(" bad") after
the suffix " I am feeling" with a logistic regression, and takes its output for the sentiment that
the model has understood. It names the last position's hidden state as the better thing to read. A
probe here is that regression on standardised features: fitted by scikit-learn, judged by
cross-validation in which texts that say the same are never on both sides, kept as JSON.

Of hidden states, the layer and the strength of the L2 penalty are chosen by the log loss of an
inner cross-validation. For the report that is done anew inside each outer fold, on its training
part alone, so the choice cannot flatter the report.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from core import cache, datasets, labelling
from core.features import Encoding, Progress, encode
from core.models import Model
from core.prompts import DEFAULT_SUFFIX, DEFAULT_WORDS, word_token
from core.scores import (
    Finite,
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

Array = NDArray[np.float64]
Features = str
Words = tuple[str | Sequence[str], str | Sequence[str]]
FEATURES: dict[str, str] = {
    "logit_pair": "log P(good) and log P(bad)",
    "probabilities": "P(good) and P(bad), as in the original experiment",
    "verbalizers": "log P of any of several good and of several bad words",
    "hidden": "the last position's hidden state, at the layer that predicts best",
}
"""What a probe can read; "hidden:18" names a layer (0-based) instead of choosing one."""

DEFAULT_VERBALIZERS = (
    (" good", " great", " happy", " excited", " wonderful"),
    (" bad", " sad", " angry", " terrible", " awful"),
)
FORMAT: Literal[2] = 2
"""Version of the JSON form; a probe of another form is refused."""

FOLDS = 5
INNER_FOLDS = 3
PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Strengths (scikit-learn's C) to choose from for a hidden state's regression."""

LAYER_PENALTY = 0.01
"""C while layers are compared; which layer is best hardly depends on it."""

LEARNING_SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the training texts at which the learning curve is read."""

# Checked when a probe is read from a file, which may come from anywhere.
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]


@dataclass(frozen=True)
class Probe:
    """A logistic regression from what the model says, or is, to the sentiment; and its origin.

    A probe reads either the log-probabilities of its words at the last position (`reads` is
    "words") or the last position's residual stream after block `layer` (`reads` is "states").
    """

    features: str  # as asked for, see `FEATURES`
    model_name: str
    model_identity: str
    suffix: str
    words_positive: tuple[str, ...]
    words_negative: tuple[str, ...]
    layer: int | None  # 0-based; None when it reads words
    mean: tuple[Finite, ...]  # of the features, subtracted before they are divided by `scale`
    scale: tuple[Positive, ...]
    coefficients: tuple[Finite, ...]
    intercept: Finite
    report: Report
    dataset: str
    dataset_hash: str
    embedding_std: Positive  # of the input embeddings of the data set's tweet tokens
    seed: int
    penalty: Positive = 1.0  # scikit-learn's C
    name: str = ""  # that a person gave it
    model_revision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    format: Literal[2] = FORMAT

    def __post_init__(self) -> None:
        read, _, layer = self.features.partition(":")
        if read not in ("logit_pair", "probabilities", "verbalizers", "hidden"):
            raise ValueError(f"the features {self.features!r} are not known")
        hidden = read == "hidden"
        if (
            hidden != (self.layer is not None)
            or (self.layer or 0) < 0
            or (layer and layer != str(self.layer))
        ):
            raise ValueError(f"the layer {self.layer} does not go with {self.features!r}")
        if read != "verbalizers" and len(self.words_positive) + len(self.words_negative) > 2:
            raise ValueError(f"more than two words do not go with {self.features!r}")
        if not (self.words_positive and self.words_negative):
            raise ValueError("words of each sentiment are needed")
        sizes = {len(self.mean), len(self.scale), len(self.coefficients)}
        if len(sizes) > 1 or sizes == {0} or (not hidden and sizes != {2}):
            raise ValueError("mean, scale and coefficients are not of the length of the features")

    @property
    def reads(self) -> Literal["words", "states"]:
        """What the probe is given: log-probabilities of its words, or states of one layer."""
        return "words" if self.layer is None else "states"

    @property
    def words(self) -> tuple[str, str]:
        """The first positive and the first negative word."""
        return self.words_positive[0], self.words_negative[0]

    def log_odds(self, log_probs: Array) -> Array:
        """Log-odds of "positive", for a probe that reads words.

        Args:
            log_probs: (..., words), log P of the positive words, then of the negative ones.

        Returns:
            (...), in nats.
        """
        assert self.reads == "words"
        return self._log_odds(word_features(self.features, log_probs, len(self.words_positive)))

    def log_odds_of_states(self, states: Array) -> Array:
        """Log-odds of "positive", for a probe that reads states.

        Args:
            states: (..., D), the last position's residual stream after block `layer`.

        Returns:
            (...), in nats.
        """
        assert self.reads == "states"
        return self._log_odds(states)

    def _log_odds(self, features: Array) -> Array:
        scaled = (features - np.array(self.mean)) / np.array(self.scale)
        odds: Array = scaled @ np.array(self.coefficients) + self.intercept
        return odds

    @property
    def title(self) -> str:
        """What a list calls this probe."""
        at = f" at layer {self.layer}" if self.features == "hidden" else ""
        return self.name or f"{self.features}{at}, {self.dataset or 'texts without a name'}"

    def to_json(self) -> bytes:
        """The probe as JSON, as `from_json` reads it."""
        return _form().dump_json(self) + b"\n"

    @classmethod
    def from_json(cls, content: bytes, origin: str = "") -> Probe:
        """Read a probe that `to_json` wrote; every field is checked.

        Args:
            origin: where the content is from, for the sentence of the error.

        Raises:
            ValueError: this is not a probe, or a value in it cannot be right.
        """
        try:
            return _form().validate_json(content, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the file"
            raise ValueError(
                f"The probe {f'{origin} ' if origin else ''}cannot be used: {place}: "
                f"{wrong['msg']}; export it again, or train a new one."
            ) from error

    def save(self, path: Path) -> None:
        """Write the probe as JSON, whole or not at all."""
        with cache.write_beside(path) as beside:
            beside.write_bytes(self.to_json())

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read a probe that `save` wrote.

        Raises:
            ValueError: the file is not a probe, or a value in it cannot be right.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"The probe {path} cannot be read: {error.strerror}.") from error
        return cls.from_json(content, str(path))


@once
def _form() -> TypeAdapter[Probe]:
    return TypeAdapter(Probe)


# --- keeping -------------------------------------------------------------------------------------


def kept_folder() -> Path:
    """Where probes are kept."""
    return cache.home() / "probes"


def keep(probe: Probe) -> Path:
    """Save the probe in the cache folder, under a name made of all that determines it."""
    path = _path_of(probe)
    probe.save(path)
    return path


def forget(probe: Probe) -> None:
    """Remove a kept probe."""
    _path_of(probe).unlink(missing_ok=True)


def key_of(probe: Probe) -> str:
    """What a kept probe is found by: the same for all probes of the same model, data and settings.

    Its name is no part of it, so that a probe that is kept under another name is renamed.
    """
    return _path_of(probe).stem


def kept_probes(model_identity: str) -> list[Probe]:
    """Every kept probe of these weights, the best first; files that are not probes are left out."""
    found = []
    for path in sorted(kept_folder().glob("*.json")):
        try:
            probe = Probe.load(path)
        except ValueError:
            continue
        if probe.model_identity == model_identity:
            found.append(probe)
    return sorted(found, key=lambda probe: -probe.report.accuracy)


def _path_of(probe: Probe) -> Path:
    return _kept_path(
        probe.model_identity,
        probe.features,
        probe.suffix,
        (probe.words_positive, probe.words_negative),
        probe.dataset_hash,
    )


def _kept_path(
    identity: str,
    features: str,
    suffix: str,
    words: tuple[tuple[str, ...], tuple[str, ...]],
    dataset_hash: str,
) -> Path:
    key = json.dumps([FORMAT, identity, features, suffix, words, dataset_hash])
    return kept_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


# --- training ------------------------------------------------------------------------------------


def probe_for(
    model: Model,
    tweets: pd.DataFrame,
    *,
    features: Features = "logit_pair",
    suffix: str = DEFAULT_SUFFIX,
    words: Words | None = None,
    dataset: str = "",
    progress: Progress | None = None,
) -> Probe:
    """The kept probe of just this model, data and settings; trained and kept when there is none."""
    path = _kept_path(
        model.identity, features, suffix, _words(features, words), datasets.fingerprint(tweets)
    )
    if path.is_file():
        return Probe.load(path)
    probe = train_probe(
        model,
        tweets,
        features=features,
        suffix=suffix,
        words=words,
        dataset=dataset,
        progress=progress,
    )
    keep(probe)
    return probe


def train_probe(
    model: Model,
    tweets: pd.DataFrame,
    *,
    features: Features = "logit_pair",
    suffix: str = DEFAULT_SUFFIX,
    words: Words | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    dataset: str = "",
    name: str = "",
    by_layer: bool = True,
    progress: Progress | None = None,
) -> Probe:
    """Fit a probe and judge it by stratified cross-validation; `core.controls` adds controls.

    Args:
        tweets: columns `text` and `label` (1 positive, 0 negative). Where there is a column
            `group`, texts of one group stay in one fold; without one, texts that differ only in
            case or white space do. A column `row` numbers the source's rows.
        features: see `FEATURES`; also "hidden:18" and the like.
        words: the positive and the negative word, for "verbalizers" each may be a list; every word
            must be one token. A probe of hidden states names them for proxies that read words.
        folds: of the cross-validation that makes the report.
        seed: of the folds.
        dataset, name: what a person calls the data and the probe.
        by_layer: also report the accuracy of every layer's state, see `with_layers`.
        progress: called with (texts encoded, texts in all), at the end repeatedly with all. An
            exception ends the work.

    Raises:
        ValueError: unknown features, a word of several tokens, labels that cannot be learned from.
    """
    positive, negative = _words(features, words)
    _check_layer(features, model.layers)
    token_ids = [word_token(model, word) for word in (*positive, *negative)]
    labels, groups = tweets["label"].to_numpy(), groups_of(tweets)
    _check_labels(labels, groups, folds)
    splits = split(labels, groups, folds, seed)
    encoding = encode(model, tweets["text"], suffix=suffix, progress=progress)
    total = len(encoding)

    def alive() -> None:
        if progress is not None:
            progress(total, total)

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
    scaler, regress = fitted.named_steps["scale"], fitted.named_steps["regress"]
    rows = tweets["row"] if "row" in tweets else range(len(tweets))
    report = Report(
        scores=scores,
        folds=folds,
        rows=tuple(int(row) for row in rows),
        labels=tuple(int(label) for label in labels),  # type: ignore[misc]  # checked to be 0 or 1
        log_odds=_numbers(log_odds),
        learning=learning,
        layers=layers,
    )
    return Probe(
        features=features,
        model_name=model.name,
        model_identity=model.identity,
        model_revision=model.revision,
        suffix=suffix,
        words_positive=positive,
        words_negative=negative,
        layer=chosen.layer,
        penalty=chosen.penalty,
        mean=_numbers(scaler.mean_),
        scale=_numbers(scaler.scale_),
        coefficients=_numbers(regress.coef_[0]),
        intercept=float(regress.intercept_[0]),
        report=report,
        dataset=dataset,
        dataset_hash=datasets.fingerprint(tweets),
        embedding_std=encoding.embedding_std,
        seed=seed,
        name=name,
        versions=_versions(),
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
        ValueError: these are not the probe's model or texts.
    """
    check_origin(probe, model, tweets)
    labels, groups = tweets["label"].to_numpy(), groups_of(tweets)
    splits = split(labels, groups, probe.report.folds, probe.seed)
    encoding = encode(model, tweets["text"], suffix=probe.suffix)

    def alive(layer: int) -> None:
        if progress is not None:
            progress(layer, encoding.layers)

    with one_thread():
        layers = _layer_curve(encoding, labels, groups, splits, alive)
    return replace(probe, report=replace(probe.report, layers=layers))


def check_origin(probe: Probe, model: Model, tweets: pd.DataFrame) -> None:
    """Refuse a model or texts that are not those which the probe was trained on."""
    if probe.model_identity != model.identity:
        raise ValueError(
            f"The probe was trained on {probe.model_name!r}, not on {model.name!r}; "
            "give the model that it was trained on."
        )
    if datasets.fingerprint(tweets) != probe.dataset_hash:
        raise ValueError(
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
    if not _is_hidden(features):
        read = word_features(features, encoding.log_probs(model, token_ids), positive)
        return Readings(lambda _: read, (None,), (1.0,))
    _, _, layer = features.partition(":")
    layers = (int(layer),) if layer else tuple(range(encoding.layers))
    return Readings(lambda layer: encoding.states(layer or 0).astype(np.float64), layers, PENALTIES)


def word_features(features: Features, log_probs: Array, positive: int) -> Array:
    """What a probe that reads words is fitted on: (..., 2), positive words first.

    Args:
        log_probs: (..., words), log P of the positive words, then of the negative ones.
        positive: how many of the words are positive.
    """
    if features == "probabilities":
        return np.exp(log_probs)
    if features == "verbalizers":
        parts = np.split(log_probs, [positive], axis=-1)
        return np.stack([np.logaddexp.reduce(part, axis=-1) for part in parts], axis=-1)
    return log_probs


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
    """Numbers from 0 of the texts that must not be on both sides of a split: (texts,)."""
    if "group" in tweets:
        numbers: Labels = np.unique(tweets["group"].to_numpy(), return_inverse=True)[1]
        return numbers
    return labelling.text_groups(tweets["text"])


Splits = list[tuple[Labels, Labels]]
"""Indices of the training and of the held-out texts of each fold."""


def split(labels: Labels, groups: Labels, folds: int, seed: int) -> Splits:
    """Stratified folds that hold groups together.

    Raises:
        ValueError: a fold would have to learn from one label alone.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits: Splits = list(splitter.split(labels, labels, groups))
    if any(len(np.unique(labels[train])) < 2 for train, _ in splits):
        raise ValueError(
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
    from scipy.stats import t
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
    reach = t.ppf(0.975, len(splits) - 1) / np.sqrt(len(splits))
    points = []
    for count, found in zip(texts, accuracies, strict=True):
        mean, half = float(found.mean()), float(reach * found.std(ddof=1))
        if np.isfinite(mean):
            points.append(LearningScore(int(count), Score(mean, mean - half, mean + half)))
    return tuple(points)


def _is_hidden(features: Features) -> bool:
    return features.partition(":")[0] == "hidden"


def _words(features: Features, words: Words | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if words is None:
        words = DEFAULT_VERBALIZERS if features == "verbalizers" else DEFAULT_WORDS
    positive, negative = (
        (side,) if isinstance(side, str) else tuple(dict.fromkeys(side)) for side in words
    )
    if not (positive and negative):
        raise ValueError("There is no word of one sentiment; give at least one of each.")
    if set(positive) & set(negative):
        both = sorted(set(positive) & set(negative))[0]
        raise ValueError(f"The word {both!r} is among both sentiments; leave it out of one.")
    if features != "verbalizers" and len(positive) + len(negative) > 2:
        raise ValueError(
            f"The features {features!r} read one word of each sentiment; "
            'choose "verbalizers" for several.'
        )
    return positive, negative


def _check_layer(features: Features, layers: int) -> None:
    """Refuse features that are not known, and layers that a model does not have."""
    read, colon, layer = features.partition(":")
    if features in FEATURES:
        return
    if read != "hidden" or not colon:
        raise ValueError(
            f"The features {features!r} are not known; choose one of {', '.join(FEATURES)}, or "
            "name a layer as in hidden:18."
        )
    if not (layer.isascii() and layer.isdecimal() and str(int(layer)) == layer):
        raise ValueError(f"The features {features!r} name no layer; write them as hidden:18.")
    if int(layer) >= layers:
        raise ValueError(f"There is no layer {layer}: the model has layers 0 to {layers - 1}.")


def _check_labels(labels: NDArray[Any], groups: Labels, folds: int) -> None:
    strange = sorted({str(label) for label in labels if label not in (0, 1)})
    if strange:
        raise ValueError(
            f"Labels must be 0 (negative) or 1 (positive), but {', '.join(strange[:3])} is among "
            "them."
        )
    if folds < 2:
        raise ValueError(f"Cross-validation needs at least 2 folds, not {folds}.")
    for label, name in ((0, "negative"), (1, "positive")):
        count = len(np.unique(groups[labels == label]))
        if count < folds:
            raise ValueError(
                f"The data has {count} different {name} texts, too few for {folds} folds; "
                f"give at least {folds} of each label."
            )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "scikit-learn", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
