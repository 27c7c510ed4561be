"""What may be said of a trace, and how surely? From its numbers to words, without a model.

**Cells.** Every noise sample gives each cell an effect, paired with its own corrupted run. A
two-sided t test per cell asks whether the mean differs from zero, and the procedure of Benjamini
and Hochberg (1995) holds the false discovery rate among one kind's non-trivial cells at 5%. Cells
of a trace depend on each other positively, for which the procedure holds (Benjamini and Yekutieli
2001).

**Sites** (Meng et al. 2022, section 2). The early site is the largest significant cell
among corrupted tokens in the first two thirds of the layers; the late site, among the tokens
after the corrupted ones. A site must restore at least `SMALLEST_SHARE` of the total effect. Its
layers are those around it, at the same token, that restore at least half as much. Its share is a
ratio of two means over the same samples, with the t interval of a ratio estimator (Cochran 1977,
"Sampling Techniques", section 6.3).

**Health.** No cell means anything where the total effect is not significant, where the clean
run has no sentiment to lose, or where the corruption leaves most of it in place. Noise of any
strength moves the proxy somewhat, so that the last two are judged by how much is moved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .. import statistics
from ..errors import UserError
from ..patching.sites import Kind
from ..statistics import FALSE_DISCOVERIES, Array
from .result import TraceResult

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_SHARE = 0.1
"""A site restores at least this share of the total effect."""

EARLY_LAYERS = 2 / 3
"""The early site lies in this first share of the layers."""

UNDECIDED = math.log(4)
"""Nats; clean log-odds nearer to zero than this (P(positive) from 0.2 to 0.8) are no sentiment to
locate."""

MOST_LEFT = 0.5
"""A corrupted run on the clean run's side that may, by its 95% interval, have more than this share
of the clean log-odds left has lost too little."""

FEWEST = 3
"""Noise samples from which on an interval is narrow enough to be judged by."""

TOP = 10
"""Cells of each kind that two traces are compared by."""

RULE = (
    "Faded cells are not significant: paired t tests over the samples, FDR 5% within a panel "
    "(Benjamini and Hochberg 1995)."
)

PENDING = "Too few cells or samples for sites to be named yet."

NEGLIGIBLE = 1e-9
"""Effects below this share of the total effect are rounding."""

Stage = Literal["early", "late"]
STAGES: tuple[Stage, ...] = ("early", "late")
PLACES: dict[Kind, str] = {"hidden": "hidden state", "mlp": "MLP", "attn": "attention"}


@dataclass(frozen=True)
class Health:
    """May the cells be read at all? `ok` is None while one noise sample gives no interval."""

    ok: bool | None
    sentence: str


@dataclass(frozen=True)
class Site:
    """Where one kind of state carries the sentiment.

    `share` is that of the total effect, with its 95% interval `lower` to `upper` over the samples
    (NaN where the corruption draws nothing); `layers` are the first and the last one.
    """

    stage: Stage
    kind: Kind
    position: int
    token: str
    layer: int
    layers: tuple[int, int]
    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Findings:
    """What a trace found, in words and numbers; sites of the kinds in which there are some.

    `pending` says that the cells rest on too few samples yet for sites to be named.
    """

    health: Health
    early: tuple[Site, ...]
    late: tuple[Site, ...]
    pending: bool = False

    @property
    def sentences(self) -> tuple[str, ...]:
        """The finding: a sentence on the early site and one on the late site, or a single one."""
        if self.health.ok is not True:
            return (self.health.sentence,)
        if self.pending:
            return (self.health.sentence, PENDING)
        if not self.early and not self.late:
            return ("No site is significant.",)
        return tuple(
            f"{name}{_places(sites)}" if sites else f"No {name.lower()} stands out."
            for name, sites in (("Early site", self.early), ("Late site", self.late))
        )

    @property
    def sentence(self) -> str:
        """The finding in a sentence or two."""
        return " ".join(self.sentences)


def findings(result: TraceResult, verdict: TraceResult | None = None) -> Findings:
    """What may be said of a trace after the samples that are done.

    Sites are named only where the trace is healthy.

    Args:
        verdict: the clean and all corrupted runs (`trace_progressively(..., stages=True)`),
            by which health is judged while the cells rest on fewer samples.
    """
    health = health_of(result if verdict is None else verdict)
    if health.ok is not True:
        return Findings(health, (), ())
    if not result.has_cells or (result.samples_done < FEWEST and _draws(result)):
        return Findings(health, (), (), pending=True)
    told = significant_cells(result)
    found: dict[Stage, list[Site]] = {stage: [] for stage in STAGES}
    for kind in result.effects:
        for stage, sites in found.items():
            if (site := _site(result, kind, stage, told[kind])) is not None:
                sites.append(site)
    return Findings(health, tuple(found["early"]), tuple(found["late"]))


def health_of(result: TraceResult) -> Health:
    """Whether the corruption took away a sentiment that was there."""
    if result.total_samples_done < FEWEST and _draws(result):
        few = "One noise sample is" if result.total_samples_done == 1 else "Two noise samples are"
        return Health(None, f"{few} too few for intervals; no sites reported yet.")
    if result.distinguishable is False:
        low, high = result.total_effect - result.low_reach, result.total_effect + result.low_reach
        return Health(
            False,
            f"The total effect is not significant (95% interval {signed(low)} to "
            f"{signed(high)}), so the cells show nothing.",
        )
    odds = result.under("log_odds")
    if result.probe.is_contrast:  # without a sentiment there is no side to be on
        ratio = signed(odds.high), signed(odds.low)
        return Health(True, f"The corruption takes the contrast from {ratio[0]} to {ratio[1]}.")
    side = "positive" if odds.high >= 0 else "negative"
    if abs(odds.high) < UNDECIDED:
        return Health(
            False,
            "The model is undecided on this tweet (P(positive) "
            f"{result.clean_probability:.2f}), so there is no sentiment to locate.",
        )
    left = odds.low / odds.high
    if left > MOST_LEFT:
        much = f"{left:.0%} of" if left <= 1 else "more than"
        paired = result.settings.corruption == "counterfactual"
        needed = "another counterfactual" if paired else "a stronger corruption"
        return Health(
            False,
            f"The corrupted run is still {side}, with {much} the clean log-odds, so the cells "
            f"show little: {needed} is needed.",
        )
    most = left + (odds.low_reach if odds.total_samples_done > 1 else 0.0) / abs(odds.high)
    if most > MOST_LEFT:
        return Health(
            False,
            f"Up to {most:.0%} of the clean log-odds may be left in the corrupted run (95% "
            "interval), so the cells show little: more samples or a stronger corruption are "
            "needed.",
        )
    return Health(True, f"The corruption removes {min(1 - left, 1):.0%} of the clean log-odds.")


def p_values(result: TraceResult) -> dict[Kind, Array]:
    """Two-sided t tests of each cell's mean effect against zero, over its paired samples.

    Returns:
        Of each kind (L, T), adjusted by Benjamini and Hochberg's procedure among the kind's cells,
        where a coarse cell counts as many times as it stands for layers (`layers_stood_for`);
        NaN at trivial cells, at layers that were left out, and everywhere for a single sample.
    """
    adjusted: dict[Kind, Array] = {}
    for kind, effects in result.effects.items():
        values = np.full(effects.shape, np.nan)
        tested = ~result.trivial[kind] & np.isfinite(effects)
        if result.samples_done > 1 and tested.any():
            mean, error = effects[tested], result.standard_errors[kind][tested]
            nothing = np.abs(mean) <= NEGLIGIBLE * abs(result.total_effect)
            p = statistics.p_values(mean, error, result.samples_done - 1, nothing)
            values[tested] = statistics.adjusted(p, layers_stood_for(result, kind)[tested])
        adjusted[kind] = values
    return adjusted


def layers_stood_for(result: TraceResult, kind: Kind) -> NDArray[np.int64]:
    """For how many layers each traced cell (L, T) stands: up to the next traced at its position.

    Cells that are fixed by construction are not counted.
    """
    traced, trivial = result.traced[kind], result.trivial[kind]
    asked = np.zeros_like(traced)
    asked[:: result.settings.every] = True
    counts = np.zeros(traced.shape, dtype=np.int64)
    for position in np.flatnonzero(traced.any(axis=0)):
        layers = np.flatnonzero(traced[:, position])
        told = (asked & ~trivial)[:, position].astype(np.int64)
        counts[layers, position] = np.add.reduceat(told, layers)
    return counts


def significant_cells(result: TraceResult) -> dict[Kind, NDArray[np.bool_]]:
    """Non-trivial cells (L, T) whose effect is significant.

    All that are not zero, where the corruption draws nothing and so leaves nothing to chance; none
    after the first of several noise samples.
    """
    if result.samples_done > 1 or _draws(result):
        return {kind: p <= FALSE_DISCOVERIES for kind, p in p_values(result).items()}
    least = NEGLIGIBLE * abs(result.total_effect)
    return {
        kind: ~result.trivial[kind] & (np.abs(np.nan_to_num(effects)) > least)
        for kind, effects in result.effects.items()
    }


def cells(result: TraceResult) -> pd.DataFrame:
    """`TraceResult.frame()` with what may be said of each cell.

    Columns beyond its own: p_value (adjusted; NaN where there is none), faded (the interval holds
    zero; False where there is none), largest (of the panel, trivial cells out), exact (the
    corruption draws nothing), word (index, -1 for none).
    """
    frame = result.frame()
    p = p_values(result)
    if (frame["samples"] < 1).any() or frame.empty:
        raise UserError("A trace without samples has no cells to speak of.")
    at = list(zip(frame["kind"], frame["layer"], frame["position"], strict=True))
    frame["p_value"] = [float(p[kind][layer, position]) for kind, layer, position in at]
    frame["faded"] = frame["p_value"] > FALSE_DISCOVERIES
    tops = {(kind, *top) for kind, top in result.top_cells.items()}
    frame["largest"] = [cell in tops for cell in at]
    frame["exact"] = not _draws(result)
    words = np.array([token.word for token in result.prompt.tokens])
    frame["word"] = words[frame["position"].to_numpy()]
    return frame


def by_words(frame: pd.DataFrame, result: TraceResult) -> pd.DataFrame:
    """The rows of words: each has the cells of its last token, where a word is complete.

    The last token, not the largest of them, so that nothing is selected by what it shows; in Meng
    et al. 2022 too it is the last token of a name that carries it. Tokens without a word stay.
    """
    last = last_tokens(result)
    shown = frame[frame["position"].isin(list(last))].reset_index(drop=True)
    texts = {word: result.prompt.words[word].text for word in last.values() if word >= 0}
    shown["token"] = shown["word"].map(texts).fillna(shown["token"])
    spans = {result.prompt.tokens[position].word for position in result.corrupted_span}
    shown["corrupted"] = shown["corrupted"] | shown["word"].isin(spans - {-1})
    return shown


def last_tokens(result: TraceResult) -> dict[int, int]:
    """The words' last tokens, and those of no word: position to the word's number or -1."""
    words = [token.word for token in result.prompt.tokens]
    last = {word: position for position, word in enumerate(words)}
    return {
        position: word for position, word in enumerate(words) if word < 0 or last[word] == position
    }


def overlap(first: TraceResult, second: TraceResult, *, top: int = TOP) -> pd.DataFrame:
    """Which of two traces' largest cells are the same?

    Args:
        top: non-trivial cells of each kind that count as its largest, by their share of the total
            effect, among those that both traces have.

    Returns:
        One row for each cell that is among the largest of either: kind, layer, position, token,
        first, second (shares of the traces' total effects), where ("both", "first", "second").

    Raises:
        UserError: the traces are of different prompts.
    """
    import pandas as pd

    if first.prompt.ids != second.prompt.ids or first.layers != second.layers:
        raise UserError(
            f"Only traces of one tweet by one model can be compared cell by cell, not of "
            f"{first.prompt.tweet!r} and {second.prompt.tweet!r}."
        )
    rows = []
    for kind in first.effects:
        if kind not in second.effects:
            continue
        there = first.traced[kind] & second.traced[kind]
        shares = [
            np.where(result.trivial[kind] | ~there, np.nan, result.effects[kind])
            / result.total_effect
            for result in (first, second)
        ]
        best = [_largest(share, top) for share in shares]
        for layer, position in sorted(best[0] | best[1]):
            cell = (layer, position)
            rows.append(
                {
                    "kind": kind,
                    "layer": layer,
                    "position": position,
                    "token": first.tokens[position],
                    "first": float(shares[0][cell]),
                    "second": float(shares[1][cell]),
                    "where": "both"
                    if cell in best[0] and cell in best[1]
                    else ("first" if cell in best[0] else "second"),
                }
            )
    columns = ["kind", "layer", "position", "token", "first", "second", "where"]
    return pd.DataFrame(rows, columns=columns)


def peak_lines(first: TraceResult, second: TraceResult, name: str) -> dict[Kind, str]:
    """Of each kind's largest cell in the first trace: is it a site in the second one too?

    "in both" when the second trace has one of its `TOP` largest cells at the same token and within
    one layer, otherwise "`name` only".
    """
    said: dict[Kind, str] = {}
    for kind, (layer, position) in first.top_cells.items():
        if kind not in second.effects:
            continue
        share = np.where(second.trivial[kind], np.nan, second.effects[kind]) / second.total_effect
        near = any(
            abs(other_layer - layer) <= 1 and other_position == position
            for other_layer, other_position in _largest(share, TOP)
        )
        place = PLACES[kind]
        said[kind] = (
            f"{place[0].upper()}{place[1:]}: largest at \u201c{token_of(first, position)}\u201d, "
            f"layer {layer}: {'in both' if near else f'{name} only'}."
        )
    return said


def token_of(result: TraceResult, position: int) -> str:
    """What a person calls a token: the word that it ends, or itself where it ends none."""
    token = result.prompt.tokens[position]
    if token.word >= 0 and result.prompt.words[token.word].tokens[-1:] == (position,):
        return result.prompt.words[token.word].text
    return token.label.removeprefix("\u00b7")


def signed(value: float) -> str:
    """A number to three digits, with a minus that is as wide as a plus."""
    shown = f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"
    return shown.replace("-", "\u2212")


def share_of_total(result: TraceResult, kind: Kind) -> tuple[Array, Array]:
    """Each cell's share (L, T) of the total effect, and half its 95% interval's width or NaN."""
    effects = result.sample_effects[kind]  # (S, L, T)
    total = result.high - result.low_samples  # (S,)
    mean = result.paired_total_effect or np.nan
    share = effects.mean(axis=0) / mean
    error = statistics.standard_error(effects - share * total[:, None, None]) / abs(mean)
    return share, statistics.t_quantile(len(total) - 1) * error


def cells_of_stage(result: TraceResult, stage: Stage) -> NDArray[np.bool_]:
    """The cells (L, T) among which a stage's site is looked for."""
    layers, positions = np.indices((result.layers, len(result.prompt)))
    if stage == "early":
        early: NDArray[np.bool_] = layers < EARLY_LAYERS * result.layers
        return early & np.isin(positions, result.corrupted_span)
    late: NDArray[np.bool_] = np.greater(positions, max(result.corrupted_span))
    return late


def _site(result: TraceResult, kind: Kind, stage: Stage, told: NDArray[np.bool_]) -> Site | None:
    share, reach = share_of_total(result, kind)
    candidates = np.where(cells_of_stage(result, stage) & told, np.nan_to_num(share), -np.inf)
    layer, position = map(int, np.unravel_index(int(candidates.argmax()), share.shape))
    best = float(candidates[layer, position])
    if best < SMALLEST_SHARE:
        return None
    traced = [at for at in range(result.layers) if np.isfinite(share[at, position])]
    strong = {at for at in traced if candidates[at, position] >= best / 2}
    first = last = traced.index(layer)
    while first > 0 and traced[first - 1] in strong:
        first -= 1
    while last + 1 < len(traced) and traced[last + 1] in strong:
        last += 1
    return Site(
        stage=stage,
        kind=kind,
        position=position,
        token=token_of(result, position),
        layer=layer,
        layers=(traced[first], traced[last]),
        share=best,
        lower=best - float(reach[layer, position]),
        upper=best + float(reach[layer, position]),
    )


def _places(sites: tuple[Site, ...]) -> str:
    """The sites of one stage, those at the same token said together."""
    tokens = list(dict.fromkeys(site.token for site in sites))
    parts = []
    for token in tokens:
        carried = ", ".join(_carries(site) for site in sites if site.token == token)
        parts.append(f" at \u201c{token}\u201d: {carried}")
    return ";".join(parts) + "."


def _carries(site: Site) -> str:
    first, last = site.layers
    layers = f"layer {first}" if first == last else f"layers {first}\u2013{last}"
    interval = ""
    if math.isfinite(site.lower):
        interval = f" ({site.lower:.0%} to {site.upper:.0%})".replace("-", "\u2212")
    return f"{PLACES[site.kind]} {layers} up to {site.share:.0%}{interval}"


def _largest(share: Array, top: int) -> set[tuple[int, int]]:
    order = np.argsort(np.where(np.isnan(share), -np.inf, share), axis=None)[::-1][:top]
    chosen = zip(*np.unravel_index(order, share.shape), strict=True)
    return {
        (int(layer), int(position))
        for layer, position in chosen
        if np.isfinite(share[layer, position]) and share[layer, position] > 0
    }


def _draws(result: TraceResult) -> bool:
    return result.settings.corruption in ("noise", "uniform")
