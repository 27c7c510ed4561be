"""How is a chart put on a page?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import streamlit as st

from ..charts.templates import DATA, Drawing, unchecked

if TYPE_CHECKING:
    import pandas as pd


def show_chart(chart: Any, key: str, *, place: Any = st, **options: Any) -> None:
    """Draw a chart as `st.altair_chart` does, only sooner, and redraw it in place.

    The chart is not checked against Vega-Lite's schema at every look, which takes longer than all
    else that an answer without a model needs of the server; the tests check what the pages draw.
    Frames are named by their order and not by where they lie in memory, so that the browser sees
    when only they have changed.

    Args:
        chart: of Altair, a single one or layers, whose encodings name their types, since they are
            not read off the data; or a drawing.
        place: a column or container.
        options: of `st.vega_lite_chart`.
    """
    frames: dict[str, pd.DataFrame] = {}
    if isinstance(chart, Drawing):
        spec = dict(chart.template.spec)
        frames[DATA] = chart.data
    else:
        spec = unchecked(_named(chart, frames))
    spec["datasets"] = {**spec["datasets"], **frames}
    place.vega_lite_chart(spec, key=key, **options)


def _named(chart: Any, frames: dict[str, pd.DataFrame]) -> Any:
    """The chart with names in place of its frames, which are collected."""
    named = chart.copy(deep=False)
    if hasattr(named.data, "columns"):
        known = [name for name, frame in frames.items() if frame is named.data]
        name = known[0] if known else f"frame{len(frames)}"
        frames[name] = named.data
        named.data = alt.NamedData(name)
    if isinstance(named, alt.LayerChart):
        named.layer = [_named(layer, frames) for layer in named.layer]
    return named
