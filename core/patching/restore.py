"""The engine: what does the model say when one state of a run is replaced by another run's?

Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2)
compares three runs of one prompt:

1. clean: as it is;
2. corrupted: the embeddings of the corrupted span are replaced;
3. restored: as corrupted, but one site is set to its clean value and all that follows is
   recomputed. A site is the residual stream after a layer (`hidden`), or what attention or the MLP
   adds to it (`attn`, `mlp`) in a window of layers, at one position or at those of one word.

The engine calls the run that a state is taken from the source and the run that it is put into the
base. Denoising takes from the clean run and puts into the corrupted one; noising exchanges the two
(Zhang and Nanda 2024, section 2).

A patched run differs from the base only above its layer and from its position on. So the engine
never runs a whole prompt for a cell. For each position t it keeps one row per cell and climbs the
layers once: a row joins the batch at the layer where its cell begins to differ, and every block
runs on the positions t, t + 1, ... alone, against the base's keys and values of the positions
before t. Rows of all kinds and layers share one matrix product.

Further savings change no number:

- the state that enters at a window's first layer is made for all positions at once, because a
  changed contribution at t cannot reach another position inside the same block;
- windows that are cut at the first layer begin alike: they share one row until they part;
- at the last layer only the last position is computed;
- how many samples and rows share a product is chosen from a memory budget (`Batches`).

Shapes: S samples (of one tweet's noise, or of several tweets of equal length), R = S or 1 where
all samples share the source, L layers, T positions, D width; axes are (sample, layer, position) in
results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..models.model import Change, Contribution, Edit, Model
from ..statistics import Array
from .batches import TOKENS_PER_CALL, Batches, Row, plan_rows
from .clean_and_corrupted import Base, Source
from .readout import Readout
from .sites import KINDS, Cells, Kind, grid, layers_at, window_layers

CHECK_TOLERANCE = {
    torch.float64: 1e-8,
    torch.float32: 1e-3,
    torch.float16: 0.1,
    torch.bfloat16: 0.5,
}
"""How far (in log-probability) restore-everything may lie from clean, restore-nothing from
corrupted, before a result is refused."""


class EngineError(UserError):
    """The self-check failed: the numbers of this trace cannot be trusted."""


@dataclass(frozen=True)
class Restored:
    """What is read of every patched run; NaN where a cell was left out."""

    read: dict[Kind, Array] = field(repr=False)  # each (S, L, T, C)
    worst_check: float  # largest deviation of the self-check, in log-probability


@torch.inference_mode()
def restore(
    model: Model,
    source: Source,
    base: Base,
    readout: Readout,
    *,
    kinds: Sequence[Kind] = KINDS,
    cells: Cells | None = None,
    spans: Mapping[int, range] | None = None,
    window: int = 1,
    first: int = 0,
    batches: Batches | None = None,
    progress: Callable[[float], None] | None = None,
) -> Restored:
    """Put the source's state into the base, at every site in turn.

    A base that was run with `severed` is taken to have frozen paths (Meng et al. 2022, section 2,
    figure 3): after a hidden state is restored at t, that kind of contribution stays at t what it
    is in the base, so that the restored state acts only through the other paths.

    Args:
        source, base: runs of prompts of the same length; or a source whose states were brought to
            the base's positions (`Source.at`), which restored everywhere is no run of its own, so
            that the self-check is of restoring nothing alone.
        readout: what is read at the last position; the same as for the two runs.
        kinds: which kinds of site, at all layers and positions.
        cells: these sites in their place.
        spans: of a cell's position the neighbouring positions, it being the last of them, that are
            restored at once (a word's tokens); by default the position alone.
        window: layers over which `mlp` and `attn` are replaced, centred on the cell's layer.
        first: the first position at which the runs differ. Cells before it equal the base.
        batches: how much is computed at once; by default without a limit on memory.
        progress: called with the share of the work done, after each position. An exception that
            it raises ends the work.

    Raises:
        EngineError: replacing everything misses the source, or nothing the base.
        UserError: a restored run overflows.
        torch.OutOfMemoryError: one row of all samples does not fit the device.
    """
    length, samples = base.states.shape[2], base.states.shape[1]
    climber = _Climber(
        model,
        source,
        base,
        readout,
        batches or Batches(samples, TOKENS_PER_CALL[model.device.type], 2**62),
    )
    cells = cells or grid(kinds, model.layers, length)
    if base.severed and tuple(cells) != ("hidden",):
        raise UserError(f"Frozen paths are those of hidden states, not of {', '.join(cells)}.")
    check = [Row("nothing", 0, enters=-1)]
    if not source.moved:
        check.append(Row("everything", 0, enters=-1))
    plans: dict[int, list[Row]] = {}
    shape = (samples, model.layers, length, base.read.shape[-1])
    result: dict[Kind, Tensor] = {kind: base.read.new_full(shape, float("nan")) for kind in cells}
    for t in range(length):
        traced = layers_at(cells, t)
        if any(traced.values()):
            plans[t] = plan_rows(traced, model.layers, window)
        for kind, chosen in traced.items():
            result[kind][:, chosen, t] = base.read[:, None]
    words = len(readout.words)
    worst = torch.zeros((), device=model.device, dtype=base.read.dtype)
    total = torch.zeros_like(worst)  # of everything read: finite as long as each number is
    todo = sorted({first, *(t for t in plans if t > first)})
    left, done = sum(length - t for t in todo), 0
    for t in todo:
        span = (spans or {}).get(t, range(t, t + 1))
        rows = _shifted(check, plans.get(t, [])) if t == first else plans[t]
        read = climber.read(rows, span)  # (rows, S, C)
        total += read.abs().sum()
        for index, row in enumerate(rows[: len(read)]):
            if row.kind == "nothing" or row.kind == "everything":
                expected = base.read if row.kind == "nothing" else source.read
                missed = (read[index] - expected)[..., :words].abs().max()
                worst = torch.maximum(worst, missed)
            else:
                result[row.kind][:, row.layer, t] = read[index]
        done += length - t
        if progress is not None:
            progress(done / left)
    model.check_finite(total)
    deviation = float(worst)
    # `not <=` so that a NaN is refused as well.
    if not deviation <= CHECK_TOLERANCE[model.dtype]:
        raise EngineError(
            "The self-check of this trace failed: restoring everything (or nothing) misses the "
            f"clean (or corrupted) run by {deviation:.2g} in log-probability, more than "
            f"{CHECK_TOLERANCE[model.dtype]:.2g} for {model.dtype}; its numbers are not shown."
        )
    return Restored(
        read={kind: values.cpu().double().numpy() for kind, values in result.items()},
        worst_check=deviation,
    )


@torch.inference_mode()
def last_state(
    model: Model,
    source: Source,
    base: Base,
    kind: Kind,
    layer: int,
    span: range,
    *,
    window: int = 1,
) -> Tensor:
    """The residual stream that the head reads in one patched run: (S, D).

    Args:
        span: the positions that are restored at once.
    """
    covered = window_layers(layer, window, model.layers)
    row = Row(kind, layer, layer if kind == "hidden" else covered.start, covered.stop)
    climber = _Climber(
        model, source, base, Readout(()), Batches(1, TOKENS_PER_CALL[model.device.type], 2**62)
    )
    last, _ = climber.climb([row], span)
    return last[0] if len(last) else base.states[-1, :, -1]


@torch.inference_mode()
def restore_heads(
    model: Model, source: Source, base: Base, readout: Readout, layer: int, span: range
) -> Array:
    """Put the source's output of each attention head of one layer into the base.

    A head's output is its part of what attention's output projection gives: its values' mix times
    its rows of that projection. A norm that follows is applied to their sum.

    Args:
        span: the neighbouring positions at which it is restored at once.

    Returns:
        (S, H, C), the columns of the readout for each of the H heads.
    """
    samples, length, width = base.states.shape[1:]
    t, count = span.start, len(span)
    differences = torch.stack(  # (H, S, count, D)
        [
            (
                model.heads_at(layer, source.states[layer], at)  # (R, H, D)
                - model.heads_at(layer, base.states[layer], at)  # (S, H, D)
            ).transpose(0, 1)
            for at in span
        ],
        dim=2,
    )
    heads = len(differences)

    def add(projected: Tensor) -> Tensor:
        return projected + differences.reshape(heads * samples, count, width)

    with model.changed([Change(layer, "attn_out", add)]):
        entered = model.block(
            layer,
            base.states[layer, :, t : span.stop].repeat(heads, 1, 1),
            start=t,
            keys=base.keys[layer][:, :, :t] if t else None,
            values=base.values[layer][:, :, :t] if t else None,
        ).states
    states = base.states[layer + 1, :, t:].repeat(heads, 1, 1).view(heads, samples, -1, width)
    states[:, :, :count] = entered.view(heads, samples, count, width)
    climber = _Climber(
        model, source, base, readout, Batches(1, TOKENS_PER_CALL[model.device.type], 2**62)
    )
    read = climber.finish(states, layer, span)
    model.check_finite(read)
    return read.transpose(0, 1).cpu().double().numpy()


def _shifted(before: list[Row], plan: list[Row]) -> list[Row]:
    moved = [
        row if row.parent is None else replace(row, parent=row.parent + len(before)) for row in plan
    ]
    return before + moved


class _Climber:
    """Carries the rows of one position through the layers; `batches` shrink when memory ends."""

    def __init__(
        self,
        model: Model,
        source: Source,
        base: Base,
        readout: Readout,
        batches: Batches,
    ) -> None:
        self.model = model
        self.layers = model.layers
        self.source = source
        self.base = base
        self.readout = readout
        self.batches = batches

    def read(self, rows: list[Row], span: range) -> Tensor:
        """Columns (rows, S, C) read from the cells of some positions; see `climb`."""
        last, heard = self.climb(rows, span)
        return self.readout.read(self.model, last, heard)

    def climb(self, rows: list[Row], span: range) -> tuple[Tensor, Tensor | None]:
        """States of the last position for the cells that restore the positions of a span at once.

        Before the last position, rows that join after the last block are left out at the end:
        nothing reads them, and they equal the base.

        Returns:
            (rows, S, D) after the last block, and after the block that a probe of states reads.
        """
        last_layer = self.layers - 1
        _, samples, positions, width = self.base.states.shape
        if span.stop < positions:
            rows = [row for row in rows if row.enters < last_layer or row.parent is not None]
        states = self.base.states.new_empty(len(rows), samples, positions - span.start, width)
        replaced = self._masks(rows)
        heard: Tensor | None = None
        active = 0
        for layer in range(-1, self.layers):
            if active:
                self._advance(states[:active], replaced, layer, span)
            while active < len(rows) and rows[active].enters == layer:
                self._join(states, active, rows[active], span)
                active += 1
            if layer == self.readout.layer:
                # A row that joins later differs only above this layer.
                heard = self.base.states[layer + 1, :, -1].repeat(len(rows), 1, 1)
                heard[:active] = states[:active, :, -1]
        return states[:, :, -1], heard

    def finish(self, states: Tensor, layer: int, span: range) -> Tensor:
        """Columns (rows, S, C) of runs that go on from states (rows, S, positions from the span's
        first, D) after block `layer`."""
        heard = states[:, :, -1].clone() if layer == self.readout.layer else None
        if self.readout.layer is not None and self.readout.layer < layer:
            heard = self.base.states[self.readout.layer + 1, :, -1].repeat(len(states), 1, 1)
        for above in range(layer + 1, self.layers):
            self._advance(states, [], above, span)
            if above == self.readout.layer:
                heard = states[:, :, -1].clone()
        return self.readout.read(self.model, states[:, :, -1], heard)

    def _masks(self, rows: list[Row]) -> list[_Replaced]:
        """Where a contribution is replaced, and by what."""
        layers = np.arange(self.layers)[:, None]
        kinds = np.array([row.kind for row in rows])
        enters = np.array([row.enters for row in rows], dtype=int)
        until = np.array([row.until for row in rows], dtype=int)
        found = []
        for kind in self.base.entering:
            mask = (kinds == kind) & (enters < layers) & (layers < until)
            found.append((kind, mask, self.source.contributions[kind]))
        for kind, own in self.base.severed.items():
            found.append((kind, (kinds == "hidden") & (enters < layers), own))
        return [
            _Replaced(kind, torch.from_numpy(mask).to(self.model.device), by)
            for kind, mask, by in found
            if mask.any()
        ]

    def _join(self, states: Tensor, index: int, row: Row, span: range) -> None:
        """Set a row's state, (S, positions from the span's first, D), after the block at which it
        enters."""
        if row.parent is not None:
            states[index] = states[row.parent]
            return
        if row.kind == "everything":
            states[index] = self.source.states[0, :, span.start :]
            return
        states[index] = self.base.states[row.enters + 1, :, span.start :]
        at = slice(span.start, span.stop)
        if row.kind == "hidden":
            states[index, :, : len(span)] = self.source.states[row.enters + 1, :, at]
        elif row.kind != "nothing":
            states[index, :, : len(span)] = self.base.entering[row.kind][row.enters, :, at]

    def _advance(self, states: Tensor, replaced: list[_Replaced], layer: int, span: range) -> None:
        """Run one block on the rows that are under way, in place, a few rows at a time."""
        active, samples, count, _ = states.shape
        start = 0
        while start < active:
            step = self.batches.rows(self.model, samples, count, span.start + count)
            part = slice(start, min(start + step, active))
            try:
                self._advance_part(states[part], replaced, part, layer, span)
            except torch.OutOfMemoryError:
                rows = part.stop - part.start
                if rows == 1:
                    raise
                self.batches = self.batches.halved(rows, samples, count)
                continue  # the rows are as they were: a part changes only when it is done
            start = part.stop

    def _advance_part(
        self, states: Tensor, replaced: list[_Replaced], part: slice, layer: int, span: range
    ) -> None:
        rows, samples, count, width = states.shape
        t = span.start
        batch = states.view(-1, count, width)  # (rows * S, positions from t, D)
        keys = self.base.keys[layer][:, :, :t] if t else None
        values = self.base.values[layer][:, :, :t] if t else None
        if layer == self.layers - 1 and count > len(span):
            last = self.model.block_at_last(layer, batch, start=t, keys=keys, values=values)
            states[:, :, -1:] = last.view(rows, samples, 1, width)
            return
        edits: dict[Contribution, Edit] = {
            change.kind: _replace(
                change.rows[layer, part], samples, change.by[layer, :, t : span.stop]
            )
            for change in replaced
        }
        output = self.model.block(layer, batch, start=t, keys=keys, values=values, edits=edits)
        states.copy_(output.states.view_as(states))


@dataclass(frozen=True)
class _Replaced:
    """A kind of contribution that some rows take from elsewhere at their position."""

    kind: Contribution
    rows: Tensor  # (L, rows), true where it is replaced
    by: Tensor  # (L, R, T, D)


def _replace(chosen: Tensor, samples: int, by: Tensor) -> Edit:
    def edit(contribution: Tensor) -> Tensor:
        # contribution: (rows * S, positions from t, D), chosen: (rows,), by: (R, positions, D)
        own = contribution.view(-1, samples, *contribution.shape[1:])[:, :, : by.shape[1]]
        own.copy_(torch.where(chosen[:, None, None, None], by, own))
        return contribution

    return edit
