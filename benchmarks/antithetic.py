"""Do pairs of noise, a draw and its negative, give sharper mean effects for the same work?

    python -m benchmarks.antithetic [--tweets N] [--longest TOKENS] [--output FILE]

On the embedded model and N of its tweets, as in `benchmarks.settled`: every sixth layer of three
kinds, 20 draws and their negatives. If y and y' are an effect under a draw and under its negative,
the mean of n such pairs has the variance of (y + y') / 2 over n, and that of 2 n plain draws the
variance of y over 2 n. The gain is the second over the first, 1 / (1 + correlation of y and y'):
how many times as many plain draws the pairs are worth. Of each tweet the gain of the total effect,
and that of its cells: the sum of their variances over the sum of theirs in pairs, so that cells
count which have something to be sharpened.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

import core
from benchmarks.machine import RESULTS, describe, save, say
from benchmarks.settled import texts_of
from core.models.registry import EMBEDDED
from core.probes.library import kept_probes
from core.tracing import tracer
from core.tracing.corruption import Case, case_of
from core.tracing.result import TraceSettings

PAIRS = 20
MEMORY = 2**30  # bytes for one batch
ASKED = TraceSettings(samples=2 * PAIRS, every=6)


class InPairs(Case):
    """A case whose odd samples are the negatives of the even ones before them."""

    def corrupted(self, sample: int) -> torch.Tensor:
        drawn = super().corrupted(sample // 2)
        return drawn if sample % 2 == 0 else 2 * self.embeddings - drawn


def gain(effects: np.ndarray) -> float:
    """Of effects (2 n, any number of cells) whose odd ones belong to negatives."""
    pairs = effects.reshape(PAIRS, 2, -1)
    plain = pairs.reshape(2 * PAIRS, -1).var(axis=0, ddof=1) / 2
    return float(plain.sum() / pairs.mean(axis=1).var(axis=0, ddof=1).sum())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tweets", type=int, default=12)
    parser.add_argument("--longest", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS / "antithetic.json")
    options = parser.parse_args()
    model = core.load_model(EMBEDDED)
    probe = next(one for one in kept_probes(model.identity) if one.features == "logit_pair")
    rows = []
    for text in texts_of(model, probe, options.tweets, options.longest):
        case = case_of(model, probe, text, ASKED)
        pairs = InPairs(**{field.name: getattr(case, field.name) for field in fields(case)})
        (result,) = tracer._together(model, [pairs], None, MEMORY, None)
        rows.append(
            {
                "tokens": len(result.prompt),
                "total effect": gain(result.high - result.low_samples),
                **{kind: gain(np.nan_to_num(one)) for kind, one in result.sample_effects.items()},
            }
        )
        say(f"{rows[-1]}")
        save(
            options.output,
            {"machine": describe(), "options": {"longest": options.longest}, "rows": rows},
        )


if __name__ == "__main__":
    main()
