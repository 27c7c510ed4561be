"""Which activations of a model can be patched, and under which names?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["hidden", "mlp", "attn"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")

Cells = Mapping[Kind, NDArray[np.bool_]]
"""Which sites of each kind: (L, T), layers and positions."""


def grid(
    kinds: Sequence[Kind],
    layers: int,
    length: int,
    *,
    every: int = 1,
    positions: Collection[int] | None = None,
) -> dict[Kind, NDArray[np.bool_]]:
    """The cells at the layers 0, every, 2 * every, ... and at some positions, or at all."""
    chosen = np.zeros((layers, length), dtype=bool)
    chosen[::every, list(range(length) if positions is None else positions)] = True
    return dict.fromkeys(kinds, chosen)


def layers_at(cells: Cells, position: int) -> dict[Kind, list[int]]:
    """The layers of each kind's cells at a position, in order."""
    return {kind: np.flatnonzero(chosen[:, position]).tolist() for kind, chosen in cells.items()}


def window_layers(layer: int, window: int, layers: int) -> range:
    """Layers of a window of `window` layers centred on `layer`, cut at both ends (as in ROME)."""
    return range(max(0, layer - window // 2), min(layers, layer - (-window // 2)))
