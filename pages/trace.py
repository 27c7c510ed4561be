"""The Trace page: one tweet, and where a model keeps its sentiment."""

from functools import partial

import streamlit as st

from core import dashboard
from core.charts import figures
from core.charts.row_labels import rows_of
from core.dashboard import cell_panel, follow_ups, offers, open_settings, probing, sharing, tracing
from core.dashboard.charts import show_chart
from core.dashboard.saving import downloads
from core.exporting.recipe import Recipe
from core.server.job_queue import State
from core.tracing import example as kept_example
from core.tracing.result import TraceResult
from core.tracing.view import View

VERDICT_WITHIN = 0.8
"""Seconds that a press of Run waits for the verdict, so that it comes in one drawing; what takes
longer is drawn when it is there."""


def main() -> None:
    """Ask on top, answer below."""
    dashboard.heading("Trace", "Where does a language model keep the sentiment of this tweet?")
    linked = tracing.follow_link()
    open_settings.take_fetched()
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = dashboard.model_choice()
        probe = probing.probe_choice(model)
    with left:
        text = dashboard.tweet_choice(
            "example", help="What is traced; it stays on the machine that runs SentiTrace."
        )
        asked = tracing.span_choice(model, text, probing.template_of(probe))
        settings = tracing.settings_choice(asked)
        controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        run = st.button(
            "Run trace",
            type="primary",
            key="run",
            disabled=settings is None,
            help="The verdict comes at once, then a coarse heatmap, then the sites.",
        )
        if run and text.strip() != st.session_state.get("traced"):
            cell_panel.close()  # it was a cell of another tweet
        if (probing.asked_elsewhere() or run) and settings is not None:
            st.session_state.traced = text.strip()
            anyway = st.session_state.pop("insisted", False) or st.session_state.get(
                "anyway", False
            )
            work = tracing.tracing(model, probe, text, settings, anyway=anyway)
            begun = dashboard.start("trace", work)
            begun.wait_for_partial(VERDICT_WITHIN)
        if linked is not None:
            open_settings.begin("trace", linked)
        job = dashboard.job("trace")
        shown = job.progress() if job else None
        stop = st.button(
            "Stop",
            key="stop",
            disabled=not (shown and shown.active),
            help="What is done is kept; Run continues from it.",
        )
        if job and stop:
            job.stop()
        open_settings.opener()
    sharing.say_refused()
    if job is None or shown is None:
        show_example()
        return
    with controls.container(width=420):
        dashboard.follow(job, shown)
    if shown.error:
        st.error(dashboard.plain(shown.error), icon=":material/error:")
    if shown.partial is not None:
        show_result(shown.partial, shown.state)
    else:
        show_invitation()


def show_example() -> None:
    """A first visitor's picture: a trace that was made before."""
    result = st.cache_resource(show_spinner=False)(kept_example.load)()
    st.space("small")
    st.info(
        "**An example, traced before.** Noise corrupts the tweet's embeddings; each cell restores "
        "one clean activation, and the stronger its colour, the more of the sentiment "
        "returns. Type a tweet above and press Run trace for one of your own.",
        icon=":material/visibility:",
    )
    show_result(tracing.Traced(result, None), example=True)


def show_result(traced: tracing.Traced, state: State = "done", *, example: bool = False) -> None:
    """The sentence on top, the heatmaps, the chosen cell, and what else can be asked.

    The verdict is there before the first cell, and says what it says until all samples are done.

    Args:
        state: of the job that makes it.
    """
    result, verdict = traced.result, traced.verdict
    st.space("small")
    said, measured = st.columns([5, 3], gap="medium")
    with measured:
        proxy = tracing.proxy_choice(result.probe)
        result = result.under(proxy)
        judged = result if verdict is None else verdict.under(proxy)
        view = View(result, judged)
        drawn = result.has_cells or traced.estimate is not None
        if drawn:
            view = tracing.view_choice(result, judged, traced.estimate)
    with said, st.container(key="said"):
        st.subheader(view.headline, anchor=False)
        st.text(view.title)
        lines = [dashboard.plain(view.effect_line)]
        if traced.word is not None:
            lines.append(tracing.word_line(traced))
        st.markdown("  \n".join(lines))
        if result.probe.is_contrast and result.probe.read_as:
            st.markdown(tracing.emphasised(result.probe.read_as, warn=True))
        for sentence in view.findings.sentences:
            st.markdown(tracing.emphasised(sentence, warn=view.grey))
    if not drawn:
        if traced.alternatives is not None:
            offers.show(traced, state)
            tracing.write_address(result, None)
        else:
            show_invitation()
        return
    with measured:
        show_chart(figures.scale_bar(view.end, view.unit, theme=dashboard.theme()), key="scale")
    cell = cell_panel.chosen(result) if result.has_cells else None
    tracing.heatmaps(
        view.frame,
        end=view.end,
        rows=rows_of(result, words=view.words),
        grey=view.grey,
        chosen=cell,
        on_click=cell_panel.take_click,
    )
    st.caption(dashboard.plain(view.caption))
    if not result.has_cells:
        tracing.write_address(result, None)
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        downloads(
            "trace",
            charts={"Trace": partial(figures.trace_heatmaps, view, inline=False)},
            tables={"cells": lambda: view.frame},
            caption=view.caption,
            recipe=partial(Recipe.of, result),
            share=None if example else tracing.shared(view, cell),
        )
        if result.is_coarse and state not in ("waiting", "running"):
            st.button(
                "Trace all cells",
                key="all cells",
                on_click=tracing.ask_for_all_cells,
                args=(result,),
                help="Go on from here with the layers that are left out.",
            )
        if cell is None:
            cell_panel.largest_offer(view)
            st.caption("Click a cell to see its samples, its next tokens and its neighbours.")
    if view.grey:
        offer_noise(result)
    if cell is not None:
        cell_panel.panel(view, cell)
    follow_ups.ask_further(result, without="noise" if view.grey else "")
    tracing.write_address(None if example else result, cell)


def offer_noise(result: TraceResult) -> None:
    """Below cells that are grey: which corruption would show more."""
    with st.container(border=True, key="gate"):
        said, asked = st.columns([2, 3], gap="large")
        with said:
            st.markdown("**Why the cells are grey**")
            st.markdown(
                "There is too little sentiment for them to carry, or the corruption leaves it in "
                "place. The total effect at 1 to 5 standard deviations of noise tells which."
            )
        with asked:
            follow_ups.ask("noise", result)


def show_invitation() -> None:
    """What stands where the result will be."""
    st.space("small")
    with st.container(border=True):
        said, drawn = st.columns([2, 5], gap="large", vertical_alignment="center")
        with said:
            st.markdown("**What you will see**")
            st.markdown(
                "Noise corrupts the tweet's embeddings. Each cell restores one clean activation: "
                "the stronger its colour, the more of the sentiment returns."
            )
            st.markdown(":gray[A coarse heatmap appears first.]")
        drawn.image(dashboard.drawing("sketch"), width="stretch")


main()
