"""How is a trace asked for, made in the background, and drawn?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import streamlit as st

from core import figures
from core.jobs import Job, Step, Work
from core.probes import Features, Probe, probe_for
from core.prompts import build_prompt
from core.results import TraceResult, TraceSettings
from core.session import TWEETS, model, plain, theme, tweets
from core.trace import trace_progressively

if TYPE_CHECKING:
    import pandas as pd


def tracing(name: str, reads: Features | Probe, text: str, settings: TraceSettings) -> Work:
    """The work of one trace: load the model, train its probe if there is none, trace."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, "Loading the model")
        loaded = model(name, _progress=lambda done, total: job.report(done / max(total, 1)))
        build_prompt(loaded, text)  # a tweet that cannot be read is refused before any training
        if isinstance(reads, Probe):
            probe = reads
        else:
            job.report(0.0, "Training the probe, once for this model")
            probe = probe_for(
                loaded,
                tweets(),
                features=reads,
                dataset=TWEETS,
                progress=lambda done, total: job.report(done / total),
            )
        job.report(0.0, "Tracing")
        for result in trace_progressively(
            loaded, probe, text, settings, keep=True, progress=job.report
        ):
            yield result.samples_done / result.samples_wanted, result

    return work


def settings_choice(name: str, text: str) -> TraceSettings:
    """What a trace does, folded away behind the paper's defaults."""
    with st.expander("Settings", key="settings"):
        first, second = st.columns(2)
        corrupt = first.selectbox(
            "Corrupt",
            ["The whole tweet", "One word"],
            key="corrupt",
            persist_state="session",
            help="Noise is added here, and the trace looks for the states that undo it.",
        )
        with second:
            span = _word_choice(name, text) if corrupt == "One word" else _every_word()
        noise_scale = first.slider(
            "Noise, in standard deviations",
            0.5,
            6.0,
            3.0,
            0.5,
            format="%.1f",
            key="noise",
            persist_state="session",
            help="Of the embeddings of the data set's tokens; the paper uses 3.",
        )
        samples = second.slider(
            "Noise samples",
            1,
            50,
            10,
            key="samples",
            persist_state="session",
            help="More samples give a sharper picture and take longer; Stop keeps what is there.",
        )
        window = first.number_input(
            "Window, in layers",
            1,
            48,
            None,
            key="window",
            persist_state="session",
            placeholder="scaled with the model's depth",
            help="MLP and attention are restored over this many layers; the paper uses 10 of 48.",
        )
        seed = second.number_input(
            "Seed",
            0,
            2**31 - 1,
            0,
            key="seed",
            persist_state="session",
            help="The same seed draws the same noise.",
        )
    return TraceSettings(
        samples=samples, noise_scale=noise_scale, seed=seed, window=window, corrupt=span
    )


def _every_word() -> str:
    st.selectbox("Word", [], placeholder="all of them", disabled=True, key="every word")
    return "tweet"


def _word_choice(name: str, text: str) -> str:
    """Which word to corrupt; the model has to be there to say what its words are."""
    try:
        with st.spinner("Reading the tweet as the model does"):
            words = build_prompt(model(name), text).words
    except ValueError as mistake:
        st.caption(plain(str(mistake)))
        return "tweet"
    chosen = st.selectbox(
        "Word",
        [index for index, word in enumerate(words) if word.in_tweet and word.tokens],
        format_func=lambda index: words[index].text,
        key=f"word:{text}",
        help="All tokens of this word are corrupted, and no others.",
    )
    return f"word:{chosen}"


def heatmaps(result: TraceResult, frame: pd.DataFrame, end: float) -> None:
    """A panel for each kind of site, side by side; one below the other on a narrow screen."""
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
            theme=theme(),
            title=figures.KINDS[kind],
        )
        column.altair_chart(chart, key=f"heatmap:{kind}")
