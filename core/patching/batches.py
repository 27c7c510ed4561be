"""In which order are the cells of one position computed, and how many at once?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..models.model import Model
from .sites import KINDS, Cells, Kind, grid, layers_at, window_layers

TOKENS_PER_CALL = {"cpu": 2048, "cuda": 2**17, "mps": 2**14}
"""A block is called on at most this many states: more fills the device no better. (Shrunk where the
memory budget asks for it.)"""


TOKENS_PER_PASS = {"cpu": 1024, "cuda": 2**16, "mps": 2**13}
"""Samples share a pass until a block is called on about this many states."""


@dataclass(frozen=True)
class Row:
    """One cell of the position at hand, and how it joins the batch."""

    kind: Kind | Literal["everything", "nothing"]
    layer: int
    enters: int  # its state after this block is known without running a block on it
    until: int = 0  # blocks enters + 1 ... until - 1 have the contribution replaced
    parent: int | None = None  # index of the row whose state it takes over when it enters


def plan_rows(traced: Mapping[Kind, Sequence[int]], layers: int, window: int) -> list[Row]:
    """All rows of one position, in the order in which they join the batch.

    Args:
        traced: of each kind the layers of its cells, in order.
        layers: of the model.
    """
    rows: list[Row] = []
    for kind, chosen in traced.items():
        for before, layer in zip([None, *chosen], chosen, strict=False):
            if kind == "hidden":
                rows.append(Row(kind, layer, enters=layer))
                continue
            covered = window_layers(layer, window, layers)
            below = None if before is None else window_layers(before, window, layers)
            if below is not None and covered.start == below.start:
                # Begins like its neighbour: one row until the neighbour's window ends.
                rows.append(Row(kind, layer, below.stop - 1, covered.stop, parent=before))
            else:
                rows.append(Row(kind, layer, covered.start, covered.stop))
    # Rows that join after the last block go to the end: only the last position needs them.
    rows.sort(key=lambda row: (row.enters, row.enters == layers - 1 and row.parent is None))
    place = {(row.kind, row.layer): index for index, row in enumerate(rows)}
    return [
        row
        if row.parent is None
        else Row(row.kind, row.layer, row.enters, row.until, place[row.kind, row.parent])
        for row in rows
    ]


@dataclass(frozen=True)
class Batches:
    """How much is computed at once."""

    samples: int  # noise samples of one pass
    tokens: int  # states of one call of a block
    bytes: int  # that one call of a block may need

    @classmethod
    def within(
        cls,
        model: Model,
        positions: int,
        *,
        cells: Cells | None = None,
        window: int = 1,
        samples: int = 1,
        budget: int,
    ) -> Batches:
        """The batches that fill the device and stay within `budget` bytes beyond the weights.

        Half of the budget is for the states that a pass keeps, half for what a call makes.

        Args:
            cells: all that will be restored; None: every one.
        """
        cells = cells or grid(KINDS, model.layers, positions)
        counts = np.sum([chosen.sum(axis=0) for chosen in cells.values()], axis=0)  # (T,)
        plan = plan_rows(layers_at(cells, int(counts.argmax())), model.layers, window)
        stream = positions * model.width * model.dtype.itemsize  # bytes of one (T, D)
        held = model.layers * (stream + positions * model.bytes_per_key_and_value)
        held += (len(cells) * model.layers + len(plan)) * stream
        climbing = sum(model.layers - 1 - row.enters for row in plan) / model.layers
        filled = TOKENS_PER_PASS[model.device.type] / max(1.0, climbing * positions / 2)
        fits = (budget / 2 - 3 * model.layers * stream) / held
        return cls(
            samples=int(max(1, min(samples, filled, fits))),
            tokens=TOKENS_PER_CALL[model.device.type],
            bytes=budget // 2,
        )

    def rows(self, model: Model, samples: int, count: int, positions: int) -> int:
        """Rows of `samples` samples that one call may hold, on `count` of `positions` positions."""
        row = count * model.bytes_per_state + positions * 3 * model.bytes_per_key_and_value
        return int(max(1, min(self.tokens // (samples * count), self.bytes // (samples * row))))

    def halved(self, rows: int, samples: int, count: int) -> Batches:
        """Half as many as `rows` rows, after the device ran out of memory."""
        return replace(self, tokens=max(1, rows // 2) * samples * count)
