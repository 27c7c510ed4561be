"""Which traces were made before? Samples on disk, under a key of all that determines them.

A file holds what was read of a trace's samples (safetensors: nothing in it can run). Its key is
made of the weights' identity, the tokens, what is read, what is corrupted, the noise and the
engine's version; not of the number of samples, so that a stopped trace goes on where it was, and
not of the proxy, which is read from the samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np

from core import cache, logs
from core.models import Model
from core.results import Reads, TraceResult
from core.runs import KINDS, Array, Kind, Readout

log = logging.getLogger(__name__)

ENGINE = 2
"""Changes whenever the engine's numbers do; older kept samples are then not found any more."""

MOST_BYTES = 512 * 2**20
"""Kept samples beyond this are removed, those first that were asked for longest ago."""


def key_of(model: Model, readout: Readout, trace: TraceResult) -> str:
    """Name of a trace's samples: SHA-256 over all that determines them."""
    weight = b"" if readout.weight is None else readout.weight.tobytes()
    determines = [
        ENGINE,
        model.identity,
        model.precision,
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
    from safetensors.numpy import load_file

    path = _path(key)
    try:
        arrays: dict[str, Array] = load_file(path)
        os.utime(path)
    except (OSError, SafetensorError):
        logs.count("traces not kept before")
        return None
    logs.count("traces read back")
    restored: dict[Kind, Array] = {}
    for kind in KINDS:
        if kind in arrays:
            restored[kind] = arrays[kind]
    return Reads(arrays["clean"], arrays["corrupted"], restored)


def save(key: str, reads: Reads) -> None:
    """Keep the samples of a trace, unless as many are kept already; then keep to `MOST_BYTES`.

    Where nothing can be written, the log says so and the trace goes on: it can be made again.
    """
    from safetensors import SafetensorError

    try:
        _save(key, reads)
    except (OSError, SafetensorError) as error:
        log.warning(str(cache.cannot_keep(_folder(), error)))


def _save(key: str, reads: Reads) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, Array] = {"clean": reads.clean, "corrupted": reads.corrupted}
    for kind, values in reads.restored.items():
        arrays[kind] = values
    with cache.lock("traces"):
        there = load(key)
        if there is not None and len(there.corrupted) >= len(reads.corrupted):
            return
        with cache.write_beside(_path(key)) as beside:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, beside)
        _keep_to(MOST_BYTES)


def _keep_to(most: int) -> None:
    files = sorted(_folder().glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files[:-1]:  # never the newest: it was just asked for
        if total <= most:
            return
        total -= path.stat().st_size
        path.unlink()


def _folder() -> Path:
    return cache.home() / "traces"


def _path(key: str) -> Path:
    return _folder() / f"{key}.safetensors"
