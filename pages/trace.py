"""The Trace page: one tweet, and where a model keeps its sentiment."""

from functools import partial

import streamlit as st

from core import example as kept_example
from core import figures, session
from core.findings import findings
from core.recipes import Recipe
from core.results import TraceResult
from core.rows import rows_of
from core.session import asking, cells, probing, recalling, tracing
from core.session.charts import show_chart
from core.session.saving import downloads


def main() -> None:
    """Ask on top, answer below."""
    session.heading("Trace", "Where does a language model keep the sentiment of this tweet?")
    tracing.follow_link()
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = session.model_choice()
        probe = probing.probe_choice(model)
    with left:
        text = session.tweet_choice(
            "example", help="What is traced; it stays on the machine that runs SentiTrace."
        )
        asked = tracing.span_choice(model, text)
        settings = tracing.settings_choice(asked)
        controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        run = st.button(
            "Run trace",
            type="primary",
            key="run",
            disabled=settings is None,
            help="The first picture stands after one noise sample and then sharpens.",
        )
        if run and text.strip() != st.session_state.get("traced"):
            cells.close()  # it was a cell of another tweet
        if (probing.asked_elsewhere() or run) and settings is not None:
            st.session_state.traced = text.strip()
            session.start("trace", tracing.tracing(model, probe, text, settings))
        job = session.job("trace")
        shown = job.progress() if job else None
        stop = st.button(
            "Stop",
            key="stop",
            disabled=not (shown and shown.active),
            help="Keeps the samples that are done; Run goes on from them.",
        )
        if job and stop:
            job.stop()
        recalling.opener()
    if job is None or shown is None:
        show_example()
        return
    with controls.container(width=420):
        session.follow(job, shown)
    if shown.error:
        st.error(session.plain(shown.error), icon=":material/error:")
    if shown.partial is not None:
        show_result(shown.partial)
    else:
        show_invitation()


def show_example() -> None:
    """A first visitor's picture: a trace that was made before."""
    result = st.cache_resource(show_spinner=False)(kept_example.load)()
    st.space("small")
    st.info(
        "**An example, traced before.** Noise hides the tweet from the model; each cell is one "
        "state put back to what it was, and the stronger its colour, the more of the sentiment "
        "returns. Type a tweet above and press Run trace for one of your own.",
        icon=":material/visibility:",
    )
    show_result(result, example=True)


def show_result(result: TraceResult, *, example: bool = False) -> None:
    """The sentence on top, the heatmaps, the chosen cell, and what else can be asked."""
    st.space("small")
    said, measured = st.columns([5, 3], gap="medium")
    with measured:
        result = result.under(tracing.proxy_choice())
        view = tracing.view_choice(result.settings.kinds)
    frame, unit = tracing.frame_of(result, view), tracing.unit_shown(result, view)
    end = figures.scale_end(frame)
    found = findings(result)
    with measured:
        show_chart(figures.scale_bar(end, unit, theme=session.theme()), key="scale")
    with said, st.container(key="said"):
        st.subheader(figures.headline(result), anchor=False)
        st.text(f"\u201c{result.prompt.tweet}\u201d")
        st.markdown(session.plain(figures.effect_line(result)))
        for sentence in found.sentences:
            st.markdown(tracing.emphasised(sentence, warn=found.health.ok is False))
    cell = cells.chosen(result)
    tracing.heatmaps(
        frame,
        end=end,
        rows=rows_of(result, words=view["rows"] == "words"),
        grey=found.health.ok is False,
        chosen=cell,
        on_click=cells.take_click,
    )
    caption = figures.caption_of(
        result, shares=view["unit"] == "share", words=view["rows"] == "words"
    )
    st.caption(session.plain(caption))
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        downloads(
            "trace",
            charts={
                "Trace": partial(
                    figures.trace_heatmaps,
                    frame,
                    unit=unit,
                    title=f"\u201c{result.prompt.tweet}\u201d",
                    caption=caption,
                    grey=found.health.ok is False,
                    inline=False,
                )
            },
            tables={"cells": frame},
            caption=caption,
            recipe=Recipe.of(result),
        )
        if cell is None:
            st.caption("Click a cell to see its samples, its next tokens and its neighbours.")
    if found.health.ok is False:
        offer_noise(result)
    if cell is not None:
        cells.panel(result, frame, cell)
    asking.ask_further(result, without="noise" if found.health.ok is False else "")
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
            asking.ask("noise", result)


def show_invitation() -> None:
    """What stands where the result will be."""
    st.space("small")
    with st.container(border=True):
        said, drawn = st.columns([2, 5], gap="large", vertical_alignment="center")
        with said:
            st.markdown("**What you will see**")
            st.markdown(
                "Noise hides the tweet from the model. Each cell is one state put back to what it "
                "was: the stronger its colour, the more of the sentiment returns."
            )
            st.markdown(":gray[The first picture stands after one noise sample.]")
        drawn.image(session.drawing("sketch"), width="stretch")


main()
