"""In which order are a trace's cells computed, so that every picture on the way can be read?

First every `STEP`-th layer and the last one, at all positions: of one sample, then of all. Then the
layers between where the coarse ones say that a site may be: from then on the answer is settled.
Then the rest. Each cell is computed once, from real runs of the model, and is the one that a trace
in any other order has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..patching.sites import Cells, Kind
from ..statistics import Array
from .findings import FEWEST, SMALLEST_SHARE, STAGES, cells_of_stage, share_of_total
from .result import Reads, TraceResult, TraceSettings

STEP = 6
"""Coarse layers: every so many, fewer in a model of less than 18 layers."""

HALF = 0.5
"""A site's layers restore at least this share of what its largest cell restores, and a cell between
two coarse ones at most the larger one's effect over this."""

UNKNOWN = 0.15
"""Share of the layers between that is expected to be computed until the answer is settled, while
the coarse layers have not told."""

REST = 6
"""Parts in which the other cells are computed, each for all samples."""


def coarse_layers(layers: int, settings: TraceSettings) -> list[int]:
    """The layers that are traced first; all that are asked for where these are few.

    Args:
        layers: of the model.
    """
    traced = range(0, layers, settings.every)
    if len(traced) < 2 * STEP:
        return list(traced)
    return sorted({*traced[:: min(STEP, len(traced) // 3)], traced[-1]})


def groups_of(samples: Sequence[int]) -> list[list[int]]:
    """Samples of the coarse layers that are computed before each picture: one, then as many as
    intervals take, then all."""
    ends = [1, FEWEST, len(samples)]
    parts = [list(samples[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return [part for part in parts if part]


def is_enough(result: TraceResult) -> bool:
    """Whether a trace holds all that its settings ask for."""
    settings = result.settings
    if result.samples_done < settings.draws or result.total_samples_done < settings.total_draws:
        return False
    if not result.is_coarse:
        return True
    if settings.until == "all":
        return False
    coarse = coarse_layers(result.layers, settings)
    if any(not traced[coarse][:, list(result.spans)].all() for traced in result.traced.values()):
        return False
    needed = cells_to_settle(result)
    return not any((needed[kind] & ~traced).any() for kind, traced in result.traced.items())


def cells_to_settle(result: TraceResult) -> dict[Kind, NDArray[np.bool_]]:
    """The cells between the coarse layers where a site, or the largest cell of a kind, may be.

    Judged by the coarse layers alone, apart for the cells of each stage and for all together: the
    layers beside each coarse cell of at least half of the largest effect. No cell beside a smaller
    one is taken to reach that effect, and those beside a site's cell are its other layers.

    Args:
        result: a trace that has its coarse layers.
    """
    coarse = coarse_layers(result.layers, result.settings)
    between = np.zeros((result.layers, len(result.prompt)), dtype=bool)
    between[:: result.settings.every, list(result.spans)] = True
    between[coarse] = False
    needed: dict[Kind, NDArray[np.bool_]] = {}
    for kind, trivial in result.trivial.items():
        share, _ = share_of_total(result, kind)
        chosen = np.zeros_like(between)
        for place in (*(cells_of_stage(result, stage) for stage in STAGES), ~trivial):
            told = np.where(place & ~trivial & np.isfinite(share), share, -np.inf)
            known = told[coarse]  # (coarse layers, T)
            best = known.max()
            if best < HALF * SMALLEST_SHARE:
                continue
            for number, position in np.argwhere(known >= HALF * best).tolist():
                below = coarse[max(number - 1, 0)]
                above = coarse[min(number + 1, len(coarse) - 1)]
                chosen[below : above + 1, position] = True
        needed[kind] = chosen & between
    return needed


def without(cells: Cells, others: Cells) -> dict[Kind, NDArray[np.bool_]]:
    """Those of some cells that are not among others."""
    return {kind: chosen & ~others[kind] for kind, chosen in cells.items()}


def in_parts(cells: Cells) -> list[Cells]:
    """Cells in `REST` parts of neighbouring positions."""
    length = next(iter(cells.values())).shape[1]
    parts: list[Cells] = []
    for positions in np.array_split(np.arange(length), REST):
        part = np.isin(np.arange(length), positions)
        parts.append({kind: chosen & part for kind, chosen in cells.items()})
    return parts


class Held:
    """What has been read so far of a trace's cells, each array (S, L, T, C), NaN where nothing."""

    def __init__(self, blank: TraceResult, clean: Array, layers: int) -> None:
        settings = blank.settings
        self.clean = clean
        self.corrupted = np.full((settings.draws, len(clean)), np.nan)
        shape = (settings.draws, layers, len(blank.prompt), len(clean))
        self.restored: dict[Kind, Array] = {kind: np.full(shape, np.nan) for kind in settings.kinds}

    def add(self, samples: Sequence[int], corrupted: Array, restored: dict[Kind, Array]) -> None:
        """Take over what is known of some samples; NaN says nothing."""
        self.corrupted[samples] = corrupted
        for kind, values in restored.items():
            held = self.restored[kind]
            held[samples] = np.where(np.isnan(values), held[samples], values)

    def missing(self, cells: Cells) -> list[int]:
        """Samples of which one of these cells is not there."""
        lacking = np.zeros(len(self.corrupted), dtype=bool)
        for kind, chosen in cells.items():
            lacking |= np.isnan(self.restored[kind][:, chosen, 0]).any(axis=1)
        found: list[int] = np.flatnonzero(lacking).tolist()
        return found

    def reads(self, cells: Cells) -> Reads:
        """What is there of the first samples, as far as they have all of these cells."""
        lacking = self.missing(cells)
        samples = lacking[0] if lacking else len(self.corrupted)
        # Later steps write into these arrays, while a page may draw what it was given.
        return Reads(
            self.clean,
            self.corrupted[:samples].copy(),
            {kind: values[:samples].copy() for kind, values in self.restored.items()},
        )


def work_of(trace: TraceResult, cells: Cells) -> float:
    """What cells cost in one sample: about the states that blocks are run on."""
    length, first = len(trace.prompt), min(trace.corrupted_span)
    states = np.arange(length, 0, -1) * (np.arange(length) >= first)  # (T,)
    work = 0.0
    for chosen in cells.values():
        blocks = np.arange(len(chosen), 0, -1)  # (L,)
        work += float(blocks @ chosen @ states)
    return work


class Meter:
    """How far a trace is, by its work."""

    def __init__(self, blank: TraceResult, coarse: Cells, between: Cells) -> None:
        self.blank = blank
        self.fine = work_of(blank, between)
        until_known = 1.0 if blank.settings.until == "all" else UNKNOWN
        self.left = work_of(blank, coarse) + until_known * self.fine
        self.done = self.told = 0.0

    def know(self, needed: Cells) -> None:
        """Take in which cells are computed until the answer is settled."""
        if self.blank.settings.until == "settled":
            self.left += work_of(self.blank, needed) - UNKNOWN * self.fine

    def within(
        self, progress: Callable[[float], None] | None, samples: Sequence[int], cells: Cells
    ) -> Callable[[float], None] | None:
        """The progress of one step as that of the whole."""
        share = work_of(self.blank, cells) * len(samples) / self.blank.settings.draws
        before = self.done
        self.done += share
        if progress is None:
            return None

        def report(done: float) -> None:
            # More may be left than was expected; a share that was told stays.
            self.told = max(self.told, min(1.0, (before + done * share) / self.left))
            progress(self.told)

        return report
