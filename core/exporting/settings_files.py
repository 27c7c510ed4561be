"""What does a settings file make again: traces, averages, or an intervention?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..interventions import plan
from ..interventions.plan import Outcome, Plan, intervene
from ..models.loading import load_model
from ..showing import Told, teller
from ..sweeps.average import Average
from ..tracing.result import TraceResult
from . import embedded_settings, sweep_recipe
from .recipe import Recipe, content_of, read_recipes
from .sweep_recipe import SweepRecipe

Settings = tuple[Recipe, ...] | tuple[SweepRecipe, ...] | Plan
"""What a settings file can hold; more than one recipe where several stood side by side."""


def read_settings(content: bytes, origin: str = "") -> Settings:
    """What is in a settings file, or in any figure, table or ZIP that SentiTrace saved.

    Raises:
        UserError: nothing, or it cannot be used; one sentence says why.
    """
    text = embedded_settings.read(content)
    try:
        held: Any = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        held = None
    schema = held.get("schema") if isinstance(held, dict) else None
    if schema == plan.SCHEMA:
        assert text is not None
        return Plan.from_json(text, origin)
    if schema == sweep_recipe.SCHEMA:
        return sweep_recipe.read_sweeps(held, origin)
    return read_recipes(content, origin)


def repeat(
    source: str | Path, *, keep: bool = True, progress: Told | None = None
) -> TraceResult | Average | Outcome | list[TraceResult] | list[Average]:
    """Make again what a settings file is of: one that SentiTrace saved, or a figure or table.

    Args:
        source: a file, or an address that begins with http:// or https://.
        keep: use and keep samples of traces on disk.
        progress: called with the share of each trace, sweep or intervention, or True for bars.

    Returns:
        The result; a list where the file holds several.

    Raises:
        UserError: it cannot be read, or made again.
    """
    settings = read_settings(content_of(source, allow_private=True), str(source))
    if isinstance(settings, Plan):
        model = load_model(settings.model)
        return intervene(model, settings, keep=keep, progress=progress)
    made: list[Any] = []
    for recipe in settings:
        if isinstance(recipe, Recipe):
            made.append(recipe.run(keep=keep, progress=teller(progress, "Tracing")))
        else:
            made.append(recipe.run(progress=progress))
    return made[0] if len(made) == 1 else made
