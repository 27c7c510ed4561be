"""How is what was read of a trace kept in a file? As safetensors: nothing in it can run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from ..patching.sites import KINDS
from ..storage import cache
from .result import Reads


def write_reads(path: Path, reads: Reads, dtype: DTypeLike = np.float64) -> None:
    """Write the reads to a file, which has its name when it is whole.

    Args:
        dtype: of the numbers in the file.
    """
    from safetensors.numpy import save_file

    arrays = {"clean": reads.clean, "corrupted": reads.corrupted}
    if len(reads.total):
        arrays["total"] = reads.total
    arrays.update({str(kind): values for kind, values in reads.restored.items()})
    with cache.write_beside(path) as beside:
        save_file(
            {name: np.ascontiguousarray(array, dtype=dtype) for name, array in arrays.items()},
            beside,
        )


def read_reads(path: Path) -> Reads:
    """The reads that `write_reads` wrote.

    Raises:
        OSError, safetensors.SafetensorError: there is no such file, or it is damaged.
    """
    from safetensors.numpy import load_file

    arrays = {name: array.astype(np.float64) for name, array in load_file(path).items()}
    return Reads(
        arrays["clean"],
        arrays["corrupted"],
        {kind: arrays[kind] for kind in KINDS if kind in arrays},
        arrays.get("total", np.empty((0, 0))),
    )
