"""The Interventions page: edit, steer, ablate; does the location matter?"""

import streamlit as st

from core import session
from core.interventions import Outcome
from core.session import intervening, probing


def main() -> None:
    """Ask on top, answer below."""
    session.heading(
        "Interventions", "Change what a trace has found, and see whether the location matters."
    )
    intervening.follow_link()
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = session.model_choice()
        probe = probing.probe_choice(model)
    with left:
        text = session.tweet_choice(
            "intervention:example",
            help="The tweet of the Trace page; what is typed here stands there too.",
        )
        plan = intervening.plan_choice(model, text)
        controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        run = st.button("Intervene", type="primary", key="intervene", disabled=plan is None)
        if run and plan is not None:
            asked = intervening.Asked(model, probe, plan)
            session.start("intervention", intervening.intervening(asked))
        job = session.job("intervention")
        shown = job.progress() if job else None
        stop = st.button("Stop", key="stop", disabled=not (shown and shown.active))
        if job and stop:
            job.stop()
    if job and shown:
        with controls.container(width=420):
            session.follow(job, shown)
        if shown.error:
            st.error(session.plain(shown.error), icon=":material/error:")
    if shown is not None and shown.partial is not None:
        show_outcome(shown.partial)
    else:
        show_invitation()
    st.divider()
    st.markdown(intervening.FOLLOWS)


def show_outcome(outcome: Outcome) -> None:
    """The sentence on top, before and after, the judgement, the traces, and the sweep."""
    st.space("small")
    st.subheader(intervening.headline(outcome), anchor=False)
    st.text(f"\u201c{outcome.prompt.tweet}\u201d")
    st.markdown(session.plain(intervening.site_line(outcome)))
    st.caption(session.plain(intervening.peak_line(outcome)))
    for note in outcome.notes:
        st.caption(session.plain(note))
    intervening.show_readings(outcome)
    intervening.show_judgement(outcome)
    intervening.show_sweep(outcome)
    intervening.show_traces(outcome)
    intervening.save(outcome)


def show_invitation() -> None:
    """What stands where the outcome will be."""
    st.space("small")
    with st.container(border=True):
        st.markdown("**What you will see**")
        st.markdown(
            "The tweet's sentiment, next words and continuation before and after the change; how "
            "far it reaches to paraphrases, to other tweets with the word and to tweets without "
            "it; what it costs in fluency; and the same at random sites beside it."
        )
        st.markdown(
            ":gray[An edit takes a minute or two; every part is shown as soon as it is there.]"
        )


main()
