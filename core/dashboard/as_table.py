"""What does a heatmap say to who cannot see it? The same cells in rows and columns."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from ..charts.comparison import row_labels
from ..tracing.findings import signed
from ..tracing.view import KINDS

if TYPE_CHECKING:
    import pandas as pd


def as_table(
    key: str,
    panels: Mapping[str, pd.DataFrame],
    labels: Mapping[int, str],
    *,
    value: str = "effect",
) -> None:
    """Offer the cells of heatmaps as tables, which are made when they are opened.

    Args:
        key: of the widget.
        panels: the cells of each, by its title; columns layer, position, trivial, `value`, and
            faded and estimated where some may be.
        labels: what the rows of the heatmaps are called, by position, in their order.
    """
    box = st.expander("As a table", key=key, on_change="rerun")
    if not box.open:
        return
    with box:
        st.caption(
            "Layers down; ns: not significant (FDR 5%), fixed: by construction, est.: an estimate, "
            "not a run, empty: not traced."
        )
        for title, cells in panels.items():
            st.html(table_html(title, laid_out(cells, labels, value)))


def table_html(title: str, table: pd.DataFrame) -> str:
    """A table with heads of rows and columns, in a region that the keyboard can scroll.

    Streamlit's own table scrolls in a box that no key reaches.
    """
    name = html.escape(title)
    return (
        f'<p><strong>{name}</strong></p><div class="as-table" role="region" aria-label="{name}" '
        f'tabindex="0">{table.to_html(border=0)}</div>'
    )


def panels_of(cells: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[int, str]]:
    """Of compared traces, the cells of each panel by its title, and the labels of all rows.

    Args:
        cells: as of `core.sweeps.comparison.cells`.
    """
    panels = {
        f"{name}, {called}": panel
        for kind, called in KINDS.items()
        for name, panel in cells[cells["kind"] == kind].groupby("trace", sort=False)
    }
    return panels, dict(enumerate(row_labels(cells)))


def laid_out(cells: pd.DataFrame, labels: Mapping[int, str], value: str = "effect") -> pd.DataFrame:
    """One heatmap's cells in words: layers down, its rows across, numbered where names repeat."""
    import pandas as pd

    cells = cells[cells[value].notna()]
    words = cells[value].map(lambda number: signed(float(number)))
    # The first of these that a cell is.
    said = [
        (column, word)
        for column, word in (("trivial", "fixed"), ("estimated", "est."), ("faded", "ns"))
        if column in cells
    ]
    told = np.select(
        [cells[column].eq(True) for column, _ in said], [f" {word}" for _, word in said], ""
    )
    table = cells.assign(said=words + told).pivot(index="layer", columns="position", values="said")
    shown = [position for position in labels if position in table.columns]
    table = table[shown].fillna("")
    names = [labels[position] for position in shown]
    if len(set(names)) < len(names):
        names = [f"{position} {labels[position]}" for position in shown]
    table.columns = pd.Index(names)
    table.index = pd.Index([f"layer {layer}" for layer in table.index])
    return table
