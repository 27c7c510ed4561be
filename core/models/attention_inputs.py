"""What is a block's attention given beside its states: earlier keys, a mask, positions?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .families import Family


class Prefix:
    """A cache for one call of one block: keys and values of earlier positions, then the new ones.

    Stands where transformers expects a `Cache`: attention hands over its new keys and values of
    shape (batch, heads, new, head size) and attends to what comes back.
    """

    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        self._earlier = (keys, values)  # (samples, heads, earlier, head size), batch = rows*samples
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (
            new if earlier is None else _prepend(earlier, new)
            for earlier, new in zip(self._earlier, (keys, values), strict=True)
        )
        return self.keys, self.values


def _prepend(earlier: Tensor, new: Tensor) -> Tensor:
    samples, heads, count, size = earlier.shape
    batch, _, fresh, _ = new.shape
    joined = new.new_empty(batch, heads, count + fresh, size)
    joined.view(-1, samples, heads, count + fresh, size)[:, :, :, :count] = earlier
    joined[:, :, count:] = new
    return joined


class KeysAndValuesOnly(Exception):
    """Ends a block's attention once its keys and values are known."""


class StopAfterKeys(Prefix):
    """Ends the block as soon as its keys and values are there."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        super().update(keys, values)
        raise KeysAndValuesOnly


class Known(Prefix):
    """Keys and values are all known already; the new ones are among them."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        known_keys, known_values = self._earlier
        assert known_keys is not None
        assert known_values is not None
        return known_keys, known_values


class AttentionInputs:
    """What each block of one model is given, for some positions alone."""

    def __init__(
        self, config: Any, family: Family, layers: int, rotary: nn.Module | None, like: Tensor
    ) -> None:
        """Read what differs between layers.

        Args:
            like: a tensor of the model's dtype, on its device.
        """
        self._family = family
        self._rotary = rotary
        self._kinds: Sequence[str] = getattr(config, "layer_types", None) or ()
        self._windows = [_window(family, config, layer) for layer in range(layers)]
        self._heads = int(config.num_attention_heads)
        self._like = like.new_empty(0)

    def arguments(self, layer: int, start: int, count: int, batch: int) -> dict[str, Any]:
        """For the positions `start` ... `start + count - 1`, after the `start` before them."""
        stop = start + count
        found: dict[str, Any] = {"attention_mask": self._mask(layer, start, count)}
        found["use_cache"] = True
        if self._rotary is not None:
            kind = {"layer_type": self._kinds[layer]} if self._family.rotary_by_kind else {}
            positions = self._positions(start, stop)
            found["position_embeddings"] = self._rotary(self._like, position_ids=positions, **kind)
        if self._family.takes_positions:
            found["position_ids"] = self._positions(start, stop)
        if self._family.alibi is not None:
            found["alibi"] = self._alibi(stop).repeat(batch, 1, 1) if self._family.alibi else None
        return found

    def _positions(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self._like.device)[None]

    def _alibi(self, stop: int) -> Tensor:
        """What is added to the scores of the keys at positions 0 to stop - 1: (heads, 1, stop)."""
        from transformers.models.bloom.modeling_bloom import build_alibi_tensor

        seen = torch.ones(1, stop, device=self._like.device)
        bias: Tensor = build_alibi_tensor(seen, self._heads, self._like.dtype)
        return bias

    def _mask(self, layer: int, start: int, count: int) -> Tensor | None:
        """Additive mask of shape (1, 1, count, start + count); None where attention needs none."""
        window = self._windows[layer]
        windowed = window is not None and start + count > window
        causal = start == 0 and self._family.attention == "sdpa"  # by itself
        if not windowed and (causal or count == 1):
            return None  # plain causal attention, or one query that sees everything
        query = torch.arange(start, start + count, device=self._like.device)[:, None]
        key = torch.arange(start + count, device=self._like.device)[None]
        seen = key <= query
        if window is not None:
            seen &= key > query - window
        mask = torch.zeros(seen.shape, dtype=self._like.dtype, device=self._like.device)
        return mask.masked_fill_(~seen, float("-inf"))[None, None]


def _window(family: Family, config: Any, layer: int) -> int | None:
    """Positions that a layer attends to, the query's own among them; None: all."""
    kinds = getattr(config, "layer_types", None)
    if family.window_everywhere:
        width = config.sliding_window
        return None if width is None else int(width)
    if kinds is None or kinds[layer] != "sliding_attention":
        return None
    return int(config.sliding_window)


def max_positions(config: Any) -> int:
    """The most tokens that it reads as it was trained to."""
    if config.model_type == "bloom":
        return 2048  # ALiBi sets no bound, and config.json does not say the length of training
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") == "longrope":
        # Beyond these, the length of the text would change the rotation of every position.
        return int(rotary["original_max_position_embeddings"])
    return int(config.max_position_embeddings)
