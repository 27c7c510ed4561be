"""Does CUDA multiply this process's float32 matrices in float32, or in TF32 (10 bits of mantissa)?

torch's switch is the process's. Flipped around single products it would, for that moment, be that
of another thread's model too, whose numbers would then be others without a word. So the first model
that is brought to a card decides for the process, and one that needs the other is refused.
"""

from __future__ import annotations

import threading

import torch

from ..errors import UserError

_lock = threading.Lock()
_decided: list[str] = []  # at most one: how this process multiplies


def decide(dtype: str) -> None:
    """Set the switch for a model on CUDA.

    Args:
        dtype: one of `core.models.loading.DTYPES`.

    Raises:
        UserError: another model of this process needs it otherwise.
    """
    wanted = "TF32" if dtype == "tf32" else "float32"
    with _lock:
        if not _decided:
            torch.backends.cuda.matmul.allow_tf32 = wanted == "TF32"
            _decided.append(wanted)
        if _decided != [wanted]:
            raise UserError(
                f"The dtype {dtype!r} needs products in {wanted}, and an earlier model of this "
                f"process multiplies in {_decided[0]}, which CUDA does for all alike: load this "
                "one in a process of its own."
            )
