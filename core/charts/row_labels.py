"""Which rows does a heatmap have, and what stands beside them?

A panel of a trace has a row for every token or for every word. Both sets of names stand in its
specification, each row numbered on its own, so that rows of words in place of tokens are other data
of the same figure: the browser redraws it in place, and nothing moves.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import altair as alt

from .renderer import legible

if TYPE_CHECKING:
    import pandas as pd

    from ..tracing.result import TraceResult

Labels = Literal["always", "narrow", "never"]
"""Beside every panel, only in windows so narrow that panels stand one below the other, or not."""

NARROW = 640  # pixels: windows up to this width show the panels one below the other
LIMIT = 130  # pixels; a longer label is cut off with an ellipsis


@dataclass(frozen=True)
class Rows:
    """The rows that a panel may have: names and which are corrupted, by the rows' numbers.

    Attributes:
        first: the number of the row of position 0, whether it is there or not.
    """

    names: Mapping[int, str]
    corrupted: Collection[int]
    first: int = 0

    def __hash__(self) -> int:
        """Forms of panels are kept by it."""
        return hash((tuple(self.names.items()), frozenset(self.corrupted), self.first))

    @cached_property
    def labels(self) -> dict[int, str]:
        """What stands beside each row: its name, with a star where it is corrupted."""
        return {
            row: f"{name} *" if row in self.corrupted else name for row, name in self.names.items()
        }

    @property
    def width(self) -> int:
        """Pixels that the labels take, about."""
        return label_reach(self.labels.values())

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Rows:
        """Those of a frame of cells, numbered by their positions."""
        cells = frame.drop_duplicates("position").sort_values("position")
        names = {
            int(position): str(token)
            for position, token in zip(cells["position"], cells["token"], strict=True)
        }
        return cls(names, {int(position) for position in cells["position"][cells["corrupted"]]})


def rows_of(result: TraceResult, *, words: bool = False) -> Rows:
    """Those of a trace's tokens and, numbered behind them, of its words.

    Args:
        words: the frame that is drawn holds words, as `findings.by_words` makes them of tokens.
    """
    from ..tracing.findings import last_tokens

    count = len(result.tokens)
    spans = {result.prompt.tokens[position].word for position in result.corrupted_span} - {-1}
    names = dict(enumerate(result.tokens))
    corrupted = set(result.corrupted_span)
    for position, word in last_tokens(result).items():
        row = count + position
        names[row] = names[position] if word < 0 else result.prompt.words[word].text
        if word in spans or position in result.corrupted_span:
            corrupted.add(row)
    return Rows(names, corrupted, count if words else 0)


def row_axis(rows: Mapping[int, str], labels: Labels, *, limit: int = LIMIT) -> alt.Axis | None:
    """The axis beside a heatmap's rows, which are named by their numbers.

    Args:
        limit: pixels; a longer label is cut off with an ellipsis.
    """
    if labels == "never":
        return None
    label = f"({literal(rows)})[datum.value]"
    reach: int | alt.ExprRef = label_reach(rows.values(), limit=limit)
    if labels == "narrow":
        # The mention of width makes Vega ask again whenever the chart is resized.
        narrow = f"width >= 0 && windowSize()[0] <= {NARROW}"
        label = f"{narrow} ? {label} : ''"
        reach = alt.ExprRef(f"{narrow} ? {reach} : 0")
    return alt.Axis(
        title=None,
        labelExpr=label,
        labelLimit=limit,
        labelOverlap=False,
        labelFlush=False,
        labelBound=False,
        labelPadding=6,
        labelFontSize=12,
        grid=False,
        ticks=False,
        domain=False,
        minExtent=reach,  # one for all panels, which then line up
        maxExtent=reach,
    )


def label_reach(labels: Iterable[str], *, limit: int = LIMIT) -> int:
    """Pixels that rows' labels take, about; wide characters count twice."""
    widths = [
        sum(1.0 if unicodedata.east_asian_width(c) in "NaHA" else 1.8 for c in label)
        for label in labels
    ]
    return min(limit, round(7 * max(widths, default=1))) + 10


def literal(labels: Mapping[int, str]) -> str:
    """A literal of Vega's expression language: JSON in ASCII is safe, whatever the tokens hold.

    What no figure can hold is named here already: behind JSON's escapes nobody sees it any more.
    """
    return json.dumps({str(position): legible(label) for position, label in labels.items()})
