"""What is read of every run: words of the next token, or a probe's log-odds?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.model import Model
from ..statistics import Array


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
