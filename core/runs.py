"""The engine: what does the model say when one state of a run is replaced by another run's?

Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2)
compares three runs of one prompt:

1. clean: as it is;
2. corrupted: the embeddings of the corrupted span are replaced;
3. restored: as corrupted, but one site is set to its clean value and all that follows is
   recomputed. A site is the residual stream after a layer (`hidden`), or what attention or the MLP
   adds to it (`attn`, `mlp`) in a window of layers, always at one position.

The engine calls the run that a state is taken from the source and the run that it is put into the
base. Restoring takes from the clean run and puts into the corrupted one; reverse patching
("noising" in Zhang and Nanda 2024, section 2) exchanges the two.

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
class Source:
    """A run whose states are put into another one."""

    states: Tensor  # (L + 1, R, T, D): [0] enters the first block, [l + 1] leaves block l
    contributions: dict[Contribution, Tensor]  # each (L, R, T, D)
    read: Tensor  # (R, C) the columns of the readout

    def of(self, chosen: Sequence[int]) -> Source:
        """The same with the chosen samples as its R axis."""
        index = torch.as_tensor(chosen, device=self.states.device)
        return Source(
            self.states[:, index],
            {kind: values[:, index] for kind, values in self.contributions.items()},
            self.read[index],
        )


@dataclass(frozen=True)
class Base:
    """A run into which states are put, one row per sample."""

    states: Tensor  # (L + 1, S, T, D)
    keys: list[Tensor]  # per layer (S, key heads, T, head size)
    values: list[Tensor]
    # State after block l at position t when that block's contribution is the source's there.
    entering: dict[Contribution, Tensor]  # each (L, S, T, D)
    severed: dict[Contribution, Tensor]  # its own contributions (L, S, T, D), of severed paths only
    read: Tensor  # (S, C)


def window_layers(layer: int, window: int, layers: int) -> range:
    """Layers of a window of `window` layers centred on `layer`, cut at both ends (as in ROME)."""
    return range(max(0, layer - window // 2), min(layers, layer - (-window // 2)))


@torch.inference_mode()
def run_source(model: Model, embeddings: Tensor, readout: Readout) -> Source:
    """Run prompts to take states from.

    Args:
        embeddings: (R, T, D), the prompts' input embeddings.
        readout: what is read at the last position.
    """
    states = [model.enter(embeddings)]
    contributions: dict[Contribution, list[Tensor]] = {"attn": [], "mlp": []}
    for layer in range(model.layers):
        output = model.block(layer, states[-1])
        states.append(output.states)
        for kind, kept in contributions.items():
            kept.append(output.contributions[kind])
    return Source(
        states=torch.stack(states),
        contributions={kind: torch.stack(kept) for kind, kept in contributions.items()},
        read=readout.read(model, states[-1][:, -1], _after(readout, states)),
    )


@torch.inference_mode()
def run_base(
    model: Model,
    embeddings: Tensor,
    readout: Readout,
    source: Source,
    kinds: Sequence[Kind] = KINDS,
    severed: Contribution | None = None,
) -> Base:
    """Run prompts to put states into.

    Args:
        embeddings: (S, T, D), the input embeddings, one per sample.
        readout: what is read at the last position.
        source: the run that states will be taken from.
        kinds: the kinds of site that will be replaced.
        severed: the kind of contribution that will be held to this run's, see `restore`.
    """
    samples = embeddings.shape[0]
    states = [model.enter(embeddings)]
    keys, values = [], []
    replaced: tuple[Contribution, ...] = tuple(kind for kind in ("attn", "mlp") if kind in kinds)
    entering: dict[Contribution, list[Tensor]] = {kind: [] for kind in replaced}
    own: list[Tensor] = []
    for layer in range(model.layers):
        # Part 0 of the batch is the base itself; each further part has one kind of contribution
        # replaced at all positions, which gives the entering states of all cells.
        parts = 1 + len(replaced)
        edits: dict[Contribution, Edit] = {
            kind: _replace_everywhere(part, parts, source.contributions[kind][layer])
            for part, kind in enumerate(replaced, start=1)
        }
        output = model.block(layer, states[-1].repeat(parts, 1, 1), edits=edits)
        by_part = output.states.view(parts, samples, *output.states.shape[1:])
        states.append(by_part[0])
        keys.append(output.keys[:samples].contiguous())
        values.append(output.values[:samples].contiguous())
        for part, kind in enumerate(replaced, start=1):
            entering[kind].append(by_part[part])
        if severed is not None:
            own.append(output.contributions[severed][:samples])
    return Base(
        states=torch.stack(states),
        keys=keys,
        values=values,
        entering={kind: torch.stack(kept) for kind, kept in entering.items()},
        severed={} if severed is None else {severed: torch.stack(own)},
        read=readout.read(model, states[-1][:, -1], _after(readout, states)),
    )


def _after(readout: Readout, states: list[Tensor]) -> Tensor | None:
    """The last position's state that a probe of states reads: (samples, D)."""
    return None if readout.layer is None else states[readout.layer + 1][:, -1]


def _replace_everywhere(part: int, parts: int, source: Tensor) -> Edit:
    def edit(contribution: Tensor) -> Tensor:
        # contribution: (parts * S, T, D), source: (R, T, D)
        contribution = contribution.clone()
        contribution.view(parts, -1, *contribution.shape[1:])[part] = source
        return contribution

    return edit


@dataclass(frozen=True)
class _Row:
    """One cell of the position at hand, and how it joins the batch."""

    kind: Kind | Literal["everything", "nothing"]
    layer: int
    enters: int  # its state after this block is known without running a block on it
    until: int = 0  # blocks enters + 1 ... until - 1 have the contribution replaced
    parent: int | None = None  # index of the row whose state it takes over when it enters


def _plan(kinds: Sequence[Kind], layers: int, window: int, every: int = 1) -> list[_Row]:
    """All rows of one position, in the order in which they join the batch."""
    rows: list[_Row] = []
    for kind in kinds:
        for layer in range(0, layers, every):
            if kind == "hidden":
                rows.append(_Row(kind, layer, enters=layer))
                continue
            covered = window_layers(layer, window, layers)
            below = window_layers(layer - every, window, layers)
            if layer and covered.start == below.start:
                # Begins like its neighbour: one row until the neighbour's window ends.
                rows.append(_Row(kind, layer, below.stop - 1, covered.stop, parent=layer - every))
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
        every: int = 1,
        samples: int = 1,
        budget: int,
    ) -> Batches:
        """The batches that fill the device and stay within `budget` bytes beyond the weights.

        Half of the budget is for the states that a pass keeps, half for what a call makes.
        """
        plan = _plan(kinds, model.layers, window, every)
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
    window: int = 1,
    every: int = 1,
    first: int = 0,
    positions: Sequence[int] | None = None,
    batches: Batches | None = None,
    progress: Callable[[float], None] | None = None,
) -> Restored:
    """Put the source's state into the base, at every site in turn.

    A base that was run with `severed` is taken to have severed paths (Meng et al. 2022, section 2,
    figure 3): after a hidden state is put back at t, that kind of contribution stays at t what it
    is in the base, so that the restored state acts only through the other paths.

    Args:
        source, base: runs of prompts of the same length.
        readout: what is read at the last position; the same as for the two runs.
        kinds: which kinds of site.
        window: layers over which `mlp` and `attn` are replaced, centred on the cell's layer.
        every: only the layers 0, every, 2 * every, ...
        first: the first position at which the runs differ. Cells before it equal the base.
        positions: which positions; None: all.
        batches: how much is computed at once; by default without a limit on memory.
        progress: called with the share of the work done, after each position. An exception that
            it raises ends the work.

    Raises:
        EngineError: replacing everything misses the source, or nothing the base.
        torch.OutOfMemoryError: one row of all samples does not fit the device.
    """
    if base.severed and tuple(kinds) != ("hidden",):
        raise ValueError(f"Severed paths are those of hidden states, not of {', '.join(kinds)}.")
    length, samples = base.states.shape[2], base.states.shape[1]
    climber = _Climber(
        model,
        source,
        base,
        readout,
        batches or Batches(samples, TOKENS_PER_CALL[model.device.type], 2**62),
    )
    plan = _plan(kinds, model.layers, window, every)
    check = [_Row("nothing", 0, enters=-1), _Row("everything", 0, enters=-1)]
    wanted = set(range(length) if positions is None else positions)
    shape = (samples, model.layers, length, base.read.shape[-1])
    result: dict[Kind, Tensor] = {kind: base.read.new_full(shape, float("nan")) for kind in kinds}
    for kind in kinds:
        for t in wanted:
            result[kind][:, ::every, t] = base.read[:, None]
    words = len(readout.words)
    worst = torch.zeros((), device=model.device, dtype=base.read.dtype)
    todo = sorted({first, *(t for t in wanted if t > first)})
    left, done = sum(length - t for t in todo), 0
    for t in todo:
        rows = _shifted(check, plan if t in wanted else []) if t == first else plan
        read = climber.read(rows, t)  # (rows, S, C)
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
    model: Model, source: Source, base: Base, kind: Kind, layer: int, t: int, *, window: int = 1
) -> Tensor:
    """The residual stream that the head reads in one patched run: (S, D)."""
    covered = window_layers(layer, window, model.layers)
    row = _Row(kind, layer, layer if kind == "hidden" else covered.start, covered.stop)
    climber = _Climber(
        model, source, base, Readout(()), Batches(1, TOKENS_PER_CALL[model.device.type], 2**62)
    )
    last, _ = climber.climb([row], t)
    return last[0] if len(last) else base.states[-1, :, -1]


@torch.inference_mode()
def restore_heads(
    model: Model, source: Source, base: Base, readout: Readout, layer: int, t: int
) -> Array:
    """Put the source's output of each attention head of one layer into the base, at position t.

    A head's output is its part of attention's contribution: its values' mix times its rows of the
    output projection.

    Returns:
        (S, H, C), the columns of the readout for each of the H heads.
    """
    samples, length, width = base.states.shape[1:]
    own = model.heads_at(layer, base.states[layer], t)  # (S, H, D)
    other = model.heads_at(layer, source.states[layer], t)  # (R, H, D)
    differences = (other - own).transpose(0, 1)  # (H, S, D)
    heads = len(differences)

    def add(contribution: Tensor) -> Tensor:
        return contribution + differences.reshape(heads * samples, 1, width)

    entered = model.block(
        layer,
        base.states[layer, :, t : t + 1].repeat(heads, 1, 1),
        start=t,
        keys=base.keys[layer][:, :, :t] if t else None,
        values=base.values[layer][:, :, :t] if t else None,
        edits={"attn": add},
    ).states
    states = base.states[layer + 1, :, t:].repeat(heads, 1, 1).view(heads, samples, -1, width)
    states[:, :, 0] = entered.view(heads, samples, width)
    climber = _Climber(
        model, source, base, readout, Batches(1, TOKENS_PER_CALL[model.device.type], 2**62)
    )
    read = climber.finish(states, layer, t)
    return read.transpose(0, 1).cpu().double().numpy()


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

    def read(self, rows: list[_Row], t: int) -> Tensor:
        """Columns (rows, S, C) read from the cells of position t; see `climb`."""
        last, heard = self.climb(rows, t)
        return self.readout.read(self.model, last, heard)

    def climb(self, rows: list[_Row], t: int) -> tuple[Tensor, Tensor | None]:
        """States of the last position for the cells of position t.

        Before the last position, rows that join after the last block are left out at the end:
        nothing reads them, and they equal the base.

        Returns:
            (rows, S, D) after the last block, and after the block that a probe of states reads.
        """
        last_layer = self.layers - 1
        _, samples, positions, width = self.base.states.shape
        count = positions - t
        if count > 1:
            rows = [row for row in rows if row.enters < last_layer or row.parent is not None]
        states = self.base.states.new_empty(len(rows), samples, count, width)
        replaced = self._masks(rows)
        heard: Tensor | None = None
        active = 0
        for layer in range(-1, self.layers):
            if active:
                self._advance(states[:active], replaced, layer, t)
            while active < len(rows) and rows[active].enters == layer:
                self._join(states, active, rows[active], t)
                active += 1
            if layer == self.readout.layer:
                # A row that joins later differs only above this layer.
                heard = self.base.states[layer + 1, :, -1].repeat(len(rows), 1, 1)
                heard[:active] = states[:active, :, -1]
        return states[:, :, -1], heard

    def finish(self, states: Tensor, layer: int, t: int) -> Tensor:
        """Columns (rows, S, C) of runs that go on from states (rows, S, positions from t, D)
        after block `layer`."""
        heard = states[:, :, -1].clone() if layer == self.readout.layer else None
        if self.readout.layer is not None and self.readout.layer < layer:
            heard = self.base.states[self.readout.layer + 1, :, -1].repeat(len(states), 1, 1)
        for above in range(layer + 1, self.layers):
            self._advance(states, [], above, t)
            if above == self.readout.layer:
                heard = states[:, :, -1].clone()
        return self.readout.read(self.model, states[:, :, -1], heard)

    def _masks(self, rows: list[_Row]) -> list[_Replaced]:
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

    def _join(self, states: Tensor, index: int, row: _Row, t: int) -> None:
        """Set a row's state, (S, positions from t, D), after the block at which it enters."""
        if row.parent is not None:
            states[index] = states[row.parent]
            return
        if row.kind == "everything":
            states[index] = self.source.states[0, :, t:]
            return
        states[index] = self.base.states[row.enters + 1, :, t:]
        if row.kind == "hidden":
            states[index, :, 0] = self.source.states[row.enters + 1, :, t]
        elif row.kind != "nothing":
            states[index, :, 0] = self.base.entering[row.kind][row.enters, :, t]

    def _advance(self, states: Tensor, replaced: list[_Replaced], layer: int, t: int) -> None:
        """Run one block on the rows that are under way, in place, a few rows at a time."""
        active, samples, count, _ = states.shape
        start = 0
        while start < active:
            step = self.batches.rows(self.model, samples, count, t + count)
            part = slice(start, min(start + step, active))
            try:
                self._advance_part(states[part], replaced, part, layer, t)
            except torch.OutOfMemoryError:
                rows = part.stop - part.start
                if rows == 1:
                    raise
                self.batches = self.batches.halved(rows, samples, count)
                continue  # the rows are as they were: a part changes only when it is done
            start = part.stop

    def _advance_part(
        self, states: Tensor, replaced: list[_Replaced], part: slice, layer: int, t: int
    ) -> None:
        rows, samples, count, width = states.shape
        batch = states.view(-1, count, width)  # (rows * S, positions from t, D)
        keys = self.base.keys[layer][:, :, :t] if t else None
        values = self.base.values[layer][:, :, :t] if t else None
        if layer == self.layers - 1 and count > 1:
            last = self.model.block_at_last(layer, batch, start=t, keys=keys, values=values)
            states[:, :, -1:] = last.view(rows, samples, 1, width)
            return
        edits: dict[Contribution, Edit] = {
            change.kind: _replace(change.rows[layer, part], samples, change.by[layer, :, t])
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
        # contribution: (rows * S, positions from t, D), chosen: (rows,), by: (R, D)
        own = contribution.view(-1, samples, *contribution.shape[1:])[:, :, 0]
        own.copy_(torch.where(chosen[:, None, None], by, own))
        return contribution

    return edit
