"""`python -m core export | figures`: other forms of a figure; the original experiment's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..distribution import ASSETS, COMMAND
from ..errors import UserError
from .options import SettingsCommand, settings_options
from .shared import (
    DEFAULT_DATA,
    check_out,
    model_options,
    open_model,
    probe_of,
    progress_bar,
    progress_option,
    save_figure,
    writing,
)

if TYPE_CHECKING:
    import altair as alt

    from ..exporting.figure_files import Paper
    from ..exporting.recipe import Recipe
    from ..models.model import Model
    from ..patching.sites import Kind
    from ..sweeps.average import Average
    from ..tracing.result import TraceResult

FORMS = ("png", "svg", "pdf", "html", "json")
TOY_STATEMENT = "My flight got cancelled and I love waiting here for hours, terrible service"
ORIGINAL: dict[Kind, str] = {
    "hidden": "Figure 1: toy statement causal trace",
    "mlp": "Figure 2: toy statement causal trace (MLP)",
    "attn": "Figure 3: toy statement causal trace (attn)",
}
"""Kinds of site in the order of the original experiment's figures, and what it calls these."""


paper_options = settings_options("dress", "exporting.figure_files:Paper", given=True)
"""How a figure looks in a paper; none where nothing of it is given."""


def _paper(dress: dict[str, Any]) -> Paper | None:
    from ..exporting.figure_files import Paper

    return Paper(**dress) if dress else None


@click.command(cls=SettingsCommand)
@click.argument("figure", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write it as .png .svg .pdf .html or .json; may be repeated.",
)
@click.option(
    "--recipe", is_flag=True, help="Print the settings that a saved figure, table or ZIP holds."
)
@paper_options
def export(
    figure: Path,
    outs: tuple[Path, ...],
    recipe: bool,
    dress: dict[str, Any],
) -> None:
    """Draw FIGURE.json, saved as Vega-Lite, in other forms and for a paper.

    The settings that it holds go with it. To make a figure anew from its settings, see `run`.
    """
    for out in outs:
        check_out(out, FORMS)
    if not outs and not recipe:
        raise UserError("There is nothing to do; give --out FILE, or --recipe.")
    from ..exporting import embedded_settings

    try:
        content = figure.read_bytes()
    except OSError as error:
        raise UserError(f"The figure {str(figure)!r} cannot be read: {error.strerror}.") from error
    held = embedded_settings.read(content)
    if recipe:
        if held is None:
            raise UserError(f"The file {str(figure)!r} holds no settings.")
        click.echo(held)
    if not outs:
        return
    chart = _chart(content, figure)
    for out in outs:
        try:
            with writing(out):
                save_figure(chart, out, paper=_paper(dress), recipe=held)
        except ValueError as error:
            if "conversion failed" not in str(error):
                raise
            raise UserError(
                f"The figure {str(figure)!r} cannot be drawn: it is damaged, or asks for data that "
                "are not in it."
            ) from error
        click.echo(f"Saved {out}", err=recipe)


def _chart(content: bytes, figure: Path) -> alt.TopLevelMixin:
    """A chart from its Vega-Lite specification."""
    import altair as alt
    from jsonschema import ValidationError

    wrong = UserError(
        f"The file {str(figure)!r} is no Vega-Lite figure; save the figure as Vega-Lite (.json), "
        f"or make it anew from its settings with `{COMMAND} run`."
    )
    try:
        spec = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(spec, dict) or "vega-lite" not in str(spec.get("$schema")):
        raise wrong
    spec.pop("usermeta", None)
    try:
        chart: alt.TopLevelMixin = alt.Chart.from_dict(spec)
    except (ValidationError, ValueError, TypeError) as error:
        raise wrong from error
    return chart


@click.command(cls=SettingsCommand)
@model_options
@click.option("--text", default=TOY_STATEMENT, show_default=True, help="The toy statement.")
@click.option("--samples", default=10, show_default=True, help="Samples of the noise.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("figures"),
    show_default=True,
    help="Where the figures go.",
)
@paper_options
@progress_option
def figures(
    name: str | None,
    device: str | None,
    dtype: str,
    text: str,
    samples: int,
    folder: Path,
    dress: dict[str, Any],
    progress: bool | None,
) -> None:
    """Draw the figures of the original experiment for a model, with what is known of averages.

    Figures 1 to 3 are the causal traces of a toy statement: hidden states, MLPs, attention. Each is
    written as PNG, SVG and PDF; the numbers are written as CSV, and settings.json repeats them.
    """
    from ..data.datasets import load_dataset
    from ..exporting.recipe import Recipe
    from ..exporting.table_files import export_table
    from ..tracing.result import TraceSettings
    from ..tracing.tracer import trace

    settings = TraceSettings(samples=samples)
    model = open_model(name, device, dtype, progress)
    probe = probe_of(model, DEFAULT_DATA, load_dataset(DEFAULT_DATA), "probabilities", progress)
    with progress_bar(f"Tracing on {model.name}", progress) as show:
        result = trace(model, probe, text, settings, keep=True, progress=show)
    recipe = Recipe.of(result)
    paper = _paper(dress)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in _draw(result, recipe, folder, paper):
            click.echo(f"Saved {path}")
        for path in _draw_average(model, folder, paper):
            click.echo(f"Saved {path}")
        (folder / "settings.json").write_text(recipe.to_json(), encoding="utf-8")
        cells = export_table(result.frame(), folder / "cells.csv")
    click.echo(f"Saved {cells}")


def _draw(result: TraceResult, recipe: Recipe, folder: Path, paper: Paper | None) -> list[Path]:
    """Figures 1 to 3, and all three on one colour scale."""
    from ..charts.figures import trace_heatmaps
    from ..tracing.view import View

    named = {
        f"figure-{number}-{kind}": trace_heatmaps(
            View(result, kind=kind),
            title=f"{title}, {result.model_name}",
            panel_width=520,
        )
        for number, (kind, title) in enumerate(ORIGINAL.items(), start=1)
    }
    named["figures-1-to-3"] = trace_heatmaps(result)
    return [
        save_figure(chart, folder / f"{name}.{form}", paper=paper, recipe=recipe.to_json())
        for name, chart in named.items()
        for form in ("png", "svg", "pdf")
    ]


def _draw_average(model: Model, folder: Path, paper: Paper | None) -> list[Path]:
    """Average effects over tweets, where a sweep of the model is on this disk or comes along."""
    from ..charts import average as average_figures
    from ..sweeps.average_findings import cells

    average = _average_of(model)
    if average is None:
        return []
    chart = average_figures.heatmap_figure(
        cells(average),
        titles=average.titles(),
        unit=average_figures.unit_of(average),
        title=f"Average effects over {average.n:,} tweets, {model.name}",
        caption=average_figures.heatmap_caption(average),
    )
    return [
        save_figure(chart, folder / f"average.{form}", paper=paper)
        for form in ("png", "svg", "pdf")
    ]


def _average_of(model: Model) -> Average | None:
    """The average of the newest sweep of these weights; that of the assets where there is none."""
    from ..models.identity import same_model
    from ..sweeps.average import average
    from ..sweeps.store import sweeps
    from ..sweeps.study import load

    for store in sweeps():
        if same_model(store.model.identity, model.identity) and len(store) > 1:
            return average(store)
    for path in sorted(ASSETS.glob("average-*.json")):
        found = load(path).average
        if same_model(found.about["model_identity"], model.identity):
            return found
    return None
