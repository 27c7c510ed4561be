"""Can oneDNN multiply with weights that are stored in its own order, and are its numbers right?

A door into torch: the operators that order a weight once and multiply with it are private
(`torch.ops.mkldnn`). The public ones order it anew at each call, which for the small products of
which a trace has many takes longer than the product (`benchmarks/kernels.py`). So the operators are
named here alone, they are compared with plain products before the first use of a process, and
where one is missing or wrong the plain layers stay: the same numbers, later.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

_SHAPE = (3, 33, 17)  # inputs, and a weight's outputs and inputs, of the product that is compared


class PackedLinear(nn.Module):
    """A linear layer whose weight is stored in oneDNN's order; it holds no second copy.

    Where a gradient is asked for, and only there, the plain weight is restored for the call; within
    `differentiable` a second weight, in oneDNN's order and transposed, is held instead.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take over a weight of shape (out, in) and a bias of shape (out,)."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = _pack(weight)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._transposed: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The plain weight (out, in), made anew at each call."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def forward(self, inputs: Tensor) -> Tensor:
        """The product (..., out) of inputs (..., in)."""
        if inputs.requires_grad:
            transposed = self._transposed
            if transposed is None:
                return nn.functional.linear(inputs, self.weight, self.bias)
            made: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
                inputs, self._packed, transposed, self.bias
            )
            return made
        return _product(inputs, self._packed, self.bias)


class _Product(torch.autograd.Function):
    """A product with a packed weight whose gradient, to the inputs alone, is one as well."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, packed: Tensor, transposed: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.transposed = transposed
        return _product(inputs, packed, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _product(gradient.contiguous(), ctx.transposed, None), None, None, None


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """True where weights can be stored in oneDNN's order: x86, float32 or bfloat16."""
    return (
        device.type == "cpu"
        and platform.machine().lower() in ("x86_64", "amd64")
        and dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and _is_right(dtype)
    )


@contextmanager
def differentiable(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the context, the packed layers among these hold what their gradients are made with."""
    packed = [module for module in modules if isinstance(module, PackedLinear)]
    for module in packed:
        module._transposed = _pack(module.weight.t())
    try:
        yield
    finally:
        for module in packed:
            module._transposed = None


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def _product(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


@lru_cache
def _is_right(dtype: torch.dtype) -> bool:
    """Compare a weight, its product and the product's gradient with plain ones; once a process."""
    if dtype == torch.bfloat16 and not _has_bfloat16():
        return False
    count, outputs, inputs = _SHAPE
    # Numbers of no pattern, from no generator: a draw would move those of the process.
    states = torch.arange(count * inputs, dtype=torch.float32).sin().view(count, inputs).to(dtype)
    weight = torch.arange(outputs * inputs, dtype=torch.float32).cos().view(outputs, inputs)
    weight, bias = weight.to(dtype), torch.linspace(-1, 1, outputs, dtype=dtype)
    gradient = states.new_ones(count, outputs)
    try:
        packed = _pack(weight)
        found = _product(states, packed, bias), _product(gradient, _pack(weight.t()), None)
        restored = packed.to_dense()
    except (AttributeError, RuntimeError, TypeError) as error:
        log.warning("torch's operators for packed weights cannot be used: %s", error)
        return False
    expected = nn.functional.linear(states, weight, bias), gradient @ weight
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    right = torch.equal(restored, weight) and all(
        torch.allclose(one, other, rtol=rounding, atol=rounding * float(other.abs().max()))
        for one, other in zip(found, expected, strict=True)
    )
    if not right:
        log.warning("torch's operators for packed weights give other numbers; they are not used")
    return right


def _has_bfloat16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())
