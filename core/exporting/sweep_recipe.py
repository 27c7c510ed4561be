"""What makes an average again? The sweep's model, probe, settings and tweets, and the options.

The sweep that it makes has the name of the one that it is of, so where that is on the disk nothing
is traced. As of traces (`core.exporting.recipe`), every field of a file is checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache as once
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ..errors import UserError
from ..models.model import Model
from ..probes.probe import Probe
from ..showing import Told
from ..sweeps.average import Average, average
from ..sweeps.store import Store
from ..sweeps.study import Options
from ..sweeps.sweep import Selection, sweep
from ..tracing.result import TraceSettings
from .recipe import STRICT, ModelOrigin, Name, Text

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Literal["sentitrace average"] = "sentitrace average"
VERSION: Literal[1] = 1


@checked(frozen=True, config=STRICT)
class Tweet:
    """One tweet of a sweep, as `core.sweeps.sweep.choose` drew it."""

    number: int
    row: int
    text: Text
    label: int
    tokens: int
    rating: float | None = None
    counterfactual: Text | None = None
    counterfactual_label: int | None = None


@dataclass(frozen=True)
class SweepRecipe:
    """A sweep and how it is averaged.

    Attributes:
        id: the name of the sweep.
        selection: by which the tweets were drawn.
        roles, most_tokens: see `core.sweeps.sweep.create`.
        data: what a person calls the data.
    """

    id: Name
    model: ModelOrigin
    probe: Probe
    settings: TraceSettings
    selection: Selection
    roles: tuple[str, ...] | None
    most_tokens: int | None
    data: Name
    tweets: tuple[Tweet, ...]
    options: Options
    schema: Literal["sentitrace average"] = SCHEMA
    version: Literal[1] = VERSION

    @classmethod
    def of(cls, store: Store, options: Options | None = None) -> SweepRecipe:
        """The recipe of a sweep on disk."""
        determines, task, model = store.manifest["determines"], store.task, store.model
        return cls(
            id=store.id,
            model=ModelOrigin(
                name=model.name,
                identity=model.identity,
                revision=store.probe.model_revision,
                untrained=model.untrained,
                precision=model.dtype,
            ),
            probe=store.probe,
            settings=task.settings,
            selection=Selection(**determines["selection"]),
            roles=None if task.roles is None else tuple(task.roles),
            most_tokens=task.most_tokens,
            data=str(store.manifest["origin"]["data"] or "texts without a name"),
            tweets=tuple(map(_tweet, store.tweets.sort_values("number").to_dict("records"))),
            options=options or Options(),
        )

    def to_json(self) -> str:
        """The recipe as JSON, as `from_json` reads it."""
        return _adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, content: str | bytes, origin: str = "") -> SweepRecipe:
        """Read a recipe that `to_json` wrote; every field is checked.

        Raises:
            UserError: this is none, or a value cannot be right.
        """
        called = f"The settings {origin}" if origin else "The settings"
        try:
            return _adapter().validate_json(content, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the whole"
            reason = str(wrong["msg"]).removeprefix("Value error, ").rstrip(".")
            raise UserError(f"{called} of a sweep are damaged at {place}: {reason}.") from error

    def sweep(self, model: Model, *, progress: Told | None = None) -> Store:
        """Make the sweep; what of it is on disk is not traced again.

        Raises:
            UserError: the model is another.
        """
        self.model.check(model)
        return sweep(
            model,
            self.probe,
            self.frame(),
            self.settings,
            selection=self.selection,
            roles=self.roles,
            most_tokens=self.most_tokens,
            data=self.data,
            drawn=True,
            progress=progress,
        )

    def run(self, *, model: Model | None = None, progress: Told | None = None) -> Average:
        """Make the sweep and its average again."""
        loaded = self.model.load() if model is None else model
        return average(self.sweep(loaded, progress=progress), **asdict(self.options))

    def frame(self) -> pd.DataFrame:
        """The tweets in the columns of a store's plan that a sweep is made from."""
        import pandas as pd

        return pd.DataFrame(map(asdict, self.tweets)).dropna(axis="columns", how="all")


@dataclass(frozen=True)
class SweepRecipes:
    """The recipes of averages that are shown side by side."""

    recipes: tuple[SweepRecipe, ...]

    def to_json(self) -> str:
        """The recipes as JSON, as `core.exporting.settings_files` reads it."""
        held = [json.loads(recipe.to_json()) for recipe in self.recipes]
        return json.dumps({"schema": SCHEMA, "version": VERSION, "sweeps": held})


def read_sweeps(held: dict[str, Any], origin: str = "") -> tuple[SweepRecipe, ...]:
    """The recipes in the JSON of one or of several.

    Raises:
        UserError: one of them cannot be used, or is of another version.
    """
    if held.get("version") != VERSION:
        raise UserError(
            f"The settings {origin or 'of the sweep'} have the version {held.get('version')!r}, "
            f"and this SentiTrace reads version {VERSION}; update SentiTrace."
        )
    several = held.get("sweeps")
    each: Sequence[Any] = several if isinstance(several, list) else [held]
    if not each:
        raise UserError(f"The settings {origin or 'of the sweep'} hold no sweep.")
    return tuple(SweepRecipe.from_json(json.dumps(one), origin) for one in each)


@once
def _adapter() -> TypeAdapter[SweepRecipe]:
    return TypeAdapter(SweepRecipe)


def _tweet(row: dict[Any, Any]) -> Tweet:
    known = {each.name: row.get(each.name) for each in fields(Tweet)}
    values: dict[str, Any] = {k: None if v != v else v for k, v in known.items()}
    return Tweet(**values)
