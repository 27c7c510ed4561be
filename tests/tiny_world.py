"""A cache folder for tests of pages: a tiny "gpt2", a few labelled tweets, a queue of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import streamlit as st
from tiny_models import save_folder

from core import hub, session
from core.datasets import dataset_file
from core.registry import model_folder

SENTENCES = ("good day", "great happy day", "bad day", "awful sad hours")
TEXTS = [f"{sentence} {i}" for i in range(10) for sentence in SENTENCES]
RATINGS = [2.0 if i % 4 < 2 else -2.0 for i in range(len(TEXTS))]
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


@contextmanager
def own_queue() -> Iterator[None]:
    """Leave no job, no loaded model and no remembered answer to the next test."""
    try:
        yield
    finally:
        session.queue().close()
        session.downloads().close()
        st.cache_resource.clear()
        st.cache_data.clear()
