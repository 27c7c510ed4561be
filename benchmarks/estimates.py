"""How near do estimates by integrated gradients come to exact cells, and how soon are they there?

    python -m benchmarks.estimates [--tweets N] [--longest TOKENS] [--output FILE]

On the embedded model and N of its tweets, drawn at random among those of prompts not longer than
TOKENS that have a counterfactual by the list of opposites, each under that counterfactual, the mean
embedding and one sample of Gaussian noise: Spearman's rank correlation of all cells of a kind that
are not fixed by construction; how many of the ten largest exact cells are among the ten largest
estimates; and the seconds of both. Steps of the estimates: one (attribution patching is the
gradient of the corrupted run alone, which is another point of the line) and five.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import core
from benchmarks.machine import RESULTS, describe, save, say
from core.models.model import Model
from core.models.registry import EMBEDDED
from core.probes.library import kept_probes
from core.probes.probe import Probe
from core.prompts.counterfactuals import propose
from core.prompts.prompt import build_prompt
from core.tracing.corruption import case_of
from core.tracing.estimate import Estimate, estimate_of
from core.tracing.findings import health_of
from core.tracing.result import TraceResult, TraceSettings
from core.tracing.tracer import trace
from core.tracing.verdict import verdicts

SEED = 2
STEPS = (1, 5)
TOP = 10


def pairs_of(model: Model, probe: Probe, number: int, longest: int) -> list[tuple[str, str]]:
    """Tweets and their counterfactuals of as many tokens, whose cells may be read."""
    tweets = core.load_dataset("vader-tweets").sample(frac=1.0, random_state=SEED)
    pairs: list[tuple[str, str]] = []
    for text in tweets["text"]:
        prompt = build_prompt(model, text, probe.suffix)
        if len(prompt) > longest:
            continue
        others = [other.text for other in propose(model, prompt) if other.same_length]
        for other in others[:1]:
            asked = TraceSettings(corruption="counterfactual", counterfactual=other)
            if health_of(verdicts(model, [case_of(model, probe, text, asked)])[0]).ok:
                pairs.append((text, other))
        if len(pairs) == number:
            break
    return pairs


def near(estimate: Estimate, result: TraceResult) -> dict[str, dict[str, float]]:
    """Of each kind, the rank correlation and the largest cells that both have."""
    estimated = estimate.of(result).effects
    found: dict[str, dict[str, float]] = {}
    for kind, correlation in estimate.rank_correlation(result).items():
        best = []
        for effects in (result.effects[kind], estimated[kind]):
            towards = np.where(result.trivial[kind], -np.inf, effects * result.total_effect)
            best.append(set(np.argsort(towards, axis=None)[-TOP:].tolist()))
        found[kind] = {"correlation": correlation, "shared": len(best[0] & best[1])}
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tweets", type=int, default=12)
    parser.add_argument("--longest", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS / "estimates.json")
    options = parser.parse_args()
    model = core.load_model(EMBEDDED)
    probe = next(one for one in kept_probes(model.identity) if one.features == "logit_pair")
    rows: list[dict[str, Any]] = []
    for text, other in pairs_of(model, probe, options.tweets, options.longest):
        ways = {
            "counterfactual": {"corruption": "counterfactual", "counterfactual": other},
            "mean": {"corruption": "mean"},
            "noise": {"corruption": "noise"},
        }
        for way, fields in ways.items():
            settings = TraceSettings(samples=1, **fields)  # type: ignore[arg-type]
            began = time.perf_counter()
            result = trace(model, probe, text, settings)
            exact = time.perf_counter() - began
            case = case_of(model, probe, text, settings)
            for steps in STEPS:
                began = time.perf_counter()
                estimate = estimate_of(model, case, steps=steps)
                seconds = time.perf_counter() - began
                rows.append(
                    {
                        "corruption": way,
                        "steps": steps,
                        "tokens": len(result.prompt),
                        "seconds": {"exact": exact, "estimate": seconds},
                        "kinds": near(estimate, result),
                    }
                )
                say(f"{rows[-1]}")
        save(
            options.output,
            {"machine": describe(), "options": {"longest": options.longest}, "rows": rows},
        )


if __name__ == "__main__":
    main()
