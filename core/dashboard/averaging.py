"""Which average is shown, and what does it say?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from ..charts import average as drawing
from ..charts.figures import scale_bar
from ..distribution import ASSETS, COMMAND
from ..errors import UserError
from ..exporting import code
from ..exporting.sweep_recipe import SweepRecipe
from ..prompts import token_roles
from ..prompts.token_roles import Scheme
from ..server.job_queue import Job, Step
from ..sweeps import average_findings as words
from ..sweeps.average import INTERVALS, TOWARDS, Towards, default_proxy
from ..sweeps.store import Store
from ..sweeps.study import Options, Study, load, study
from ..tracing.findings import signed
from ..tracing.result import PROXIES
from ..tracing.view import KINDS
from . import follow, job, plain, sharing, start, theme
from .average_parts import (
    CLAIM_BADGES,
    interval_line,
    kind_panels,
    save_below,
    short_unit,
    totals_frame,
)
from .charts import show_chart
from .door import NO_MODEL, Guarded
from .sharing import one_of
from .sweeping import shown_count, title_of, units_of

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE = "example"
FILE = ASSETS / "average-smollm2.json"
SCHEMES: dict[Scheme, str] = {"tweet": "Parts of a tweet", "paper": "The six of Meng et al."}
VIEWS = {
    "layers": "By layer",
    "peaks": "Single tweets",
    "label": "Positive and negative",
    "length": "Short and long",
    "sweeps": "Two sweeps",
    "corruptions": "Noise and pairs",
    "punctuation": "Punctuation",
    "precision": "Precision",
}
FIRST_ROLES: dict[Scheme, tuple[str, ...]] = {
    "tweet": ("sentiment_last", "middle", "punctuation", "tweet_last", "last"),
    "paper": ("subject_first", "subject_last", "subsequent", "last"),
}
"""Roles that are drawn by layer at first."""


@st.cache_resource(show_spinner=False, max_entries=2)
def _example(stamp: int) -> Study:
    return load(FILE)


def example() -> Study | None:
    """The study that comes with SentiTrace, if it is there and can be read."""
    try:
        return _example(FILE.stat().st_mtime_ns) if FILE.is_file() else None
    except UserError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


def _flag(written: str) -> bool:
    return written == "1"


SHOWN: dict[str, tuple[str, Any, Callable[[str], Any]]] = {
    "proxy": ("average:proxy:linked", None, one_of(PROXIES)),
    "roles": ("average:roles", "tweet", one_of(SCHEMES)),
    "towards": ("average:towards", "prediction", one_of(("prediction", "label"))),
    "interval": ("average:interval", "bootstrap", one_of(INTERVALS)),
    "normalised": ("average:normalised", False, _flag),
    "view": ("average:view", "layers", one_of(VIEWS)),
    "kind": ("average:peaks:kind", None, one_of(KINDS)),
    "other": ("average:other", None, lambda written: written),
}
"""Parameters of the address: the widgets they are of, their defaults, how they are read."""

OF_ROLES = {
    "lines": "average:lines",
    "label": "average:label:role",
    "length": "average:length:role",
}
"""The same of widgets that choose among the roles of a scheme, whose name ends theirs."""


def follow_link() -> None:
    """At a visitor's first look, choose what the address says; what it cannot mean is left out."""
    if "average:linked" in st.session_state:
        return
    st.session_state["average:linked"] = True
    link = st.query_params.to_dict()
    for name, (key, default, read) in SHOWN.items():
        if name in link:
            with suppress(ValueError):
                if (value := read(link[name])) != default:
                    st.session_state[key] = value
    if "against" in link and "sweep" in link:
        st.session_state[f"average:corruptions:other:{link['sweep']}"] = link["against"]
    scheme = st.session_state.get("average:roles", "tweet")
    for name, key in OF_ROLES.items():
        roles = [
            role for role in st.query_params.get_all(name) if role in token_roles.SCHEMES[scheme]
        ]
        if roles:
            st.session_state[f"{key}:{scheme}"] = roles if name == "lines" else roles[0]


def share_of(found: Study, store: Store, options: Options) -> sharing.Share:
    """What a link to an average, and its code, are made from."""
    shown: dict[str, str | list[str]] = {}
    for name, (key, default, _) in SHOWN.items():
        value = st.session_state.get(key)
        if value not in (None, default):
            shown[name] = "1" if value is True else str(value)
    if options.proxy not in (None, default_proxy(store.task.settings.corruption)):
        shown["proxy"] = str(options.proxy)
    firsts = {role for role in FIRST_ROLES[options.roles] if role in found.average.titles()}
    view = st.session_state.get("average:view", "layers")
    against = st.session_state.get(f"average:corruptions:other:{store.id}")
    if view == "corruptions" and against:
        shown["against"] = str(against)
    for name, key in OF_ROLES.items():
        value = st.session_state.get(f"{key}:{options.roles}")
        if name == "lines" and view == "layers" and value and set(value) != firsts:
            shown[name] = list(value)
        elif name == view and value:
            shown[name] = str(value)
    recipe = partial(SweepRecipe.of, store, options)
    return sharing.Share("average", {"sweep": store.id}, shown, lambda: code.of_average(recipe()))


def shown_choice(stores: list[Store]) -> str | None:
    """Which sweep's average is shown, or the example; None where there is nothing to show.

    The address can name a sweep: `?sweep=0a1b2c`.
    """
    names = {store.id: title_of(store) for store in stores if store.finished()}
    if FILE.is_file():
        names[EXAMPLE] = "Example: a sweep that comes with SentiTrace"
    if not names:
        return None
    linked = st.query_params.get("sweep", "")
    if linked and "average:shown" not in st.session_state:
        found = next((id for id in names if id.startswith(linked)), None)
        if found is not None:
            st.session_state["average:shown"] = found
        else:
            sharing.refuse(
                f"The sweep {linked!r} of this link is not on this disk; ask for the settings file "
                f"and run it by `{COMMAND} run`."
            )
    if st.session_state.get("average:shown") not in names:
        st.session_state.pop("average:shown", None)
    chosen = st.selectbox(
        "Average of",
        list(names),
        format_func=names.__getitem__,
        key="average:shown",
        persist_state="session",
        help="Every sweep on this disk with a traced tweet.",
    )
    if chosen == EXAMPLE:
        sharing.write({})
    return chosen


def options_choice(store: Store) -> Options:
    """How tweets are averaged; read from the same traces, nothing is traced again."""
    default = default_proxy(store.task.settings.corruption)
    others = [proxy for proxy in PROXIES if proxy != default]
    key = f"average:proxy:{units_of(store.task.settings)}"
    if linked := st.session_state.pop("average:proxy:linked", ""):
        st.session_state[key] = linked
    with st.popover("Averaging options", icon=":material/tune:", key="average:options"):
        proxy = st.selectbox(
            "Effect measured in",
            [default, *others],
            format_func=PROXIES.__getitem__,
            key=key,
            persist_state="session",
            help="The number whose change is the effect; of pairs the logit difference by default "
            "(Zhang & Nanda 2024).",
        )
        roles = st.selectbox(
            "Token roles",
            list(SCHEMES),
            format_func=SCHEMES.__getitem__,
            key="average:roles",
            persist_state="session",
            help="How tokens of different tweets are grouped.",
        )
        towards = st.selectbox(
            "Sign convention",
            ["prediction", "label"],
            format_func=TOWARDS.__getitem__,
            key="average:towards",
            persist_state="session",
            help="So that positive and negative tweets do not cancel.",
        )
        interval = st.selectbox(
            "95% intervals",
            list(INTERVALS),
            format_func=INTERVALS.__getitem__,
            key="average:interval",
            persist_state="session",
            help="Both are over tweets, which vary more than noise samples.",
        )
        normalised = st.toggle(
            "As a share of the total effect",
            key="average:normalised",
            persist_state="session",
            help="A ratio of means over the same tweets.",
        )
    return Options(
        roles=roles,
        interval=interval,
        normalised=normalised,
        proxy=proxy,
        towards=cast("Towards", towards),
    )


def averaging(store: Store, options: Options) -> Guarded:
    """The work of reading a sweep's store and averaging it from every side."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, "Averaging the traced tweets")
        yield 1.0, study(store, options, progress=job.report)

    return Guarded(NO_MODEL, work)


def study_of(store: Store, options: Options) -> Study | None:
    """The study of a sweep as far as it is; the last one while a newer one is made."""
    key = (store.id, options, shown_count(store.status()))
    if st.session_state.get("average:key") != key:
        st.session_state["average:key"] = key
        start("average", averaging(store, options))
    current = job("average")
    assert current is not None
    progress = current.progress()
    if progress.active:
        follow(current, progress)
    if progress.error:
        st.error(plain(progress.error), icon=":material/error:")
    studies: dict[str, Study] = st.session_state.setdefault("average:studies", {})
    if progress.partial is not None:
        studies[store.id] = progress.partial
        for id in list(studies)[:-2]:
            del studies[id]
    return studies.get(store.id)


def finding(found: Study, store: Store | None) -> None:
    """The total effect, the sites in words, and the expected picture held against the numbers."""
    average = found.average
    said = words.finding(average)
    st.caption(plain(_origin_line(found, store)))
    total, early, late = st.columns([2, 3, 3], gap="small")
    with total, st.container(border=True, height="stretch"):
        st.metric(
            f"Average total effect, {short_unit(average)}",
            signed(average.total.mean),
            help="How far the corruption moves the proxy, high minus low; the mean over tweets.",
        )
        st.caption(plain(interval_line(average)))
    if not said.early and not said.late and not said.claims:
        with early:
            st.info(plain(said.sentence), icon=":material/info:")
        return
    for place, name, peaks, where in (
        (early, "Early site", said.early, "in the tweet, in the first two thirds of the layers"),
        (late, "Late site", said.late, "after the tweet"),
    ):
        with place, st.container(border=True, height="stretch", gap="xsmall"):
            st.markdown(f"**{name}** :gray[{where}]")
            for peak in peaks:
                st.markdown(f":gray[{KINDS[peak.kind]}] {plain(peak.where)}")
            if not peaks:
                st.markdown("None: no cell carries a tenth of the total effect.")
    if said.claims:
        st.space("small")
        st.markdown("**The expected sites (Meng et al. 2022), claim by claim**")
        halves = st.columns(2, gap="medium")
        for i, claim in enumerate(said.claims):
            with halves[i % 2]:
                show_claim(claim)


def show_claim(claim: words.Claim) -> None:
    """A verdict, what it is about, and the numbers."""
    label, colour, icon = CLAIM_BADGES[claim.verdict]
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        with st.container(width=92):
            st.badge(label, icon=icon, color=cast("Any", colour))
        with st.container(gap=None):
            st.markdown(plain(claim.text))
            st.caption(plain(claim.why))


def heatmaps(found: Study, store: Store | None, options: Options | None) -> None:
    """A panel for each kind of site, on one scale, with what can be saved of them.

    Args:
        store, options: None of the example, which no code of a person's makes again.
    """
    average = found.average
    frame, titles, unit = words.cells(average), average.titles(), drawing.unit_of(average)
    caption = drawing.heatmap_caption(average)
    head, scale = st.columns([4, 3], gap="medium", vertical_alignment="bottom")
    head.subheader("Average indirect effect by role and layer", anchor=False)
    end = drawing.effect_end(frame)
    with scale:
        st.caption(f"change in {plain(unit)}")
        show_chart(scale_bar(end, unit, theme=theme()), key="average:scale")
    kind_panels(frame, titles, end, unit, "average:heatmap")
    title = f"{average.about['model']}, {average.counted}"
    save_below(
        "average",
        charts={
            "Roles by layers": partial(
                drawing.heatmap_figure,
                frame,
                titles=titles,
                unit=unit,
                title=title,
                caption=caption,
            )
        },
        tables={
            "Average effects": lambda: frame,
            "Total effects": partial(totals_frame, found),
            "Peaks of tweets": lambda: average.peaks,
            "Settings": partial(_settings_frame, found),
        },
        caption=caption,
        recipe=None if store is None else partial(SweepRecipe.of, store, options),
        share=None if store is None or options is None else share_of(found, store, options),
    )


def _origin_line(found: Study, store: Store | None) -> str:
    """Which model, data and selection the numbers are of."""
    about, origin = found.average.about, found.origin
    selection = origin.get("selection") or {}
    drawn = "predicted correctly, " if selection.get("which") == "correct" else ""
    data = origin.get("data") or "texts without a name"
    said = (
        f"{about['model']} on {found.average.counted} of {data}, {drawn}drawn with seed "
        f"{selection.get('seed', 0)}."
    )
    if store is None:
        made = str(origin.get("created", ""))[:10]
        said = (
            "This is the sweep that comes with SentiTrace, kept as aggregated numbers without "
            f"tweets: {said} Made on {made}."
            if made
            else "This is the sweep that comes with SentiTrace, kept as aggregated numbers without "
            f"tweets: {said}"
        )
    return said


def _settings_frame(found: Study) -> pd.DataFrame:
    """All that determines the numbers, as a table."""
    import json

    import pandas as pd

    held = {**found.average.about, **{f"origin: {key}": v for key, v in found.origin.items()}}
    return pd.DataFrame(
        {"setting": list(held), "value": [json.dumps(value) for value in held.values()]}
    )
