"""Sweeps over few invented tweets, and whether two of them are equal."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
from tiny_probes import make_probe

from core.models.loading import load_model
from core.models.model import Model
from core.sweeps import sweep
from core.sweeps.store import Store
from core.tracing.result import TraceSettings

WORDS = "good bad happy sad great awful my flight service not love waiting @name :( day terrible"

NOISE = TraceSettings(samples=2)
PAIRS = TraceSettings(corruption="counterfactual")


def make_tweets(n: int, seed: int = 0, longest: int = 6) -> pd.DataFrame:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(2, longest))) for _ in range(n)]
    return pd.DataFrame({"text": texts, "label": [draw.randrange(2) for _ in texts]})


def reads_of(store: Store) -> dict[int, list[np.ndarray]]:
    return {
        record.number: [
            record.result.reads.clean,
            record.result.reads.corrupted,
            *record.result.reads.restored.values(),
        ]
        for record in store
    }


def assert_equal(first: Store, second: Store) -> None:
    ours, theirs = reads_of(first), reads_of(second)
    assert ours.keys() == theirs.keys()
    for number, arrays in ours.items():
        for own, other in zip(arrays, theirs[number], strict=True):
            np.testing.assert_array_equal(own, other)


def as_pairs(tweets: pd.DataFrame) -> pd.DataFrame:
    """Each with a text of another length as its counterfactual."""
    return tweets.assign(
        counterfactual="so " + tweets["text"], counterfactual_label=1 - tweets["label"]
    )


def made_in(
    folder: Path, home: Path, monkeypatch, tweets: pd.DataFrame, settings: TraceSettings = NOISE
) -> tuple[Model, Store]:
    monkeypatch.setenv("SENTITRACE_HOME", str(home))
    model = load_model(folder, device="cpu")
    return model, sweep.create(model, make_probe(model), tweets, settings)


def times_of(store: Store) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (store.folder / "parts").iterdir()}
