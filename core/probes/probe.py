"""How does one read a sentiment from the model? Features, and a fitted probe.

The original experiment predicts a tweet's labelled sentiment from P(" good") and P(" bad") after
the suffix " I am feeling" with a logistic regression, and takes its output for the sentiment that
the model has understood. It names the last position's hidden state as the better thing to read. A
probe here is that regression on standardised features, kept as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from ..errors import UserError
from ..models.identity import same_model
from ..models.model import Model
from ..prompts.prompt import DEFAULT_WORDS, first_token, word_token
from ..prompts.template import Format, Template
from ..statistics import Array
from ..storage import cache
from .scores import (
    Finite,
    Report,
)

Features = str
Words = tuple[str | Sequence[str], str | Sequence[str]]
FEATURES: dict[str, str] = {
    "logit_pair": "log P(good) and log P(bad)",
    "probabilities": "P(good) and P(bad), as in the original experiment",
    "verbalizers": "log P of any of several good and of several bad words",
    "hidden": "the last position's hidden state, at the layer that predicts best",
}
"""What a probe can read; "hidden:18" names a layer (0-based) instead of choosing one."""

CONTRAST = "contrast"
"""The features of a probe that is fitted on nothing: `core.probes.contrast`."""

DEFAULT_VERBALIZERS = (
    (" good", " great", " happy", " excited", " wonderful"),
    (" bad", " sad", " angry", " terrible", " awful"),
)

FORMAT: Literal[2] = 2
"""Version of the JSON form; a probe of another form is refused."""


# Checked when a probe is read from a file, which may come from anywhere.
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]


@dataclass(frozen=True)
class Probe:
    """A logistic regression from what the model says, or is, to the sentiment; and its origin.

    A probe reads either the log-probabilities of its words at the last position (`reads` is
    "words") or the last position's residual stream after block `layer` (`reads` is "states").
    One of the features `CONTRAST` was fitted on nothing (`core.probes.contrast`).
    """

    features: str  #: as asked for, see `FEATURES`
    model_name: str
    model_identity: str
    suffix: str
    words_positive: tuple[str, ...]
    words_negative: tuple[str, ...]
    layer: int | None  #: 0-based; None when it reads words
    mean: tuple[Finite, ...]  #: of the features, subtracted before they are divided by `scale`
    scale: tuple[Positive, ...]
    coefficients: tuple[Finite, ...]
    intercept: Finite
    report: Report | None  # None of a contrast
    dataset: str
    dataset_hash: str
    embedding_std: Positive  #: of the input embeddings of the data set's tweet tokens, or of all
    seed: int
    penalty: Positive = 1.0  #: scikit-learn's C
    name: str = ""  #: that a person gave it
    read_as: str = ""  #: of a person's own data: from which columns, and what the labels mean
    model_revision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    before: str = ""  # this and the following are the template's, see `Template`
    prompt_format: Format = "raw"
    opening: str = ""
    closing: str = ""
    format: Literal[2] = FORMAT

    def __post_init__(self) -> None:
        read, _, layer = self.features.partition(":")
        if read not in (*FEATURES, CONTRAST):
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
            raise UserError("words of each sentiment are needed")
        sizes = {len(self.mean), len(self.scale), len(self.coefficients)}
        if len(sizes) > 1 or sizes == {0} or (not hidden and sizes != {2}):
            raise UserError("mean, scale and coefficients are not of the length of the features")
        if self.is_contrast != (self.report is None):
            raise ValueError(f"a report does not go with {self.features!r}, or is needed")

    @property
    def is_contrast(self) -> bool:
        """Whether it is the difference of two words' log-probabilities, fitted on no data."""
        return self.features == CONTRAST

    @property
    def judged(self) -> Report:
        """How well the probe does on labelled texts.

        Raises:
            UserError: it is a contrast, which was fitted and judged on none.
        """
        if self.report is None:
            raise UserError(
                f"{self.title} is a contrast of two words, without labelled texts behind it; "
                "choose or train a probe for this."
            )
        return self.report

    @property
    def template(self) -> Template:
        """What stands around a tweet."""
        return Template(self.suffix, self.before, self.prompt_format, self.opening, self.closing)

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
        if self.reads != "words":
            raise UserError(f"This probe reads states ({self.features}): use `log_odds_of_states`.")
        return self._log_odds(word_features(self.features, log_probs, len(self.words_positive)))

    def log_odds_of_states(self, states: Array) -> Array:
        """Log-odds of "positive", for a probe that reads states.

        Args:
            states: (..., D), the last position's residual stream after block `layer`.

        Returns:
            (...), in nats.
        """
        if self.reads != "states":
            raise UserError(f"This probe reads words ({self.features}): use `log_odds`.")
        return self._log_odds(states)

    def _log_odds(self, features: Array) -> Array:
        scaled = (features - np.array(self.mean)) / np.array(self.scale)
        odds: Array = scaled @ np.array(self.coefficients) + self.intercept
        return odds

    @property
    def title(self) -> str:
        """What a list calls this probe."""
        if self.is_contrast:
            return self.name or f"log P({self.words[0].strip()}) - log P({self.words[1].strip()})"
        at = f" at layer {self.layer}" if self.features == "hidden" else ""
        chat = ", chat" if self.prompt_format == "chat" else ""
        return self.name or f"{self.features}{at}{chat}, {self.dataset or 'texts without a name'}"

    def to_json(self) -> bytes:
        """The probe as JSON, as `from_json` reads it."""
        return _adapter().dump_json(self) + b"\n"

    @classmethod
    def from_json(cls, content: bytes, origin: str = "") -> Probe:
        """Read a probe that `to_json` wrote; every field is checked.

        Args:
            origin: where the content is from, for the sentence of the error.

        Raises:
            UserError: this is not a probe, or a value in it cannot be right.
        """
        try:
            return _adapter().validate_json(content, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the file"
            raise UserError(
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
            UserError: the file is not a probe, or a value in it cannot be right.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"The probe {path} cannot be read: {error.strerror}.") from error
        return cls.from_json(content, str(path))


@once
def _adapter() -> TypeAdapter[Probe]:
    return TypeAdapter(Probe)


def word_tokens(model: Model, probe: Probe) -> list[int]:
    """Token ids of the words that a probe reads, positive ones first."""
    words = (*probe.words_positive, *probe.words_negative)
    if probe.is_contrast:
        return [first_token(model, word)[0] for word in words]
    return [word_token(model, word) for word in words]


def check_model(probe: Probe, model: Model) -> None:
    """Refuse a model that is not the one which the probe was trained on."""
    if not same_model(probe.model_identity, model.identity):
        raise UserError(
            f"The probe was trained on {probe.model_name!r}, not on {model.name!r}; "
            "choose a probe of this model or train one."
        )


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


def is_hidden(features: Features) -> bool:
    """Whether they are states of some layer."""
    return features.partition(":")[0] == "hidden"


def words_of(features: Features, words: Words | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The positive and the negative words that a probe of these features reads, checked."""
    if words is None:
        words = DEFAULT_VERBALIZERS if features == "verbalizers" else DEFAULT_WORDS
    positive, negative = (
        (side,) if isinstance(side, str) else tuple(dict.fromkeys(side)) for side in words
    )
    if not (positive and negative):
        raise UserError("There is no word of one sentiment; give at least one of each.")
    if set(positive) & set(negative):
        both = sorted(set(positive) & set(negative))[0]
        raise UserError(f"The word {both!r} is among both sentiments; leave it out of one.")
    if features != "verbalizers" and len(positive) + len(negative) > 2:
        raise UserError(
            f"The features {features!r} read one word of each sentiment; "
            'choose "verbalizers" for several.'
        )
    return positive, negative


def check_layer(features: Features, layers: int) -> None:
    """Refuse features that are not known, and layers that a model does not have."""
    read, colon, layer = features.partition(":")
    if features in FEATURES:
        return
    if read != "hidden" or not colon:
        raise UserError(
            f"The features {features!r} are not known; choose one of {', '.join(FEATURES)}, or "
            "name a layer as in hidden:18."
        )
    if not (layer.isascii() and layer.isdecimal() and str(int(layer)) == layer):
        raise UserError(f"The features {features!r} name no layer; write them as hidden:18.")
    if int(layer) >= layers:
        raise UserError(f"There is no layer {layer}: the model has layers 0 to {layers - 1}.")
