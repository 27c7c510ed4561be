"""How is a matrix product done fastest on this machine, with the same float32 numbers?

On x86 processors torch hands float32 products to MKL, which repacks the weights at every call and,
on AMD, leaves AVX-512 unused. oneDNN, which torch brings along, does neither once a weight is
stored in its own order. `benchmarks/kernels.py` measures what that is worth: more than twice on an
EPYC with AVX-512, most for the small products of which a trace has many.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer whose weight is stored in oneDNN's order; it holds no second copy.

    Where a gradient is asked for, and only there, the plain weight is restored for the call; within
    `differentiable` a second weight, in oneDNN's order and transposed, is held instead.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take over a weight of shape (out, in) and a bias of shape (out,)."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
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


def _product(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


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
        and torch.backends.mkldnn.is_available()
        and (
            dtype == torch.float32
            or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def speed_up(network: nn.Module) -> None:
    """Replace, in place, the parts of a network that have a faster form with the same numbers."""
    from transformers.activations import NewGELUActivation
    from transformers.pytorch_utils import Conv1D

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                # GPT-2's GELU, written as eight operations.
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif isinstance(child, nn.Linear | Conv1D):
                weight = child.weight.detach()
                if can_pack(weight.device, weight.dtype):
                    plain = weight.t() if isinstance(child, Conv1D) else weight
                    setattr(module, name, PackedLinear(plain, child.bias))


def is_transposed(module: nn.Module) -> bool:
    """True for GPT-2's linear layers as transformers writes them: their weight is (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def linear(weight: Tensor, bias: Tensor | None, *, like: nn.Module) -> nn.Module:
    """A linear layer of a weight (out, in), in the form of another one, so that it rounds alike."""
    if isinstance(like, PackedLinear):
        return PackedLinear(weight, bias)
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


@contextmanager
def differentiable(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the context, the packed layers among these hold what their gradients are made with."""
    packed = [module for module in modules if isinstance(module, PackedLinear)]
    for module in packed:
        plain = module.weight.t().contiguous()
        module._transposed = torch.ops.mkldnn._reorder_linear_weight(plain)
    try:
        yield
    finally:
        for module in packed:
            module._transposed = None


def use_physical_cores() -> None:
    """Let torch use one thread for each physical core that this process may run on.

    Two threads on one core share its multipliers, and only wait for each other. OMP_NUM_THREADS,
    where it is set, is left to decide.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(physical_cores())


def physical_cores() -> int:
    """Physical cores that this process may run on."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    return max(1, min(allowed or 1, physical or allowed or 1))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within the context, CUDA multiplies float32 matrices in TF32 (10 bits of mantissa), or not.

    The switch is the process's, not the thread's.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
