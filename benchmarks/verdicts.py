"""Of how many tweets does the corrupted run lose the sentiment, under which corruption?

    python -m benchmarks.verdicts [--tweets N] [--output FILE]

On the embedded model and N of its tweets, drawn at random. Forward passes alone: the verdict as the
Trace page asks it by default, and that of every alternative that it would offer
(`core.tracing.verdict.alternatives`), for each of the two probes that come with the model. Counted
among the tweets whose label the probe predicts:

- significant: the total effect's 95% t interval over the noise samples leaves zero out, on the side
  of the prediction (where the corruption draws nothing: the effect has that side);
- healthy: the cells may be read (`core.tracing.findings.health_of`).

The last row is what a person reaches with the best of what the page offers. What is found is
written after every tweet.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path

import core
from benchmarks.machine import RESULTS, describe, save, say
from core.models.registry import EMBEDDED
from core.probes.library import kept_probes
from core.probes.probe import Probe
from core.tracing.corruption import case_of
from core.tracing.findings import Health, health_of
from core.tracing.result import TraceResult, TraceSettings
from core.tracing.verdict import Alternative, alternatives, best_first, verdicts

ASKED = TraceSettings()


def way_of(settings: TraceSettings) -> str:
    """A row of the table."""
    if settings.corruption == "mean":
        return "mean embedding"
    if settings.corruption == "counterfactual":
        return "opposite tweet"
    samples = "" if settings.samples == ASKED.samples else f", {settings.samples} samples"
    return f"noise of {settings.noise_scale:g} sd{samples}"


def is_significant(result: TraceResult) -> bool:
    """Does the total effect leave zero out, towards what the model predicts?"""
    odds = result.under("log_odds")
    return odds.distinguishable is not False and odds.total_effect * odds.high > 0


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tweets", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS / "verdicts.json")
    options = parser.parse_args()
    model = core.load_model(EMBEDDED)
    probes = {probe.features.partition(":")[0]: probe for probe in kept_probes(model.identity)}
    default = probes["logit_pair"]
    readers = [default, *(probe for probe in probes.values() if probe is not default)]
    tweets = core.load_dataset("vader-tweets").sample(options.tweets, random_state=0)
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    reached: Counter[str] = Counter()
    seconds = {"verdict": 0.0, "alternatives": 0.0}
    for done, (text, label) in enumerate(zip(tweets["text"], tweets["label"], strict=True), 1):
        began = time.perf_counter()
        asked = verdicts(model, [case_of(model, default, text, ASKED)])[0]
        seconds["verdict"] += time.perf_counter() - began
        began = time.perf_counter()
        others = list(alternatives(model, readers, text, ASKED))
        seconds["alternatives"] += time.perf_counter() - began
        found = [Alternative(asked, health_of(asked)), *others]
        for probe in readers:
            _count(counts[probe.features.partition(":")[0]], found, probe, int(label))
        if (asked.high > 0) == bool(label):
            reached["predicted"] += 1
            reached["healthy"] += found[0].health.ok is True or bool(best_first(others))
            reached["significant"] += any(
                is_significant(one.result) and one.probe == default for one in found
            )
        report = {
            "machine": describe(),
            "options": {"tweets": done},
            "rows": {features: dict(of.items()) for features, of in counts.items()},
            "reached": reached,
            "seconds": {name: value / done for name, value in seconds.items()},
        }
        save(options.output, report)
        if done % 10 == 0:
            say(f"{done} tweets: {dict(reached)}")


def _count(of: dict[str, Counter[str]], found: list[Alternative], probe: Probe, label: int) -> None:
    """Add one tweet to a probe's rows; several opposite tweets count as one way."""
    ways: dict[str, list[tuple[TraceResult, Health]]] = defaultdict(list)
    for one in found:
        if one.probe == probe and (one.result.high > 0) == bool(label):
            ways[way_of(one.settings)].append((one.result, one.health))
    for way, judged in ways.items():
        of[way]["predicted"] += 1
        of[way]["significant"] += any(is_significant(result) for result, _ in judged)
        of[way]["healthy"] += any(health.ok is True for _, health in judged)


if __name__ == "__main__":
    main()
