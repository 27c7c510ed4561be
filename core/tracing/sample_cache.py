"""Which traces were made before? Samples on disk, under a key of all that determines them.

A file holds what was read of a trace's samples (safetensors: nothing in it can run). Its key is
made of the model's identity, the tokens, what is read, what is corrupted and the noise; not of the
number of samples, so that a stopped trace goes on where it was, and not of the proxy, which is read
from the samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from ..models.model import Model
from ..patching.readout import Readout
from ..server import logs
from ..storage import cache
from ..storage.bounded_folder import make_room, touch
from .result import Reads, TraceResult
from .serialization import read_reads, write_reads

log = logging.getLogger(__name__)

MOST_BYTES = 512 * 2**20
"""Kept samples beyond this are removed, those first that were asked for longest ago."""


def key_of(model: Model, readout: Readout, trace: TraceResult) -> str:
    """Name of a trace's samples: SHA-256 over all that determines them."""
    weight = b"" if readout.weight is None else readout.weight.tobytes()
    determines = [
        model.identity,
        trace.prompt.ids,
        readout.words,
        readout.layer,
        hashlib.sha256(weight).hexdigest(),
        readout.bias,
        trace.corrupted_span,
        sorted(trace.settings.kinds),
        trace.window,
        *_of_corruption(trace),
        trace.settings.direction,
        trace.settings.severed,
        trace.settings.every,
        *([trace.settings.rows] if trace.settings.rows != "tokens" else []),
        *([trace.settings.edited] if trace.alignment is not None else []),
    ]
    return hashlib.sha256(json.dumps(determines).encode()).hexdigest()


def _of_corruption(trace: TraceResult) -> list[object]:
    """What decides the corrupted embeddings besides the span."""
    settings = trace.settings
    if settings.corruption in ("noise", "uniform"):
        return [settings.corruption, trace.noise, settings.seed]
    return [settings.corruption, settings.counterfactual]


def load(key: str) -> Reads | None:
    """The kept samples of a trace, or None; a damaged file counts as none."""
    from safetensors import SafetensorError

    path = _path(key)
    try:
        reads = read_reads(path)
    except (OSError, SafetensorError):
        logs.count("traces not kept before")
        return None
    touch(path)
    logs.count("traces read back")
    return reads


def save(key: str, reads: Reads) -> None:
    """Keep the samples of a trace, unless as much is kept already; then keep to `MOST_BYTES`.

    Where nothing can be written, the log says so and the trace goes on: it can be made again.
    """
    from safetensors import SafetensorError

    try:
        _save(key, reads)
    except (OSError, SafetensorError) as error:
        log.warning(str(cache.cannot_keep(_folder(), error)))


def _save(key: str, reads: Reads) -> None:
    with cache.lock("traces"):
        there = load(key)
        if (
            there is not None
            and _cells(there) >= _cells(reads)
            and len(there.of_the_total) >= len(reads.of_the_total)
        ):
            return
        write_reads(_path(key), reads)
        make_room(_folder().glob("*.safetensors"), MOST_BYTES, spare=_path(key))


def _cells(reads: Reads) -> int:
    """How many samples of cells are there."""
    return sum(int(np.isfinite(values[..., 0]).sum()) for values in reads.restored.values())


def _folder() -> Path:
    return cache.home() / "traces"


def _path(key: str) -> Path:
    return _folder() / f"{key}.safetensors"
