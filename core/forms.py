"""What of a chart stays the same while it is drawn again and again?

Building a chart's specification takes Altair longer than all else that an answer without a model
needs of the server. A page draws the same panels with other data over and over: another view, one
more noise sample. So a panel's form, all but its data, is made once for what determines it, and
kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import altair as alt

if TYPE_CHECKING:
    import pandas as pd

FORMS = 96
"""Forms of each kind of figure that are kept, about 0.1 MB each: those of some thirty pages."""

AS_WIDE_AS_ITS_PLACE: dict[str, Any] = {
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": {"left": 0, "right": 2, "top": 2, "bottom": 2},
}

DATA = "data"
"""What a form calls the data that it is drawn with."""


@dataclass(frozen=True, eq=False)
class Form:
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

    Below the top level Altair adds no theme of its own, which other threads may be setting.
    """
    context: dict[str, Any] = {"top_level": False, "datasets": {}}
    spec: dict[str, Any] = chart.to_dict(validate=False, context=context)
    return {**spec, "datasets": context["datasets"]}


@dataclass(frozen=True, eq=False)
class Drawing:
    """A form with the data that it is drawn with now."""

    form: Form
    data: pd.DataFrame

    def chart(self, *, width: int | None = None) -> alt.LayerChart:
        """A chart of one's own, to be put into a figure or changed.

        Args:
            width: pixels; without it the chart is as wide as its place.
        """
        chart: alt.LayerChart = self.form.chart.copy()
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
