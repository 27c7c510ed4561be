"""How well does a probe read the sentiment, beside its controls, on the tweets and the movies?

    python -m benchmarks.probes [--data NAME ...] [--features NAME ...]

Trains each probe on the embedded model and holds it against every control, as `python -m core
probe` does, and writes their scores to results/probes.json. The first run encodes every text twice
(by the model and by its untrained twin: about 20 minutes for the movies); what is encoded is kept.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, describe, save, say
from core.data.datasets import load_dataset
from core.models.loading import load_model
from core.models.model import Model
from core.models.registry import EMBEDDED, is_on_disk
from core.probes.controls import with_controls
from core.probes.training import train_probe

DATA = ("vader-tweets", "vader-movies")
FEATURES = ("probabilities", "logit_pair", "hidden")


def judged(model: Model, twin: Model, data: str, features: str) -> dict[str, Any]:
    """Scores of one probe and of its controls, with their intervals."""
    began = time.perf_counter()
    texts = load_dataset(data)
    probe = train_probe(model, texts, features=features, dataset=data)
    probe = with_controls(probe, model, texts, twin=twin)
    report = probe.report
    say(
        f"{data}, {features}: {report.accuracy:.1%} "
        f"({time.perf_counter() - began:.0f} s). {report.verdict}"
    )
    return {
        "data": data,
        "features": features,
        "layer": probe.layer,
        "penalty": probe.penalty,
        "texts": report.n,
        "folds": report.folds,
        "seed": probe.seed,
        "scores": {name: asdict(score) for name, score in report.scores.items()},
        "controls": [
            {"name": control.name, "gain": asdict(control.gain)}
            | {"scores": {name: asdict(score) for name, score in control.scores.items()}}
            for control in report.controls
        ],
        "layers": [point.accuracy.value for point in report.layers],
        "verdict": report.verdict,
    }


def main() -> None:
    """Train, judge and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=FEATURES)
    parser.add_argument("--output", type=Path, default=RESULTS / "probes.json")
    options = parser.parse_args()
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    model, twin = load_model(EMBEDDED), load_model(EMBEDDED, untrained=True)
    rows = [
        judged(model, twin, data, features)
        for data in options.data
        for features in options.features
    ]
    save(options.output, {"machine": describe(), "model": EMBEDDED, "rows": rows})


if __name__ == "__main__":
    main()
