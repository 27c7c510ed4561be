"""What does a field of settings mean to a person, and how are settings said on a command line?

`core.commands.options` makes an option from every field that is described here; `arguments` is the
way back, from settings to the options that say them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import Field, field, fields
from typing import Any


def described(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with its help.

    Args:
        metadata: `option`, the option's name where it is not the field's; `unset`, words for the
            default ("": nothing to say); `choices`, some of a Literal's values, or names with
            their values; `flag`, the value that the bare option stands for; and whatever else
            `click.Option` takes.
    """
    return field(default=default, metadata={"help": help, **metadata})


def option_of(each: Field[Any]) -> str:
    """The name of a field's option."""
    return str(each.metadata.get("option", f"--{each.name.replace('_', '-')}"))


def changed(settings: Any, *, but: Collection[str] = ()) -> dict[str, Any]:
    """The fields of settings that are not at their defaults, by name."""
    values = {each.name: (getattr(settings, each.name), each.default) for each in fields(settings)}
    return {
        name: value
        for name, (value, default) in values.items()
        if value != default and name not in but
    }


def arguments(
    settings: Any, *, always: Collection[str] = (), but: Collection[str] = ()
) -> list[str]:
    """The options that say settings on a command line, each in its own argument.

    Args:
        always: fields that are said also at their defaults, where a command has others.
        but: fields that are left out, said in another way or not at all.
    """
    wanted = {*changed(settings, but=but), *always}
    said: list[str] = []
    for each in fields(settings):
        if each.name in wanted and "help" in each.metadata:
            said += _said(each, getattr(settings, each.name))
    return said


def _said(each: Field[Any], value: Any) -> list[str]:
    name, metadata = option_of(each), each.metadata
    if value is None:
        return []
    if "flag" in metadata:
        return [name] if value == metadata["flag"] else []
    if isinstance(value, bool):
        return [name] if value else []
    if metadata.get("multiple"):
        return [part for one in value for part in (name, str(one))]
    if isinstance(choices := metadata.get("choices"), Mapping):
        value = next(called for called, meant in choices.items() if meant == value)
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return [name, str(value)]
