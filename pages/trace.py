"""The Trace page: one tweet, and where a model keeps its sentiment."""

import streamlit as st

from core import figures, session
from core.export import MIME, figure_bytes
from core.results import PROXIES, TraceResult
from core.session import probing, tracing


def main() -> None:
    """Ask on top, answer below."""
    session.heading("Trace", "Where does a language model keep the sentiment of this tweet?")
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = session.model_choice()
        probe = probing.probe_choice(model)
    with left:
        text = ask_tweet()
        settings = tracing.settings_choice(model, text)
        controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        asked = st.button("Run trace", type="primary", key="run")
        if probing.asked_elsewhere() or asked:
            session.start("trace", tracing.tracing(model, probe, text, settings))
        job = session.job("trace")
        shown = job.progress() if job else None
        stop = st.button("Stop", key="stop", disabled=not (shown and shown.active))
        if job and stop:
            job.stop()
    if job is None or shown is None:
        show_invitation()
        return
    with controls.container(width=420):
        session.follow(job, shown)
    if shown.error:
        st.error(session.plain(shown.error), icon=":material/error:")
    if shown.partial is not None:
        show_result(shown.partial)
    elif not shown.active:
        show_invitation()


def ask_tweet() -> str:
    """The tweet, typed or taken from the examples."""

    def take_example() -> None:
        if st.session_state.example:
            st.session_state.tweet = session.example_tweets()[st.session_state.example]

    text = st.text_area(
        "Tweet",
        key="tweet",
        height=92,
        placeholder="Type or paste a tweet",
        persist_state="session",
    )
    st.pills(
        "Or take an example",
        list(session.example_tweets()),
        key="example",
        on_change=take_example,
        label_visibility="collapsed",
    )
    return text


def show_result(result: TraceResult) -> None:
    """The sentence on top, the heatmaps, and what a cell in them is."""
    st.space("small")
    said, measured = st.columns([5, 3], gap="medium", vertical_alignment="bottom")
    with measured:
        proxy = st.selectbox(
            "Effect measured in",
            list(PROXIES),
            format_func=lambda proxy: PROXIES[proxy],
            key="proxy",
            persist_state="session",
            help="Read from the same run; nothing is computed again.",
        )
    result = result.under(proxy)
    frame, unit, theme = result.frame(), figures.unit_of(result), session.theme()
    end = figures.scale_end(frame)
    with measured:
        st.altair_chart(figures.scale_bar(end, unit, theme=theme))
    with said:
        st.subheader(figures.headline(result), anchor=False)
        st.text(f"\u201c{result.prompt.tweet}\u201d")
        st.markdown(figures.effect_line(result))
        if result.distinguishable is False:
            st.markdown(
                ":orange[This effect cannot be told from zero, so the cells below say nothing.]"
            )
    tracing.heatmaps(result, frame, end)
    st.caption(session.plain(figures.caption_of(result)))
    with st.container(horizontal=True, gap="small"):
        for form in ("png", "svg"):
            st.download_button(
                f"Save as {form.upper()}",
                lambda form=form: figure_bytes(figures.trace_heatmaps(result), form),
                file_name=f"trace.{form}",
                mime=MIME[form],
                key=f"save:{form}",
                on_click="ignore",
            )


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
            st.markdown(":gray[Take an example above, or type a tweet, and press Run trace.]")
        drawn.image(session.drawing("sketch"), width="stretch")


main()
