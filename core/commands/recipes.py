"""`python -m core run`: make the numbers of a recipe again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .average import print_average, save_averages
from .interventions import repeat
from .shared import (
    FIGURES,
    TABLES,
    check_out,
    one_line,
    out_option,
    plus_minus,
    progress_bar,
    progress_option,
    save_traces,
)

if TYPE_CHECKING:
    from ..exporting.recipe import ModelOrigin, Recipe
    from ..exporting.sweep_recipe import SweepRecipe
    from ..models.model import Model
    from ..sweeps.average import Average
    from ..tracing.result import TraceResult


@click.command()
@click.argument("source")
@out_option(" of all cells")
@click.option(
    "--model",
    "name",
    metavar="KEY",
    help="Where the same weights are here: key, hub id or folder.  [default: as the recipe says]",
)
@click.option("--device", metavar="NAME", help='For example "cpu" or "cuda:1".')
@click.option("--anew", is_flag=True, help="Compute all samples, even those kept on this disk.")
@progress_option
def run(
    source: str,
    outs: tuple[Path, ...],
    name: str | None,
    device: str | None,
    anew: bool,
    progress: bool | None,
) -> None:
    """Make the numbers of SOURCE again.

    SOURCE is a settings file, or any figure, table or ZIP that SentiTrace saved, or the address of
    one (https://...). Its recipe names model, text, probe and all settings.
    """
    for out in outs:
        check_out(out, (*FIGURES, *TABLES))
    from transformers.utils import logging

    from ..exporting.recipe import Recipe, content_of
    from ..exporting.settings_files import read_settings
    from ..interventions.plan import Plan

    # Progress and errors are said by us; the library's own bars and hints would run into them.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # It is the person's own machine, and what he names is fetched as his browser would.
    settings = read_settings(content_of(source, allow_private=True), source)
    if isinstance(settings, Plan):
        repeat(settings, name=name, device=device, outs=outs, progress=progress)
        return
    recipes = [recipe for recipe in settings if isinstance(recipe, Recipe)]
    results = [_run(recipe, name, device, anew, progress) for recipe in recipes]
    for recipe, result in zip(recipes, results, strict=True):
        _print(recipe, result)
    sweeps = [recipe for recipe in settings if not isinstance(recipe, Recipe)]
    averages = [_sweep(recipe, name, device, progress) for recipe in sweeps]
    for average in averages:
        print_average(average)
    for out in outs:
        written = save_traces(results, out) if results else save_averages(averages, out)
        for path in written:
            click.echo(f"Saved {path}")


def _run(
    recipe: Recipe, name: str | None, device: str | None, anew: bool, progress: bool | None
) -> TraceResult:
    model = _model(recipe.model, name, device, progress)
    with progress_bar(f"Tracing on {model.name}", progress) as show:
        return recipe.run(model=model, keep=not anew, progress=show)


def _sweep(
    recipe: SweepRecipe, name: str | None, device: str | None, progress: bool | None
) -> Average:
    """The average of a recipe; what of its sweep is on disk is not traced again."""
    model = _model(recipe.model, name, device, progress)
    with progress_bar("Tracing tweets", progress) as show:
        return recipe.run(model=model, progress=show)


def _model(
    origin: ModelOrigin, name: str | None, device: str | None, progress: bool | None
) -> Model:
    """A recipe's model, or the same weights by another name."""
    from ..models.loading import load_model

    called = origin.name if name is None else name
    with progress_bar(f"Fetching {called}", progress) as show:

        def fetching(done: int, total: int) -> None:
            show(done / max(total, 1))

        if name is None:
            return origin.load(device=device, fetching=fetching)
        return load_model(
            name,
            device=device,
            dtype=origin.precision,
            untrained=origin.untrained,
            progress=fetching,
        )


def _print(recipe: Recipe, result: TraceResult) -> None:
    from ..tracing.view import unit_of

    click.echo(f"Text        {one_line(recipe.text)}")
    click.echo(
        f"Model       {result.model_name}, {result.layers} layers, {len(result.prompt)} tokens, "
        f"{result.samples_done} sample{'s' if result.samples_done != 1 else ''}"
    )
    click.echo(f"Proxy       {unit_of(result)}")
    click.echo(f"            clean      {result.high:+.4g}")
    click.echo(f"            corrupted  {result.low:+.4g}{plus_minus(result.low_error)}")
    click.echo(f"            total      {result.total_effect:+.4g}{plus_minus(result.low_error)}")
    click.echo(recipe.difference(result) or "Equal to the numbers in the recipe.")
