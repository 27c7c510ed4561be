"""What do the clean and the corrupted runs of a tweet say, before any site is restored?

They cost forward passes alone: the prediction, the total effect with its interval, and whether the
cells may be read at all (`core.tracing.findings.health_of`). Where they may not, `alternatives`
asks the same of other corruptions and other probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..models.model import Model
from ..patching.batches import TOKENS_PER_CALL
from ..patching.clean_and_corrupted import Source, run_source
from ..probes.probe import Probe
from ..prompts.counterfactuals import propose
from ..prompts.prompt import build_prompt
from ..statistics import Array
from .corruption import Case, case_of, numbers_of
from .findings import Health, health_of
from .result import Reads, TraceResult, TraceSettings

if TYPE_CHECKING:
    import pandas as pd

SCALES = (1.0, 2.0, 3.0, 4.0, 5.0)
"""Strengths of the noise that are looked at, in standard deviations."""

MORE_SAMPLES = 40
"""Samples of the alternative that has more of them."""

PAIRS = 3
"""Tweets of the opposite sentiment that are tried."""


@dataclass(frozen=True)
class Alternative:
    """Another way to ask where a tweet's sentiment is kept, and what its verdict is.

    `result` has no cells; its settings and its probe are those to trace with.
    """

    result: TraceResult
    health: Health

    @property
    def settings(self) -> TraceSettings:
        return self.result.settings

    @property
    def probe(self) -> Probe:
        return self.result.probe

    @property
    def removed(self) -> float:
        """Share of the clean log-odds that is surely gone, by the 95% interval; at most 1."""
        odds = self.result.under("log_odds")
        reach = odds.low_reach if odds.total_samples_done > 1 else 0.0
        return min(1.0, 1 - odds.low / odds.high - reach / abs(odds.high)) if odds.high else 0.0

    def how(self, asked: TraceResult) -> str:
        """What is done otherwise than was asked: "With the mean embedding"."""
        settings, before = self.settings, asked.settings
        if settings.corruption == "mean":
            way = "With the mean embedding"
        elif settings.counterfactual is not None:
            way = f"With the tweet \u201c{settings.counterfactual}\u201d"
        elif settings.samples != before.samples:
            way = f"With {settings.samples} noise samples"
        else:
            plural = "" if settings.noise_scale == 1 else "s"
            way = f"With noise of {settings.noise_scale:g} standard deviation{plural}"
        if self.probe == asked.probe:
            return way
        named = f"read by the probe \u201c{self.probe.title}\u201d"
        return f"{way}, {named}" if settings != before else f"As asked, {named}"


def verdicts(
    model: Model, cases: Sequence[Case], samples: Sequence[int] | None = None
) -> list[TraceResult]:
    """The verdict of a tweet by each of some probes, read from the same runs.

    Args:
        cases: of one tweet, corrupted in one way, that differ in what is read alone.
        samples: which; by default all that the total effect rests on.

    Returns:
        Of each case a result without cells.
    """
    settings = cases[0].blank.settings
    samples = range(settings.total_draws) if samples is None else samples
    clean, corrupted, _ = _reads(model, cases, [(0, sample) for sample in samples])
    return [
        replace(case.blank, reads=Reads(own[0], read[: settings.draws], {}, read))
        for case, own, read in zip(cases, clean, corrupted, strict=True)
    ]


def with_total(model: Model, case: Case, verdict: TraceResult) -> TraceResult:
    """A verdict of the cells' samples, taken on to all samples that the total effect rests on."""
    done, reads = verdict.total_samples_done, verdict.reads
    others = range(done, case.blank.settings.total_draws)
    if not others:
        return verdict
    more = verdicts(model, [case], others)[0].reads.total
    total = np.concatenate([reads.of_the_total, more])
    return replace(verdict, reads=replace(reads, total=total))


def alternatives(
    model: Model,
    probes: Sequence[Probe],
    text: str,
    settings: TraceSettings,
    *,
    most_samples: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Alternative]:
    """The verdicts of the other corruptions and the other probes, the quickest first.

    The mean embedding, tweets of the opposite sentiment in as many tokens, noise of `SCALES` and
    `MORE_SAMPLES` noise samples; each by every probe, and the asked corruption by the other probes.

    Args:
        probes: the one that was asked for and then others of the model, all with its suffix.
        settings: what was asked for.
        most_samples: noise samples that may be offered; None: any number.
        progress: called with the share of the runs that is done.

    Raises:
        ValueError: as for a trace of the tweet.
    """
    ways = _ways(model, probes[0], text, settings, most_samples)
    for done, way in enumerate(ways, start=1):
        readers = probes if way != settings else probes[1:]
        # Noise is measured in the embeddings of a probe's own texts.
        strengths = sorted({probe.embedding_std for probe in readers})
        for strength in strengths:
            cases = [
                case_of(model, probe, text, way)
                for probe in readers
                if probe.embedding_std == strength
            ]
            for result in verdicts(model, cases):
                yield Alternative(result, health_of(result))
        if progress is not None:
            progress(done / len(ways))


def best_first(found: Sequence[Alternative]) -> list[Alternative]:
    """Those under which the cells may be read, by how much of the sentiment is surely taken away.

    In steps of a tenth, within which the order in which they were found stays.
    """
    healthy = [alternative for alternative in found if alternative.health.ok]
    return sorted(healthy, key=lambda alternative: -round(alternative.removed, 1))


def total_effects(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    scales: Sequence[float] = SCALES,
    *,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """How strongly must a tweet be corrupted? The total effect at several strengths of the noise.

    Returns:
        One row per strength: scale (standard deviations), high, low, low_error, total_effect,
        lower and upper (its 95% t interval over the samples), probability (the probe's P(positive)
        of the corrupted run, mean), word (the corrupted run's most probable next token), changes
        (does the probe's predicted side change?).
    """
    import pandas as pd

    settings = settings or TraceSettings()
    rows: list[dict[str, Any]] = []
    for scale in scales:
        case = case_of(model, probe, text, replace(settings, noise_scale=float(scale)))
        clean, corrupted, last = _reads(model, [case], [(0, n) for n in _samples(case)])
        result = replace(case.blank, reads=Reads(clean[0][0], corrupted[0], {}))
        reach = result.low_reach
        _, words = model.next_tokens(last, 1)
        rows.append(
            {
                "scale": float(scale),
                "high": result.high,
                "low": result.low,
                "low_error": result.low_error,
                "total_effect": result.total_effect,
                "lower": result.total_effect - reach,
                "upper": result.total_effect + reach,
                "probability": result.corrupted_probability,
                "word": model.tokenizer.decode(words.tolist()),
                "changes": (result.clean_probability >= 0.5)
                != (result.corrupted_probability >= 0.5),
            }
        )
        if progress is not None:
            progress(len(rows) / len(scales))
    return pd.DataFrame(rows)


def word_effects(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Which word matters most? The total effect of each of the tweet's words corrupted alone.

    A word that shares its only token with a neighbour is corrupted, and counted, with that one.

    Returns:
        One row per word: word (index), text, start, end (characters of the prompt), total_effect,
        standard_error, samples.
    """
    import pandas as pd

    settings = settings or TraceSettings()
    prompt = build_prompt(model, text, probe.template)
    numbers = [n for n, word in enumerate(prompt.words) if word.in_tweet and word.tokens]
    words = [prompt.words[number] for number in numbers]
    cases = [case_of(model, probe, text, replace(settings, corrupt=word.tokens)) for word in words]
    units = [(index, sample) for index, case in enumerate(cases) for sample in _samples(case)]
    clean, corrupted, _ = _reads(model, cases, units, one_readout=True, progress=progress)
    rows = []
    for index, (number, word, case) in enumerate(zip(numbers, words, cases, strict=True)):
        own = [at for at, (of, _) in enumerate(units) if of == index]
        result = replace(case.blank, reads=Reads(clean[0][0], corrupted[0][own], {}))
        rows.append(
            {
                "word": number,
                "text": word.text,
                "start": word.start,
                "end": word.end,
                "total_effect": result.total_effect,
                "standard_error": result.low_error,
                "samples": result.samples_done,
            }
        )
    return pd.DataFrame(rows)


def _ways(
    model: Model, probe: Probe, text: str, asked: TraceSettings, most_samples: int | None
) -> list[TraceSettings]:
    """Settings whose verdicts are looked at, those of few runs first; the asked ones among them."""
    ways = [replace(asked, corruption="mean", counterfactual=None), asked]
    prompt = build_prompt(model, text, probe.template)
    pairs = [proposal for proposal in propose(model, prompt) if proposal.same_length][:PAIRS]
    ways += [
        replace(asked, corruption="counterfactual", counterfactual=pair.text, corrupt="tweet")
        for pair in pairs
    ]
    noise = asked
    if asked.corruption not in ("noise", "uniform"):
        noise = replace(asked, corruption="noise", counterfactual=None)
    ways += [replace(noise, noise_scale=scale) for scale in SCALES]
    more = MORE_SAMPLES if most_samples is None else min(MORE_SAMPLES, most_samples)
    if more > noise.total_draws:
        ways.append(replace(noise, samples=more))
    return list(dict.fromkeys(ways))


def _samples(case: Case) -> range:
    return range(case.blank.settings.draws)


def _reads(
    model: Model,
    cases: Sequence[Case],
    units: Sequence[tuple[int, int]],
    *,
    one_readout: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[list[Array], list[Array], torch.Tensor]:
    """Of each readout the columns (1, C) of the clean run and (U, C) of the corrupted ones.

    Args:
        cases: of one prompt.
        units: U of them: whose corruption, and which sample of it.
        one_readout: all cases are read alike.

    Returns:
        Clean and corrupted columns, and the last states (U, D) of the corrupted runs.
    """
    readers = cases[:1] if one_readout else cases
    rows = max(1, TOKENS_PER_CALL[model.device.type] // len(cases[0].prompt))
    source = run_source(model, cases[0].embeddings[None], cases[0].readout)
    clean = [_columns(model, case, source) for case in readers]
    corrupted: list[list[Array]] = [[] for _ in readers]
    last = []
    for start in range(0, len(units), rows):
        part = torch.stack([cases[of].corrupted(n) for of, n in units[start : start + rows]])
        source = run_source(model, part, cases[0].readout)
        for found, case in zip(corrupted, readers, strict=True):
            found.append(_columns(model, case, source))
        last.append(source.states[-1][:, -1])
        if progress is not None:
            progress(min(1.0, (start + rows) / len(units)))
    return clean, [np.concatenate(found) for found in corrupted], torch.cat(last)


@torch.inference_mode()
def _columns(model: Model, case: Case, source: Source) -> Array:
    """What a case's own readout reads of a run, (R, C)."""
    layer = case.readout.layer
    states = None if layer is None else source.states[layer + 1][:, -1]
    return numbers_of(case.readout.read(model, source.states[-1][:, -1], states))
