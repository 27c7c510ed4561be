"""How does a person take away what a page shows? One "Save" button for all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import streamlit as st

from core import metadata
from core.bundle import bundle, file_name
from core.export import MIME, TABLE_MIME, Font, Paper, figure_bytes, table_bytes

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    Drawable: TypeAlias = alt.TopLevelMixin | Callable[[], alt.TopLevelMixin]

CALLED = {"png": "PNG", "svg": "SVG", "pdf": "PDF", "html": "HTML", "json": "Vega-Lite"}
TABLE_CALLED = {"csv": "CSV", "parquet": "Parquet", "json": "JSON"}


class Repeatable(Protocol):
    """What a recipe is to a file: a JSON text."""

    def to_json(self) -> str: ...  # noqa: D102


def downloads(
    key: str,
    *,
    charts: Mapping[str, Drawable],
    tables: Mapping[str, pd.DataFrame],
    caption: str,
    recipe: Repeatable | None = None,
) -> None:
    """A popover that saves figures, tables, all of it as ZIP, and the settings.

    Nothing is rendered before it is asked for.

    Args:
        key: of the widgets; one for each place on a page.
        charts, tables: by what a person calls them. A chart whose data are frames is read when its
            button is pressed, so that it may be large; one that takes long to make can be given as
            what makes it.
        recipe: what makes the numbers again; every file but CSV then holds it.
    """
    settings = None if recipe is None else recipe.to_json()
    with st.popover("Save", icon=":material/download:", key=f"save:{key}"):
        # A choice in here draws this again, and not the page.
        st.fragment(_choices)(key, charts, tables, caption, settings)


def _choices(
    key: str,
    charts: Mapping[str, Drawable],
    tables: Mapping[str, pd.DataFrame],
    caption: str,
    settings: str | None,
) -> None:
    paper = _paper_choice(key)
    for name, chart in charts.items():
        make = partial(_figure, chart, paper=paper, recipe=settings)
        _row(f"{name}, figure", name, CALLED, MIME, f"{key}:{file_name(name)}", make)
    for name, frame in tables.items():
        make = partial(table_bytes, frame, recipe=settings)
        place = f"{key}:{file_name(name)}:table"
        _row(f"{name}, table", name, TABLE_CALLED, TABLE_MIME, place, make)
    st.caption("Or everything, with caption, settings, citation and the command to repeat it:")
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "All as ZIP",
            partial(_bundle, charts, tables, caption=caption, recipe=settings, paper=paper),
            file_name=f"{file_name(key)}.zip",
            mime="application/zip",
            key=f"save:{key}:zip",
            on_click="ignore",
            type="primary",
        )
        if settings is not None:
            st.download_button(
                "Settings",
                settings,
                file_name=metadata.SETTINGS,
                mime="application/json",
                key=f"save:{key}:settings",
                on_click="ignore",
                help="`python -m core run settings.json` makes the same numbers again.",
            )


def drawn(chart: Drawable) -> alt.TopLevelMixin:
    """A chart that is given as itself or as what makes it."""
    return chart() if callable(chart) else chart


def _figure(chart: Drawable, form: str, **options: Any) -> bytes:
    return figure_bytes(drawn(chart), form, **options)


def _bundle(
    charts: Mapping[str, Drawable],
    tables: Mapping[str, pd.DataFrame],
    **options: Any,
) -> bytes:
    return bundle({name: drawn(chart) for name, chart in charts.items()}, tables, **options)


def _paper_choice(key: str) -> Paper | None:
    """Whether the figures are for a paper, and how they then look."""
    if not st.toggle(
        "For a paper",
        key=f"save:{key}:paper",
        help="Without title and caption, as wide as a column, letters of 7 to 9 points.",
    ):
        return None
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        font = st.segmented_control(
            "Font",
            ["serif", "sans"],
            default="serif",
            format_func={"serif": "Serif", "sans": "Sans"}.__getitem__,
            required=True,
            key=f"save:{key}:font",
        )
        columns = st.segmented_control(
            "Width",
            ["one", "two"],
            default="two",
            format_func={"one": "One column", "two": "Two columns"}.__getitem__,
            required=True,
            key=f"save:{key}:columns",
        )
    grey = st.toggle(
        "Grey-safe colours",
        key=f"save:{key}:grey",
        help="From dark (towards negative) over grey (no effect) to light (towards positive), so "
        "that a grey print keeps the order.",
    )
    return Paper(
        font=cast("Font", font or "serif"),
        columns=cast('Literal["one", "two"]', columns or "two"),
        grey=grey,
    )


def _row(
    title: str,
    name: str,
    called: Mapping[str, str],
    mime: Mapping[str, str],
    key: str,
    make: Callable[[str], bytes],
) -> None:
    """One figure or table, and a button for each form of it."""
    st.caption(title)
    with st.container(horizontal=True, gap="xsmall"):
        for form, label in called.items():
            st.download_button(
                label,
                partial(make, form),
                file_name=f"{file_name(name)}.{form}",
                mime=mime[form],
                key=f"save:{key}:{form}",
                on_click="ignore",
            )
