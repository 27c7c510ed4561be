"""The Interventions page: edit, steer, ablate; does the location matter?"""

import streamlit as st

from core import dashboard
from core.dashboard import intervening, open_settings, probing, sharing
from core.interventions.plan import Outcome


def main() -> None:
    """Ask on top, answer below."""
    dashboard.heading(
        "Interventions", "Edit, steer or ablate where a trace points: does the location matter?"
    )
    linked = intervening.follow_link()
    open_settings.take_fetched("intervention")
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = dashboard.model_choice()
        probe = probing.probe_choice(model)
    with left:
        text = dashboard.tweet_choice(
            "intervention:example",
            help="The same tweet as on the Trace page.",
        )
        plan = intervening.plan_choice(model, text, probing.template_of(probe))
        controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        run = st.button("Intervene", type="primary", key="intervene", disabled=plan is None)
        if run and plan is not None:
            asked = intervening.Asked(model, probe, plan)
            dashboard.start("intervention", intervening.intervening(asked))
        if linked is not None:
            open_settings.begin("intervention", linked)
        job = dashboard.job("intervention")
        shown = job.progress() if job else None
        stop = st.button("Stop", key="stop", disabled=not (shown and shown.active))
        if job and stop:
            job.stop()
        open_settings.opener("intervention")
    sharing.say_refused()
    if job and shown:
        with controls.container(width=420):
            dashboard.follow(job, shown)
        if shown.error:
            st.error(dashboard.plain(shown.error), icon=":material/error:")
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
    st.markdown(dashboard.plain(intervening.site_line(outcome)))
    st.caption(dashboard.plain(intervening.peak_line(outcome)))
    for note in outcome.notes:
        st.caption(dashboard.plain(note))
    intervening.show_readings(outcome)
    intervening.show_judgement(outcome)
    intervening.show_sweep(outcome)
    intervening.show_traces(outcome)
    intervening.save(outcome)
    intervening.write_address(outcome)


def show_invitation() -> None:
    """What stands where the outcome will be."""
    st.space("small")
    with st.container(border=True):
        st.markdown("**What you will see**")
        st.markdown(
            "The tweet's sentiment, next tokens and continuation before and after; how far the "
            "intervention generalises to paraphrases and to other tweets with the word; whether "
            "it spares tweets without it; its cost in perplexity; and the same at random sites."
        )
        st.markdown(":gray[An edit takes a minute or two; each part appears as it is computed.]")


main()
