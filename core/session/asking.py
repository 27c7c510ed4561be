"""What else can be asked of a trace: is it another noise, is it needed, and what passes it on?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from core import figures, session, trace_figures
from core.findings import TOP, overlap, peak_lines, token_of
from core.findings import cells as cells_of
from core.jobs import Job, Step, Work
from core.models import Contribution, Model
from core.registry import availability
from core.results import Corruption, Direction, TraceResult, TraceSettings
from core.session.cells import layer_line, with_reach
from core.session.charts import show_chart
from core.session.saving import downloads
from core.session.tracing import HOW, heatmaps
from core.trace import total_effects, trace_progressively, word_effects

if TYPE_CHECKING:
    from core.runs import Kind

Answering = Callable[[Job, Model, TraceResult, TraceSettings], Iterator[Step]]
CALLED: dict[Corruption, str] = {
    "noise": "Gaussian noise",
    "uniform": "uniform noise",
    "mean": "mean embedding",
    "counterfactual": "the other tweet",
}
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Question:
    """Something else to ask of a trace."""

    name: str
    sentence: str  # what it answers
    work: Answering
    draw: Callable[[TraceResult, Any], None]


# --- the work ------------------------------------------------------------------------------------


def _words(job: Job, model: Model, result: TraceResult, settings: TraceSettings) -> Iterator[Step]:
    tweet = result.prompt.tweet
    yield 1.0, word_effects(model, result.probe, tweet, settings, progress=job.report)


def _noise(job: Job, model: Model, result: TraceResult, settings: TraceSettings) -> Iterator[Step]:
    tweet = result.prompt.tweet
    yield 1.0, total_effects(model, result.probe, tweet, settings, SCALES, progress=job.report)


def _another(
    job: Job, model: Model, result: TraceResult, settings: TraceSettings
) -> Iterator[Step]:
    for other in trace_progressively(
        model, result.probe, result.prompt.tweet, settings, keep=True, progress=job.report
    ):
        yield other.samples_done / other.samples_wanted, other


def _severed(
    job: Job, model: Model, result: TraceResult, settings: TraceSettings
) -> Iterator[Step]:
    found: dict[str, TraceResult] = {}
    paths: tuple[Contribution, ...] = ("mlp", "attn")
    for done, severed in enumerate(paths):
        asked = replace(settings, kinds=("hidden",), severed=severed)
        job.report(0.0, f"Tracing with {figures.KINDS[severed]} severed")
        for other in trace_progressively(
            model, result.probe, result.prompt.tweet, asked, keep=True, progress=job.report
        ):
            found[severed] = other
            share = other.samples_done / other.samples_wanted
            yield (done + share) / 2, dict(found)


# --- what came of it -----------------------------------------------------------------------------


def _draw_words(result: TraceResult, found: pd.DataFrame) -> None:
    unit = figures.short_unit(result)
    frame = with_reach(found.assign(effect=found["total_effect"]), int(found["samples"].iloc[0]))
    chart = trace_figures.word_bars(frame, unit=unit, theme=session.theme())
    most = frame.iloc[int(frame["total_effect"].abs().argmax())]
    st.markdown(
        f"**\u201c{session.plain(str(most['text']))}\u201d** matters most: its total effect alone "
        f"is {session.plain(_interval(most))} in {unit}."
    )
    show_chart(chart, key="ask:words")
    said = (
        f"A bar is the total effect, in {unit}, of one word of the tweet corrupted alone, the mean "
        f"of {frame['samples'].iloc[0]} samples; lines are 95% t intervals, and bars whose "
        "interval holds zero are faded."
    )
    _end("each word in turn", {"Each word": chart}, {"each word": frame}, said)


def _interval(row: pd.Series[Any]) -> str:
    effect = float(row["total_effect"])
    return figures.with_interval(effect, float(row["upper"]) - effect)


def _draw_noise(result: TraceResult, found: pd.DataFrame) -> None:
    unit = figures.short_unit(result)
    chart = trace_figures.noise_curve(found, unit=unit, theme=session.theme())
    show_chart(chart, key="ask:noise")
    works = found[found["changes"] & (found["lower"] * found["upper"] > 0)]
    if works.empty:
        st.caption("No strength of the noise changes the predicted side for certain.")
    else:
        scale = float(works["scale"].iloc[0])
        st.button(
            f"Trace with {scale:g} standard deviation{'s' if scale != 1 else ''}",
            key="use noise",
            on_click=_use_noise,
            args=(result, scale),
            help="The weakest noise that changes the predicted side with an interval without zero.",
        )
    said = (
        f"Total effect, in {unit}, of noise of 1 to 5 standard deviations on the corrupted tokens; "
        f"lines are 95% t intervals over {result.settings.draws} samples."
    )
    _end("noise", {"Noise": chart}, {"noise": found}, said)


def _use_noise(result: TraceResult, scale: float) -> None:
    st.session_state.tweet = result.prompt.tweet
    st.session_state.noise = scale
    st.session_state.asked = True


def _draw_another(result: TraceResult, other: TraceResult) -> None:
    names = {
        "first": CALLED[result.settings.corruption],
        "second": CALLED[other.settings.corruption],
    }
    chart = _beside(result, other, names)
    _say_peaks(result, other, names["first"])
    frame = overlap(result, other)
    frame["where"] = frame["where"].map(
        {"both": "in both", "first": f"{names['first']} only", "second": f"{names['second']} only"}
    )
    shared = (frame["where"] == "in both").mean()
    st.markdown(
        f"Of the {TOP} largest cells of either trace and each kind, **{shared:.0%}** are shared."
    )
    with st.expander("The largest cells of both", key="ask:overlap"):
        shown = frame.assign(kind=frame["kind"].map(figures.KINDS))
        st.dataframe(
            shown.rename(columns=names),
            hide_index=True,
            key="ask:cells",
            column_config={
                name: st.column_config.NumberColumn(
                    name, format="percent", help="Share of its own total effect."
                )
                for name in names.values()
            },
        )
    said = (
        f"{figures.caption_of(result, shares=True)} On the right, the same with "
        f"{figures.corrupted_with(other)} and {other.samples_done} sample"
        f"{'s' if other.samples_done != 1 else ''}."
    )
    _end("two corruptions", {"Two corruptions": chart}, {"largest cells": frame}, said)


def _draw_reverse(result: TraceResult, other: TraceResult) -> None:
    names = {"first": "Restored: is it enough?", "second": "Corrupted: is it needed?"}
    if result.settings.direction == "corrupt":
        names = {"first": names["second"], "second": names["first"]}
    chart = _beside(result, other, names)
    first = "restoring" if result.settings.direction == "restore" else "corrupting"
    _say_peaks(result, other, first)
    st.markdown(
        "A site that restores the sentiment is sufficient for it; one whose corruption takes the "
        "sentiment away is necessary. A copy elsewhere makes a site sufficient and not necessary."
    )
    said = (
        f"{figures.caption_of(result, shares=True)} On the right, the other way round: "
        f"{figures.caption_of(other, shares=True).partition(':')[0].removeprefix('A cell is ')}, "
        f"over {other.samples_done} samples."
    )
    _end("reverse patching", {"Both ways": chart}, {"largest cells": overlap(result, other)}, said)


def _say_peaks(result: TraceResult, other: TraceResult, name: str) -> None:
    lines = peak_lines(result, other, name).values()
    st.markdown("\n".join(f"- {session.plain(line)}" for line in lines))


def _draw_severed(result: TraceResult, found: dict[str, TraceResult]) -> None:
    names = {"mlp": "MLP severed", "attn": "attention severed"}
    _, position = _early_cell(result)
    lines = [layer_line(result, "hidden", position).assign(trace="all paths")]
    lines += [
        layer_line(other, "hidden", position).assign(trace=names[severed])
        for severed, other in found.items()
    ]
    colours = {"all paths": "ink", "MLP severed": "blue", "attention severed": "orange"}
    frame = pd.concat(lines, ignore_index=True)
    unit = figures.short_unit(result)
    chart = trace_figures.curves(
        frame,
        unit=unit,
        colours={name: colours[name] for name in dict.fromkeys(frame["trace"])},
        theme=session.theme(),
    )
    show_chart(chart, key="ask:severed")
    said = (
        f"Effect, in {unit}, of restoring the hidden state at \u201c{token_of(result, position)}"
        "\u201d, and the same while that token\u2019s later MLP (attention) contributions stay as "
        "in the corrupted run: what falls when a path is severed went through it. Bands are 95% t "
        f"intervals over {result.samples_done} samples."
    )
    _end("severed paths", {"Severed paths": chart}, {"severed paths": frame}, said)


def _early_cell(result: TraceResult) -> tuple[int, int]:
    """The largest hidden state among the corrupted tokens."""
    effects = result.effects["hidden"] * np.sign(result.total_effect)
    effects = np.where(result.trivial["hidden"] | np.isnan(effects), -np.inf, effects)
    span = list(result.corrupted_span)
    layer, column = np.unravel_index(int(effects[:, span].argmax()), effects[:, span].shape)
    return int(layer), span[int(column)]


def _beside(result: TraceResult, other: TraceResult, names: dict[str, str]) -> Any:
    """Draw one kind of site of two traces side by side, in shares on one scale; as a figure too."""
    kinds = [kind for kind in result.effects if kind in other.effects]
    with st.container(horizontal=True, gap="large", vertical_alignment="bottom"):
        kind: Kind = st.segmented_control(
            "Kind of site",
            kinds,
            default=kinds[0],
            format_func=figures.KINDS.__getitem__,
            required=True,
            key="beside",
            persist_state="session",
            help="Both traces show this kind, in percent of their own total effects.",
        )
        scale = st.container(width=340)
    titles = {name: name[0].upper() + name[1:] for name in names.values()}
    frames = []
    for name, trace in zip(titles, (result, other), strict=True):
        frame = figures.as_shares(cells_of(trace))
        frames.append(frame[frame["kind"] == kind].assign(kind=name))
    both = pd.concat(frames, ignore_index=True)
    end, unit = min(figures.scale_end(both), 150.0), "% of the total effect"
    show_chart(figures.scale_bar(end, unit, theme=session.theme()), key="beside:scale", place=scale)
    heatmaps(both, end=end, key="beside:map", titles=titles)
    return figures.trace_heatmaps(
        both,
        unit=unit,
        title=f"\u201c{result.prompt.tweet}\u201d, {figures.KINDS[kind]}",
        inline=False,
        titles=titles,
    )


def _end(key: str, charts: dict[str, Any], tables: dict[str, pd.DataFrame], caption: str) -> None:
    st.caption(session.plain(caption))
    downloads(key, charts=charts, tables=tables, caption=caption)


# --- asking --------------------------------------------------------------------------------------

QUESTIONS = {
    "words": Question(
        "Each word in turn",
        "Which word matters most? Every word is corrupted alone.",
        _words,
        _draw_words,
    ),
    "corruption": Question(
        "Another corruption",
        "Is the site there whatever hides the words, or is it an artefact of the noise?",
        _another,
        _draw_another,
    ),
    "reverse": Question(
        "Reverse patching",
        "Is a site needed? One site at a time is corrupted in the clean run.",
        _another,
        _draw_reverse,
    ),
    "severed": Question(
        "Severed paths",
        "What passes the early site on, MLPs or attention? Each is cut off in turn.",
        _severed,
        _draw_severed,
    ),
    "noise": Question(
        "Strength of the noise",
        "Is the noise strong enough? The total effect at 1 to 5 standard deviations.",
        _noise,
        _draw_noise,
    ),
}


def ask_further(result: TraceResult, *, without: str = "") -> None:
    """The questions, one of them open, and its answer once it has been asked."""
    st.markdown("#### Ask further")
    offered = [name for name in QUESTIONS if name != without]
    if "hidden" not in result.effects or result.settings.severed:
        offered.remove("severed")
    chosen = st.pills(
        "Ask further",
        offered,
        format_func=lambda name: QUESTIONS[name].name,
        key="further",
        label_visibility="collapsed",
        help="Each is computed when it is asked, and kept.",
    )
    if chosen is not None and chosen in offered:
        st.markdown(f":gray[{QUESTIONS[chosen].sentence}]")
        ask(chosen, result)


def ask(name: str, result: TraceResult) -> None:
    """One question: its choices, a button, and its answer in place."""
    if availability(result.model_name) == "to be downloaded":
        st.caption("This needs the model, which is not on this disk.")
        return
    question = QUESTIONS[name]
    settings = _settings_of(name, result)
    if settings is None:
        return
    wanted = (name, result.prompt.ids, result.model_identity, result.probe.coefficients, settings)
    slot = f"ask:{name}"
    job = session.job(slot) if st.session_state.get(f"wanted:{name}") == wanted else None
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        pressed = st.button("Ask", key=f"ask:{name}:start", help="Computed in the background.")
        if pressed:
            st.session_state[f"wanted:{name}"] = wanted
            job = session.start(slot, _work(question.work, result, settings))
        if job is None:
            return
        seen = job.progress()
        with st.container(width=420):
            session.follow(job, seen)
    if seen.error:
        st.error(session.plain(seen.error), icon=":material/error:")
    if seen.partial is None:
        return
    found = seen.partial
    with st.container(width="stretch" if name in ("corruption", "reverse") else 860):
        if isinstance(found, TraceResult):
            found = found.under(result.settings.proxy)
        elif isinstance(found, dict):
            found = {path: other.under(result.settings.proxy) for path, other in found.items()}
        question.draw(result, found)


def _settings_of(name: str, result: TraceResult) -> TraceSettings | None:
    """How the answer is traced, with the choices that the question has."""
    settings = replace(result.settings, severed=None)
    if name in ("words", "severed", "noise"):
        settings = replace(settings, direction="restore")
    if name in ("words", "noise") and settings.corruption == "counterfactual":
        settings = replace(settings, corruption="noise", counterfactual=None)
    if name == "noise" and settings.corruption == "mean":
        settings = replace(settings, corruption="noise")
    if name == "reverse":
        turned: Direction = "corrupt" if settings.direction == "restore" else "restore"
        return replace(settings, direction=turned, proxy="log_odds")
    if name != "corruption":
        # A proxy is read from traces; sums over passes are in the proxy that is asked.
        return settings if name in ("words", "noise") else replace(settings, proxy="log_odds")
    others: list[Corruption] = [
        how for how in HOW if how not in (settings.corruption, "counterfactual")
    ]
    other: Corruption = st.selectbox(
        "The other corruption",
        others,
        index=others.index("mean") if "mean" in others else 0,
        format_func=HOW.__getitem__,
        key="other corruption",
        width=260,
        help="The same tokens, corrupted in another way.",
    )
    corrupt = settings.corrupt
    if settings.corruption == "counterfactual":
        corrupt = result.corrupted_span
    return replace(
        settings, corruption=other, counterfactual=None, corrupt=corrupt, proxy="log_odds"
    )


def _work(answering: Answering, result: TraceResult, settings: TraceSettings) -> Work:
    def work(job: Job) -> Iterator[Step]:
        loaded = session.loaded_for(job, result.model_name)
        job.report(0.0, "Asking the model")
        yield from answering(job, loaded, result, settings)

    return work
