"""Traces of many tweets."""

from __future__ import annotations
from dataclasses import dataclass
from core.results import TraceResult


@dataclass(frozen=True)
class Record:
    """One traced tweet of a sweep.

    Attributes:
        number: of the tweet in the sweep, from 0.
        row: of the source that it was taken from.
        label: 1 positive, 0 negative, None where it has none.
        result: its trace.
    """

    number: int
    row: int
    label: int | None
    result: TraceResult
