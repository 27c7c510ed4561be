"""The engine: what does the model say when one corrupted state is put back to its clean value?

Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2)
compares three runs of one prompt:

1. clean: as it is;
2. corrupted: the embeddings of the corrupted span are replaced;
3. restored: as corrupted, but one site is set to its clean value and all that follows is
   recomputed. A site is the residual stream after a layer (`hidden`), or what attention or the MLP
   adds to it (`attn`, `mlp`) in a window of layers, always at one position.

A restored run differs from the corrupted one only above its layer and from its position on. So the
engine never runs a whole prompt for a cell. For each position t it keeps one row per cell and
climbs the layers once: a row joins the batch at the layer where its cell begins to differ, and
every block runs on the positions t, t + 1, ... alone, against the corrupted keys and values of the
positions before t. Rows of all kinds and layers share one matrix product.

Further savings change no number:

- the state that enters at a window's first layer is made for all positions at once, because a
  changed contribution at t cannot reach another position inside the same block;
- windows that are cut at the first layer begin alike: they share one row until they part;
- at the last layer only the last position is computed;
- how many samples and rows share a product is chosen from a memory budget (`Batches`).

Shapes: S samples, L layers, T positions, D width; axes are (sample, layer, position) in results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.models import Contribution, Edit, Model

Kind = Literal["hidden", "mlp", "attn"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")
Array = NDArray[np.float64]

TOKENS_PER_CALL = {"cpu": 2048, "cuda": 2**17, "mps": 2**14}
"""A block is called on at most this many states: more fills the device no better. (Shrunk where the
memory budget asks for it.)"""

TOKENS_PER_PASS = {"cpu": 1024, "cuda": 2**16, "mps": 2**13}
"""Samples share a pass until a block is called on about this many states."""

CHECK_TOLERANCE = {
    torch.float64: 1e-8,
    torch.float32: 1e-3,
    torch.float16: 0.1,
    torch.bfloat16: 0.5,
}
"""How far (in log-probability) restore-everything may lie from clean, restore-nothing from
corrupted, before a result is refused."""


class EngineError(RuntimeError):
    """The self-check failed: the numbers of this trace cannot be trusted."""


@dataclass(frozen=True)
class Readout:
    """What is read of every run, in this order of columns.

    First log P of some next tokens; then, for a probe of states, its log-odds: the product of the
    last position's residual stream after block `layer` with `weight`, plus `bias`.
    """

    words: tuple[int, ...]
    layer: int | None = None
    weight: Array | None = None  # (D,)
    bias: float = 0.0

    def read(self, model: Model, last: Tensor, states: Tensor | None) -> Tensor:
        """Columns (..., C) from states (..., D) after the last block and after block `layer`."""
        log_probs = model.log_probs(last, self.words)
        if self.layer is None or states is None:
            return log_probs
        exact = torch.float32 if states.device.type == "mps" else torch.float64
        weight = torch.from_numpy(self.weight).to(exact).to(states.device)
        odds = (states.to(exact) @ weight + self.bias)[..., None]
        return torch.cat([log_probs, odds.to(log_probs.dtype)], dim=-1)


@dataclass(frozen=True)
class CleanRun:
    """States of the clean prompt."""

    states: Tensor  # (L + 1, T, D): [0] enters the first block, [l + 1] leaves block l
    contributions: dict[Contribution, Tensor]  # each (L, T, D)
    read: Tensor  # (C,) the columns of the readout


@dataclass(frozen=True)
class CorruptedRun:
    """States of the corrupted prompt, one row per noise sample."""

    states: Tensor  # (L + 1, S, T, D)
    keys: list[Tensor]  # per layer (S, key heads, T, head size)
    values: list[Tensor]
    # State after block l at position t when that block's clean contribution is put back there.
    entering: dict[Contribution, Tensor]  # each (L, S, T, D)
    read: Tensor  # (S, C)


def window_layers(layer: int, window: int, layers: int) -> range:
    """Layers of a window of `window` layers centred on `layer`, cut at both ends (as in ROME)."""
    return range(max(0, layer - window // 2), min(layers, layer - (-window // 2)))


@torch.inference_mode()
def run_clean(model: Model, embeddings: Tensor, readout: Readout) -> CleanRun:
    """Run the prompt as it is.

    Args:
        embeddings: (T, D), the prompt's input embeddings.
        readout: what is read at the last position.
    """
    states = [model.enter(embeddings)[None]]
    contributions: dict[Contribution, list[Tensor]] = {"attn": [], "mlp": []}
    for layer in range(model.layers):
        output = model.block(layer, states[-1])
        states.append(output.states)
        for kind, kept in contributions.items():
            kept.append(output.contributions[kind])
    return CleanRun(
        states=torch.cat(states),
        contributions={kind: torch.cat(kept) for kind, kept in contributions.items()},
        read=readout.read(model, states[-1][0, -1], _after(readout, states, 0)),
    )


@torch.inference_mode()
def run_corrupted(
    model: Model,
    embeddings: Tensor,
    readout: Readout,
    clean: CleanRun,
    kinds: Sequence[Kind] = KINDS,
) -> CorruptedRun:
    """Run the corrupted prompts.

    Args:
        embeddings: (S, T, D), the corrupted input embeddings, one per sample.
        readout: what is read at the last position.
        clean: the clean run of the same prompt.
        kinds: the kinds of site that will be restored.
    """
    samples = embeddings.shape[0]
    states = [model.enter(embeddings)]
    keys, values = [], []
    restored: tuple[Contribution, ...] = tuple(kind for kind in ("attn", "mlp") if kind in kinds)
    entering: dict[Contribution, list[Tensor]] = {kind: [] for kind in restored}
    for layer in range(model.layers):
        # Part 0 of the batch is the corrupted run itself; each further part has one kind of
        # contribution put back at all positions, which gives the entering states of all cells.
        parts = 1 + len(restored)
        edits: dict[Contribution, Edit] = {
            kind: _put_back_everywhere(part, parts, clean.contributions[kind][layer])
            for part, kind in enumerate(restored, start=1)
        }
        output = model.block(layer, states[-1].repeat(parts, 1, 1), edits=edits)
        by_part = output.states.view(parts, samples, *output.states.shape[1:])
        states.append(by_part[0])
        keys.append(output.keys[:samples].contiguous())
        values.append(output.values[:samples].contiguous())
        for part, kind in enumerate(restored, start=1):
            entering[kind].append(by_part[part])
    return CorruptedRun(
        states=torch.stack(states),
        keys=keys,
        values=values,
        entering={kind: torch.stack(kept) for kind, kept in entering.items()},
        read=readout.read(model, states[-1][:, -1], _after(readout, states)),
    )


def _after(readout: Readout, states: list[Tensor], sample: int | None = None) -> Tensor | None:
    """The last position's state that a probe of states reads: (S, D), or (D,) of one sample."""
    if readout.layer is None:
        return None
    found = states[readout.layer + 1][:, -1]
    return found if sample is None else found[sample]


def _put_back_everywhere(part: int, parts: int, clean: Tensor) -> Edit:
    def edit(contribution: Tensor) -> Tensor:
        # contribution: (parts * S, T, D), clean: (T, D)
        contribution = contribution.clone()
        contribution.view(parts, -1, *contribution.shape[1:])[part] = clean
        return contribution

    return edit


@dataclass(frozen=True)
class _Row:
    """One cell of the position at hand, and how it joins the batch."""

    kind: Kind | Literal["everything", "nothing"]
    layer: int
    enters: int  # its state after this block is known without running a block on it
    until: int = 0  # blocks enters + 1 ... until - 1 have the contribution put back
    parent: int | None = None  # index of the row whose state it takes over when it enters


def _plan(kinds: Sequence[Kind], layers: int, window: int) -> list[_Row]:
    """All rows of one position, in the order in which they join the batch."""
    rows: list[_Row] = []
    for kind in kinds:
        for layer in range(layers):
            if kind == "hidden":
                rows.append(_Row(kind, layer, enters=layer))
                continue
            covered = window_layers(layer, window, layers)
            if layer and covered.start == window_layers(layer - 1, window, layers).start:
                # Begins like its neighbour: one row until the neighbour's window ends.
                parted = window_layers(layer - 1, window, layers).stop - 1
                rows.append(_Row(kind, layer, parted, covered.stop, parent=layer - 1))
            else:
                rows.append(_Row(kind, layer, covered.start, covered.stop))
    # Rows that join after the last block go to the end: only the last position needs them.
    rows.sort(key=lambda row: (row.enters, row.enters == layers - 1 and row.parent is None))
    place = {(row.kind, row.layer): index for index, row in enumerate(rows)}
    return [
        row
        if row.parent is None
        else _Row(row.kind, row.layer, row.enters, row.until, place[row.kind, row.parent])
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
        kinds: Sequence[Kind] = KINDS,
        window: int = 1,
        samples: int = 1,
        budget: int,
    ) -> Batches:
        """The batches that fill the device and stay within `budget` bytes beyond the weights.

        Half of the budget is for the states that a pass keeps, half for what a call makes.
        """
        plan = _plan(kinds, model.layers, window)
        stream = positions * model.width * model.dtype.itemsize  # bytes of one (T, D)
        kept = model.layers * (stream + positions * model.bytes_per_key_and_value)
        kept += (len(kinds) * model.layers + len(plan)) * stream
        climbing = sum(model.layers - 1 - row.enters for row in plan) / model.layers
        filled = TOKENS_PER_PASS[model.device.type] / max(1.0, climbing * positions / 2)
        fits = (budget / 2 - 3 * model.layers * stream) / kept
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


@dataclass(frozen=True)
class Restored:
    """What is read of every restored run."""

    read: dict[Kind, Array] = field(repr=False)  # each (S, L, T, C)
    worst_check: float  # largest deviation of the self-check, in log-probability


@torch.inference_mode()
def restore(
    model: Model,
    clean: CleanRun,
    corrupted: CorruptedRun,
    readout: Readout,
    *,
    kinds: Sequence[Kind] = KINDS,
    window: int = 1,
    first: int = 0,
    batches: Batches | None = None,
    progress: Callable[[float], None] | None = None,
) -> Restored:
    """Restore every site in turn.

    Args:
        clean, corrupted: runs of the same prompt.
        readout: what is read at the last position; the same as for the two runs.
        kinds: which kinds of site.
        window: layers over which `mlp` and `attn` are put back, centred on the cell's layer.
        first: the first corrupted position. Cells before it equal the corrupted run.
        batches: how much is computed at once; by default without a limit on memory.
        progress: called with the share of the work done, after each position. An exception that
            it raises ends the work.

    Raises:
        EngineError: restoring everything misses the clean run, or nothing the corrupted run.
        torch.OutOfMemoryError: one row of all samples does not fit the device.
    """
    positions = clean.states.shape[1]
    samples = corrupted.states.shape[1]
    climber = _Climber(
        model,
        clean,
        corrupted,
        readout,
        batches or Batches(samples, TOKENS_PER_CALL[model.device.type], 2**62),
    )
    plan = _plan(kinds, model.layers, window)
    check = [_Row("nothing", 0, enters=-1), _Row("everything", 0, enters=-1)]
    result: dict[Kind, Tensor] = {
        kind: corrupted.read[:, None, None].repeat(1, model.layers, positions, 1) for kind in kinds
    }
    words = len(readout.words)
    worst = torch.zeros((), device=model.device, dtype=corrupted.read.dtype)
    left = sum(range(1, positions - first + 1))
    done = 0
    for t in range(first, positions):
        rows = _shifted(check, plan) if t == first else plan
        read = climber.climb(rows, t)  # (rows, S, C)
        for index, row in enumerate(rows[: len(read)]):
            if row.kind == "nothing" or row.kind == "everything":
                expected = corrupted.read if row.kind == "nothing" else clean.read
                missed = (read[index] - expected)[..., :words].abs().max()
                worst = torch.maximum(worst, missed)
            else:
                result[row.kind][:, row.layer, t] = read[index]
        done += positions - t
        if progress is not None:
            progress(done / left)
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


def _shifted(before: list[_Row], plan: list[_Row]) -> list[_Row]:
    moved = [
        row if row.parent is None else replace(row, parent=row.parent + len(before)) for row in plan
    ]
    return before + moved


class _Climber:
    """Carries the rows of one position through the layers; `batches` shrink when memory ends."""

    def __init__(
        self,
        model: Model,
        clean: CleanRun,
        corrupted: CorruptedRun,
        readout: Readout,
        batches: Batches,
    ) -> None:
        self.model = model
        self.layers = model.layers
        self.clean = clean
        self.corrupted = corrupted
        self.readout = readout
        self.batches = batches

    def climb(self, rows: list[_Row], t: int) -> Tensor:
        """Columns (rows, S, C) read from the cells of position t.

        Before the last position, rows that join after the last block are left out at the end:
        nothing reads them, and they equal the corrupted run.
        """
        last_layer = self.layers - 1
        _, samples, positions, width = self.corrupted.states.shape
        count = positions - t
        if count > 1:
            rows = [row for row in rows if row.enters < last_layer or row.parent is not None]
        states = self.clean.states.new_empty(len(rows), samples, count, width)
        put_back = self._put_back_masks(rows)
        heard: Tensor | None = None  # what a probe of states reads: (rows, S, D)
        active = 0
        for layer in range(-1, self.layers):
            if active:
                self._advance(states[:active], put_back, layer, t)
            while active < len(rows) and rows[active].enters == layer:
                self._join(states, active, rows[active], t)
                active += 1
            if layer == self.readout.layer:
                # A row that joins later differs only above this layer.
                heard = self.corrupted.states[layer + 1, :, -1].repeat(len(rows), 1, 1)
                heard[:active] = states[:active, :, -1]
        return self.readout.read(self.model, states[:, :, -1], heard)

    def _put_back_masks(self, rows: list[_Row]) -> dict[Contribution, Tensor]:
        """Where a contribution is put back, (layers, rows) for each kind of contribution."""
        masks: dict[Contribution, Tensor] = {}
        layers = np.arange(self.layers)[:, None]
        for kind in self.corrupted.entering:
            chosen = np.array([row.kind == kind for row in rows], dtype=bool)
            enters = np.array([row.enters for row in rows], dtype=int)
            until = np.array([row.until for row in rows], dtype=int)
            mask = chosen & (enters < layers) & (layers < until)
            masks[kind] = torch.from_numpy(mask).to(self.model.device)
        return masks

    def _join(self, states: Tensor, index: int, row: _Row, t: int) -> None:
        """Set a row's state, (S, positions from t, D), after the block at which it enters."""
        if row.parent is not None:
            states[index] = states[row.parent]
            return
        if row.kind == "everything":
            states[index] = self.clean.states[0, t:]
            return
        states[index] = self.corrupted.states[row.enters + 1, :, t:]
        if row.kind == "hidden":
            states[index, :, 0] = self.clean.states[row.enters + 1, t]
        elif row.kind != "nothing":
            states[index, :, 0] = self.corrupted.entering[row.kind][row.enters, :, t]

    def _advance(
        self, states: Tensor, put_back: dict[Contribution, Tensor], layer: int, t: int
    ) -> None:
        """Run one block on the rows that are under way, in place, a few rows at a time."""
        active, samples, count, _ = states.shape
        start = 0
        while start < active:
            step = self.batches.rows(self.model, samples, count, t + count)
            part = slice(start, min(start + step, active))
            try:
                self._advance_part(states[part], put_back, part, layer, t)
            except torch.OutOfMemoryError:
                rows = part.stop - part.start
                if rows == 1:
                    raise
                self.batches = self.batches.halved(rows, samples, count)
                continue  # the rows are as they were: a part changes only when it is done
            start = part.stop

    def _advance_part(
        self,
        states: Tensor,
        put_back: dict[Contribution, Tensor],
        part: slice,
        layer: int,
        t: int,
    ) -> None:
        rows, samples, count, width = states.shape
        batch = states.view(-1, count, width)  # (rows * S, positions from t, D)
        keys = self.corrupted.keys[layer][:, :, :t] if t else None
        values = self.corrupted.values[layer][:, :, :t] if t else None
        if layer == self.layers - 1 and count > 1:
            last = self.model.block_at_last(layer, batch, start=t, keys=keys, values=values)
            states[:, :, -1:] = last.view(rows, samples, 1, width)
            return
        edits: dict[Contribution, Edit] = {
            kind: _put_back(mask[layer, part], samples, self.clean.contributions[kind][layer, t])
            for kind, mask in put_back.items()
        }
        output = self.model.block(layer, batch, start=t, keys=keys, values=values, edits=edits)
        states.copy_(output.states.view_as(states))


def _put_back(chosen: Tensor, samples: int, clean: Tensor) -> Edit:
    def edit(contribution: Tensor) -> Tensor:
        # contribution: (rows * S, positions from t, D), chosen: (rows,), clean: (D,)
        own = contribution.view(-1, samples, *contribution.shape[1:])[:, :, 0]
        own.copy_(torch.where(chosen[:, None, None], clean, own))
        return contribution

    return edit
