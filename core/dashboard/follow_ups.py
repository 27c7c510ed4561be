"""What else can be asked of a trace: is it another noise, is it needed, and what passes it on?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from .. import dashboard
from ..charts import figures
from ..charts import trace as trace_figures
from ..exporting.recipe import Recipe
from ..models.model import Contribution, Model
from ..models.registry import availability
from ..server.job_queue import Job, Step
from ..tracing.findings import TOP, overlap, peak_lines, token_of
from ..tracing.result import Corruption, Direction, TraceResult, TraceSettings
from ..tracing.tracer import trace_progressively
from ..tracing.verdict import SCALES, total_effects, word_effects
from ..tracing.view import (
    KINDS,
    SHARE_UNIT,
    View,
    corrupted_with,
    scale_end,
    short_unit,
    with_interval,
)
from .cell_panel import asked_of, layer_line, with_reach
from .charts import show_chart
from .door import Guarded
from .saving import downloads
from .tracing import FURTHER, HOW, heatmaps, shared

if TYPE_CHECKING:
    import altair as alt

    from .saving import Charts, Tables

Answering = Callable[[Job, Model, TraceResult, TraceSettings], Iterator[Step]]
CALLED: dict[Corruption, str] = {
    "noise": "Gaussian noise",
    "uniform": "uniform noise",
    "mean": "mean embedding",
    "counterfactual": "the other tweet",
}


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
    asked = replace(settings, until="all")  # where this trace has a site, the other may have none
    for other in trace_progressively(
        model, result.probe, result.prompt.tweet, asked, keep=True, progress=job.report
    ):
        yield other.samples_done / other.samples_wanted, other


def _severed(
    job: Job, model: Model, result: TraceResult, settings: TraceSettings
) -> Iterator[Step]:
    found: dict[str, TraceResult] = {}
    paths: tuple[Contribution, ...] = ("mlp", "attn")
    for done, severed in enumerate(paths):
        asked = replace(settings, kinds=("hidden",), severed=severed, until="all")
        job.report(0.0, f"Tracing with the {KINDS[severed]} path frozen")
        for other in trace_progressively(
            model, result.probe, result.prompt.tweet, asked, keep=True, progress=job.report
        ):
            found[severed] = other
            share = other.samples_done / other.samples_wanted
            yield (done + share) / 2, dict(found)


# --- what came of it -----------------------------------------------------------------------------


def _draw_words(result: TraceResult, found: pd.DataFrame) -> None:
    unit = short_unit(result)
    frame = with_reach(found.assign(effect=found["total_effect"]), int(found["samples"].iloc[0]))
    chart = partial(trace_figures.word_bars, frame, unit=unit, theme=dashboard.theme())
    most = frame.iloc[int(frame["total_effect"].abs().argmax())]
    st.markdown(
        f"**\u201c{dashboard.plain(str(most['text']))}\u201d** matters most: its total effect "
        f"corrupted alone is {dashboard.plain(_interval(most))} in {unit}."
    )
    show_chart(chart(), key="ask:words")
    said = (
        f"A bar is the total effect, in {unit}, of one word of the tweet corrupted alone, the mean "
        f"of {frame['samples'].iloc[0]} samples; lines are 95% t intervals, and bars whose "
        "interval holds zero are faded."
    )
    _end("each word in turn", {"Each word": chart}, {"each word": lambda: frame}, said, result)


def _interval(row: pd.Series[Any]) -> str:
    effect = float(row["total_effect"])
    return with_interval(effect, float(row["upper"]) - effect)


def _draw_noise(result: TraceResult, found: pd.DataFrame) -> None:
    unit = short_unit(result)
    chart = partial(trace_figures.noise_curve, found, unit=unit, theme=dashboard.theme())
    show_chart(chart(), key="ask:noise")
    works = found[found["changes"] & (found["lower"] * found["upper"] > 0)]
    if works.empty:
        st.caption("No noise strength significantly changes the predicted side.")
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
    _end("noise", {"Noise": chart}, {"noise": lambda: found}, said, result)


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
        shown = frame.assign(kind=frame["kind"].map(KINDS))
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
        f"{View(result, share=True).caption} On the right, the same with "
        f"{corrupted_with(other)} and {other.samples_done} sample"
        f"{'s' if other.samples_done != 1 else ''}."
    )
    _end(
        "two corruptions",
        {"Two corruptions": chart},
        {"largest cells": lambda: frame},
        said,
        result,
        other,
    )


def _draw_reverse(result: TraceResult, other: TraceResult) -> None:
    names = {"first": "Denoising (sufficiency)", "second": "Noising (necessity)"}
    if result.settings.direction == "corrupt":
        names = {"first": names["second"], "second": names["first"]}
    chart = _beside(result, other, names)
    first = "restoring" if result.settings.direction == "restore" else "corrupting"
    _say_peaks(result, other, first)
    st.markdown(
        "A site whose clean activation restores the sentiment is sufficient for it; one whose "
        "corruption removes it is necessary. A copy elsewhere makes a site sufficient but not "
        "necessary."
    )
    said = (
        f"{View(result, share=True).caption} On the right, the other way round: "
        f"{View(other, share=True).caption.partition(':')[0].removeprefix('A cell is ')}, "
        f"over {other.samples_done} samples."
    )
    _end(
        "noising",
        {"Denoising and noising": chart},
        {"largest cells": partial(overlap, result, other)},
        said,
        result,
        other,
    )


def _say_peaks(result: TraceResult, other: TraceResult, name: str) -> None:
    lines = peak_lines(result, other, name).values()
    st.markdown("\n".join(f"- {dashboard.plain(line)}" for line in lines))


def _draw_severed(result: TraceResult, found: dict[str, TraceResult]) -> None:
    names = {"mlp": "MLP path frozen", "attn": "attention path frozen"}
    _, position = _early_cell(result)
    lines = [layer_line(result, "hidden", position).assign(trace="all paths")]
    lines += [
        layer_line(other, "hidden", position).assign(trace=names[severed])
        for severed, other in found.items()
    ]
    colours = {"all paths": "ink", "MLP path frozen": "blue", "attention path frozen": "orange"}
    frame = pd.concat(lines, ignore_index=True)
    unit = short_unit(result)
    chart = partial(
        trace_figures.curves,
        frame,
        unit=unit,
        colours={name: colours[name] for name in dict.fromkeys(frame["trace"])},
        theme=dashboard.theme(),
    )
    show_chart(chart(), key="ask:severed")
    said = (
        f"Effect, in {unit}, of restoring the hidden state at \u201c{token_of(result, position)}"
        "\u201d, and the same with that token\u2019s later MLP (attention) path frozen at the "
        "corrupted run: what is lost went through that path. Bands are 95% t "
        f"intervals over {result.samples_done} samples."
    )
    _end("frozen paths", {"Frozen paths": chart}, {"frozen paths": lambda: frame}, said, result)


def _early_cell(result: TraceResult) -> tuple[int, int]:
    """The largest hidden state among the corrupted tokens."""
    effects = result.effects["hidden"] * np.sign(result.total_effect)
    effects = np.where(result.trivial["hidden"] | np.isnan(effects), -np.inf, effects)
    span = list(result.corrupted_span)
    layer, column = np.unravel_index(int(effects[:, span].argmax()), effects[:, span].shape)
    return int(layer), span[int(column)]


def _beside(
    result: TraceResult, other: TraceResult, names: dict[str, str]
) -> Callable[[], alt.VConcatChart]:
    """Draw one kind of site of two traces side by side, in shares; return what makes a figure."""
    kinds = [kind for kind in result.effects if kind in other.effects]
    with st.container(horizontal=True, gap="large", vertical_alignment="bottom"):
        kind = dashboard.switch(
            "Kind of site",
            {kind: KINDS[kind] for kind in kinds},
            "beside",
            help="Both traces show this kind, in percent of their own total effects.",
        )
        scale = st.container(width=340)
    titles = {name: name[0].upper() + name[1:] for name in names.values()}
    frames = []
    for name, trace in zip(titles, (result, other), strict=True):
        frames.append(View(trace, share=True, kind=kind).frame.assign(kind=name))
    both = pd.concat(frames, ignore_index=True)
    end, unit = min(scale_end(both), 150.0), SHARE_UNIT
    show_chart(
        figures.scale_bar(end, unit, theme=dashboard.theme()), key="beside:scale", place=scale
    )
    heatmaps(both, end=end, key="beside:map", titles=titles)
    return partial(
        figures.trace_heatmaps,
        both,
        unit=unit,
        title=f"{View(result).title}, {KINDS[kind]}",
        inline=False,
        titles=titles,
    )


def _end(
    key: str,
    charts: Charts,
    tables: Tables,
    caption: str,
    result: TraceResult,
    other: TraceResult | None = None,
) -> None:
    """What stands below an answer.

    Args:
        result: the trace that was asked further.
        other: the trace that answers.
    """
    st.caption(dashboard.plain(caption))
    share = shared(View(result), None, other)
    if other is None:
        share = replace(share, code=None)
    recipe = partial(Recipe.of, result)
    downloads(key, charts=charts, tables=tables, caption=caption, recipe=recipe, share=share)


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
        "Does the site hold under another corruption, or is it an artefact of the noise?",
        _another,
        _draw_another,
    ),
    "reverse": Question(
        "Noising",
        "Is a site necessary? One site at a time is corrupted in the clean run.",
        _another,
        _draw_reverse,
    ),
    "severed": Question(
        "Frozen paths",
        "What carries the early site on, MLPs or attention? Each path is frozen in turn (path "
        "patching).",
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


assert tuple(QUESTIONS) == FURTHER  # an address names them


def ask_further(result: TraceResult, *, without: str = "") -> None:
    """The questions, one of them open, and its answer once it has been asked."""
    st.markdown("#### Further analyses")
    offered = [name for name in QUESTIONS if name != without]
    if "hidden" not in result.effects or result.settings.severed:
        offered.remove("severed")
    chosen = st.pills(
        "Further analyses",
        offered,
        format_func=lambda name: QUESTIONS[name].name,
        key="further",
        label_visibility="collapsed",
        help="Computed on request, and kept.",
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
    job = dashboard.job(slot) if st.session_state.get(f"wanted:{name}") == wanted else None
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        pressed = st.button("Ask", key=f"ask:{name}:start", help="Computed in the background.")
        if pressed or st.session_state.get("further:linked") == name:
            st.session_state.pop("further:linked", None)
            st.session_state[f"wanted:{name}"] = wanted
            job = dashboard.start(slot, answering(question, result, settings))
        if job is None:
            return
        seen = job.progress()
        with st.container(width=420):
            dashboard.follow(job, seen)
    if seen.error:
        st.error(dashboard.plain(seen.error), icon=":material/error:")
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


def answering(question: Question, result: TraceResult, settings: TraceSettings) -> Guarded:
    """The work of one question: load the model, run it again."""

    def work(job: Job) -> Iterator[Step]:
        loaded = dashboard.loaded_for(job, result.model_name)
        job.report(0.0, "Running the model")
        yield from question.work(job, loaded, result, settings)

    return Guarded(asked_of(result, settings), work)
