"""The Average page: the trace of many tweets, how sure it is, and the sweeps that make it."""

import streamlit as st

from core import session
from core.session import average_views, averaging, labelled, probing, sweeping
from core.store import Store


def main() -> None:
    """Begin and watch sweeps on top, what they found below."""
    session.heading(
        "Average",
        "One tweet is an example. What holds over many, how surely, and which tweets differ?",
    )
    begin(first=not sweeping.stores() and not averaging.FILE.is_file())
    stores = sweeping.stores()
    sweeping.sweep_list(stores)
    if refused := sweeping.refused():
        st.error(session.plain(refused), icon=":material/error:")
    st.space("small")
    show(stores)


def begin(*, first: bool) -> None:
    """The form of a new sweep."""
    with st.expander("New sweep", icon=":material/add:", expanded=first, key="average:new"):
        left, right = st.columns([5, 3], gap="medium")
        with right:
            model = session.model_choice()
            probe = probing.probe_choice(model)
        with left:
            data = labelled.data_choice()
        asked, mistake = None, ""
        try:
            asked = sweeping.sweep_choice()
        except ValueError as error:
            mistake = str(error)
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            if (
                st.button("Start sweep", type="primary", key="sweep:start", disabled=not data)
                and data
                and asked
            ):
                session.start("sweep", sweeping.beginning(model, probe, data, asked))
            if data and asked:
                st.caption(session.plain(sweeping.estimate(model, data, asked)), width="stretch")
        if mistake:
            st.error(session.plain(mistake), icon=":material/error:")
        follow_beginning()


def follow_beginning() -> None:
    """How far the beginning of a sweep is; once it is begun, it is shown."""
    job = session.job("sweep")
    if job is None:
        return
    progress = job.progress()
    if progress.active:
        left, right = st.columns([5, 1], vertical_alignment="center")
        with left:
            session.follow(job, progress)
        if right.button("Stop", key="sweep:stop"):
            job.stop()
    elif progress.error:
        st.error(session.plain(progress.error), icon=":material/error:")
    elif progress.partial and progress.partial not in sweeping.begun_here():
        sweeping.begun_here().add(progress.partial)
        st.toast("The sweep has begun; it goes on without this page.", icon=":material/check:")


def show(stores: list[Store]) -> None:
    """What a sweep found, or what will be here."""
    left, right = st.columns([5, 2], gap="medium", vertical_alignment="bottom")
    with left:
        shown = averaging.shown_choice(stores)
    if shown is None:
        show_invitation()
        return
    store = next((store for store in stores if store.id == shown), None)
    options = None
    if store is None:
        found = averaging.example()
    else:
        with right:
            options = averaging.options_choice()
        found = averaging.study_of(store, options)
    if found is None:
        return
    averaging.finding(found, store)
    st.space("small")
    averaging.heatmaps(found)
    average_views.view(found, store, stores, options)


def show_invitation() -> None:
    """What stands where the average will be."""
    with st.container(border=True):
        said, drawn = st.columns([2, 5], gap="large", vertical_alignment="center")
        with said:
            st.markdown("**What you will see**")
            st.markdown(
                "The mean effect of every kind of site, by layer and by the role of the token, "
                "with intervals over tweets; whether the early and the late site are there; and "
                "the tweets that are unlike the average."
            )
            st.markdown(":gray[Start a sweep above. It goes on when you leave this page.]")
        drawn.image(session.drawing("sketch"), width="stretch")


main()
