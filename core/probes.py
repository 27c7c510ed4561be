"""How does one read a sentiment from the model's next token? Features, and a fitted probe.

The original experiment predicts a tweet's labelled sentiment from P(" good") and P(" bad") after
the suffix " I am feeling" with a logistic regression, and takes its output for the sentiment that
the model has understood. A probe here is that regression: fitted by scikit-learn, judged by
cross-validation, kept as JSON.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from core import cache, datasets
from core.models import Model
from core.prompts import DEFAULT_SUFFIX, DEFAULT_WORDS, Prompt, build_prompt, word_token

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Features = Literal["logit_pair", "probabilities"]
FEATURES: dict[str, str] = {
    "logit_pair": "log P(good) and log P(bad)",
    "probabilities": "P(good) and P(bad), as in the original experiment",
}
FORMAT: Literal[2] = 2
"""Version of the JSON form; a probe of another form is refused."""

TOKENS_PER_BATCH = 2048

# Checked when a probe is read from a file, which may come from anywhere.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Report:
    """How well the probe does on tweets that it was not fitted on (stratified folds, pooled)."""

    accuracy: Share
    accuracy_low: Share  # 95% Wilson interval of the accuracy
    accuracy_high: Share
    macro_f1: Share
    majority: Share  # share of the more frequent label: the accuracy of knowing nothing
    n: Count
    folds: Count


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

    def save(self, path: Path) -> None:
        """Write the probe as JSON, whole or not at all."""
        with cache.write_beside(path) as beside:
            beside.write_bytes(_form().dump_json(self, indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read a probe that `save` wrote.

        Raises:
            ValueError: the file is not a probe, or a value in it cannot be right.
        """
        try:
            return _form().validate_json(Path(path).read_bytes(), strict=True)
        except OSError as error:
            raise ValueError(f"The probe {path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the file"
            raise ValueError(
                f"The probe {path} cannot be used: {place}: {wrong['msg']}; "
                "export it again, or train a new one."
            ) from error


@once
def _form() -> TypeAdapter[Probe]:
    return TypeAdapter(Probe)


def kept_folder() -> Path:
    """Where probes are kept."""
    return cache.home() / "probes"


def keep(probe: Probe) -> Path:
    """Save the probe in the cache folder, under a name made of all that determines it."""
    path = _kept_path(
        probe.model_identity, probe.features, probe.suffix, probe.words, probe.dataset_hash
    )
    probe.save(path)
    return path


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


def train_probe(
    model: Model,
    tweets: pd.DataFrame,
    *,
    features: Features = "logit_pair",
    suffix: str = DEFAULT_SUFFIX,
    words: tuple[str, str] = DEFAULT_WORDS,
    folds: int = 5,
    seed: int = 0,
    dataset: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Fit a probe and judge it by stratified cross-validation.

    Args:
        tweets: columns `text` and `label` (1 positive, 0 negative).
        features: "logit_pair" or "probabilities", see `FEATURES`.
        words: the positive and the negative word; each must be one token.
        folds: of the cross-validation that makes the report.
        progress: called with (tweets encoded, tweets in all). An exception ends the work.

    Raises:
        ValueError: unknown features, a word of several tokens, labels that cannot be learned from.
    """
    if features not in FEATURES:
        raise ValueError(
            f"The features {features!r} are not known; choose one of {', '.join(FEATURES)}."
        )
    labels = tweets["label"].to_numpy()
    _check_labels(labels, folds)
    prompts = [build_prompt(model, text, suffix) for text in tweets["text"]]
    token_ids = [word_token(model, word) for word in words]
    log_probs = next_token_log_probs(model, prompts, token_ids, progress=progress)
    fitted, report = _fit(word_features(features, log_probs, 1), labels, folds, seed)
    scaler, regression = fitted.named_steps["scale"], fitted.named_steps["regress"]
    return Probe(
        features=features,
        model_name=model.name,
        model_identity=model.identity,
        model_revision=model.revision,
        suffix=suffix,
        words_positive=(words[0],),
        words_negative=(words[1],),
        layer=None,
        mean=_numbers(scaler.mean_),
        scale=_numbers(scaler.scale_),
        coefficients=_numbers(regression.coef_[0]),
        intercept=float(regression.intercept_[0]),
        report=report,
        dataset=dataset,
        dataset_hash=datasets.fingerprint(tweets),
        embedding_std=tweet_embedding_std(model, prompts),
        seed=seed,
        versions=_versions(),
    )


def probe_for(
    model: Model,
    tweets: pd.DataFrame,
    *,
    features: Features = "logit_pair",
    suffix: str = DEFAULT_SUFFIX,
    words: tuple[str, str] = DEFAULT_WORDS,
    dataset: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """The kept probe of just this model, data and settings; trained and kept when there is none."""
    path = _kept_path(model.identity, features, suffix, words, datasets.fingerprint(tweets))
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


@torch.inference_mode()
def next_token_log_probs(
    model: Model,
    prompts: Sequence[Prompt],
    token_ids: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """log P of some next tokens after each prompt: (prompts, len(token_ids)).

    Prompts of one length form a batch, so that there is no padding; at the last layer only the
    last position is computed.
    """
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    result = np.empty((len(prompts), len(token_ids)))
    done = 0
    for length in sorted(by_length, reverse=True):  # the slowest first: time left is not too low
        indices = by_length[length]
        size = max(1, TOKENS_PER_BATCH // length)
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            ids = torch.tensor([prompts[index].ids for index in batch])
            states = model.enter(model.embed(ids))
            for layer in range(model.layers - 1):
                states = model.block(layer, states).states
            last = model.block_at_last(model.layers - 1, states)[:, 0]
            result[batch] = model.log_probs(last, token_ids).double().cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(prompts))
    return result


def tweet_embedding_std(model: Model, prompts: Iterable[Prompt]) -> float:
    """Standard deviation over all numbers in the input embeddings of all tweet tokens.

    The noise rule of Meng et al. 2022 (section 2 and appendix B) is a multiple of this.
    """
    ids: list[int] = []
    for prompt in prompts:
        ids += [prompt.ids[position] for position in prompt.tweet_span]
    tokens, counts = np.unique(ids, return_counts=True)
    embedded = model.embed(torch.from_numpy(tokens)).double().cpu()  # (distinct tokens, D)
    weights = torch.from_numpy(counts / counts.sum())[:, None]
    mean = (weights * embedded).sum() / embedded.shape[1]
    variance = (weights * (embedded - mean) ** 2).sum() / embedded.shape[1]
    return float(variance.sqrt())


def word_features(features: str, log_probs: Array, positive: int) -> Array:
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


def _fit(values: Array, labels: NDArray[Any], folds: int, seed: int) -> tuple[Any, Report]:
    from scipy.stats import binomtest
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    regression = Pipeline(
        [("scale", StandardScaler()), ("regress", LogisticRegression(max_iter=1000))]
    )
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(regression, values, labels, cv=splits)
    right, n = int((predicted == labels).sum()), len(labels)
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    report = Report(
        accuracy=right / n,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        macro_f1=float(f1_score(labels, predicted, average="macro")),
        majority=float(max(np.mean(labels), 1 - np.mean(labels))),
        n=n,
        folds=folds,
    )
    return regression.fit(values, labels), report


def _check_labels(labels: NDArray[Any], folds: int) -> None:
    strange = sorted({str(label) for label in labels if label not in (0, 1)})
    if strange:
        raise ValueError(
            f"Labels must be 0 (negative) or 1 (positive), but {', '.join(strange[:3])} is among "
            "them."
        )
    for label, name in ((0, "negative"), (1, "positive")):
        count = int((labels == label).sum())
        if count < folds:
            raise ValueError(
                f"The data has {count} {name} tweets, too few for {folds} folds; "
                f"give at least {folds} of each label."
            )


def _kept_path(
    identity: str, features: str, suffix: str, words: tuple[str, str], dataset_hash: str
) -> Path:
    key = json.dumps([FORMAT, identity, features, suffix, list(words), dataset_hash])
    return kept_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "scikit-learn", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
