"""What is a way of tracing given, and what does it hand back?

A job is a folder: `job.json`, `noise.npy` and, once the way has run, `result.json` and
`result.npz`. The same model, token ids, noise and samples reach every way through it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Job:
    """One prompt on one model, and the cells that are to be measured."""

    model: str  # folder with config, safetensors and tokenizer
    tweet: str
    suffix: str
    ids: list[int]  # of tweet + suffix
    span: list[int]  # corrupted positions, one after the other
    words: list[str]
    word_ids: list[int]
    embedding_std: float
    noise_scale: float
    seed: int
    samples: int
    window: int  # layers
    cells: dict[str, list[tuple[int, int]]]  # per kind the (layer, position) to be measured
    threads: int
    repeat: int
    device: str = "cpu"
    dtype: str = "float32"

    def save(self, folder: Path, noise: NDArray[np.float32]) -> None:
        """Write the job and its noise, (samples, span, width) in embedding units."""
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")
        np.save(folder / "noise.npy", noise)


@dataclass
class Result:
    """What a way measured.

    Attributes:
        seconds: per kind, for the cells of the job and `samples` samples.
        fixed_seconds: per kind, of the clean and the corrupted run, which all cells share.
        samples: noise samples that were measured.
        log_probs: per kind log P of the words, (cells, samples, words); a way that knows only the
            mean of P over samples gives its log under `mean_log_probs`, (cells,), for the first
            word.
        notes: anything else that is measured.
    """

    samples: int
    seconds: dict[str, float] = field(default_factory=dict)
    fixed_seconds: dict[str, float] = field(default_factory=dict)
    log_probs: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    mean_log_probs: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)


class Memory:
    """Peak resident memory of this process: of all of it, and of the tracing alone (Linux)."""

    def __init__(self) -> None:
        self._peak_before = 0
        self._loaded = 0

    def loaded(self) -> None:
        """The model is there: what follows is the tracing's own."""
        self._peak_before = _status("VmHWM") or 0
        self._loaded = _status("VmRSS") or 0
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def report(self) -> dict[str, int]:
        """Bytes: `peak` of the process, `tracing` above what was resident after loading."""
        tracing = _status("VmHWM")
        if tracing is None:  # no /proc
            unit = 1 if sys.platform == "darwin" else 1024
            return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
        found = {"peak": max(self._peak_before, tracing), "tracing": tracing - self._loaded}
        if torch.cuda.is_available():
            found["device_peak"] = torch.cuda.max_memory_allocated()
        return found


def _status(name: str) -> int | None:
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def read(folder: Path) -> tuple[Job, torch.Tensor]:
    """The job of a folder and its noise (samples, span, width); sets the number of threads."""
    job = Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    torch.set_num_threads(job.threads)
    return job, torch.from_numpy(np.load(folder / "noise.npy"))


def write(folder: Path, result: Result, memory: Memory, versions: dict[str, str]) -> None:
    """Write what a way measured; `result.json` comes last."""
    arrays = {
        f"{name}/{kind}": values
        for name in ("log_probs", "mean_log_probs")
        for kind, values in getattr(result, name).items()
    }
    np.savez(folder / "result.npz", **arrays)
    found = {
        "seconds": result.seconds,
        "fixed_seconds": result.fixed_seconds,
        "samples": result.samples,
        "notes": result.notes,
        "memory": memory.report(),
        "versions": versions,
    }
    (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")


@contextmanager
def timed(seconds: dict[str, float], kind: str) -> Iterator[None]:
    """Add the wall-clock seconds of what is inside to `seconds[kind]`."""
    began = time.perf_counter()
    yield
    seconds[kind] = seconds.get(kind, 0.0) + time.perf_counter() - began
