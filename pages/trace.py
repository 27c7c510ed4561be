"""The Trace page: one tweet, and where a model keeps its sentiment."""

import pandas as pd
import streamlit as st

from core import figures, session
from core.export import MIME, figure_bytes
from core.prompts import build_prompt
from core.trace import PROXIES, TraceResult, TraceSettings


def main() -> None:
    session.heading("Trace", "Where does a language model keep the sentiment of this tweet?")
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = session.model_choice()
        features = session.probe_choice(model)
    with left:
        text = ask_tweet()
        settings = ask_settings(model, text)
        buttons, status = st.columns([2, 5], vertical_alignment="center")
    with buttons.container(horizontal=True, gap="small"):
        if st.button("Run trace", type="primary", key="run"):
            session.start("trace", session.tracing(model, features, text, settings))
        job = session.job("trace")
        shown = job.progress() if job else None
        stop = st.button("Stop", key="stop", disabled=not (shown and shown.active))
        if job and stop:
            job.stop()
    if job is None or shown is None:
        show_invitation()
        return
    with status:
        session.follow(job, shown)
    if shown.error:
        st.error(session.plain(shown.error), icon=":material/error:")
    if shown.partial is not None:
        show_result(shown.partial)


def ask_tweet() -> str:
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


def ask_settings(model: str, text: str) -> TraceSettings:
    keep = {"persist_state": "session"}
    with st.expander("Settings", key="settings"):
        first, second = st.columns(2)
        whole = first.selectbox(
            "Corrupt",
            ["The whole tweet", "One word"],
            key="corrupt",
            help="Noise is added to these words, and the trace looks for what brings them back.",
            **keep,
        )
        corrupt = "tweet"
        if whole == "One word":
            with second:
                corrupt = ask_word(model, text)
        first, second = st.columns(2)
        scale = first.slider(
            "Noise, in standard deviations",
            0.5,
            6.0,
            3.0,
            0.5,
            key="noise",
            help="Of the embeddings of the data set's tokens. The paper uses 3.",
            **keep,
        )
        samples = second.slider(
            "Noise samples",
            1,
            50,
            10,
            key="samples",
            help="More samples give a sharper picture and take longer; stop when it is clear.",
            **keep,
        )
        window = first.number_input(
            "Window, in layers",
            1,
            48,
            None,
            key="window",
            placeholder="scaled with the model's depth",
            help="MLP and attention are restored over this many layers around the one named. "
            "The paper uses 10 of 48.",
            **keep,
        )
        seed = second.number_input(
            "Seed", 0, 2**31 - 1, 0, key="seed", help="The same seed draws the same noise.", **keep
        )
    return TraceSettings(
        samples=samples, noise_scale=scale, seed=seed, window=window, corrupt=corrupt
    )


def ask_word(model: str, text: str) -> str:
    try:
        with st.spinner("Reading the tweet as the model does"):
            words = build_prompt(session.model(model), text).words
    except ValueError as mistake:
        st.caption(session.plain(str(mistake)))
        return "tweet"
    choices = [index for index, word in enumerate(words) if word.in_tweet and word.tokens]
    chosen = st.selectbox(
        "Word", choices, format_func=lambda index: words[index].text, key=f"word:{text}"
    )
    return f"word:{chosen}"


def show_result(result: TraceResult) -> None:
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
    show_heatmaps(result, frame, end)
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


def show_heatmaps(result: TraceResult, frame: pd.DataFrame, end: float) -> None:
    kinds = result.settings.kinds
    # The leftmost panel has the token labels beside it, and room for them: where the page is
    # 1440 pixels wide, a panel is about 375.
    widths = [1 + figures.label_width(frame) / 375] + [1.0] * (len(kinds) - 1)
    for i, (kind, column) in enumerate(zip(kinds, st.columns(widths), strict=True)):
        chart = figures.heatmap(
            frame,
            kind,
            end=end,
            unit=figures.unit_of(result),
            labels="narrow" if i else "always",
            theme=session.theme(),
            title=figures.KINDS[kind],
        )
        column.altair_chart(chart, key=f"heatmap:{kind}")


def show_invitation() -> None:
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
        drawn.html((session.ASSETS / "sketch.svg").read_text(encoding="utf-8"))


main()
