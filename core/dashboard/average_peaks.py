"""Where do single tweets peak? The bars, the tweets of a bar, and the way to their traces."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from ..charts import average as drawing
from ..data.datasets import BUILT_IN, dataset_file
from ..data.pairs import PAIRED
from ..models.registry import REGISTRY
from ..probes.library import key_of
from ..probes.probe import Probe
from ..sweeps.store import Store
from ..sweeps.study import Study
from ..tracing.view import KINDS
from . import plain, switch, theme, tweets
from .average_parts import save_below
from .charts import show_chart
from .probing import of_tweets

if TYPE_CHECKING:
    import pandas as pd

LISTED = 100  # tweets of a bar


def single_tweets(found: Study, store: Store | None) -> None:
    """Bars of where single tweets peak, and the tweets of the bar that is clicked."""
    average, titles = found.average, found.average.titles()
    st.markdown(
        "Averages hide how tweets differ: here each tweet counts once, at its largest effect."
    )
    kinds = average.about["kinds"]
    kind = switch(
        "Kind of site",
        {kind: KINDS[kind] for kind in kinds},
        "average:peaks:kind",
        default="mlp" if "mlp" in kinds else None,
    )
    peaks = average.peaks[average.peaks["kind"].astype(str) == kind]
    if peaks.empty:
        st.info("Every cell of this kind is fixed by construction.", icon=":material/info:")
        return
    chosen: dict[str, Any] = st.session_state.setdefault("average:bar", {})
    if chosen.get("kind") != kind:
        chosen.clear()
        chosen["kind"] = kind
    role, layer = chosen.get("role"), chosen.get("layer")
    left, right = st.columns([3, 4], gap="large")
    drawn = chosen.get("clicks", 0)
    with left:
        show_chart(
            drawing.peak_roles(peaks, titles=titles, theme=theme(), select="bar", chosen=role),
            key=f"average:bar:role:{kind}:{drawn}",
            on_select=partial(_take_bar, "role", f"average:bar:role:{kind}:{drawn}"),
            selection_mode="bar",
        )
    here = peaks if role is None else peaks[peaks["role"].astype(str) == role]
    layers = sorted(average.frame["layer"].unique().tolist())
    with right:
        show_chart(
            drawing.peak_layers(
                here,
                layers,
                theme=theme(),
                select="bar",
                chosen=layer,
                of="" if role is None else titles.get(role, ""),
                height=drawing.BAR * len(titles) - 12,
            ),
            key=f"average:bar:layer:{kind}:{drawn}",
            on_select=partial(_take_bar, "layer", f"average:bar:layer:{kind}:{drawn}"),
            selection_mode="bar",
        )
    if layer is not None:
        here = here[here["layer"] == layer]
    units = "tweets" if average.about.get("pairs") is None else "pairs"
    place = [titles[role]] if role in titles else []
    place += [] if layer is None else [f"layer {layer}"]
    caption = (
        f"How many of {len(peaks):,} {units} have their largest {KINDS[kind or kinds[0]]} effect "
        "at each role and layer; cells fixed by construction are left out."
    )
    save_below(
        "peaks",
        charts={
            "Peaks by role": partial(drawing.peak_roles, peaks, titles=titles),
            "Peaks by layer": partial(drawing.peak_layers, here, layers),
        },
        tables={"Peaks": lambda: average.peaks},
        caption=caption,
    )
    if not place:
        st.info("Click a bar to list its tweets.", icon=":material/ads_click:")
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"**{len(here):,} {units}: {plain(', '.join(place))}**", width="stretch")
        st.button("Show all", key="average:bar:clear", on_click=_forget_bar)
    _tweet_table(found, store, here)


def _take_bar(field: str, key: str) -> None:
    """Choose the clicked bar, or let it go when it is clicked again."""
    event = st.session_state.get(key)
    found = (event or {}).get("selection", {}).get("bar") or []
    chosen = st.session_state["average:bar"]
    value = found[0].get(field) if found else None
    if value is not None and field == "layer":
        value = int(value)
    chosen[field] = None if chosen.get(field) == value else value
    chosen["clicks"] = chosen.get("clicks", 0) + 1  # a new chart, which holds no selection
    if field == "role":
        chosen["layer"] = None


def _forget_bar() -> None:
    chosen = st.session_state["average:bar"]
    chosen["role"] = chosen["layer"] = None


def _tweet_table(found: Study, store: Store | None, peaks: pd.DataFrame) -> None:
    texts, others = _texts(found, store), _counterfactuals(store)
    if not texts:
        st.caption(
            "This average carries no texts, and its data set is not on this disk; `make setup` "
            "fetches it."
        )
        return
    shown = peaks.assign(size=peaks["effect"].abs()).nlargest(LISTED, "size")
    name, probe, settings = _trace_settings(found, store)
    table = shown.assign(
        number=shown["tweet"],
        tweet=[texts.get(int(row), "") for row in shown["row"]],
        share=100 * shown["effect"] / shown["total_effect"].where(shown["total_effect"] != 0),
    )
    table = table[table["tweet"] != ""]
    asked = [
        settings | ({"how": "counterfactual", "other": others[number]} if others else {})
        for number in table["number"]
    ]
    table["trace"] = [
        link_to_trace(tweet, name, probe, how) if name in REGISTRY else None
        for tweet, how in zip(table["tweet"], asked, strict=True)
    ]
    table["other"] = [others.get(number, "") for number in table["number"]]
    columns = ["tweet", *(["other"] if others else []), "layer", "effect", "share", "trace"]
    st.dataframe(
        table[columns],
        hide_index=True,
        height=min(38 + 35 * len(table), 420),
        column_config={
            "tweet": st.column_config.TextColumn("Tweet", width="large"),
            "other": st.column_config.TextColumn("Counterfactual", width="large"),
            "layer": st.column_config.NumberColumn("Layer", width="small"),
            "effect": st.column_config.NumberColumn("Effect", format="%+.2f", width="small"),
            "share": st.column_config.NumberColumn(
                "Share of total", format="%.0f%%", width="small"
            ),
            "trace": st.column_config.LinkColumn("Trace", display_text="Open trace", width="small"),
        },
    )
    if len(peaks) > LISTED:
        st.caption(f"The {LISTED} largest of {len(peaks):,}; all are in the saved table.")


def link_to_trace(tweet: str, name: str, probe: str, settings: dict[str, str]) -> str:
    """The address at which the Trace page shows a tweet's trace."""
    return "./?" + urlencode({"tweet": tweet, "model": name, "probe": probe, **settings})


def _trace_settings(found: Study, store: Store | None) -> tuple[str, str, dict[str, str]]:
    """Model, probe and settings as the Trace page's address names them."""
    about = found.average.about
    name = found.origin.get("model") or about["model"]
    probe = _probe_name(store.probe) if store is not None else about["probe"]
    settings = {}
    if about["noise_scale"] != 3:
        settings["noise"] = f"{about['noise_scale']:g}"
    if about["seed"]:
        settings["seed"] = str(about["seed"])
    if about.get("edited", "last") != "last":
        settings["edited"] = about["edited"]
    return str(name), probe, settings


def _probe_name(probe: Probe) -> str:
    return of_tweets(probe) or key_of(probe)


def _counterfactuals(store: Store | None) -> dict[int, str]:
    """Of each pair of a sweep over pairs, by its number; empty of single tweets."""
    if store is None or PAIRED[0] not in store.tweets:
        return {}
    plan = store.tweets
    return dict(zip(plan["number"].tolist(), plan[PAIRED[0]].tolist(), strict=True))


def _texts(found: Study, store: Store | None) -> dict[int, str]:
    """Texts by row of their source, where they are at hand."""
    if store is not None:
        frame = store.tweets
    else:
        data = found.origin.get("data", "")
        if data not in BUILT_IN or not dataset_file(data).is_file():
            return {}
        frame = tweets(data)
    return dict(zip(frame["row"].tolist(), frame["text"].tolist(), strict=True))
