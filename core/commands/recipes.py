"""`python -m core run`: make the numbers of a recipe again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .interventions import plan_in, repeat
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
    from ..exporting.recipe import Recipe
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
    plan = plan_in(source)
    if plan is not None:
        repeat(plan, name=name, device=device, outs=outs, progress=progress)
        return
    from transformers.utils import logging

    from ..exporting.recipe import open_recipes

    # Progress and errors are said by us; the library's own bars and hints would run into them.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # It is the person's own machine, and what he names is fetched as his browser would.
    recipes = open_recipes(source, allow_private=True)
    results = [_run(recipe, name, device, anew, progress) for recipe in recipes]
    for recipe, result in zip(recipes, results, strict=True):
        _print(recipe, result)
    for out in outs:
        for path in save_traces(results, out, precision=recipes[0].model.precision):
            click.echo(f"Saved {path}")


def _run(
    recipe: Recipe, name: str | None, device: str | None, anew: bool, progress: bool | None
) -> TraceResult:
    from ..models.loading import load_model

    called = recipe.model.name if name is None else name
    with progress_bar(f"Fetching {called}", progress) as show:

        def fetching(done: int, total: int) -> None:
            show(done / max(total, 1))

        if name is None:
            model = recipe.load(device=device, fetching=fetching)
        else:
            model = load_model(
                name,
                device=device,
                dtype=recipe.model.precision,
                untrained=recipe.model.untrained,
                progress=fetching,
            )
    with progress_bar(f"Tracing on {model.name}", progress) as show:
        return recipe.run(model=model, keep=not anew, progress=show)


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
