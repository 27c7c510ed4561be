"""The Average page: the trace of many tweets, how sure it is, and the sweeps that make it."""

import streamlit as st

from core import dashboard
from core.dashboard import (
    average_views,
    averaging,
    data_choice,
    pairs_choice,
    probing,
    sharing,
    sweeping,
)
from core.errors import UserError
from core.sweeps.store import Store


def main() -> None:
    """Begin and watch sweeps on top, what they found below."""
    dashboard.heading(
        "Average",
        "Average indirect effects over many tweets, with intervals, and the tweets that differ.",
    )
    averaging.follow_link()
    begin(first=not sweeping.stores() and not averaging.FILE.is_file())
    stores = sweeping.stores()
    sweeping.sweep_list(stores)
    if refused := sweeping.refused():
        st.error(dashboard.plain(refused), icon=":material/error:")
    st.space("small")
    show(stores)


def begin(*, first: bool) -> None:
    """The form of a new sweep."""
    with st.expander("New sweep", icon=":material/add:", expanded=first, key="average:new"):
        left, right = st.columns([5, 3], gap="medium")
        with right:
            model = dashboard.model_choice()
            probe = probing.probe_choice(model)
        with left:
            over = dashboard.switch("Sweep over", sweeping.OVER, "sweep:over")
            if over == "texts":
                data = data_choice.data_choice()
        if over == "pairs":
            below = st.container()
            with left:
                data = pairs_choice.pairs_choice(model, probe, below)
        asked, mistake = None, ""
        try:
            asked = sweeping.sweep_choice(over)
        except UserError as error:
            mistake = str(error)
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            if (
                st.button("Start sweep", type="primary", key="sweep:start", disabled=not data)
                and data
                and asked
            ):
                dashboard.start("sweep", sweeping.beginning(model, probe, data, asked))
            if data and asked:
                st.caption(dashboard.plain(sweeping.estimate(model, data, asked)), width="stretch")
        if mistake:
            st.error(dashboard.plain(mistake), icon=":material/error:")
        follow_beginning()


def follow_beginning() -> None:
    """How far the beginning of a sweep is; once it is begun, it is shown."""
    job = dashboard.job("sweep")
    if job is None:
        return
    progress = job.progress()
    if progress.active:
        left, right = st.columns([5, 1], vertical_alignment="center")
        with left:
            dashboard.follow(job, progress)
        if right.button("Stop", key="sweep:stop"):
            job.stop()
    elif progress.error:
        st.error(dashboard.plain(progress.error), icon=":material/error:")
    elif progress.partial and sweeping.is_news(progress.partial):
        st.toast("Sweep started; it runs on without this page.", icon=":material/check:")


def show(stores: list[Store]) -> None:
    """What a sweep found, or what will be here."""
    left, right = st.columns([5, 2], gap="medium", vertical_alignment="bottom")
    with left:
        shown = averaging.shown_choice(stores)
    sharing.say_refused()
    if shown is None:
        show_invitation()
        return
    store = next((store for store in stores if store.id == shown), None)
    options = None
    if store is None:
        found = averaging.example()
    else:
        with right:
            options = averaging.options_choice(store)
        found = averaging.study_of(store, options)
    if found is None:
        return
    averaging.finding(found, store)
    st.space("small")
    averaging.heatmaps(found, store, options)
    average_views.view(found, store, stores, options)
    if store is not None and options is not None:
        share = averaging.share_of(found, store, options)
        sharing.write({**(share.question or {}), **share.shown})


def show_invitation() -> None:
    """What stands where the average will be."""
    with st.container(border=True):
        said, drawn = st.columns([2, 5], gap="large", vertical_alignment="center")
        with said:
            st.markdown("**What you will see**")
            st.markdown(
                "The average indirect effect of every kind of site, by layer and token role, "
                "with intervals over tweets; whether the early and the late site appear; and the "
                "tweets that differ."
            )
            st.markdown(":gray[Start a sweep above. It runs on when you leave this page.]")
        drawn.image(dashboard.drawing("sketch"), width="stretch")


main()
