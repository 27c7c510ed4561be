"""A cache folder for tests of pages: a tiny "gpt2", a few labelled tweets, a queue of its own."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from tiny_models import save_folder

from core import dashboard
from core.data.datasets import dataset_file, fingerprint, load_dataset
from core.models import hub
from core.models.loading import load_model
from core.models.registry import model_folder
from core.probes.library import keep
from core.probes.probe import Probe
from core.probes.training import train_probe

SENTENCES = ("good day", "great happy day", "bad day", "awful sad hours")
TEXTS = [f"{sentence} {i}" for i in range(10) for sentence in SENTENCES]
RATINGS = [2.0 if i % 4 < 2 else -2.0 for i in range(len(TEXTS))]
PATIENCE = 120.0  # seconds until a job that hangs is left alone
WRONG = [-2.0, *RATINGS[1:3], 2.0, *RATINGS[4:]]
"""Two labels that no text tells, so that a probe has something to be wrong about."""


def keep_tweets(
    texts: Sequence[str] = TEXTS, ratings: Sequence[float] = RATINGS, first_row: int = 0
) -> None:
    """Put labelled tweets where set-up puts those of the archive."""
    rows = range(first_row, first_row + len(texts))
    dataset_file("vader-tweets").parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"text": texts, "rating": ratings, "row": rows}).to_parquet(
        dataset_file("vader-tweets")
    )


def keep_model(layers: int, source: str = "made by hand") -> None:
    """Put a tiny model where set-up puts GPT-2."""
    folder = save_folder(model_folder("gpt2"), "gpt2", layers=layers)
    hub.write_description(folder, key="gpt2", source=source, revision="0")


_trained: dict[tuple[str, str], Probe] = {}


def keep_probe(name: str | Path = "gpt2") -> None:
    """Keep the default probe of a model on the tweets; it is trained once for all tests."""
    model, tweets = load_model(name), load_dataset("vader-tweets")
    made_of = (model.identity, fingerprint(tweets))
    if made_of not in _trained:
        with tempfile.TemporaryDirectory() as encoded, pytest.MonkeyPatch.context() as patch:
            patch.setenv("SENTITRACE_HOME", encoded)
            _trained[made_of] = train_probe(model, tweets, dataset="vader-tweets")
    keep(_trained[made_of])


def keep_forty_tweets() -> None:
    """Tweets of either sentiment, told by their first word."""
    keep_tweets(
        [f"{word} day number {n}" for n in range(20) for word in ("great", "awful")],
        [2.0, -2.0] * 20,
    )


def make_home(folder: Path, layers: int) -> Path:
    """A cache folder of a server: tests that do not ask what a real model says need no real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTITRACE_HOME", str(folder))
        keep_model(layers)
        keep_tweets()
    return folder


@contextmanager
def small_world(
    layers: int, *tweets: Sequence[object], trained: bool = False, **options: object
) -> Iterator[None]:
    """A tiny "gpt2" and a few tweets in the cache folder, and a queue of one test alone.

    Args:
        trained: its default probe is there too.
    """
    keep_model(layers)
    keep_tweets(*tweets, **options)
    if trained:
        keep_probe()
    with own_queue():
        yield


@contextmanager
def own_queue() -> Iterator[None]:
    """Leave no job, no loaded model and no remembered answer to the next test."""
    try:
        yield
    finally:
        dashboard.queue().close(PATIENCE)
        dashboard.downloads().close(PATIENCE)
        st.cache_resource.clear()
        st.cache_data.clear()
