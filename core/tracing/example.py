"""Which trace does a first visitor see? One that was made before, read without a model.

It is kept in `assets/`: what was read of every run as safetensors, all else as JSON. Whoever
changes what a trace holds makes it again: `python -m core.tracing.example`, after `make setup`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..distribution import ASSETS
from ..probes.probe import Probe
from ..prompts.prompt import Prompt, Token, Word
from ..prompts.template import Template
from ..storage import cache
from .result import TraceResult, TraceSettings
from .serialization import read_reads, write_reads

NAME = "example_trace"
TWEET = "My flight got cancelled and I love waiting here for hours, terrible service"


def load(folder: Path = ASSETS) -> TraceResult:
    """The kept trace."""
    held: dict[str, Any] = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    prompt, settings = held["prompt"], held["settings"]
    kinds = tuple(settings["kinds"])
    return TraceResult(
        prompt=Prompt(
            tweet=prompt["tweet"],
            template=Template(**prompt["template"]),
            text=prompt["text"],
            tokens=tuple(Token(**token) for token in prompt["tokens"]),
            words=tuple(
                Word(**word | {"tokens": tuple(word["tokens"])}) for word in prompt["words"]
            ),
            tweet_span=tuple(prompt["tweet_span"]),
        ),
        probe=Probe.from_json(json.dumps(held["probe"]).encode(), NAME),
        settings=TraceSettings(**settings | {"kinds": kinds}),
        model_name=held["model_name"],
        model_identity=held["model_identity"],
        corrupted_span=tuple(held["corrupted_span"]),
        window=held["window"],
        noise=held["noise"],
        reads=read_reads(folder / f"{NAME}.safetensors"),
        seconds=held["seconds"],
    )


def save(result: TraceResult, folder: Path = ASSETS) -> None:
    """Keep a trace as the example; numbers of runs in single precision."""
    held = {
        "prompt": asdict(result.prompt),
        "probe": json.loads(result.probe.to_json()),
        "settings": asdict(result.settings),
        "model_name": result.model_name,
        "model_identity": result.model_identity,
        "corrupted_span": result.corrupted_span,
        "window": result.window,
        "noise": result.noise,
        "seconds": result.seconds,
    }
    write_reads(folder / f"{NAME}.safetensors", result.reads, np.float32)
    with cache.write_beside(folder / f"{NAME}.json") as beside:
        beside.write_text(json.dumps(held, ensure_ascii=True), encoding="utf-8")


def main() -> None:
    """Make the example again, on the embedded model."""
    from ..data.datasets import load_dataset
    from ..models.loading import load_model
    from ..models.registry import EMBEDDED
    from ..probes.library import probe_for
    from .tracer import trace

    model = load_model(EMBEDDED)
    probe = probe_for(model, load_dataset("vader-tweets"), dataset="vader-tweets")
    save(trace(model, probe, TWEET, keep=True))


if __name__ == "__main__":
    main()
