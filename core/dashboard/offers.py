"""What is offered for a tweet whose cells cannot be read as it was asked?"""

from __future__ import annotations

import streamlit as st

from ..server.job_queue import State
from ..tracing.result import TraceResult
from ..tracing.verdict import Alternative, best_first
from ..tracing.view import short_unit, with_interval
from . import plain
from .probing import choice_of
from .tracing import Traced

OFFERED = 3


def show(traced: Traced, state: State) -> None:
    """The best of the other settings, each with its verdict and a button that traces it.

    Args:
        state: of the job that tries them.
    """
    asked = traced.result
    best = best_first(traced.alternatives or ())[:OFFERED]
    with st.container(border=True, key="offers"):
        if best:
            st.markdown("**What shows more of this tweet**")
        elif state == "running":
            st.markdown("**Looking for a corruption and a probe that show more**")
        elif state != "done":
            st.markdown("**Stopped before all other corruptions and probes were tried**")
        else:
            st.markdown("**No other corruption or probe shows more**")
            st.markdown(
                "Noise of 1 to 5 standard deviations, more samples, the mean embedding, tweets of "
                "the opposite sentiment in as many tokens and this model's other probes were "
                "tried: none removes a sentiment that the model surely reads in this tweet."
            )
        for number, alternative in enumerate(best):
            with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
                st.button(
                    "Trace that",
                    key=f"offer:{number}",
                    type="primary" if not number else "secondary",
                    on_click=_take,
                    args=(alternative,),
                )
                st.markdown(plain_line(alternative, asked))
        with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
            st.button("Trace as asked", key="offer:anyway", on_click=_insist, args=(asked,))
            st.markdown(":gray[The cells are then drawn in grey.]")


def plain_line(alternative: Alternative, asked: TraceResult) -> str:
    """An alternative in a line of Markdown: what is done, and what it does."""
    result = alternative.result
    effect = with_interval(result.total_effect, result.low_reach)
    return (
        f"{plain(alternative.how(asked))}: total effect "
        f"**{plain(effect)}** in {plain(short_unit(result))}; "
        f"{alternative.removed:.0%} of the clean log-odds removed."
    )


def _take(alternative: Alternative) -> None:
    settings, tweet = alternative.settings, alternative.result.prompt.tweet
    st.session_state.tweet = tweet
    st.session_state.how = settings.corruption
    st.session_state.noise = settings.noise_scale
    st.session_state.samples = settings.samples
    if settings.counterfactual is not None:
        st.session_state[f"other:{tweet}"] = settings.counterfactual
    st.session_state.features = choice_of(alternative.probe)
    st.session_state.asked = True


def _insist(asked: TraceResult) -> None:
    st.session_state.tweet = asked.prompt.tweet
    st.session_state.insisted = True
    st.session_state.asked = True
