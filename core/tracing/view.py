"""What is shown of a trace? One view of it, made once of a result and of what is chosen.

The page, the command line and the files that are saved all take their cells, their unit and scale,
their sentences and their caption from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..patching.gradients import STEPS
from ..patching.sites import Kind
from ..settings import described
from ..showing import Shown
from .estimate import Estimate
from .findings import RULE, Findings, by_words, findings
from .findings import cells as cells_of
from .result import Proxy, TraceResult, units_of

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"hidden": "Hidden state", "mlp": "MLP", "attn": "Attention"}
"""Kinds of site in the order in which they are drawn, and what a person calls them."""

SHORT_UNITS: dict[Proxy, str] = {
    "log_odds": "log-odds (nats)",
    "probability": "P(positive)",
    "log_ratio": "log P ratio (nats)",
    "good": "P(good)",
    "bad": "P(bad)",
}

Around = Literal["after", "all", "none"]
AROUND: dict[str, str] = {"after": "After the tweet", "all": "All", "none": "None"}
"""Which rows of a template are shown; those ahead of the tweet are 0 by construction."""

SHARE_UNIT = "% of the total effect"
ROUND_ENDS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SMALLEST_SCALE = 1e-12  # a largest effect below this is rounding, and gets no scale of its own


@dataclass(frozen=True)
class View(Shown):
    """A trace, and how it is shown; each part is made when it is first asked for, and once.

    Attributes:
        result: read through the proxy that is chosen (`TraceResult.under`).
        verdict: the clean and all corrupted runs, by which the tweet is judged while the cells rest
            on fewer samples; None judges by the result.
        share: effects in percent of the total effect.
        words: a row for every word, that of its last token, in place of every token.
        kind: the only kind of site that is shown; None shows all that were traced.
        estimate: of the cells, shown where they have not been run; None shows no others.
        around: which tokens of a chat template, or of a text ahead of the tweet, have rows.
    """

    result: TraceResult
    verdict: TraceResult | None = None
    share: bool = described(False, "Figure: effects in percent of the total effect.")
    words: bool = described(
        False, "Figure: a row for every word, that of its last token.", option="--by-word"
    )
    kind: Kind | None = described(
        None, "Figure: this kind of site alone.", option="--only", unset="all that are traced"
    )
    estimate: Estimate | None = None
    around: Around = described(
        "after",
        "Figure: rows of the tokens of a chat template, or of a text ahead of the tweet.",
        option="--template-rows",
    )

    @property
    def judged(self) -> TraceResult:
        """The runs that prediction, total effect and health are read from."""
        return self.result if self.verdict is None else self.verdict

    @property
    def title(self) -> str:
        """The tweet, in quotes."""
        return f"\u201c{self.result.prompt.tweet}\u201d"

    @property
    def headline(self) -> str:
        """What the model makes of the tweet."""
        return headline(self.judged)

    @property
    def effect_line(self) -> str:
        """What the corruption did to it."""
        return effect_line(self.judged)

    @cached_property
    def findings(self) -> Findings:
        """What may be said of the trace, and whether its cells may be read at all."""
        return findings(self.result, self.judged)

    @property
    def grey(self) -> bool:
        """Whether the cells mean nothing, and so are drawn without colours."""
        return self.findings.health.ok is False

    @property
    def unit(self) -> str:
        """What the effects that are shown are measured in."""
        return SHARE_UNIT if self.share else unit_of(self.result)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """All cells of the trace, in units of the proxy; see `core.tracing.findings.cells`."""
        return cells_of(self.result) if self.estimate is None else self.estimate.joined(self.result)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The cells that are shown, in the unit in which they are shown; columns as of `cells`."""
        frame = self.cells
        if self.folded:
            frame = frame[~frame["position"].isin(self.folded)]
        if self.words:
            frame = by_words(frame, self.result)
        if self.share:
            frame = as_shares(frame)
        return frame if self.kind is None else frame[frame["kind"] == self.kind]

    @cached_property
    def folded(self) -> frozenset[int]:
        """Positions without a row."""
        prompt = self.result.prompt
        if prompt.template.is_plain or self.around == "all":
            return frozenset()
        ahead = range(prompt.tweet_span[0])
        if self.around == "after":
            return frozenset(ahead)
        return frozenset((*ahead, *range(prompt.tweet_span[-1] + 1, prompt.suffix_start)))

    @cached_property
    def end(self) -> float:
        """Where the colour scale of all panels ends, on both sides."""
        return scale_end(self.frame)

    @cached_property
    def caption(self) -> str:
        """What a cell is, its unit, how many samples it rests on, and with which settings."""
        result, settings = self.result, self.result.settings
        unit = unit_of(result)
        if self.share:
            unit = f"the total effect in {unit}, in percent"
        drawn = settings.corruption in ("noise", "uniform")
        samples = f"{result.samples_done} noise sample{'s' if result.samples_done != 1 else ''}"
        if result.samples_done < result.samples_wanted:
            samples += f" of {result.samples_wanted}"
        rests = f"the mean of {samples}" if drawn else "exact: the corruption is deterministic"
        said = [f"A cell is the {_cell_is(result, unit)}: {rests}."]
        windowed = [KINDS[kind] for kind in settings.kinds if kind != "hidden"]
        if windowed:
            layers = f"{result.window} layers" if result.window != 1 else "1 layer"
            done = "restore" if settings.direction == "restore" else "corrupt"
            said.append(f"{' and '.join(windowed)} cells {done} {layers} around the one named.")
        if settings.severed:
            said.append(
                f"The token's later {KINDS[settings.severed]} path is frozen at the corrupted run."
            )
        if result.total_samples_done > result.samples_done:
            said.append(f"The total effect rests on {result.total_samples_done} noise samples.")
        said.append(f"Starred tokens are corrupted with {corrupted_with(result)}.")
        if self.estimate is not None:
            said.append(_estimate_line(self.estimate, result, bool(self.cells["estimated"].any())))
        elif result.is_coarse:
            said.append(_coarse_line(result))
        if settings.rows == "words":
            said.append("A cell is one word: all its tokens at once.")
        elif self.words:
            said.append("A word's cells are those of its last token.")
        if result.samples_done > 1:
            said.append(RULE)
        said.append("Hatched cells are fixed by construction; a frame marks the largest other one.")
        said.append(f"Model {result.model_name}; {probe_line(result)}.")
        if result.probe.is_contrast and result.probe.read_as:
            said.append(result.probe.read_as)
        if result.prompt.template.format == "chat":
            said.append("The prompt is in the model's chat template.")
        if self.folded:
            where = "ahead of the tweet" if self.around == "after" else "of the template"
            said.append(f"Rows of {len(self.folded)} tokens {where} are left out.")
        return " ".join(said)


def unit_of(result: TraceResult) -> str:
    """What the effects of a result are measured in."""
    return units_of(result.probe)[result.settings.proxy]


def short_unit(result: TraceResult) -> str:
    """The same in the few words that fit along a small chart's axis."""
    proxy, contrast = result.settings.proxy, result.probe.is_contrast
    if proxy in ("good", "bad"):
        return units_of(result.probe)[proxy]
    return SHORT_UNITS["log_ratio" if contrast and proxy == "log_odds" else proxy]


def probe_line(result: TraceResult) -> str:
    """How good the probe is; of a contrast, that nothing was fitted."""
    report = result.probe.report
    if report is None:
        return "a contrast of two words, no probe"
    return (
        f"probe accuracy {report.accuracy:.1%} "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}) on {report.n:,} texts"
    )


def headline(result: TraceResult) -> str:
    """What the model makes of the tweet: "Negative, P(positive) = 0.01"."""
    if result.probe.is_contrast:
        words = zip(result.probe.words, np.exp(result.reads.clean), strict=True)
        ranked = sorted(words, key=lambda pair: -pair[1])
        (first, most), (second, least) = ((word.strip(), f"{p:.2g}") for word, p in ranked)
        return f"\u201c{first}\u201d above \u201c{second}\u201d: P {most} against {least}"
    positive = result.clean_probability
    shown = f"= {positive:.2f}"
    if min(positive, 1 - positive) < 0.005:
        shown = "< 0.01" if positive < 0.5 else "> 0.99"
    return f"{'Positive' if positive >= 0.5 else 'Negative'}, P(positive) {shown}"


def effect_line(result: TraceResult) -> str:
    """What the corruption did to it: the proxy clean and corrupted, and 95% intervals."""
    reach = result.low_reach
    return (
        f"In {unit_of(result)}: {rounded(result.high, reach)} clean, "
        f"{with_interval(result.low, reach)} corrupted; "
        f"total effect {with_interval(result.total_effect, reach)}."
    )


def as_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with effects, and their errors, in percent of the total effect."""
    factor = 100 * (frame["normalised"] / frame["effect"]).abs().median()
    return frame.assign(
        effect=100 * frame["normalised"], standard_error=frame["standard_error"] * factor
    )


def scale_end(frame: pd.DataFrame) -> float:
    """Where a shared colour scale ends: the largest effect of either sign, rounded up."""
    largest = float(frame["effect"].abs().max()) if len(frame) else 0.0
    if not math.isfinite(largest) or largest < SMALLEST_SCALE:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    step = next((end for end in ROUND_ENDS if largest / power <= end + 1e-9), 10.0)
    return float(f"{step * power:.3g}")


def _coarse_line(result: TraceResult) -> str:
    """Which cells of a trace are there, while others are left out."""
    sites = [traced[:, list(result.spans)] for traced in result.traced.values()]
    step = int(np.diff(np.flatnonzero(sites[0].all(axis=1))[:2])[0])
    between = any((traced.any(axis=1) & ~traced.all(axis=1)).any() for traced in sites)
    fine = ", and all layers near where a site may be" if between else ""
    return f"Every {ordinal(step)} layer is traced{fine}; a wider cell stands for layers left out."


def _estimate_line(estimate: Estimate, result: TraceResult, there_are: bool) -> str:
    """Which cells are estimates, and how near those came that have been run since."""
    said = []
    if there_are:
        said.append(
            f"Cells of half height are estimates, not runs: integrated gradients in {STEPS} steps."
        )
    near = estimate.rank_correlation(result) if result.has_cells else {}
    if near:
        each = ", ".join(f"{KINDS[kind]} {value:.2f}" for kind, value in near.items())
        said.append(f"Rank correlation of estimates with the cells that were run: {each}.")
    return " ".join(said)


def _cell_is(result: TraceResult, unit: str) -> str:
    if result.settings.direction == "corrupt":
        return f"loss in {unit} when a site of the clean run takes its corrupted activation"
    return f"change in {unit} when a site of the corrupted run is restored to its clean activation"


def corrupted_with(result: TraceResult) -> str:
    """What takes the place of the corrupted tokens, in words."""
    settings = result.settings
    if settings.counterfactual is not None:
        aligned = ", aligned by the edit" if result.alignment is not None else ""
        return f"the tokens of \u201c{settings.counterfactual}\u201d{aligned}"
    return noise_in_words(settings.corruption, settings.noise_scale, settings.seed)


def noise_in_words(corruption: str, noise: float, seed: int) -> str:
    """What is drawn, or the one embedding that is not."""
    if corruption == "mean":
        return "the mean embedding of the vocabulary"
    if corruption == "counterfactual":
        return "its counterfactual, a text of the other sentiment"
    name = "Gaussian" if corruption == "noise" else "uniform"
    plural = "s" if noise != 1 else ""
    return f"{name} noise of {noise:g} standard deviation{plural} (seed {seed})"


def with_interval(mean: float, reach: float) -> str:
    """A mean with its interval, to the second digit of the interval's half width."""
    if not math.isfinite(reach) or reach <= 0:
        return rounded(mean, reach)
    low, high = rounded(mean - reach, reach), rounded(mean + reach, reach)
    return f"{rounded(mean, reach)} ({low} to {high})"


def ordinal(number: int) -> str:
    """A whole number above 0 as a place in an order: 1st, 2nd, 3rd, 4th, 11th, 21st, 112th."""
    teens = 11 <= number % 100 <= 13
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def rounded(value: float, reach: float = math.nan) -> str:
    """A number to the second digit of half its interval, or to three digits."""
    if not math.isfinite(reach) or reach <= 0:
        return f"{value:.3g}".replace("-", "\u2212")
    digits = min(max(1 - math.floor(math.log10(reach)), 0), 6)
    shown = f"{value:.{digits}f}"
    return (shown if float(shown) else shown.removeprefix("-")).replace("-", "\u2212")
