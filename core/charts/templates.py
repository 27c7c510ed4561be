"""What of a chart stays the same while it is drawn again and again?

Building a chart's specification takes Altair longer than all else that an answer without a model
needs of the server. A page draws the same panels with other data over and over: another view, one
more noise sample. So a panel's template, all but its data, is made once for what determines it, and
kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import altair as alt

from .style import AS_WIDE_AS_ITS_PLACE

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = 96
"""Templates of each kind of figure that are kept, about 0.1 MB each: those of some thirty pages."""

DATA = "data"
"""What a template calls the data that it is drawn with."""


@dataclass(frozen=True, eq=False)
class Template:
    """A chart without its data. Others may hold it too: it is not to be changed.

    Its encodings name their types, since they cannot be read off data.
    """

    chart: alt.LayerChart

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """As Vega-Lite with data called `DATA`, unchecked."""
        named = self.chart.copy(deep=False)
        named.data = alt.NamedData(DATA)
        return unchecked(named)


def unchecked(chart: Any) -> dict[str, Any]:
    """A chart as Vega-Lite, not held against its schema.

    Without what Altair adds of its theme, which other threads may be setting: a page has its own.
    """
    spec: dict[str, Any] = chart.to_dict(validate=False)
    for name in ("$schema", "config"):
        spec.pop(name, None)
    if chart.config is not alt.Undefined:
        spec["config"] = chart.config.to_dict(validate=False)
    return {"datasets": {}, **spec}


@dataclass(frozen=True, eq=False)
class Drawing:
    """A template with the data that it is drawn with now."""

    template: Template
    data: pd.DataFrame

    def chart(self, *, width: int | None = None) -> alt.LayerChart:
        """A chart of one's own, to be put into a figure or changed.

        Args:
            width: pixels; without it the chart is as wide as its place.
        """
        chart: alt.LayerChart = self.template.chart.copy()
        chart.data = self.data
        if width is not None:
            chart.width = width
            for name in AS_WIDE_AS_ITS_PLACE:
                setattr(chart, name, alt.Undefined)
        return chart

    def to_dict(self) -> dict[str, Any]:
        """As Vega-Lite with its data, checked."""
        spec: dict[str, Any] = self.chart().to_dict()
        return spec
