"""Is an intervention as good as it looks? Held-out texts, intervals, and what counts as success.

- Efficacy: how far, and how often, the tweet's proxy moves to the wanted side.
- Generalisation: the same for paraphrases of the tweet (assets/paraphrases.json, written by hand)
  and for other tweets with the edited word.
- Specificity: how many tweets without that word keep their predicted side.
- Fluency: perplexity of neutral texts as a multiple of the unchanged model's, and the n-gram
  entropy of sampled continuations (Meng et al. 2022, section 3.4).

Held out: the labelled texts are split in five, texts that say the same together; probe and
directions are fitted on four parts (`hold_out`), and judged on tweets of the fifth. The layer of a
probe of hidden states stays the one that was chosen before. Neutral texts are those that the data
set rates so near 0 that they have no label; nothing is fitted on them.

Intervals are 95%: Wilson's for shares of texts, percentile bootstrap over texts for the others.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import regex  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ..data.datasets import BUILT_IN, load_dataset, load_labelled
from ..data.labelling import check_frame
from ..data.readable import readable_texts
from ..distribution import ASSETS
from ..errors import UserError
from ..models.model import Model
from ..probes.contrast import contrast
from ..probes.encoding import Encoding, encode
from ..probes.encoding import Progress as Encoded
from ..probes.library import probe_for
from ..probes.probe import CONTRAST, Probe, Words, check_model, word_tokens, words_of
from ..probes.scores import score
from ..probes.training import (
    FOLDS,
    LAYER_PENALTY,
    Readings,
    choose,
    groups_of,
    numbers_of,
    one_thread,
    readings_of,
    regression,
    report_of,
    split,
)
from ..prompts.prompt import build_prompt, why_unreadable
from ..prompts.template import DEFAULT_SUFFIX, Template
from ..statistics import Array, bootstrap, spearman, wilson
from ..tracing.corruption import readout_of
from ..tracing.result import Proxy, read_proxy
from .forward import (
    Share,
    Surprise,
    continuations,
    gram_entropy,
    read_texts,
    surprise,
)
from .steering import Direction, Intervention, Source, sentiment_direction

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 2000
"""Bootstrap resamples behind an interval."""

NEUTRAL = 0.5
"""Texts rated nearer to 0 than this have no label."""

CONTINUED_TOP_K = 5
"""Continuations are drawn from so many most probable tokens, as in the authors' code."""

Wanted = Literal["positive", "negative", "either"]


# --- intervals -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, over n texts; NaN where there is none."""

    value: float
    lower: float
    upper: float
    n: int


NO_ESTIMATE = Estimate(float("nan"), float("nan"), float("nan"), 0)


def share_of(hits: NDArray[np.bool_]) -> Estimate:
    """A share with Wilson's interval."""
    if not len(hits):
        return NO_ESTIMATE
    return Estimate(float(hits.mean()), *wilson(int(hits.sum()), len(hits)), len(hits))


def mean_of(values: Array, *, seed: int = 0) -> Estimate:
    """A mean with its bootstrap interval."""
    return estimate(lambda rows: float(values[rows].mean()), len(values), seed=seed)


def estimate(statistic: Callable[[NDArray[np.int64]], float], n: int, *, seed: int = 0) -> Estimate:
    """A statistic of chosen rows, with its bootstrap interval (`core.statistics.bootstrap`)."""
    if n == 0:
        return NO_ESTIMATE
    return Estimate(statistic(np.arange(n)), *bootstrap(statistic, n, draws=DRAWS, seed=seed), n)


def correlation(first: Array, second: Array, *, seed: int = 0) -> Estimate:
    """Spearman's rank correlation, with its bootstrap interval over the pairs."""
    return estimate(lambda rows: spearman(first[rows], second[rows]), len(first), seed=seed)


# --- what is learned from, and what is judged on -------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Labelled texts in two parts: one that probe and directions come from, one that judges them.

    Attributes:
        probe: fitted on the training part; its report is of the held-out part.
        train, test: rows of `texts`.
        neutral: texts without a label.
        said: how many texts are left out and why; "" where none is.
    """

    probe: Probe
    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    neutral: tuple[str, ...]
    encoding: Encoding = field(repr=False)
    said: str = ""

    @property
    def training_texts(self) -> list[str]:
        """Texts that keys and means are taken from."""
        return [self.texts[row] for row in self.train]

    def states(self, layer: int) -> Array:
        """The training texts' states after block `layer`, at the last position: (texts, D)."""
        states: Array = self.encoding.states(layer)[self.train].astype(np.float64)
        return states

    def direction(self, model: Model, source: Source, layer: int, *, seed: int = 0) -> Direction:
        """A direction made of the training part; see `steering.sentiment_direction`."""
        model.check_layer(layer)
        states, labels = self.states(layer), self.labels[self.train]
        weight = None
        if source == "probe":
            with one_thread():
                fitted = regression(LAYER_PENALTY).fit(states, labels)
            scaler, regress = fitted.named_steps["scale"], fitted.named_steps["regress"]
            weight = regress.coef_[0] / scaler.scale_
        return sentiment_direction(
            model, source, layer, states, labels, probe=self.probe, weight=weight, seed=seed
        )

    def judged_by(self, tweet: str, word: str, *, count: int, seed: int = 0) -> JudgedBy:
        """Held-out texts to judge an intervention on one tweet by.

        Args:
            word: whose other tweets are wanted; "" makes all of them "others".
            count: at most so many of each sort.
            seed: which ones.
        """
        order = np.random.default_rng(seed).permutation(self.test)
        candidates = [self.texts[row] for row in order if self.texts[row].strip() != tweet.strip()]
        with_it = [text for text in candidates if has_word(text, word)]
        without = [text for text in candidates if not has_word(text, word)]
        return JudgedBy(
            tweet,
            paraphrases().get(tweet.strip(), ()),
            tuple(with_it[:count]),
            tuple(without[:count]),
            self.neutral[:count],
        )


@dataclass(frozen=True)
class JudgedBy:
    """The texts that an intervention on one tweet is judged by."""

    tweet: str
    paraphrases: tuple[str, ...] = ()
    same_word: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    neutral: tuple[str, ...] = ()


def hold_out(
    model: Model,
    tweets: pd.DataFrame,
    like: Probe,
    *,
    neutral: Sequence[str] = (),
    seed: int = 0,
    progress: Encoded | None = None,
) -> HeldOut:
    """Split labelled texts in five, and fit a probe on four of the parts.

    Args:
        tweets: columns text and label; `group` as in `core.probes.training.train_probe`. Texts that
            the model cannot read are left out.
        like: a probe whose features, words, suffix and layer are taken.
        neutral: texts without a label; those that are among `tweets` are left out.
        seed: of the split, whose first fold is held out.
        progress: called with (texts encoded, texts in all). An exception ends the work.

    Raises:
        UserError: the probe is of other weights, or the texts cannot be learned from.
    """
    check_model(like, model)
    check_frame(tweets)
    found = readable_texts(model, tweets, like.template)
    tweets = found.frame
    groups = groups_of(tweets)
    labels = tweets["label"].to_numpy(dtype=np.int64)
    train, test = split(labels, groups, FOLDS, seed)[0]
    encoding = encode(model, tweets["text"], template=like.template, progress=progress)
    ids = word_tokens(model, like)
    readings = readings_of(encoding, model, like.features, ids, len(like.words_positive))
    fitting = Readings(
        lambda layer: readings.values(layer)[train], (like.layer,), readings.penalties
    )
    with one_thread():
        chosen = choose(fitting, labels[train], groups[train], seed)
        values = readings.values(like.layer)
        fitted = regression(chosen.penalty).fit(values[train], labels[train])
        log_odds = fitted.decision_function(values[test]).round(6)
        scores = score(labels[test], log_odds, groups[test])
    probe = like  # a contrast is fitted on nothing
    if not like.is_contrast:
        probe = replace(
            like,
            penalty=chosen.penalty,
            **numbers_of(fitted),
            report=report_of(tweets, scores, 1, log_odds, held_out=test),
            seed=seed,
            name="fitted on four fifths",
        )
    texts = tuple(str(text) for text in tweets["text"])
    known = set(texts)
    return HeldOut(
        probe=probe,
        texts=texts,
        labels=labels,
        train=train,
        test=test,
        neutral=tuple(
            text
            for text in dict.fromkeys(neutral)
            if text not in known and not why_unreadable(model, text, like.template)
        ),
        encoding=encoding,
        said=found.describe(),
    )


def held_out_of(
    model: Model,
    dataset: str,
    features: str,
    *,
    template: Template | str = DEFAULT_SUFFIX,
    words: Words | None = None,
    tweets: pd.DataFrame | None = None,
    read_as: str = "",
    progress: Share | None = None,
) -> HeldOut:
    """A data set by name, split, with the probe that is kept for it (trained if there is none).

    Neutral texts are those of a built-in data set that are rated nearer to 0 than `NEUTRAL`.

    Args:
        template: what stands around a text.
        features, words: of the probe, see `core.probes.training.train_probe`; the features
            "contrast" train none and read the words (`core.probes.contrast`).
        tweets: the data set, where it has been loaded, and `read_as`, how.

    Raises:
        UserError: there is no such data set, or it cannot be learned from.
    """

    def share(done: int, total: int) -> None:
        if progress is not None:
            progress(done / max(1, total))

    said = ""
    if tweets is None and dataset in BUILT_IN:
        tweets = load_dataset(dataset)
    elif tweets is None:
        labelled = load_labelled(dataset)
        tweets, read_as = labelled.frame, labelled.read_as()
        said = labelled.describe() if labelled.refused else ""
    if features == CONTRAST:
        (target,), (distractor,) = words_of(features, words)
        probe = contrast(model, target, distractor, template)
    else:
        probe = probe_for(
            model,
            tweets,
            features=features,
            template=template,
            words=words,
            dataset=dataset,
            read_as=read_as,
            progress=share,
        )
    neutral: list[str] = []
    if dataset in BUILT_IN:
        everything = load_dataset(dataset, min_rating=0.0)
        neutral = list(everything["text"][everything["rating"].abs() < NEUTRAL])
    held = hold_out(model, tweets, probe, neutral=neutral, progress=share)
    return replace(held, said=f"{said} {held.said}".strip())


def paraphrases() -> dict[str, tuple[str, ...]]:
    """Tweets and what says the same in other words, with the sentiment word kept."""
    entries = json.loads((ASSETS / "paraphrases.json").read_text(encoding="utf-8"))
    return {entry["tweet"]: tuple(entry["paraphrases"]) for entry in entries}


def has_word(text: str, word: str) -> bool:
    """Does a text hold a word, whatever its case, and not only as a part of another?"""
    if not word.strip():
        return False
    return bool(
        regex.search(rf"(?<!\w){regex.escape(word.strip())}(?!\w)", text, flags=regex.IGNORECASE)
    )


# --- reading and judging -------------------------------------------------------------------------


def read_under(
    model: Model,
    probe: Probe,
    texts: Sequence[str],
    intervention: Intervention | None = None,
    *,
    progress: Share | None = None,
) -> Array:
    """What is read of every text's prompt under an intervention: (texts, C), see `read_proxy`."""
    readout = readout_of(model, probe)
    if intervention is None:
        return read_texts(model, readout, texts, template=probe.template, progress=progress)
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        by_length[len(build_prompt(model, text, probe.template))].append(row)
    found: Array | None = None
    done = 0
    for length, rows in by_length.items():
        with intervention.applied(model, length):
            read = read_texts(model, readout, [texts[row] for row in rows], template=probe.template)
        if found is None:
            found = np.empty((len(texts), read.shape[1]))
        found[rows] = read
        done += len(rows)
        if progress is not None:
            progress(done / len(texts))
    if found is None:
        raise UserError("There are no texts to read: give at least one.")
    return found


def log_odds_under(
    model: Model,
    probe: Probe,
    texts: Sequence[str],
    intervention: Intervention | None = None,
    *,
    proxy: Proxy = "log_odds",
    progress: Share | None = None,
) -> Array:
    """The proxy of every text under an intervention: (texts,); none for no texts."""
    if not texts:
        return np.empty(0)
    return read_proxy(
        proxy, probe, read_under(model, probe, texts, intervention, progress=progress)
    )


def surprise_under(
    model: Model, texts: Sequence[str], intervention: Intervention | None = None
) -> Surprise:
    """How surprising texts are under an intervention that means something for any text."""
    with intervention.applied(model) if intervention is not None else nullcontext():
        return surprise(model, texts)


def perplexity_ratio(before: Surprise, after: Surprise) -> Estimate:
    """Perplexity as a multiple of what it was, paired text by text."""

    def ratio(rows: NDArray[np.int64]) -> float:
        nats = float((after.nats[rows] - before.nats[rows]).sum())
        return float(np.exp(nats / before.tokens[rows].sum()))

    return estimate(ratio, len(before.nats))


def moved(before: Array, after: Array, wanted: Wanted) -> Array:
    """How far log-odds moved to the wanted side; "either" is towards the side they were not on."""
    return (after - before) * _sign(before, wanted)


def flipped(before: Array, after: Array, wanted: Wanted) -> NDArray[np.bool_]:
    """Which of the texts that were not on the wanted side before are on it after.

    Texts that were on it already are left out.
    """
    sign = _sign(before, wanted)
    could = before * sign <= 0
    hits: NDArray[np.bool_] = (after * sign > 0)[could]
    return hits


def _sign(before: Array, wanted: Wanted) -> Array:
    if wanted == "either":
        return np.where(before >= 0, -1.0, 1.0)
    return np.full(len(before), 1.0 if wanted == "positive" else -1.0)


@dataclass
class Judge:
    """Judges interventions on one tweet by the same texts; the unchanged model is read once."""

    model: Model
    probe: Probe
    texts: JudgedBy
    wanted: Wanted
    continued: int = 4  # sampled continuations
    tokens: int = 30  # of each
    seed: int = 0
    _before: dict[str, Any] = field(default_factory=dict, repr=False)

    def judge(
        self, intervention: Intervention, *, progress: Share | None = None
    ) -> dict[tuple[str, str], Estimate]:
        """Estimates by (measure, texts); those of no texts are left out.

        Perplexity and n-gram entropy are left out where the intervention belongs to the tweet's
        own tokens.
        """
        groups = {
            "tweet": (self.texts.tweet,),
            "paraphrases": self.texts.paraphrases,
            "same word": self.texts.same_word,
            "others": self.texts.others,
        }
        if not intervention.everywhere:
            groups = {"tweet": groups["tweet"]}
        steps, done = len(groups) + 2, 0

        def show() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done / steps)

        found: dict[tuple[str, str], Estimate] = {}
        for name, texts in groups.items():
            if texts:
                before = self._unchanged(name, partial(self._read, texts, None))
                found |= self._of(name, before, self._read(texts, intervention))
            show()
        if intervention.everywhere and self.texts.neutral:
            neutral = self.texts.neutral
            calm = self._unchanged("neutral", partial(surprise, self.model, neutral))
            moved_by = surprise_under(self.model, neutral, intervention)
            found["perplexity", "neutral"] = perplexity_ratio(calm, moved_by)
        show()
        if self.continued:
            plain = self._unchanged("continuations", partial(self._entropies, None))
            found["entropy", "continuations"] = mean_of(self._entropies(intervention) - plain)
        show()
        return found

    def _of(self, name: str, before: Array, after: Array) -> dict[tuple[str, str], Estimate]:
        if name == "others":
            return {("keeps", name): share_of((before > 0) == (after > 0))}
        moves = mean_of(moved(before, after, self.wanted))
        flips = share_of(flipped(before, after, self.wanted))
        if name == "tweet":  # of one tweet there is no interval
            flips = replace(flips, lower=float("nan"), upper=float("nan"))
        return {("moves", name): moves} | ({("flips", name): flips} if flips.n else {})

    def _read(self, texts: Sequence[str], intervention: Intervention | None) -> Array:
        return log_odds_under(self.model, self.probe, texts, intervention)

    def _entropies(self, intervention: Intervention | None) -> Array:
        prompt = build_prompt(self.model, self.texts.tweet, self.probe.template)
        context: Any = nullcontext()
        if intervention is not None:
            context = intervention.applied(self.model, len(prompt))
        with context:
            drawn = continuations(
                self.model,
                prompt.ids,
                self.tokens,
                samples=self.continued,
                top_k=CONTINUED_TOP_K,
                seed=self.seed,
            )
        return np.array([gram_entropy(ids) for ids in drawn])

    def _unchanged(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._before:
            self._before[name] = make()
        return self._before[name]


def pooled(arms: Sequence[Mapping[tuple[str, str], Estimate]]) -> dict[tuple[str, str], Estimate]:
    """Several controls as one: the mean of their values, from the least to the largest of them.

    With a handful of controls their range says more than an interval would; `n` counts them.
    """
    found: dict[tuple[str, str], Estimate] = {}
    for key in dict.fromkeys(key for arm in arms for key in arm):
        values = np.array([arm[key].value for arm in arms if key in arm])
        values = values[np.isfinite(values)]
        if len(values):
            found[key] = Estimate(
                float(values.mean()), float(values.min()), float(values.max()), len(values)
            )
    return found


def judged_frame(arms: Mapping[str, Mapping[tuple[str, str], Estimate]]) -> pd.DataFrame:
    """Estimates as a tidy frame: arm, measure, texts, value, lower, upper, n."""
    import pandas as pd

    rows = [
        {
            "arm": arm,
            "measure": measure,
            "texts": texts,
            "value": found.value,
            "lower": found.lower,
            "upper": found.upper,
            "n": found.n,
        }
        for arm, estimates in arms.items()
        for (measure, texts), found in estimates.items()
    ]
    columns = ["arm", "measure", "texts", "value", "lower", "upper", "n"]
    return pd.DataFrame(rows, columns=columns)
