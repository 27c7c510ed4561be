"""What makes a trace again? All that determines it, as JSON with a version.

A recipe names the model by its weights, and carries the probe itself: the data that the probe was
trained on are not needed again. Every file that SentiTrace saves holds its recipe
(`core.exporting.embedded_settings`), so that a figure is enough to make its own numbers again.

A recipe may come from anywhere: every field is checked, and a file of another version is refused.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ..errors import UserError
from ..models import hub, installed
from ..models.identity import ENGINE, same_model
from ..models.loading import DTYPES, TWIN_SEED, load_model
from ..models.model import Model
from ..models.registry import EMBEDDED, is_on_disk, model_folder
from ..probes.probe import Probe
from ..tracing.result import TraceResult, TraceSettings
from ..tracing.tracer import trace
from . import addresses, embedded_settings

if TYPE_CHECKING:
    from torch import device as Device

SCHEMA: Literal["sentitrace recipe"] = "sentitrace recipe"
VERSION: Literal[1] = 1
"""Version of the JSON form; a recipe of another version is refused."""

TOLERANCE = 1e-3
"""Of numbers that are the same but for the order of sums on another machine, relative."""

_TWIN = " (untrained)"
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]


@checked(frozen=True, config=STRICT)
class ModelOrigin:
    """Which weights were traced."""

    name: Name  # key, hub id or folder
    identity: Name  # of the weights, as `Model.identity`
    revision: str | None = None
    untrained: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise ValueError(f"the precision {self.precision!r} is not known")

    def fetch(self, *, fetching: Callable[[int, int], None] | None = None) -> None:
        """Download the model at its revision, if it is not on disk."""
        if not is_on_disk(self.name) and not Path(self.name).is_dir():
            _download(self.name, self.revision, fetching)

    def load(
        self,
        *,
        device: str | Device | None = None,
        fetching: Callable[[int, int], None] | None = None,
    ) -> Model:
        """The model, downloaded at its revision if it is not on disk.

        Raises:
            ValueError: it cannot be had.
        """
        self.fetch(fetching=fetching)
        return load_model(self.name, device=device, dtype=self.precision, untrained=self.untrained)

    def check(self, model: Model) -> None:
        """Refuse another model: other weights, configuration or tokenizer."""
        if not same_model(self.identity, model.identity):
            at = f" at revision {self.revision[:12]}" if self.revision else ""
            raise UserError(
                f"The recipe was made with {self.name!r}{at}, and the weights here are "
                "others, or their config.json or tokenizer is; remove that model and fetch the "
                "revision, or give the folder it is in."
            )


@checked(frozen=True, config=STRICT)
class Found:
    """What the trace found, to compare with when it is made again; in units of the proxy."""

    high: float
    low: float
    noise: float  # standard deviation, in embedding units


@dataclass(frozen=True)
class Recipe:
    """One trace, as it can be made again.

    Attributes:
        text, suffix, words: what the model reads and is read for; suffix and words are the probe's.
        settings: all of them, with the window in layers and as many samples as were made.
        found: what came out.
        versions: of Python and the packages that compute, and of the engine.
    """

    model: ModelOrigin
    text: Text
    suffix: Text
    words: tuple[tuple[str, ...], tuple[str, ...]]
    settings: TraceSettings
    probe: Probe
    found: Found
    versions: dict[str, str]
    schema: Literal["sentitrace recipe"] = SCHEMA
    version: Literal[1] = VERSION

    def __post_init__(self) -> None:
        if self.suffix != self.probe.suffix:
            raise ValueError(f"the suffix {self.suffix!r} is not the probe's")
        if self.words != (self.probe.words_positive, self.probe.words_negative):
            raise ValueError("the words are not the probe's")

    @classmethod
    def of(cls, result: TraceResult) -> Recipe:
        """The recipe of a result: of its samples so far, however it came to end."""
        settings, identity = result.settings, result.model_identity
        drawn = settings.corruption in ("noise", "uniform")
        return cls(
            model=ModelOrigin(
                name=result.model_name.removesuffix(_TWIN),
                identity=identity,
                revision=_revision(result),
                untrained=_is_twin(identity),
                precision=_precision(identity),
            ),
            text=result.prompt.tweet,
            suffix=result.probe.suffix,
            words=(result.probe.words_positive, result.probe.words_negative),
            settings=replace(
                settings,
                samples=result.samples_done if drawn else settings.samples,
                window=result.window,
                seconds=None,
                stable_for=None,
            ),
            probe=result.probe,
            found=Found(high=result.high, low=result.low, noise=result.noise),
            versions=_versions(),
        )

    def to_json(self) -> str:
        """The recipe as JSON, as `from_json` reads it."""
        return _adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, content: str | bytes, origin: str = "") -> Recipe:
        """Read a recipe that `to_json` wrote; every field is checked.

        Args:
            origin: where the content is from, for the sentence of the error.

        Raises:
            ValueError: this is no recipe, one of another version, or a value cannot be right.
        """
        called = f"The recipe {origin}" if origin else "The recipe"
        try:
            held = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{called} is not JSON; save it again.") from error
        if not isinstance(held, dict) or held.get("schema") != SCHEMA:
            raise UserError(
                f"{called} is no recipe of a trace; give a settings file, or a figure or table, "
                "that SentiTrace saved."
            )
        if held.get("version") != VERSION:
            newer = isinstance(held.get("version"), int) and held["version"] > VERSION
            remedy = "update SentiTrace" if newer else "trace the text anew"
            raise UserError(
                f"{called} has the version {held.get('version')!r}, and this SentiTrace reads "
                f"version {VERSION}; {remedy}."
            )
        settings = held.get("settings")
        if isinstance(settings, dict):
            unknown = sorted(set(settings) - {field.name for field in fields(TraceSettings)})
            if unknown:  # leaving it out could give other numbers
                raise UserError(
                    f"{called} asks for {unknown[0]!r}, which this SentiTrace does not know; "
                    "update SentiTrace."
                )
        try:
            return _adapter().validate_json(json.dumps(held), strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the whole"
            reason = str(wrong["msg"]).removeprefix("Value error, ").rstrip(".")
            raise UserError(f"{called} is damaged at {place}: {reason}.") from error

    def run(
        self,
        *,
        model: Model | None = None,
        device: str | Device | None = None,
        keep: bool = True,
        fetching: Callable[[int, int], None] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> TraceResult:
        """Make the trace again.

        Args:
            model: the loaded model; by default it is loaded, and downloaded if need be.
            device: to load it on.
            keep: use and keep samples on disk, as in `core.tracing.tracer.trace_progressively`.
            fetching: called with (bytes done, bytes in all) of a download.
            progress: called with the share of the trace that is done.

        Raises:
            ValueError: the model cannot be had, or has other weights by now.
        """
        loaded = self.model.load(device=device, fetching=fetching) if model is None else model
        self.model.check(loaded)
        return trace(loaded, self.probe, self.text, self.settings, keep=keep, progress=progress)

    def difference(self, result: TraceResult) -> str:
        """One sentence on what came out differently, empty where nothing did."""
        for name, before, now in (
            ("clean proxy", self.found.high, result.high),
            ("corrupted proxy", self.found.low, result.low),
        ):
            if abs(now - before) > TOLERANCE * max(1.0, abs(before)):
                return (
                    f"The {name} is {now:+.5g}, and was {before:+.5g} when the recipe was saved"
                    f"{self._by_whom()}."
                )
        return ""

    def _by_whom(self) -> str:
        here = _versions()
        changed = [
            f"{name} {version} (here {here.get(name, 'none')})"
            for name, version in self.versions.items()
            if here.get(name) != version
        ]
        return f" with {', '.join(changed)}" if changed else ""


@once
def _adapter() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def _revision(result: TraceResult) -> str | None:
    """The revision of the weights, where one is known."""
    probe = result.probe
    own = result.model_identity.removeprefix(f"untrained-{TWIN_SEED}-")
    if probe.model_revision and same_model(probe.model_identity, own):
        return probe.model_revision
    description = hub.describe_folder(model_folder(result.model_name.removesuffix(_TWIN)))
    return None if description is None else description.get("revision")


def _precision(identity: str) -> str:
    """In which products were made; identities of before did not say it (`core.models.identity`)."""
    *_, precision, _ = ("", *identity.rsplit(".", 2))
    return precision if precision in DTYPES else "float32"


def _is_twin(identity: str) -> bool:
    return identity.startswith("untrained-")


def _download(name: str, revision: str | None, fetching: Callable[[int, int], None] | None) -> None:
    if name == EMBEDDED:
        return  # set-up prepares it, and loading says so
    if Path(name).is_absolute() or name.startswith("."):
        raise UserError(
            f"The recipe's model is the local folder {name!r}, which is not here; give the folder "
            "that the model is in."
        )
    installed.download(name, revision=revision or "main", progress=fetching)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "numpy")
    return {
        "engine": str(ENGINE),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


# --- several, and from anywhere ------------------------------------------------------------------


@dataclass(frozen=True)
class Recipes:
    """The recipes of a view that shows several traces, such as a comparison of models."""

    recipes: tuple[Recipe, ...]

    @classmethod
    def of(cls, results: Sequence[TraceResult]) -> Recipes:
        """The recipes of several results."""
        return cls(tuple(map(Recipe.of, results)))

    def to_json(self) -> str:
        """The recipes as JSON, as `read_recipes` reads it."""
        traces = [json.loads(recipe.to_json()) for recipe in self.recipes]
        return json.dumps({"schema": SCHEMA, "version": VERSION, "traces": traces})


def read_recipes(content: bytes, origin: str = "") -> tuple[Recipe, ...]:
    """The recipes in a settings file, or in any figure, table or ZIP that SentiTrace saved.

    Raises:
        ValueError: there is none, or it cannot be used; one sentence says why.
    """
    text = embedded_settings.read(content)
    if text is None:
        raise UserError(
            f"The file{f' {origin}' if origin else ''} holds no recipe; give a settings file, or a "
            "figure or table, that SentiTrace saved."
        )
    try:
        held: Any = json.loads(text)
    except (ValueError, RecursionError):
        held = None  # said below
    traces = held.get("traces") if isinstance(held, dict) else None
    if isinstance(held, dict) and held.get("schema") == SCHEMA and isinstance(traces, list):
        if not traces:
            raise UserError(f"The recipe{f' {origin}' if origin else ''} holds no trace.")
        return tuple(Recipe.from_json(json.dumps(trace), origin) for trace in traces)
    return (Recipe.from_json(text, origin),)


def open_recipes(
    source: str | Path,
    *,
    allow_private: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Recipe, ...]:
    """The recipes in a file or behind an address; arguments are those of `content_of`.

    Raises:
        ValueError: it cannot be read, or holds no recipe that can be used.
    """
    content = content_of(source, allow_private=allow_private, progress=progress)
    return read_recipes(content, str(source))


def content_of(
    source: str | Path,
    *,
    allow_private: bool = False,
    progress: Callable[[int], None] | None = None,
) -> bytes:
    """What is in a file, or behind an address that begins with http:// or https://.

    Args:
        allow_private: fetch from this machine and its network too, see
        `core.exporting.addresses.fetch`.
        progress: called with the bytes that have been fetched.

    Raises:
        ValueError: it cannot be read.
    """
    if str(source).startswith(("http://", "https://")):
        return addresses.fetch(
            str(source),
            most_bytes=embedded_settings.MOST_BYTES,
            allow_private=allow_private,
            progress=progress,
        )
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"The recipe {str(source)!r} cannot be read: {error.strerror}.") from error
