"""The Compare page: models side by side on one tweet, each with its untrained twin if wanted."""

import streamlit as st

from core import dashboard
from core.charts import comparison as comparison_charts
from core.charts import figures
from core.dashboard import (
    comparing,
    comparing_averages,
    models_on_disk,
    open_settings,
    sharing,
)
from core.dashboard.charts import show_chart
from core.dashboard.door import Guarded


def main() -> None:
    """Ask on top, answer below, and the models on this disk at the end."""
    dashboard.heading("Compare", "Do models carry the sentiment of a tweet at the same sites?")
    linked = comparing.follow_link()
    open_settings.take_fetched("compare")
    what = st.segmented_control(
        "Compare",
        ["tweet", "averages"],
        default="tweet",
        format_func={"tweet": "One tweet", "averages": "Stored averages"}.__getitem__,
        required=True,
        key="compare:what",
        label_visibility="collapsed",
    )
    if what == "averages":
        sharing.say_refused()
        depth, share = ask_view()
        comparing_averages.page(depth, share)
    else:
        compare_tweet(linked)
    with st.expander("Models on this disk", key="compare:manager"):
        models_on_disk.manager()


def compare_tweet(linked: Guarded | None) -> None:
    """One tweet traced on all models.

    Args:
        linked: the comparison that the address asks for.
    """
    text = dashboard.tweet_choice("compare:example", height=68, help="The tweet of the Trace page.")
    entries = comparing.entries_choice()
    reads, settings = comparing.settings_choice([entry.name for entry in entries])
    controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        enough = len(entries) >= 2
        if st.button("Compare", type="primary", key="compare:run", disabled=not enough):
            dashboard.start("compare", comparing.comparing(entries, reads, text, settings))
        if linked is not None:
            open_settings.begin("compare", linked)
        open_settings.opener("compare")
        job = dashboard.job("compare")
        shown = job.progress() if job else None
        stop = st.button("Stop", key="compare:stop", disabled=not (shown and shown.active))
        if job and stop:
            job.stop()
        if not enough:
            st.caption("Choose a second model, or the untrained twin of the first.")
    sharing.say_refused()
    if job is not None and shown is not None:
        with controls.container(width=420):
            dashboard.follow(job, shown)
        if shown.error:
            st.error(dashboard.plain(shown.error), icon=":material/error:")
    if shown is not None and shown.partial:
        show_comparison(shown.partial)
    else:
        show_invitation()


def ask_view() -> tuple[comparison_charts.Depth, bool]:
    """How depth is drawn, and whether effects are shares of the total effect."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        depth: comparison_charts.Depth = st.segmented_control(
            "Depth",
            ["layer", "relative"],
            default="layer",
            format_func={"layer": "Layers", "relative": "Relative"}.__getitem__,
            required=True,
            key="compare:depth",
            help="Relative depth puts models of any number of layers on one axis.",
        )
        share = st.segmented_control(
            "Effects in",
            [False, True],
            default=False,
            format_func={False: "Proxy units", True: "% of total"}.__getitem__,
            required=True,
            key="compare:share",
            help="Percent of each model's own total effect makes different probes comparable.",
        )
    return depth, bool(share)


def show_comparison(compared: tuple[comparing.Compared, ...]) -> None:
    """Tables, panels on one colour scale, sites and differences."""
    for one in compared:
        if one.says:
            said = f"{one.entry.label} is left out: {one.says}"
            st.warning(dashboard.plain(said), icon=":material/warning:")
    if not any(one.result for one in compared):
        return
    depth, share = ask_view()
    view = comparing.view_of(compared, share=share)
    assert view is not None
    comparing.save(view, depth)
    st.subheader("Models", anchor=False)
    comparing.summary_table(view)
    st.subheader("Traces", anchor=False)
    end = comparison_charts.shared_end(view.cells, view.nothing)
    with st.container(width=420, gap="xsmall"):
        st.caption(f"Change in {dashboard.plain(view.unit)}; one scale for all panels")
        show_chart(figures.scale_bar(end, view.unit, theme=dashboard.theme()), key="compare:scale")
    comparing.heatmaps(view, depth)
    st.caption(dashboard.plain(comparing.caption_of(view)))
    st.subheader("Sites found", anchor=False)
    comparing.sites_table(view)
    st.subheader("Difference", anchor=False)
    comparing.difference_map(view, depth)


def show_invitation() -> None:
    """What stands where the comparison will be."""
    st.space("small")
    with st.container(border=True):
        st.markdown("**What you will see**")
        st.markdown(
            "The tweet traced on every model: heatmaps on one colour scale, tokens aligned by "
            "word; each model's total effect, and the sites that restore it; for models of one "
            "shape also the difference, with its interval."
        )
        st.markdown(":gray[Models are traced one after the other and shown as they finish.]")


main()
