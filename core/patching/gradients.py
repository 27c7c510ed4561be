"""How large would the effects of patching be? An estimate from gradients, for every cell at once.

Integrated gradients along the embeddings (Sundararajan et al. 2017, "Axiomatic Attribution for Deep
Networks", section 3; for the activations within a model, Hanna et al. 2024, "Have Faith in
Faithfulness", section 3): the change of an activation from the base's run to the source's, times
the gradient of what is read, averaged over inputs on the straight line between the two runs'
embeddings. A window's estimate is the sum over its layers.

It is an estimate and no run of the model. Cells are estimated in the time of some forward and
backward passes, whatever their number; how well, `benchmarks/estimates.py` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.model import Contribution, Edit, Model
from ..statistics import Array
from .clean_and_corrupted import Source
from .readout import Readout
from .sites import KINDS, Kind, window_layers

STEPS = 5
"""Inputs on the line from the base's embeddings to the source's, at the middles of equal parts."""

_SITES_OF_A_BLOCK = 4  # beside a block's own states, those whose gradients are asked for


def estimate(
    model: Model,
    source: Source,
    base: Source,
    line: tuple[Tensor, Tensor],
    readout: Readout,
    *,
    kinds: Sequence[Kind] = KINDS,
    window: int = 1,
    spans: Mapping[int, range] | None = None,
    steps: int = STEPS,
    memory: int = 2**30,
) -> dict[Kind, Array]:
    """What would be read if one site of the base were the source's.

    Args:
        source, base: the run that states are taken from and the one that they are put into, R = 1
            each and of one length.
        line: input embeddings (T, D) of the base and of the source.
        window: layers that MLP and attention cells cover.
        spans: positions that are patched at once, by the last of them; by default each alone.
        memory: bytes that the states of one group of steps may take; at least one step is made.

    Returns:
        Of each kind (L, T, C), estimates in the columns of the readout; NaN at positions that are
        not the last one of a span.
    """
    gradients = _gradients(model, line, readout, kinds, steps, memory)
    length = len(line[0])
    spans = spans or {position: range(position, position + 1) for position in range(length)}
    low = base.read[0].double().cpu().numpy()
    found: dict[Kind, Array] = {}
    for kind in kinds:
        own, its = (_of_kind(run, kind) for run in (base, source))
        changes = torch.einsum("ltd,cltd->ltc", (its - own).double().cpu(), gradients[kind])
        by_layer = changes.numpy()
        if kind != "hidden":
            windows = [window_layers(layer, window, model.layers) for layer in range(model.layers)]
            by_layer = np.stack([by_layer[list(covered)].sum(axis=0) for covered in windows])
        found[kind] = np.full_like(by_layer, np.nan)
        for last, span in spans.items():
            found[kind][:, last] = low + by_layer[:, list(span)].sum(axis=1)
    return found


def _of_kind(run: Source, kind: Kind) -> Tensor:
    """States or contributions (L, T, D)."""
    return run.states[1:, 0] if kind == "hidden" else run.contributions[kind][:, 0]


def _gradients(
    model: Model,
    line: tuple[Tensor, Tensor],
    readout: Readout,
    kinds: Sequence[Kind],
    steps: int,
    memory: int,
) -> dict[Kind, Tensor]:
    """Of each kind (C, L, T, D): gradients of what is read, their mean over the steps."""
    base, source = line
    a_step = len(base) * model.layers * _SITES_OF_A_BLOCK * model.bytes_per_state
    shares = (torch.arange(steps, device=model.device) + 0.5) / steps
    totals: dict[Kind, Tensor] = {}
    with model.differentiable(0), torch.enable_grad():
        for group in shares.split(max(1, memory // a_step)):
            along = base + group[:, None, None].to(base.dtype) * (source - base)
            for kind, found in _summed(model, along, readout, kinds).items():
                totals[kind] = totals[kind] + found if kind in totals else found
    return {kind: total / steps for kind, total in totals.items()}


def _summed(
    model: Model, embeddings: Tensor, readout: Readout, kinds: Sequence[Kind]
) -> dict[Kind, Tensor]:
    """Gradients (C, L, T, D), summed over some inputs (steps, T, D)."""
    # A gradient to something that is added and 0: blocks may overwrite what they have returned.
    added = {
        kind: [torch.zeros_like(embeddings).requires_grad_() for _ in range(model.layers)]
        for kind in kinds
    }
    states = [model.enter(embeddings)]
    for layer in range(model.layers):
        edits: dict[Contribution, Edit] = {
            kind: _plus(added[kind][layer]) for kind in ("attn", "mlp") if kind in added
        }
        after = model.block(layer, states[-1], edits=edits).states
        states.append(after + added["hidden"][layer] if "hidden" in added else after)
    at_readout = None if readout.layer is None else states[readout.layer + 1][:, -1]
    read = readout.read(model, states[-1][:, -1], at_readout).sum(dim=0)
    leaves = [leaf for kind in kinds for leaf in added[kind]]
    columns = []
    for column, value in enumerate(read):
        gradients = torch.autograd.grad(
            value, leaves, retain_graph=column + 1 < len(read), materialize_grads=True
        )
        columns.append(torch.stack([one.double().sum(dim=0).cpu() for one in gradients]))
    stacked = torch.stack(columns).unflatten(1, (len(kinds), model.layers))
    return {kind: stacked[:, place] for place, kind in enumerate(kinds)}


def _plus(nothing: Tensor) -> Edit:
    return lambda contribution: contribution + nothing
