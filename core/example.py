"""Which trace does a first visitor see? One that was made before, read without a model.

It is kept in `assets/`: what was read of every run as safetensors, all else as JSON. Whoever
changes what a trace holds makes it again: `python -m core.example`, after `make setup`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core import cache
from core.probes import Probe
from core.prompts import Prompt, Token, Word
from core.results import Reads, TraceResult, TraceSettings

ASSETS = Path(__file__).parents[1] / "assets"
NAME = "example_trace"
TWEET = "My flight got cancelled and I love waiting here for hours, terrible service"


def load(folder: Path = ASSETS) -> TraceResult:
    """The kept trace."""
    from safetensors.numpy import load_file

    kept: dict[str, Any] = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    arrays = load_file(folder / f"{NAME}.safetensors")
    prompt, settings = kept["prompt"], kept["settings"]
    kinds = tuple(settings["kinds"])
    return TraceResult(
        prompt=Prompt(
            tweet=prompt["tweet"],
            suffix=prompt["suffix"],
            text=prompt["text"],
            tokens=tuple(Token(**token) for token in prompt["tokens"]),
            words=tuple(
                Word(**word | {"tokens": tuple(word["tokens"])}) for word in prompt["words"]
            ),
            tweet_span=tuple(prompt["tweet_span"]),
        ),
        probe=Probe.from_json(json.dumps(kept["probe"]).encode(), NAME),
        settings=TraceSettings(**settings | {"kinds": kinds}),
        model_name=kept["model_name"],
        model_identity=kept["model_identity"],
        corrupted_span=tuple(kept["corrupted_span"]),
        window=kept["window"],
        noise=kept["noise"],
        reads=Reads(
            arrays["clean"].astype(np.float64),
            arrays["corrupted"].astype(np.float64),
            {kind: arrays[kind].astype(np.float64) for kind in kinds},
        ),
        seconds=kept["seconds"],
    )


def save(result: TraceResult, folder: Path = ASSETS) -> None:
    """Keep a trace as the example; numbers of runs in single precision."""
    from safetensors.numpy import save_file

    kept = {
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
    arrays = {"clean": result.reads.clean, "corrupted": result.reads.corrupted}
    arrays.update({str(kind): values for kind, values in result.reads.restored.items()})
    with cache.write_beside(folder / f"{NAME}.safetensors") as beside:
        save_file(
            {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in arrays.items()},
            beside,
        )
    with cache.write_beside(folder / f"{NAME}.json") as beside:
        beside.write_text(json.dumps(kept, ensure_ascii=True), encoding="utf-8")


def main() -> None:
    """Make the example again, on the embedded model."""
    from core.datasets import load_dataset
    from core.models import load_model
    from core.probes import probe_for
    from core.registry import EMBEDDED
    from core.trace import trace

    model = load_model(EMBEDDED)
    probe = probe_for(model, load_dataset("vader-tweets"), dataset="vader-tweets")
    save(trace(model, probe, TWEET, keep=True))


if __name__ == "__main__":
    main()
