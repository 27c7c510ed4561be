"""How is what a sweep asked of a tweet, and read of it, kept as one row of a table?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..patching.sites import Kind
from ..probes.probe import Probe
from ..prompts.alignment import align
from ..prompts.prompt import Prompt, Token, Word
from ..statistics import Array
from ..tracing.result import Reads, TraceResult, TraceSettings

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Task:
    """What is asked of every tweet: all that a worker needs besides model and tweets."""

    probe: Probe
    settings: TraceSettings
    roles: tuple[str, ...] | None  # of `core.prompts.token_roles.TWEET`; None traces every token
    most_tokens: int | None  # of one role in one tweet
    seed: int


@dataclass(frozen=True)
class Record:
    """One traced tweet of a sweep.

    Attributes:
        number: of the tweet in the sweep, from 0.
        row: of the source that it was taken from.
        label: 1 positive, 0 negative, None where it has none.
        result: its trace.
        pairs: in a sweep over pairs, how many of its text the source yields in all; None where that
            is not known.
    """

    number: int
    row: int
    label: int | None
    result: TraceResult
    pairs: int | None = None


@dataclass(frozen=True)
class Failure:
    """A tweet that could not be traced, and why."""

    number: int
    row: int
    reason: str


def schema() -> pa.Schema:
    """Columns of a part; S samples, C columns of what is read."""
    import pyarrow as pa

    numbers, texts = pa.list_(pa.int32()), pa.list_(pa.string())
    values = pa.list_(pa.float32())
    return pa.schema(
        [
            ("number", pa.int32()),
            ("row", pa.int64()),
            ("label", pa.int8()),
            ("tweet", pa.string()),
            ("counterfactual", pa.string()),  # of a sweep over pairs
            ("counterfactual_id", numbers),  # of its tokens, where they are more or fewer
            ("token_id", numbers),
            ("token_label", texts),
            ("token_start", numbers),  # characters of the prompt
            ("token_end", numbers),
            ("token_word", numbers),
            ("tweet_span", numbers),  # positions
            ("word_start", numbers),
            ("word_end", numbers),
            ("word_in_tweet", pa.list_(pa.bool_())),
            ("corrupted_span", numbers),
            ("layers", pa.int32()),  # of the model
            ("window", pa.int32()),
            ("noise", pa.float64()),
            ("seconds", pa.float32()),
            ("samples", pa.int32()),
            ("positions", numbers),  # that were traced
            ("clean", values),  # (C,)
            ("corrupted", values),  # (S, C)
            ("hidden", values),  # (S, traced layers, traced positions, C), null where not traced
            ("mlp", values),
            ("attn", values),
        ]
    )


def row_of(row: Mapping[str, Any], result: TraceResult) -> dict[str, Any]:
    """A trace as one row of a part."""
    prompt, reads = result.prompt, result.reads
    every = result.settings.every
    some = next(iter(reads.restored.values()))
    traced = np.flatnonzero(~np.isnan(some[0, 0, :, 0])).tolist()
    label = row.get("label")
    found: dict[str, Any] = {
        "number": int(row["number"]),
        "row": int(row["row"]),
        "label": None if label is None or label != label else int(label),
        "tweet": prompt.tweet,
        "counterfactual": result.settings.counterfactual,
        "counterfactual_id": None if result.alignment is None else list(result.alignment.other),
        "token_id": list(prompt.ids),
        "token_label": list(prompt.labels),
        "token_start": [token.start for token in prompt.tokens],
        "token_end": [token.end for token in prompt.tokens],
        "token_word": [token.word for token in prompt.tokens],
        "tweet_span": list(prompt.tweet_span),
        "word_start": [word.start for word in prompt.words],
        "word_end": [word.end for word in prompt.words],
        "word_in_tweet": [word.in_tweet for word in prompt.words],
        "corrupted_span": list(result.corrupted_span),
        "layers": result.layers,
        "window": result.window,
        "noise": result.noise,
        "seconds": result.seconds,
        "samples": result.samples_done,
        "positions": traced,
        "clean": reads.clean.astype(np.float32),
        "corrupted": reads.corrupted.astype(np.float32).ravel(),
    }
    for kind, values in reads.restored.items():
        found[kind] = values[:, ::every][:, :, traced].astype(np.float32).ravel()
    return found


def result_of(row: Mapping[str, Any], task: Task, name: str, identity: str) -> TraceResult:
    """The trace that `row_of` made a row of."""
    text = task.probe.template.around(row["tweet"])
    words = row["token_word"]
    tokens = zip(
        row["token_id"],
        row["token_label"],
        row["token_start"],
        row["token_end"],
        words,
        strict=True,
    )
    places = zip(row["word_start"], row["word_end"], row["word_in_tweet"], strict=True)
    prompt = Prompt(
        tweet=row["tweet"],
        template=task.probe.template,
        text=text,
        tokens=tuple(Token(*token) for token in tokens),
        words=tuple(
            Word(
                text[start:end],
                start,
                end,
                tuple(t for t, owner in enumerate(words) if owner == index),
                in_tweet,
            )
            for index, (start, end, in_tweet) in enumerate(places)
        ),
        tweet_span=tuple(row["tweet_span"]),
    )
    clean = np.array(row["clean"], dtype=np.float64)
    samples, columns, every = row["samples"], len(clean), task.settings.every
    positions = row["positions"]
    restored: dict[Kind, Array] = {}
    for kind in task.settings.kinds:
        values = np.full((samples, row["layers"], len(prompt), columns), np.nan)
        stored = np.array(row[kind], dtype=np.float64)
        traced = -(-row["layers"] // every)
        values[:, ::every, positions] = stored.reshape(samples, traced, len(positions), columns)
        restored[kind] = values
    corrupted = np.array(row["corrupted"], dtype=np.float64).reshape(samples, columns)
    return TraceResult(
        prompt=prompt,
        probe=task.probe,
        settings=replace(task.settings, counterfactual=row.get("counterfactual")),
        model_name=name,
        model_identity=identity,
        corrupted_span=tuple(row["corrupted_span"]),
        window=row["window"],
        noise=row["noise"],
        reads=Reads(clean, corrupted, restored),
        seconds=row["seconds"],
        alignment=None
        if (other := row.get("counterfactual_id")) is None
        else align(prompt.ids, other, prompt.tweet_span),
    )
