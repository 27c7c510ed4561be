"""What does a shorter number format cost in accuracy, and save in time?

    python -m benchmarks.precision [--samples N] [--output FILE]

The hidden trace of one tweet on the embedded model in float32 and in each shorter format that this
machine has, with the same noise. The error is the largest difference of any cell's effect from
float32's, as a share of the total effect; both read by the kept probe of the model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import RESULTS, describe, save, say
from core.datasets import load_dataset
from core.models import load_model
from core.probes import probe_for
from core.registry import EMBEDDED, is_on_disk
from core.results import TraceResult, TraceSettings
from core.trace import trace

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
    settings = TraceSettings(kinds=("hidden",), samples=options.samples)
    found: dict[str, dict[str, float]] = {}
    exact: TraceResult | None = None
    for name in formats:
        model = load_model(EMBEDDED, dtype=name)
        trace(model, probe, "warm up", TraceSettings(kinds=("hidden",), samples=1))
        began = time.perf_counter()
        result = trace(model, probe, TWEET, settings)
        seconds = time.perf_counter() - began
        exact = exact or result
        error = np.abs(result.effects["hidden"] - exact.effects["hidden"]).max()
        found[name] = {"seconds": seconds, "error": float(error / abs(exact.total_effect))}
        say(f"{name}: {seconds:.2f} s, largest error {found[name]['error']:.2%} of the effect")
    save(options.output, {"machine": describe(), "samples": options.samples, "formats": found})


if __name__ == "__main__":
    main()
