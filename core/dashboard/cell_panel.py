"""What happens at the cell that is chosen by a click or the arrow keys, and what is shown of it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from .. import dashboard
from ..charts import figures, trace
from ..models.registry import availability
from ..server.job_queue import Job, Step
from ..statistics import t_quantile
from ..tracing.cell_details import CellDetails, inspect
from ..tracing.findings import PLACES, p_values, share_of_total, token_of
from ..tracing.result import TraceResult, TraceSettings
from ..tracing.view import KINDS, View, short_unit, unit_of, with_interval
from .charts import show_chart
from .door import Guarded, Request
from .saving import downloads

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from ..patching.sites import Kind

RUNS = ("clean", "corrupted", "restored")


# --- which cell ----------------------------------------------------------------------------------


def chosen(result: TraceResult) -> figures.Cell | None:
    """The chosen cell, if this trace has it."""
    cell: figures.Cell | None = st.session_state.get("cell")
    if cell is None:
        return None
    kind, layer, position = cell
    if kind not in result.effects or position >= len(result.prompt):
        return None
    if layer >= result.layers or not result.traced[kind][layer, position]:
        return None
    return cell


def take_click(kind: Kind) -> None:
    """Choose the cell that was clicked: the one by which a panel's selection has changed.

    A click toggles its cell, so that a second click on a cell is a click too, whatever has been
    chosen by keys between the two.
    """
    selection = st.session_state[f"heatmap:{kind}"].get("selection", {}).get("cell") or []
    now = [(int(cell["layer"]), int(cell["position"])) for cell in selection]
    before = st.session_state.get(f"clicked:{kind}", [])
    st.session_state[f"clicked:{kind}"] = now
    changed = [cell for cell in now if cell not in before] or [
        cell for cell in before if cell not in now
    ]
    if changed:
        st.session_state.cell = (kind, *changed[-1])


def largest_offer(view: View) -> None:
    """The way to a cell for who does not click on one."""
    st.button(
        "Largest cell",
        key="largest cell",
        on_click=_take_largest,
        args=(view,),
        help="Opens the cell with the largest effect; the arrow keys lead on from it.",
    )


def _take_largest(view: View) -> None:
    free = view.frame[~view.frame["trivial"]]
    cells = free if len(free) else view.frame
    at = int(cells["effect"].abs().argmax())
    kind, layer, position = (cells[name].iloc[at] for name in ("kind", "layer", "position"))
    st.session_state.cell = (kind, int(layer), int(position))


def _move(cell: figures.Cell, layers: dict[int, list[int]], across: int, down: int) -> None:
    """Choose a neighbour of the cell among the layers that were traced at each position."""
    kind, layer, position = cell
    positions = list(layers)
    row = positions.index(position) + down if position in positions else 0
    position = positions[min(max(row, 0), len(positions) - 1)]
    nearest = min(layers[position], key=lambda there: abs(there - layer))
    column = layers[position].index(nearest) + across
    column = min(max(column, 0), len(layers[position]) - 1)
    st.session_state.cell = (kind, layers[position][column], position)


def close() -> None:
    """Choose no cell."""
    st.session_state.cell = None


# --- what is shown of it -------------------------------------------------------------------------


def panel(view: View, cell: figures.Cell) -> None:
    """All that is known of one cell, and a look at it in the background for the rest."""
    result = view.result
    kind, layer, position = cell
    with st.container(border=True, key="cell"):
        _heading(view, cell)
        line = layer_line(result, kind, position)
        samples = sample_table(result, cell)
        runs = run_table(result, cell)
        unit, theme = short_unit(result), dashboard.theme()
        charts: dict[str, Callable[[], alt.TopLevelMixin]] = {
            "Samples of the cell": partial(trace.sample_strip, samples, unit=unit, theme=theme),
            "Logit pair in the three runs": partial(trace.run_points, runs, theme=theme),
            "Neighbouring layers": partial(trace.neighbours, line, layer, unit=unit, theme=theme),
        }
        tables: dict[str, Callable[[], pd.DataFrame]] = {
            "samples": lambda: samples,
            "runs": lambda: runs,
            "layers": lambda: line,
        }
        left, middle, right = st.columns(3, gap="large")
        with left:
            show_chart(charts["Samples of the cell"](), key="cell:samples")
            show_chart(charts["Logit pair in the three runs"](), key="cell:runs")
        with middle:
            show_chart(charts["Neighbouring layers"](), key="cell:layers")
            beside_layers = st.container()
        with right:
            details = _looked_at(result, cell)
        if details is not None:
            with right:
                _next_tokens(details)
            tables["next tokens"] = lambda: details.next_tokens
            tables["logit lens"] = lambda: details.lens
            if details.heads is not None:
                heads = with_reach(details.heads, details.samples)
                charts["Heads"] = partial(trace.heads, heads, unit=unit, theme=theme)
                tables["heads"] = lambda: heads
                show_chart(charts["Heads"](), key="cell:heads", place=beside_layers)
        said = caption(result, cell)
        st.caption(dashboard.plain(said))
        with st.container(horizontal=True, gap="small"):
            downloads("cell", charts=charts, tables=tables, caption=said)
            if st.button(
                "Intervene here",
                icon=":material/tune:",
                key="cell:intervene",
                on_click=_take_to_interventions,
                args=(result, cell),
                help="Go to the Interventions page with this tweet and this site: does changing it "
                "change the sentiment?",
            ):
                st.switch_page("pages/interventions.py")


def _take_to_interventions(result: TraceResult, cell: figures.Cell) -> None:
    st.session_state.tweet = result.prompt.tweet
    st.session_state.cell = cell
    st.session_state["intervention:what"] = "edit" if cell[0] == "mlp" else "replace"
    st.session_state["intervention:where"] = "cell"
    st.session_state["intervention:linked"] = True  # the address speaks of the Trace page


def _heading(view: View, cell: figures.Cell) -> None:
    """What the cell is, and the arrow keys, which move among the cells that are shown."""
    kind, layer, position = cell
    shown = view.frame[view.frame["kind"] == kind]
    traced = shown.groupby("position")["layer"].apply(sorted)
    layers: dict[Any, list[int]] = traced.to_dict() or {position: [layer]}
    said, moves = st.columns([5, 3], vertical_alignment="center")
    token = dashboard.plain(token_of(view.result, position))
    said.markdown(f"##### \u201c{token}\u201d, layer {layer}, {KINDS[kind]}")
    said.markdown(f":gray[{dashboard.plain(_effect_line(view.result, cell))}]")
    with moves.container(horizontal=True, gap="small", horizontal_alignment="right"):
        for key, icon, across, down in (
            ("Left", "arrow_back", -1, 0),
            ("Right", "arrow_forward", 1, 0),
            ("Up", "arrow_upward", 0, -1),
            ("Down", "arrow_downward", 0, 1),
        ):
            st.button(
                "",
                icon=f":material/{icon}:",
                key=f"move:{key}",
                shortcut=key,
                on_click=_move,
                args=(cell, layers, across, down),
                help={
                    "Left": "The layer before",
                    "Right": "The next layer",
                    "Up": "The token before",
                    "Down": "The next token",
                }[key],
            )
        st.button(
            "", icon=":material/close:", key="move:close", shortcut="Esc", on_click=close,
            help="Close this cell",
        )  # fmt: skip


def _effect_line(result: TraceResult, cell: figures.Cell) -> str:
    kind, layer, position = cell
    reach = result.t_quantile * float(result.standard_errors[kind][layer, position])
    effect = float(result.effects[kind][layer, position])
    share = share_of_total(result, kind)[0][layer, position]
    shown = with_interval(effect, reach)
    certain = ""
    if result.trivial[kind][layer, position]:
        certain = " It is fixed by construction."
    elif result.samples_done > 1:
        p = float(p_values(result)[kind][layer, position])
        told = "is" if p <= 0.05 else "is not"
        certain = (
            f"It {told} significant (FDR 5%, adjusted p {'< 0.001' if p < 0.001 else f'{p:.3f}'})."
        )
    return f"Effect {shown} in {unit_of(result)}, {share:.0%} of the total effect.{certain}"


def caption(result: TraceResult, cell: figures.Cell) -> str:
    """What the charts of a cell show, with settings."""
    kind, layer, position = cell
    restored = result.settings.direction == "restore"
    put = "restored to its clean activation" if restored else "corrupted"
    return (
        f"The {PLACES[kind]} of layer {layer} at \u201c{token_of(result, position)}\u201d "
        f"is {put}; "
        f"bars and bands are 95% t intervals over {result.samples_done} samples. "
        f"Next tokens and lens are means over at most 10 samples; the lens reads the residual "
        f"stream after this layer by the model\u2019s own final norm and head. "
        f"Model {result.model_name}; {unit_of(result)}; seed {result.settings.seed}."
    )


def sample_table(result: TraceResult, cell: figures.Cell) -> pd.DataFrame:
    """The cell's effect in every sample: sample, effect; and mean, lower, upper in every row."""
    import pandas as pd

    kind, layer, position = cell
    effects = result.sample_effects[kind][:, layer, position]
    mean = float(effects.mean())
    reach = result.t_quantile * float(result.standard_errors[kind][layer, position])
    return pd.DataFrame(
        {
            "sample": range(len(effects)),
            "effect": effects,
            "mean": mean,
            "lower": mean - reach,
            "upper": mean + reach,
        }
    )


def layer_line(result: TraceResult, kind: Kind, position: int) -> pd.DataFrame:
    """The effect at one token along the layers: layer, effect, lower, upper."""
    import pandas as pd

    effect = result.effects[kind][:, position]
    reach = result.t_quantile * result.standard_errors[kind][:, position]
    line = pd.DataFrame(
        {
            "layer": np.arange(result.layers),
            "effect": effect,
            "lower": effect - reach,
            "upper": effect + reach,
        }
    )
    return line[np.isfinite(effect)].reset_index(drop=True)


def run_table(result: TraceResult, cell: figures.Cell) -> pd.DataFrame:
    """P of the probe's two words, means over the samples: run, word, probability."""
    import pandas as pd

    kind, layer, position = cell
    good, bad = 0, len(result.probe.words_positive)
    reads = {
        "clean": result.reads.clean[None],
        "corrupted": result.reads.corrupted,
        "restored": result.reads.restored[kind][:, layer, position],
    }
    return pd.DataFrame(
        [
            {
                "run": _run_name(result, run),
                "word": word.strip(),
                "probability": np.exp(read[:, column]).mean(),
            }
            for run, read in reads.items()
            for word, column in zip(result.probe.words, (good, bad), strict=True)
        ]
    )


def with_reach(frame: pd.DataFrame, samples: int) -> pd.DataFrame:
    """Add lower and upper, the 95% t interval, to a table with effect and standard_error."""
    reach = frame["standard_error"] * t_quantile(samples - 1)
    return frame.assign(lower=frame["effect"] - reach, upper=frame["effect"] + reach)


def _run_name(result: TraceResult, run: str) -> str:
    return "patched" if run == "restored" and result.settings.direction == "corrupt" else run


# --- what has to be computed ---------------------------------------------------------------------


def asked_of(result: TraceResult, settings: TraceSettings) -> Request:
    """What it asks of the server to run the tweet of a trace again."""
    names, tweet = [result.model_name], result.prompt.tweet
    return Request.of_trace(names, tweet, result.probe.template, settings)


def looking(result: TraceResult, cell: figures.Cell) -> Guarded:
    """The work of one look at a cell."""

    def work(job: Job) -> Iterator[Step]:
        loaded = dashboard.loaded_for(job, result.model_name)
        job.report(0.0, "Computing the cell")
        kind, layer, position = cell
        yield (
            1.0,
            inspect(
                loaded,
                result.probe,
                result.prompt.tweet,
                result.settings,
                kind,
                layer,
                position,
                progress=job.report,
            ),
        )

    return Guarded(asked_of(result, result.settings), work)


def _looked_at(result: TraceResult, cell: figures.Cell) -> CellDetails | None:
    """The look at this cell, begun if it is not; None while it is under way."""
    if availability(result.model_name) == "to be downloaded":
        st.caption("The next tokens need the model, which is not on this disk.")
        return None
    proxy = result.settings.proxy if cell[0] == "attn" else "log_odds"
    question = replace(result.settings, proxy=proxy)
    wanted = (result.prompt.ids, result.model_identity, question, result.probe.coefficients, cell)
    if st.session_state.get("looked at") != wanted:
        st.session_state["looked at"] = wanted
        dashboard.start("cell", looking(result, cell))
    job = dashboard.job("cell")
    assert job is not None
    seen = job.progress()
    if seen.error:
        st.error(dashboard.plain(seen.error), icon=":material/error:")
    if seen.partial is None and not seen.error:
        with st.container(key="cell:waiting"):
            dashboard.follow(job, seen)
    details: CellDetails | None = seen.partial
    return details


def _next_tokens(details: CellDetails) -> None:
    """The most probable next tokens of the runs, and what the lens sees at the cell."""
    for title, frame, runs, explained in (
        ("Next tokens", details.next_tokens, RUNS, "Of the whole prompt, in each run."),
        (
            "Logit lens",
            details.lens,
            RUNS[:2],
            "The next tokens if the model stopped after this layer, at this token.",
        ),
    ):
        st.markdown(f"**{title}**", help=explained)
        wide = {
            run.capitalize(): [
                f"{token} {probability:.1%}"
                for token, probability in zip(part["token"], part["probability"], strict=True)
            ][:5]
            for run in runs
            for part in [frame[frame["run"] == run]]
        }
        st.dataframe(wide, hide_index=True, key=f"cell:{title}", height="content")
