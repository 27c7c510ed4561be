"""The Probes page: train a probe, judge it against its controls, keep it, and use it."""

from functools import partial
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from core import dashboard
from core.charts import probe as probe_figures
from core.dashboard import data_choice, probing, sharing
from core.dashboard.charts import show_chart
from core.dashboard.prompt_choice import template_choice
from core.dashboard.saving import downloads
from core.data.tables import safe_csv
from core.models.registry import REGISTRY
from core.probes.probe import DEFAULT_VERBALIZERS, FEATURES, Probe
from core.probes.training import FOLDS
from core.prompts.prompt import DEFAULT_WORDS

MISTAKES = 8  # shown; all can be saved


def main() -> None:
    """Ask on top, answer below."""
    dashboard.heading(
        "Probes", "Train a probe on labelled tweets, evaluate it against controls, and keep it."
    )
    probing.follow_link()
    left, right = st.columns([5, 3], gap="medium")
    with right:
        model = dashboard.model_choice()
        settings = ask_settings(model)
    with left:
        data = data_choice.data_choice()
        controls = st.container(horizontal=True, gap="small", vertical_alignment="center")
    with controls:
        if st.button("Train probe", type="primary", key="train", disabled=data is None) and data:
            dashboard.start("probe", probing.training(model, data, settings))
        job = dashboard.job("probe")
        progress = job.progress() if job else None
        stop = st.button("Stop", key="stop", disabled=not (progress and progress.active))
        if job and stop:
            job.stop()
    if job and progress:
        with controls.container(width=420):
            dashboard.follow(job, progress)
        if progress.error:
            st.error(dashboard.plain(progress.error), icon=":material/error:")
    trained = progress.partial if progress else None
    if trained and trained.said:
        st.caption(dashboard.plain(trained.said))
    if trained and trained.unkept:
        st.warning(dashboard.plain(trained.unkept), icon=":material/save:")
    sharing.say_refused()
    st.space("small")
    shown = probing.kept_choice(model, trained)
    if shown is None:
        show_invitation()
    else:
        show_report(*shown, probing.texts_of(shown[1], trained, data))


def ask_settings(model: str) -> probing.ProbeSettings:
    """What the probe reads and how it is judged."""
    read = st.selectbox(
        "Probe reads",
        [*FEATURES, "layer"],
        format_func=lambda name: FEATURES.get(
            name, "the last position's hidden state, at a chosen layer"
        ),
        key="reads",
        persist_state="session",
    )
    words = None
    if read == "layer":
        read = f"hidden:{ask_layer(model)}"
    elif read != "hidden":
        several = read == "verbalizers"
        default = DEFAULT_VERBALIZERS if several else tuple((word,) for word in DEFAULT_WORDS)
        # Lists of words get a line each, two words share one.
        places = (st, st) if several else st.columns(2)
        words = tuple(
            ask_words(place, f"{name} word{'s' if several else ''}", ", ".join(side))
            for place, name, side in zip(places, ("Positive", "Negative"), default, strict=True)
        )
    with st.expander("Settings"):
        name = st.text_input("Name", key="name", max_chars=80, placeholder="from what it reads")
        first, second = st.columns(2)
        folds = first.number_input("Folds", 2, 20, FOLDS, key="folds", persist_state="session")
        seed = second.number_input("Seed", 0, 2**31 - 1, 0, key="probe:seed")
        template = template_choice(model, key="probe:prompt")
        controls = st.toggle("Compare with controls", True, key="controls")
        twin = st.toggle(
            "and with the untrained twin",
            True,
            key="twin",
            disabled=not controls,
            help="The same model with random weights; it has to encode the texts too.",
        )
    return probing.ProbeSettings(read, words, template, folds, seed, controls, twin, name.strip())


def ask_layer(model: str) -> int:
    """A layer of the model, counted from 0."""
    return st.number_input("Layer, from 0", 0, REGISTRY[model].layers - 1, 0, key=f"layer:{model}")


def ask_words(place: Any, label: str, default: str) -> tuple[str, ...]:
    """Words with commas between them, each as it stands after a space."""
    said = place.text_input(label, default.replace(" ", "").replace(",", ", "), key=label)
    return tuple(f" {word.strip()}" for word in said.split(",") if word.strip())


def show_report(key: str, probe: Probe, texts: dict[int, str]) -> None:
    """The verdict, the scores beside those of the controls, the curves, and the mistakes."""
    report = probe.judged
    st.subheader(
        f"Accuracy {report.accuracy:.1%} ({report.accuracy_low:.1%} to {report.accuracy_high:.1%})",
        anchor=False,
    )
    if report.verdict is not None:
        beaten = all(control.gain.low > 0 for control in report.controls)
        verdict = dashboard.plain(report.verdict)
        st.markdown(verdict if beaten else f":orange[{verdict}]")
    st.dataframe(probe_figures.score_table(report), hide_index=True)
    st.caption(dashboard.plain(probing.origin_line(probe)))
    if report.controls:
        with st.expander("About the controls"):
            st.text("\n".join(f"{control.name}: {control.about}" for control in report.controls))
    tables = report.tables()
    charts = charts_of(probe, tables)
    drawn = list(charts.items())
    across = 2 if len(drawn) == 4 else 3
    for start in range(0, len(drawn), across):
        places = st.columns(across, gap="medium")
        for place, (name, chart) in zip(places, drawn[start : start + across], strict=False):
            show_chart(chart(theme=dashboard.theme()), f"probe:{name}", place=place)
    downloads(
        "probe",
        charts=charts,
        tables={
            "summary": partial(probe_figures.score_table, report),
            **{name: partial(tables.__getitem__, name) for name in tables},
        },
        caption=probing.origin_line(probe),
        share=probing.shared(key, probe),
    )
    show_mistakes(key, probe, tables.get("mistakes"), texts)


def charts_of(probe: Probe, tables: dict[str, pd.DataFrame]) -> dict[str, partial[alt.LayerChart]]:
    """The curves of a probe's report by what they are called; each is drawn when it is called."""
    report = probe.judged
    charts = {}
    if report.controls:
        charts["Controls"] = partial(probe_figures.comparison, tables["controls"])
    if report.layers:
        charts["Layers"] = partial(
            probe_figures.layer_curve,
            tables["layers"],
            chosen=probe.layer,
            beside=report.accuracy if probe.reads == "words" else None,
        )
    charts["Confusion matrix"] = partial(probe_figures.confusion, tables["confusion"])
    charts["Calibration"] = partial(probe_figures.calibration, tables["calibration"])
    charts["ROC"] = partial(probe_figures.roc, tables["roc"])
    if report.learning:
        charts["Learning curve"] = partial(probe_figures.learning_curve, tables["learning"])
    return charts


def show_mistakes(
    key: str, probe: Probe, mistakes: pd.DataFrame | None, texts: dict[int, str]
) -> None:
    """The tweets that it is most wrong about, each a step away from its trace."""
    st.subheader("Largest errors", anchor=False)
    if mistakes is None:
        st.caption("None: every held-out text was predicted correctly.")
        return
    if not texts:
        st.caption("A probe file holds no texts: choose the same data above to read them.")
    for row, label, log_odds in mistakes.head(MISTAKES).itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            with st.container(gap=None):
                st.caption(probing.mistake_line(row, label, log_odds))
                if row in texts:
                    st.text(texts[row])
            if row in texts and st.button("Open its trace", key=f"open:{row}"):
                probing.open_trace(key, probe, texts[row])
    st.download_button(
        f"Save all {len(mistakes):,} as CSV",
        lambda: safe_csv(mistakes.assign(text=mistakes["row"].map(texts))),
        file_name="mistakes.csv",
        mime="text/csv",
        key="save:mistakes",
        on_click="ignore",
    )


def show_invitation() -> None:
    """What stands where the report will be."""
    with st.container(border=True):
        st.markdown("**What you will see**")
        st.markdown(
            "Accuracy on held-out texts, against controls: the majority class, shuffled labels, "
            "the untrained twin, a bag of words, a lexicon. Then accuracy by layer, calibration, "
            "and the probe's largest errors."
        )
        st.markdown(":gray[Choose labelled texts above and press Train probe.]")


main()
