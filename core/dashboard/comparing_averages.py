"""How are the stored averages of several models shown side by side?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from ..charts import comparison as comparison_charts
from ..charts import figures
from ..charts.row_labels import label_reach
from ..distribution import COMMAND
from ..exporting import code
from ..exporting.displays import Beside
from ..exporting.sweep_recipe import SweepRecipe, SweepRecipes
from ..server.job_queue import Job, Step
from ..sweeps import comparison
from ..sweeps.average import TOWARDS, Average, average
from ..sweeps.study import Options
from ..tracing.view import KINDS, scale_end
from . import follow, job, plain, sharing, start, theme
from .as_table import as_table, panels_of
from .charts import show_chart
from .door import NO_MODEL, Guarded
from .saving import downloads
from .sweeping import title_of

if TYPE_CHECKING:
    import pandas as pd

    from ..sweeps.store import Store

MOST = 4


def follow_link(wanted: Sequence[str]) -> None:
    """Choose the sweeps that an address names, and average them as soon as they are drawn."""
    from ..sweeps.store import sweeps

    there = [store.id for store in sweeps() if store.finished()]
    found = [next((id for id in there if id == name), None) for name in wanted[:MOST]]
    if None in found or len(found) < 2:
        sharing.refuse(
            "A sweep of this link is not on this disk; ask for the settings file and run it by "
            f"`{COMMAND} run`."
        )
        return
    st.session_state["compare:sweeps"] = found
    st.session_state["compare:sweeps:linked"] = True


def averaging(stores: Sequence[Store], *, share: bool) -> Guarded:
    """The work of averaging sweeps, one after the other."""
    names = names_of(stores)

    def work(job: Job) -> Iterator[Step]:
        found: dict[str, Average] = {}
        for number, (name, store) in enumerate(zip(names, stores, strict=True)):
            job.report(number / len(stores), plain(f"Averaging {name}"))
            found[name] = average(_alive(store, job, number / len(stores)), normalised=share)
            yield (number + 1) / len(stores), dict(found)

    return Guarded(NO_MODEL, work)


def _alive(store: Store, job: Job, fraction: float) -> Iterator[Any]:
    """The records of a sweep; a stop reaches the work between two of them."""
    for record in store:
        job.report(fraction)
        yield record


def names_of(stores: Sequence[Store]) -> list[str]:
    """What sweeps are called: their titles hold a part of their names, so no two are the same."""
    return [title_of(store) for store in stores]


def page(depth: comparison_charts.Depth, share: bool) -> None:
    """Choose sweeps, average them, and show them on one colour scale."""
    from ..sweeps.store import sweeps

    known = {store.id: store for store in sweeps() if store.finished()}
    if len(known) < 2:
        st.info(
            "Two sweeps are needed, one of each model: start them on the Average page or by "
            f"`{COMMAND} sweep`.",
            icon=":material/info:",
        )
        return
    chosen = st.multiselect(
        "Sweeps",
        list(known),
        default=list(known)[:2],
        format_func=lambda id: title_of(known[id]),
        max_selections=MOST,
        key="compare:sweeps",
    )
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        pressed = st.button(
            "Compare averages", type="primary", key="compare:average", disabled=len(chosen) < 2
        )
        if pressed or st.session_state.pop("compare:sweeps:linked", False):
            stores = [known[id] for id in chosen]
            start("compare averages", averaging(stores, share=share))
            st.session_state["compare:averaged"] = stores
        current = job("compare averages")
        shown = current.progress() if current else None
        if current is None or shown is None:
            return
        with st.container(width=420):
            follow(current, shown)
    if shown.error:
        st.error(plain(shown.error), icon=":material/error:")
    if shown.partial:
        _show(shown.partial, depth, st.session_state["compare:averaged"])


def _show(
    averages: dict[str, Average], depth: comparison_charts.Depth, stores: Sequence[Store]
) -> None:
    cells = comparison.average_cells(averages)
    cells = comparison_charts.in_shown_unit(cells, averages.values())
    first = next(iter(averages.values()))
    unit = comparison_charts.unit_of_averages(averages.values())
    layers = {name: int(average.about["layers"]) for name, average in averages.items()}
    totals = totals_of(averages)
    st.dataframe(
        totals,
        hide_index=True,
        key="compare:totals",
        column_config={
            "sweep": st.column_config.TextColumn("Sweep", pinned=True),
            "tweets": "Tweets",
            "total_effect": st.column_config.NumberColumn("Mean total effect", format="%.3g"),
            "lower": st.column_config.NumberColumn("95% from", format="%.3g"),
            "upper": st.column_config.NumberColumn("to", format="%.3g"),
        },
    )
    end = scale_end(cells)
    with st.container(width=420, gap="xsmall"):
        st.caption(f"Mean change in {plain(unit)}; one scale for all panels")
        show_chart(figures.scale_bar(end, unit, theme=theme()), key="compare:averages:scale")
    reach = label_reach(comparison_charts.row_labels(cells))
    for kind, called in KINDS.items():
        if not cells["kind"].eq(kind).any():
            continue
        st.markdown(f"**{called}**")
        widths = [1 + reach / (1200 / len(layers))] + [1.0] * (len(layers) - 1)
        for column, (place, name) in enumerate(zip(st.columns(widths), layers, strict=True)):
            chart = comparison_charts.panel(
                cells,
                name,
                kind,
                end=end,
                unit=unit,
                layers=max(layers.values()),
                depth=depth,
                labels="narrow" if column else "always",
                theme=theme(),
                title=name,
            )
            show_chart(chart, key=f"compare:averages:{kind}:{name}", place=place)
    as_table("compare:averages:table", *panels_of(cells))
    caption = (
        f"A cell is the mean change in {unit} over tweets when sites of one layer and one token "
        f"role are restored to their clean activations, {TOWARDS[first.about['towards']]}. Starred "
        "roles are corrupted; faded cells are not significant over the tweets (FDR 5%)."
    )
    st.caption(plain(caption))
    figure = partial(
        comparison_charts.panels,
        cells,
        layers,
        unit=unit,
        depth=depth,
        title="Average effects",
        caption=caption,
    )
    options = Options(normalised=bool(first.about["normalised"]))
    recipes = [partial(SweepRecipe.of, store, options) for store in stores[: len(averages)]]
    share = sharing.Share(
        "compare averages",
        {"sweep": [store.id for store in stores[: len(averages)]]},
        ({"share": "1"} if options.normalised else {})
        | ({"depth": depth} if depth != "layer" else {}),
        lambda: code.of_averages([make() for make in recipes], list(averages), Beside(depth=depth)),
    )
    downloads(
        "compare averages",
        charts={"Averages": figure},
        tables={"Sweeps": lambda: totals, "Cells": lambda: cells},
        caption=caption,
        recipe=lambda: SweepRecipes(tuple(make() for make in recipes)),
        share=share,
    )
    sharing.write({**(share.question or {}), **share.shown})


def totals_of(averages: dict[str, Average]) -> pd.DataFrame:
    """The average total effect of each sweep, with its interval over tweets."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "sweep": name,
                "tweets": average.n,
                "total_effect": average.total.mean,
                "lower": average.total.lower,
                "upper": average.total.upper,
            }
            for name, average in averages.items()
        ]
    )
