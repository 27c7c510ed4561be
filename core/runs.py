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

Three more savings change no number:

- the state that enters at a window's first layer is made for all positions at once, because a
  changed contribution at t cannot reach another position inside the same block;
- windows that are cut at the first layer begin alike: they share one row until they part;
- at the last layer only the last position is computed.

Shapes: S samples, L layers, T positions, D width; axes are (sample, layer, position) in results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.models import BlockOutput, Contribution, Edit, Model

Kind = Literal["hidden", "mlp", "attn"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")
Array = NDArray[np.float64]

TOKENS_PER_CALL = 2048
"""A block is called on at most this many states at once: enough to fill the processor, and the
MLP's inner states stay small (105 MB for GPT-2 XL in float32)."""

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
class CleanRun:
    """States of the clean prompt."""

    states: Tensor  # (L + 1, T, D): [0] enters the first block, [l + 1] leaves block l
    contributions: dict[Contribution, Tensor]  # each (L, T, D)
    log_probs: Tensor  # (words,) at the last position


@dataclass(frozen=True)
class CorruptedRun:
    """States of the corrupted prompt, one row per noise sample."""

    states: Tensor  # (L + 1, S, T, D)
    keys: list[Tensor]  # per layer (S, key heads, T, head size)
    values: list[Tensor]
    # State after block l at position t when that block's clean contribution is put back there.
    entering: dict[Contribution, Tensor]  # each (L, S, T, D)
    log_probs: Tensor  # (S, words)


def window_layers(layer: int, window: int, layers: int) -> range:
    """Layers of a window of `window` layers centred on `layer`, cut at both ends (as in ROME)."""
    return range(max(0, layer - window // 2), min(layers, layer - (-window // 2)))


@torch.inference_mode()
def run_clean(model: Model, embeddings: Tensor, words: Sequence[int]) -> CleanRun:
    """Run the prompt as it is.

    Args:
        embeddings: (T, D), the prompt's input embeddings.
        words: token ids whose log-probability is read at the last position.
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
        log_probs=model.log_probs(states[-1][0, -1], words),
    )


@torch.inference_mode()
def run_corrupted(
    model: Model,
    embeddings: Tensor,
    words: Sequence[int],
    clean: CleanRun,
    kinds: Sequence[Kind] = KINDS,
) -> CorruptedRun:
    """Run the corrupted prompts.

    Args:
        embeddings: (S, T, D), the corrupted input embeddings, one per sample.
        words: token ids whose log-probability is read at the last position.
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
        log_probs=model.log_probs(states[-1][:, -1], words),
    )


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
class Restored:
    """log P of the words in every restored run."""

    log_probs: dict[Kind, Array] = field(repr=False)  # each (S, L, T, words)
    worst_check: float  # largest deviation of the self-check, in log-probability


@torch.inference_mode()
def restore(
    model: Model,
    clean: CleanRun,
    corrupted: CorruptedRun,
    words: Sequence[int],
    *,
    kinds: Sequence[Kind] = KINDS,
    window: int = 1,
    first: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Restored:
    """Restore every site in turn.

    Args:
        clean, corrupted: runs of the same prompt.
        words: token ids whose log-probability is read at the last position.
        kinds: which kinds of site.
        window: layers over which `mlp` and `attn` are put back, centred on the cell's layer.
        first: the first corrupted position. Cells before it equal the corrupted run.
        progress: called with the share of the work done, after each position. An exception that
            it raises ends the work.

    Raises:
        EngineError: restoring everything misses the clean run, or nothing the corrupted run.
    """
    positions = clean.states.shape[1]
    samples = corrupted.states.shape[1]
    plan = _plan(kinds, model.layers, window)
    check = [_Row("nothing", 0, enters=-1), _Row("everything", 0, enters=-1)]
    result: dict[Kind, Tensor] = {
        kind: corrupted.log_probs[:, None, None]
        .expand(samples, model.layers, positions, len(words))
        .clone()
        for kind in kinds
    }
    worst = torch.zeros((), device=model.device, dtype=corrupted.log_probs.dtype)
    left = sum(range(1, positions - first + 1))
    done = 0
    for t in range(first, positions):
        rows = _shifted(check, plan) if t == first else plan
        read = _climb(model, clean, corrupted, words, rows, t)  # (rows, S, words)
        for index, row in enumerate(rows):
            if row.kind == "nothing":
                worst = torch.maximum(worst, (read[index] - corrupted.log_probs).abs().max())
            elif row.kind == "everything":
                worst = torch.maximum(worst, (read[index] - clean.log_probs).abs().max())
            elif index < len(read):
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
        log_probs={kind: values.double().cpu().numpy() for kind, values in result.items()},
        worst_check=deviation,
    )


def _shifted(before: list[_Row], plan: list[_Row]) -> list[_Row]:
    moved = [
        row
        if row.parent is None
        else _Row(row.kind, row.layer, row.enters, row.until, row.parent + len(before))
        for row in plan
    ]
    return before + moved


def _climb(
    model: Model,
    clean: CleanRun,
    corrupted: CorruptedRun,
    words: Sequence[int],
    rows: list[_Row],
    t: int,
) -> Tensor:
    """Read-out (rows, S, words) of the cells of position t.

    Rows that join after the last block are left out before the last position, where nothing reads
    them: their read-out is that of the corrupted run.
    """
    last_layer = model.layers - 1
    _, samples, positions, width = corrupted.states.shape
    count = positions - t
    at_last = count == 1
    rows = [row for row in rows if at_last or row.enters < last_layer or row.parent is not None]
    states = clean.states.new_empty(len(rows), samples, count, width)
    active = 0
    for layer in range(-1, model.layers):
        if active:
            _advance(model, clean, corrupted, rows, states, active, layer, t)
        while active < len(rows) and rows[active].enters == layer:
            _join(states, active, rows[active], clean, corrupted, t)
            active += 1
    return model.log_probs(states[:, :, -1], words)


def _join(
    states: Tensor, index: int, row: _Row, clean: CleanRun, corrupted: CorruptedRun, t: int
) -> None:
    """Set the state of a row, (S, positions from t, D), after the block at which it enters."""
    if row.parent is not None:
        states[index] = states[row.parent]
        return
    if row.kind == "everything":
        states[index] = clean.states[0, t:]
        return
    states[index] = corrupted.states[row.enters + 1, :, t:]
    if row.kind == "hidden":
        states[index, :, 0] = clean.states[row.enters + 1, t]
    elif row.kind != "nothing":
        states[index, :, 0] = corrupted.entering[row.kind][row.enters, :, t]


def _advance(
    model: Model,
    clean: CleanRun,
    corrupted: CorruptedRun,
    rows: list[_Row],
    states: Tensor,
    active: int,
    layer: int,
    t: int,
) -> None:
    """Run one block on the rows that are under way, in place, a few rows at a time."""
    _, samples, count, width = states.shape
    keys = corrupted.keys[layer][:, :, :t] if t else None
    values = corrupted.values[layer][:, :, :t] if t else None
    step = max(1, TOKENS_PER_CALL // (samples * count))
    for start in range(0, active, step):
        part = states[start : min(start + step, active)]
        batch = part.view(-1, count, width)  # (rows * S, positions from t, D)
        if layer == model.layers - 1 and count > 1:
            read = model.block_at_last(layer, batch, start=t, keys=keys, values=values)
            part[:, :, -1:] = read.view(len(part), samples, 1, width)
            continue
        edits: dict[Contribution, Edit] = {}
        for kind in clean.contributions:
            chosen = [
                index
                for index, row in enumerate(rows[start : start + len(part)])
                if row.kind == kind and row.enters < layer < row.until
            ]
            if chosen:
                edits[kind] = _put_back(chosen, samples, clean.contributions[kind][layer, t])
        output: BlockOutput = model.block(
            layer, batch, start=t, keys=keys, values=values, edits=edits
        )
        part.copy_(output.states.view_as(part))


def _put_back(rows: list[int], samples: int, clean: Tensor) -> Edit:
    def edit(contribution: Tensor) -> Tensor:
        # contribution: (rows * S, positions from t, D), clean: (D,)
        contribution.view(-1, samples, *contribution.shape[1:])[rows, :, 0] = clean
        return contribution

    return edit
