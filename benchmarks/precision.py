"""What does a shorter number format cost in accuracy, and save in time?

    python -m benchmarks.precision [--samples N] [--output FILE]

The hidden trace of one tweet on the embedded model in float32 and in each shorter format that this
machine has, with the same noise, each in a process of its own. The error is the largest difference
of any cell's effect from float32's, as a share of the total effect; both read by the kept probe of
the model.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import RESULTS, describe, save, say
from core.data.datasets import load_dataset
from core.models.loading import load_model
from core.models.registry import EMBEDDED, is_on_disk
from core.probes.library import probe_for
from core.probes.probe import Probe
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace

TWEET = "My flight got cancelled and I love waiting here for hours, terrible service"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    probe = probe_for(load_model(EMBEDDED), load_dataset("vader-tweets"), dataset="vader-tweets")
    formats = ["float32", "bfloat16"]
    if torch.cuda.is_available():
        formats[1:1] = ["tf32", "float16"]
    found: dict[str, dict[str, float]] = {}
    exact: Traced | None = None
    # CUDA multiplies float32 in one way in a process (`core.models.cuda_precision`).
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in formats:
            traced = processes.submit(measure, name, probe, options.samples).result()
            exact = exact or traced
            error = np.abs(traced.effects - exact.effects).max() / abs(exact.total_effect)
            found[name] = {"seconds": traced.seconds, "error": float(error)}
            say(f"{name}: {traced.seconds:.2f} s, largest error {error:.2%} of the effect")
    save(options.output, {"machine": describe(), "samples": options.samples, "formats": found})


@dataclass(frozen=True)
class Traced:
    """What a process found: seconds, and effects (layers, positions)."""

    seconds: float
    effects: np.ndarray
    total_effect: float


def measure(dtype: str, probe: Probe, samples: int) -> Traced:
    """Trace the tweet in one format."""
    model = load_model(EMBEDDED, dtype=dtype)
    trace(model, probe, "warm up", TraceSettings(kinds=("hidden",), samples=1))
    began = time.perf_counter()
    result = trace(model, probe, TWEET, TraceSettings(kinds=("hidden",), samples=samples))
    return Traced(time.perf_counter() - began, result.effects["hidden"], result.total_effect)


if __name__ == "__main__":
    main()
