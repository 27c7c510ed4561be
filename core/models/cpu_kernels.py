"""How is a matrix product done fastest on this machine, with the same float32 numbers?

On x86 processors torch hands float32 products to MKL, which repacks the weights at every call and,
on AMD, leaves AVX-512 unused. oneDNN, which torch brings along, does neither once a weight is
stored in its own order (`core.models.packed_weights`). `benchmarks/kernels.py` measures what that
is worth: more than twice on an EPYC with AVX-512, most for the small products of which a trace has
many.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from .packed_weights import PackedLinear, can_pack


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
