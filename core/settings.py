"""What does a field of settings mean to a person? Its help, beside its default.

`core.commands.options` makes an option from every field that is described here.
"""

from __future__ import annotations

from dataclasses import field
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
