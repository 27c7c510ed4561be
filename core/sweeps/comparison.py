"""Do models keep the sentiment of one tweet in the same places? Traces side by side.

**Units.** Tokenizers cut the same text differently. Where all models have the same tokens, a row is
a token. Otherwise a row is a word: words are found in the characters of the text
(`core.prompts.prompt`), so that they are the same for every model, and words that share a token in
any model (an emoji and the mark before it, say) become one row. A word's cell is that of its last
token, where the word is complete (as in `core.tracing.findings.by_words`).

**Depth.** Layer l of L reaches from l/L to (l+1)/L of the depth, so that models of any depth can
stand below one another.

**Difference.** Of two traces with the same tokens and layers, each cell's difference of means with
a 95% interval by Welch's t (1947) for samples of unequal spread; the procedure of Benjamini and
Hochberg (1995) holds the false discovery rate among one kind's non-trivial cells at 5%.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import statistics
from ..errors import UserError
from ..patching.sites import Kind
from ..prompts import token_roles
from ..prompts.prompt import Prompt
from ..statistics import FALSE_DISCOVERIES, Array
from ..tracing.findings import (
    findings,
    health_of,
    share_of_total,
    significant_cells,
)
from ..tracing.result import TraceResult
from . import average_findings
from .average import Average

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Unit:
    """One row that all models share: a token, or one or more words.

    Attributes:
        text: what a person sees.
        start, end: characters of the prompt's text.
        positions: of its tokens, for each of the traces.
    """

    text: str
    start: int
    end: int
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Aligned:
    """The rows that several traces of one text have in common."""

    units: tuple[Unit, ...]
    by_token: bool  # whether all models have the same tokens


def align(results: Sequence[TraceResult]) -> Aligned:
    """Find the rows that traces of the same text have in common.

    Raises:
        UserError: there is no trace, or they are not of the same text.
    """
    if not results:
        raise UserError("There is no trace to compare; trace a tweet first.")
    prompts = [result.prompt for result in results]
    texts = sorted({prompt.text for prompt in prompts})
    if len(texts) > 1:
        raise UserError(
            f"Only traces of one text can stand side by side, not of {texts[0]!r} and {texts[1]!r}."
        )
    if len({_cuts(prompt) for prompt in prompts}) == 1:
        return Aligned(
            tuple(
                Unit(token.label, token.start, token.end, ((position,),) * len(prompts))
                for position, token in enumerate(prompts[0].tokens)
            ),
            by_token=True,
        )
    groups = _groups(prompts)
    units = []
    for group in groups:
        words = [prompts[0].words[number] for number in group]
        start, end = words[0].start, words[-1].end
        held = tuple(
            tuple(p for p, token in enumerate(prompt.tokens) if token.word in group)
            for prompt in prompts
        )
        units.append(Unit(prompts[0].text[start:end], start, end, held))
    return Aligned(tuple(units), by_token=False)


def _cuts(prompt: Prompt) -> tuple[tuple[int, int, str], ...]:
    return tuple((token.start, token.end, token.label) for token in prompt.tokens)


def _groups(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Numbers of the words that make one row: those that a token of any model reaches across."""
    words = prompts[0].words
    groups: list[list[int]] = []
    for number, word in enumerate(words):
        joined = number > 0 and any(
            token.start < words[number - 1].end and token.end > word.start
            for prompt in prompts
            for token in prompt.tokens
        )
        if joined:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def cells(
    results: Sequence[TraceResult], names: Sequence[str], *, share: bool = True
) -> pd.DataFrame:
    """The cells of all traces in their common rows.

    Args:
        names: what each trace is called; no two the same.
        share: effects as percent of the trace's own total effect, which can be compared between
            models and their probes; otherwise in the proxy's unit.

    Returns:
        One row per trace, kind, layer and unit: trace, kind, layer, depth (of the layer's lower
        edge, 0 to 1), upto (of its upper edge), next_layer (where the cell ends, that of the next
        traced layer), position (of the unit), token, corrupted, effect,
        standard_error, lower, upper (95% t interval; NaN for one sample), trivial, faded (cannot be
        significant).
    """
    import pandas as pd

    aligned = align(results)
    frames = []
    for number, (result, name) in enumerate(zip(results, names, strict=True)):
        last = np.array([unit.positions[number][-1] for unit in aligned.units])
        corrupted = [
            bool(set(unit.positions[number]) & set(result.corrupted_span)) for unit in aligned.units
        ]
        told = significant_cells(result)
        for kind in result.effects:
            mean, error = _estimates(result, kind, share)
            reach = result.t_quantile * error
            values = {
                "effect": mean,
                "standard_error": error,
                "lower": mean - reach,
                "upper": mean + reach,
                "trivial": result.trivial[kind],
                "faded": ~told[kind] & ~result.trivial[kind] & (result.samples_done > 1),
            }
            shown = {column: array[:, last] for column, array in values.items()}
            frames.append(
                _tidy(
                    name,
                    kind,
                    result.layers,
                    result.settings.every,
                    aligned.units,
                    corrupted,
                    shown,
                )
            )
    whole = pd.concat(frames, ignore_index=True)
    return whole[whole["effect"].notna()].reset_index(drop=True)


def average_cells(averages: Mapping[str, Average]) -> pd.DataFrame:
    """The mean effects of several averages (`core.sweeps.average`), a row for each role of a token.

    Args:
        averages: by what each is called.

    Returns:
        As `cells`, one row for each kind, layer and role of each average; n (tweets) besides.

    Raises:
        UserError: there is none, or their roles are of different schemes.
    """
    import pandas as pd

    if not averages:
        raise UserError("There is no average to compare; sweep some tweets first.")
    schemes = {str(average.about["roles"]) for average in averages.values()}
    if len(schemes) > 1:
        raise UserError("Averages by different roles cannot stand side by side.")
    found = {role for average in averages.values() for role in average.roles}
    titles = {role: title for a in averages.values() for role, title in a.titles().items()}
    scheme = next(iter(averages.values())).about["roles"]
    rows = {role: number for number, role in enumerate(token_roles.in_order(sorted(found), scheme))}
    frames = []
    for name, average in averages.items():
        frame = average_findings.cells(average)
        layers = int(average.about["layers"])
        ends = (frame["layer"] + int(average.about["every"])).clip(upper=layers)
        frames.append(
            pd.DataFrame(
                {
                    "trace": name,
                    "kind": frame["kind"],
                    "layer": frame["layer"],
                    "depth": frame["layer"] / layers,
                    "upto": ends / layers,
                    "next_layer": ends,
                    "position": frame["role"].map(rows),
                    "token": frame["role"].map(titles),
                    "corrupted": [average_findings.side_of(r) == "tweet" for r in frame["role"]],
                    "effect": frame["mean"],
                    "standard_error": float("nan"),
                    "lower": frame["lower"],
                    "upper": frame["upper"],
                    "trivial": frame["trivial"],
                    "faded": frame["faded"],
                    "n": frame["n"],
                }
            )
        )
    whole = pd.concat(frames, ignore_index=True)
    return whole[whole["effect"].notna()].reset_index(drop=True)


def same_shape(first: TraceResult, second: TraceResult) -> bool:
    """Whether two traces can be subtracted cell by cell."""
    return (
        first.layers == second.layers
        and _cuts(first.prompt) == _cuts(second.prompt)
        and first.settings.proxy == second.settings.proxy
        and bool(set(first.effects) & set(second.effects))
    )


def difference(first: TraceResult, second: TraceResult, *, share: bool = True) -> pd.DataFrame:
    """Each cell's effect in the first trace less that in the second, with its interval.

    Returns:
        As `cells`, of one trace called "difference"; effect is the difference, faded where it
        is not significant.

    Raises:
        UserError: the traces are not of the same tokens and layers.
    """
    import pandas as pd

    if not same_shape(first, second):
        raise UserError(
            f"Traces can be subtracted only where tokens and layers are the same, not those of "
            f"{first.model_name!r} ({first.layers} layers) and {second.model_name!r} "
            f"({second.layers} layers)."
        )
    units = align([first, second]).units
    corrupted = [unit.positions[0][0] in first.corrupted_span for unit in units]
    frames = []
    for kind in [kind for kind in first.effects if kind in second.effects]:
        (one, its_error), (other, others_error) = (
            _estimates(result, kind, share) for result in (first, second)
        )
        change = one - other
        error, freedom = statistics.welch(
            its_error, first.samples_done, others_error, second.samples_done
        )
        trivial = first.trivial[kind] & second.trivial[kind]
        reach = statistics.t_quantile(freedom) * error
        p = statistics.p_values(change, error, freedom, (error == 0) & np.isclose(change, 0))
        p[trivial | ~np.isfinite(change) | ~np.isfinite(error)] = np.nan
        faded = statistics.adjusted(p) > FALSE_DISCOVERIES
        shown = {
            "effect": change,
            "standard_error": error,
            "lower": change - reach,
            "upper": change + reach,
            "trivial": trivial,
            "faded": faded,
        }
        frames.append(
            _tidy("difference", kind, first.layers, first.settings.every, units, corrupted, shown)
        )
    whole = pd.concat(frames, ignore_index=True)
    return whole[whole["effect"].notna()].reset_index(drop=True)


def sites(results: Sequence[TraceResult], names: Sequence[str]) -> pd.DataFrame:
    """The sites that each trace found (`core.tracing.findings`), at their relative depth.

    Returns:
        One row per site: trace, site ("early", "late"), kind, token, layer, first_layer,
        last_layer, depth (of the layer's middle, 0 to 1), depth_from and depth_upto (of its
        layers), share (of the total effect), lower, upper (its 95% interval).
    """
    import pandas as pd

    rows = []
    for result, name in zip(results, names, strict=True):
        found = findings(result)
        rows += [
            {
                "trace": name,
                "site": site.stage,
                "kind": site.kind,
                "token": site.token,
                "layer": site.layer,
                "first_layer": site.layers[0],
                "last_layer": site.layers[1],
                "depth": (site.layer + 0.5) / result.layers,
                "depth_from": site.layers[0] / result.layers,
                "depth_upto": (site.layers[1] + 1) / result.layers,
                "share": site.share,
                "lower": site.lower,
                "upper": site.upper,
            }
            for site in (*found.early, *found.late)
        ]
    columns = ["trace", "site", "kind", "token", "layer", "first_layer", "last_layer"]
    columns += ["depth", "depth_from", "depth_upto", "share", "lower", "upper"]
    return pd.DataFrame(rows, columns=columns)


def summary(results: Sequence[TraceResult], names: Sequence[str]) -> pd.DataFrame:
    """One row per trace: how good its probe is, what the corruption did, and how long it took.

    Columns: trace, layers, tokens, accuracy, accuracy_low, accuracy_high (of the probe, held out),
    macro_f1, majority, texts, positive (clean P(positive)), total_effect, lower, upper (95% t
    interval), share_told (of non-trivial cells that are significant), healthy (True, False,
    or None while one sample gives no interval), says, samples, seconds.
    """
    import pandas as pd

    rows = []
    for result, name in zip(results, names, strict=True):
        report, health = result.probe.report, health_of(result)
        told = significant_cells(result)
        free = sum(int((~mask).sum()) for mask in result.trivial.values())
        rows.append(
            {
                "trace": name,
                "layers": result.layers,
                "tokens": len(result.prompt),
                "accuracy": math.nan if report is None else report.accuracy,
                "accuracy_low": math.nan if report is None else report.accuracy_low,
                "accuracy_high": math.nan if report is None else report.accuracy_high,
                "macro_f1": math.nan if report is None else report.macro_f1,
                "majority": math.nan if report is None else report.majority,
                "texts": 0 if report is None else report.n,
                "positive": result.clean_probability,
                "total_effect": result.total_effect,
                "lower": result.total_effect - result.low_reach,
                "upper": result.total_effect + result.low_reach,
                "share_told": sum(int(mask.sum()) for mask in told.values()) / max(free, 1),
                "healthy": health.ok,
                "says": health.sentence,
                "samples": result.samples_done,
                "seconds": result.seconds,
            }
        )
    return pd.DataFrame(rows)


# --- parts ---------------------------------------------------------------------------------------


def _estimates(result: TraceResult, kind: Kind, share: bool) -> tuple[Array, Array]:
    """Mean and standard error of each cell (L, T), in percent of the total effect or as it is."""
    if not share:
        return result.effects[kind], result.standard_errors[kind]
    mean, reach = share_of_total(result, kind)
    return 100 * mean, 100 * reach / result.t_quantile


def _tidy(
    name: str,
    kind: Kind,
    layers: int,
    every: int,
    units: Sequence[Unit],
    corrupted: Sequence[bool],
    values: dict[str, NDArray[np.generic]],
) -> pd.DataFrame:
    """Arrays (L, units) as rows."""
    import pandas as pd

    layer, unit = np.divmod(np.arange(layers * len(units)), len(units))
    ends = np.minimum(layer + every, layers)
    return pd.DataFrame(
        {
            "trace": name,
            "kind": kind,
            "layer": layer,
            "depth": layer / layers,
            "upto": ends / layers,
            "next_layer": ends,
            "position": unit,
            "token": np.array([unit.text for unit in units], dtype=object)[unit],
            "corrupted": np.array(corrupted)[unit],
            **{column: array.ravel() for column, array in values.items()},
        }
    )
