"""SentiTrace itself, through its public face: python -m benchmarks.ways.ours FOLDER."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

import core
from benchmarks.ways.job import Memory, Result, read, write

PATIENCE = 60.0
"""Seconds after which only the last repetition is still done."""


def main(folder: Path) -> None:
    """Trace all cells; the time is the median of the job's repetitions."""
    job, _ = read(folder)
    memory = Memory()
    model = core.load_model(job.model, device=job.device, dtype=job.dtype)
    probe = core.Probe(  # its numbers cost nothing and change no log-probability
        features="logit_pair",
        model_name=model.name,
        model_identity=model.identity,
        suffix=job.suffix,
        words_positive=(job.words[0],),
        words_negative=(job.words[1],),
        layer=None,
        mean=(0.0, 0.0),
        scale=(1.0, 1.0),
        coefficients=(1.0, -1.0),
        intercept=0.0,
        report=None,  # it was never fitted, and a trace does not look
        dataset="none",
        dataset_hash="0" * 64,
        embedding_std=job.embedding_std,
        seed=0,
    )
    settings = core.TraceSettings(
        kinds=tuple(job.cells),
        samples=job.samples,
        noise_scale=job.noise_scale,
        seed=job.seed,
        window=job.window,
    )
    memory.loaded()
    core.trace(model, probe, job.tweet, replace(settings, samples=1))  # warm-up
    seconds, first = [], []
    for repetition in range(job.repeat):
        if sum(seconds) > PATIENCE and repetition < job.repeat - 1:
            continue
        # Another seed each time, the job's own last, so that no result can come from a cache.
        seed = job.seed + job.repeat - 1 - repetition
        began = time.perf_counter()
        result = core.trace(model, probe, job.tweet, replace(settings, seed=seed))
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        picture = core.trace_progressively(
            model, probe, job.tweet, replace(settings, seed=seed + 1000)
        )
        next(picture)
        first.append(time.perf_counter() - began)
        picture.close()
    if list(result.prompt.ids) != job.ids or list(result.corrupted_span) != job.span:
        raise ValueError("The prompt was read as other tokens than those of the job.")
    kinds = "+".join(job.cells)
    found = Result(
        samples=job.samples,
        seconds={kinds: statistics.median(seconds)},
        notes={
            "first_picture": statistics.median(first),
            "fastest": min(seconds),
            "slowest": max(seconds),
        },
    )
    for kind, cells in job.cells.items():
        layers, positions = zip(*cells, strict=True)
        log_probs = result.reads.restored[kind][:, list(layers), list(positions)]
        found.log_probs[kind] = log_probs.swapaxes(0, 1)
    write(folder, found, memory, {"torch": torch.__version__})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
