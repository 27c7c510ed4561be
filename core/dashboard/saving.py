"""How does a person take away what a page shows? One button for all of it.

A file is made when its button is pressed, by Streamlit and outside the page's run. What there is to
tell of it (the drawing library broke off; characters that no font has) is handed to the run that
the same press begins, which waits for it and shows it below the buttons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import streamlit as st

from ..charts.renderer import LIMIT
from ..distribution import COMMAND
from ..errors import NotDrawn
from ..exporting import embedded_settings
from ..exporting.bundle import bundle, file_name
from ..exporting.figure_files import (
    MIME,
    Font,
    Paper,
    boxes,
    figure,
    renderer,
)
from ..exporting.table_files import TABLE_MIME, table_bytes
from . import plain
from .sharing import Repeatable, Share, code_choice, link_choice

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd
    from streamlit.delta_generator import DeltaGenerator

    Charts: TypeAlias = Mapping[str, Callable[[], alt.TopLevelMixin]]
    Tables: TypeAlias = Mapping[str, Callable[[], pd.DataFrame]]

Told: TypeAlias = SimpleQueue[tuple[float, bool, list[str]]]
"""Of each file: when it was made, whether it was refused, and sentences to show."""

WAIT = 1.0  # seconds: between looks for a file, and that a press is told of late
CALLED = {"png": "PNG", "svg": "SVG", "pdf": "PDF", "html": "HTML", "json": "Vega-Lite"}
FORMS = {"files": "Files", "link": "Link", "python": "Python", "command": "Command"}
TABLE_CALLED = {"csv": "CSV", "parquet": "Parquet", "json": "JSON"}


def downloads(
    key: str,
    *,
    charts: Charts,
    tables: Tables,
    caption: str,
    recipe: Callable[[], Repeatable] | None = None,
    share: Share | None = None,
) -> None:
    """A popover that saves figures, tables, all of it as ZIP, and the settings; and shares a view.

    Nothing is made, rendered or serialised before it is asked for: the page gives what makes a
    file, and the press of its button calls it, outside the page's run. So it may read nothing of
    the session.

    Args:
        key: of the widgets; one for each place on a page.
        charts, tables: what makes each, by what a person calls it.
        recipe: what makes the settings that make the numbers again; every file but CSV holds them.
        share: what a link to the view, and its code, are made from.
    """
    with suppress(NotDrawn):  # said where a figure is asked for
        renderer().start()  # so that the first figure is drawn as soon as a later one
    label = "Save" if share is None else "Save and share"
    with st.popover(label, icon=":material/download:", key=f"save:{key}"):
        # A choice in here draws this again, and not the page.
        st.fragment(_choices)(key, charts, tables, caption, recipe, share)


def _choices(
    key: str,
    charts: Charts,
    tables: Tables,
    caption: str,
    recipe: Callable[[], Repeatable] | None,
    share: Share | None,
) -> None:
    form = "files"
    if share is not None:
        forms = FORMS if share.code is not None else {k: FORMS[k] for k in ("files", "link")}
        form = st.segmented_control(
            "Take away",
            list(forms),
            default="files",
            format_func=forms.__getitem__,
            required=True,
            key=f"share:{key}",
            label_visibility="collapsed",
        )
    if share is not None and form == "link":
        link_choice(key, share, recipe)
    elif share is not None and form != "files":
        code_choice(key, share, form, recipe)
    else:
        _files(key, charts, tables, caption, recipe)


def _files(
    key: str,
    charts: Charts,
    tables: Tables,
    caption: str,
    recipe: Callable[[], Repeatable] | None,
) -> None:
    paper = _paper_choice(key)
    told: Told = st.session_state.setdefault(f"save:{key}:told", SimpleQueue())
    pressed = False
    for name, chart in charts.items():
        make = partial(_figure, told, chart, recipe, paper=paper)
        place = f"{key}:{file_name(name)}"
        pressed |= _row(f"{name}, figure", name, CALLED, MIME, place, make, "rerun")
    for name, frame in tables.items():
        make = partial(_table, frame, recipe)
        place = f"{key}:{file_name(name)}:table"
        _row(f"{name}, table", name, TABLE_CALLED, TABLE_MIME, place, make, "ignore")
    st.caption(
        "Or everything, with caption, settings, citation and the command that reproduces it:"
    )
    with st.container(horizontal=True, gap="small"):
        pressed |= st.download_button(
            "All as ZIP",
            partial(_bundle, told, charts, tables, recipe, caption=caption, paper=paper),
            file_name=f"{file_name(key)}.zip",
            mime="application/zip",
            key=f"save:{key}:zip",
            on_click="rerun",
            type="primary",
        )
        if recipe is not None:
            st.download_button(
                "Settings",
                partial(_settings, recipe),
                file_name=embedded_settings.SETTINGS,
                mime="application/json",
                key=f"save:{key}:settings",
                on_click="ignore",
                help=f"`{COMMAND} run settings.json` reproduces the numbers.",
            )
    if pressed:
        _tell(told, st.empty())


def _settings(recipe: Callable[[], Repeatable]) -> str:
    return recipe().to_json()


def _held(recipe: Callable[[], Repeatable] | None) -> str | None:
    """The settings that a file holds."""
    return None if recipe is None else _settings(recipe)


def _table(
    table: Callable[[], pd.DataFrame], recipe: Callable[[], Repeatable] | None, form: str
) -> bytes:
    return table_bytes(table(), form, recipe=_held(recipe))


def _figure(
    told: Told,
    chart: Callable[[], alt.TopLevelMixin],
    recipe: Callable[[], Repeatable] | None,
    form: str,
    *,
    paper: Paper | None,
) -> bytes:
    def made() -> tuple[bytes, set[str]]:
        file = figure(chart(), form, paper=paper, recipe=_held(recipe))
        return file.content, {file.boxes}

    return _making(told, made)


def _bundle(
    told: Told,
    charts: Charts,
    tables: Tables,
    recipe: Callable[[], Repeatable] | None,
    *,
    caption: str,
    paper: Paper | None,
) -> bytes:
    def made() -> tuple[bytes, set[str]]:
        drawn = {name: chart() for name, chart in charts.items()}
        frames = {name: table() for name, table in tables.items()}
        content = bundle(drawn, frames, caption=caption, recipe=_held(recipe), paper=paper)
        return content, {boxes(chart, paper=paper) for chart in drawn.values()}

    return _making(told, made)


def _making(told: Told, made: Callable[[], tuple[bytes, set[str]]]) -> bytes:
    """Make a file, and hand over what there is to tell of it: sentences, or why there is none."""
    refused, sentences = False, set[str]()
    try:
        content, sentences = made()
    except ValueError as error:
        refused, sentences = True, {str(error)}
        raise
    finally:
        told.put((time.monotonic(), refused, sorted(sentences - {""})))
    return content


def _tell(told: Told, place: DeltaGenerator) -> None:
    """Wait for the file of the button that was pressed, and show what there is to tell of it."""
    pressed = time.monotonic()
    while time.monotonic() < pressed + LIMIT + WAIT:
        place.caption("Making the file")  # where a page that is left ends this
        try:
            made, refused, sentences = told.get(timeout=WAIT)
        except Empty:
            continue
        if made > pressed - WAIT:  # and not of a press that nobody waited for
            with place.container():
                for sentence in sentences:
                    (st.error if refused else st.warning)(plain(sentence))
            return
    place.empty()


def _paper_choice(key: str) -> Paper | None:
    """Whether the figures are for a paper, and how they then look."""
    if not st.toggle(
        "For a paper",
        key=f"save:{key}:paper",
        help="Without title and caption, as wide as a column, in type of 7 to 9 points.",
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
    on_click: Literal["rerun", "ignore"],
) -> bool:
    """One figure or table, and a button for each form of it; whether one was pressed."""
    st.caption(title)
    pressed = False
    with st.container(horizontal=True, gap="xsmall"):
        for form, label in called.items():
            pressed |= st.download_button(
                label,
                partial(make, form),
                file_name=f"{file_name(name)}.{form}",
                mime=mime[form],
                key=f"save:{key}:{form}",
                on_click=on_click,
            )
    return pressed
