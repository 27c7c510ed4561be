"""What does a prompt's own run hold: states to take from, states to put others into?

The run that a state is taken from is the source, the run that it is put into the base (see
`core.patching.restore`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.model import Contribution, Edit, Model
from .readout import Readout
from .sites import KINDS, Kind


@dataclass(frozen=True)
class Source:
    """A run whose states are put into another one."""

    states: Tensor  # (L + 1, R, T, D): [0] enters the first block, [l + 1] leaves block l
    contributions: dict[Contribution, Tensor]  # each (L, R, T, D)
    read: Tensor  # (R, C) the columns of the readout
    moved: bool = False  # the states stand at another prompt's positions, see `at`

    def of(self, chosen: Sequence[int]) -> Source:
        """The same with the chosen samples as its R axis."""
        index = torch.as_tensor(chosen, device=self.states.device)
        return replace(
            self,
            states=self.states[:, index],
            contributions={kind: values[:, index] for kind, values in self.contributions.items()},
            read=self.read[index],
        )

    def at(self, positions: Sequence[int]) -> Source:
        """The states of these positions, where another prompt's positions correspond to them."""
        return replace(
            self,
            states=self.states[:, :, positions],
            contributions={
                kind: values[:, :, positions] for kind, values in self.contributions.items()
            },
            moved=True,
        )


@dataclass(frozen=True)
class Base:
    """A run into which states are put, one row per sample."""

    states: Tensor  # (L + 1, S, T, D)
    keys: list[Tensor]  # per layer (S, key heads, T, head size)
    values: list[Tensor]
    # State after block l at position t when that block's contribution is the source's there.
    entering: dict[Contribution, Tensor]  # each (L, S, T, D)
    severed: dict[Contribution, Tensor]  # its own contributions (L, S, T, D), of frozen paths only
    read: Tensor  # (S, C)


@torch.inference_mode()
def run_source(model: Model, embeddings: Tensor, readout: Readout) -> Source:
    """Run prompts to take states from.

    Args:
        embeddings: (R, T, D), the prompts' input embeddings.
        readout: what is read at the last position.

    Raises:
        UserError: the model overflows.
    """
    states = [model.enter(embeddings)]
    contributions: dict[Contribution, list[Tensor]] = {"attn": [], "mlp": []}
    for layer in range(model.layers):
        output = model.block(layer, states[-1])
        states.append(output.states)
        for kind, parts in contributions.items():
            parts.append(output.contributions[kind])
    read = readout.read(model, states[-1][:, -1], _after(readout, states))
    model.check_finite(read)
    return Source(
        states=torch.stack(states),
        contributions={kind: torch.stack(parts) for kind, parts in contributions.items()},
        read=read,
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

    Raises:
        UserError: the model overflows.
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
    read = readout.read(model, states[-1][:, -1], _after(readout, states))
    model.check_finite(read)
    return Base(
        states=torch.stack(states),
        keys=keys,
        values=values,
        entering={kind: torch.stack(parts) for kind, parts in entering.items()},
        severed={} if severed is None else {severed: torch.stack(own)},
        read=read,
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
