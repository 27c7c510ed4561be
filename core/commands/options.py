"""Which options does a command have? The fields of its settings, each with its type and default.

`core.settings.described` says of a field what its default and its type do not: a Literal is a
choice, a bool a flag, a tuple a list.

Settings bring torch along, so their options are made for a command that is called or asked for its
own help, and not where commands are listed.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from ..settings import option_of

Command = Callable[..., Any]


class SettingsCommand(click.Command):
    """A command some of whose options are fields of settings."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters, those of settings among them."""
        return [
            option
            for parameter in super().get_params(ctx)
            for option in (parameter.fields if isinstance(parameter, _Settings) else (parameter,))
        ]


def settings_options(
    name: str,
    settings: str,
    *,
    only: Sequence[str] | None = None,
    but: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    other: Mapping[str, Mapping[str, Any]] | None = None,
    given: bool = False,
    make: Callable[..., Any] | None = None,
) -> Callable[[Command], Command]:
    """Give a command options for fields of settings, and the settings themselves as an argument.

    Args:
        name: of the function's argument.
        settings: module (of core) and dataclass, as "tracing.result:TraceSettings".
        only, but: these fields, in this order; all fields but these.
        defaults: of this command, by field.
        other: metadata of this command, by field; they come before the field's own.
        given: the function gets a dict of the fields whose options were given, and no settings.
        make: makes the settings from the fields; None: the dataclass itself does.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(**values: Any) -> Any:
            own = [key for key in values if key.startswith(f"{name}__")]
            found = {key.removeprefix(f"{name}__"): values.pop(key) for key in own}
            if given:
                return command(
                    **values, **{name: {k: v for k, v in found.items() if v is not None}}
                )
            return command(**values, **{name: (make or _dataclass(settings))(**found)})

        option = click.option(
            f"--{name}-fields",
            cls=_Settings,
            found=functools.partial(
                _options, name, settings, only, but, defaults or {}, other or {}, given
            ),
        )
        return option(packed)

    return decorate


class _Settings(click.Option):
    """Stands, among a command's parameters, for the options of settings."""

    def __init__(self, declared: Sequence[str], *, found: Callable[[], list[click.Option]]) -> None:
        super().__init__(declared, expose_value=False, hidden=True)
        self._found = found

    @functools.cached_property
    def fields(self) -> list[click.Option]:
        return self._found()


class _Words(click.ParamType[Any]):
    """Words with commas between them."""

    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value


class _Span(click.ParamType[Any]):
    """Positions with commas between them, or a word for them."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
        if parts and all(part.removeprefix("-").isdecimal() for part in parts):
            return tuple(map(int, parts))
        return value


class _Named(click.Choice[str]):
    """Values that are chosen by their names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(list(values))
        self._values = values

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return self._values[super().convert(value, param, ctx)]


def _dataclass(settings: str) -> Any:
    module, _, name = settings.partition(":")
    return getattr(import_module(f"..{module}", __package__), name)


def _options(
    name: str,
    settings: str,
    only: Sequence[str] | None,
    but: Collection[str],
    defaults: Mapping[str, Any],
    other: Mapping[str, Mapping[str, Any]],
    given: bool,
) -> list[click.Option]:
    made = _dataclass(settings)
    hints = get_type_hints(made)
    fields = {field.name: field for field in dataclasses.fields(made)}
    options = []
    for each in only or fields:
        field = fields[each]
        metadata = {**field.metadata, **other.get(each, {})}
        if "help" not in metadata or each in but:
            continue
        said = metadata.pop("unset", defaults.get(each, field.default))
        if said is None or isinstance(said, bool) or "flag" in metadata:
            said = ""
        elif isinstance(said, tuple):
            said = ",".join(said)
        metadata["help"] += f"  [default: {said}]" if said != "" else ""
        metadata.pop("option", None)
        flags = option_of(field)
        attributes = _typed(hints[each], metadata)
        if hints[each] == bool | None:
            flags += f"/--no-{flags.removeprefix('--')}"
        default = None if given else defaults.get(each, field.default)
        options.append(
            click.Option([flags, f"{name}__{each}"], default=default, **{**attributes, **metadata})
        )
    return options


def _typed(hint: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """What click has to know of a field's type."""
    if "flag" in metadata:
        return {"is_flag": True, "flag_value": metadata.pop("flag")}
    choices = metadata.pop("choices", None)
    if isinstance(choices, Mapping):
        return {"type": _Named(choices)}
    if choices is not None:
        return {"type": click.Choice(choices)}
    alternatives = [hint]
    if get_origin(hint) in (Union, types.UnionType):
        alternatives = [each for each in get_args(hint) if each is not type(None)]
    first, last = alternatives[0], alternatives[-1]
    if "type" in metadata or "multiple" in metadata:
        return {}
    if get_origin(first) is Literal:
        return {"type": click.Choice(get_args(first))}
    if first is bool:
        return {"is_flag": True}
    if get_origin(last) is tuple:
        if last is not first:
            return {"type": _Span()}
        if get_args(last)[-1] is not ...:
            return {"nargs": len(get_args(last)), "type": get_args(last)[0]}
        return {"type": _Words()}
    return {"type": first}
