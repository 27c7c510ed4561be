"""Which settings does a short link name? Settings files that a person asked to be kept for one.

The id is made of the content, so the same settings are kept once, and who does not know them cannot
name them. The folder is bounded: links that nobody opened for longest end first.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..errors import UserError
from . import cache
from .bounded_folder import make_room, touch

MOST_BYTES = 64 * 2**20
"""Of all kept settings."""

LARGEST = 4 * 2**20
"""Bytes of one."""

_ID = re.compile(r"[0-9a-f]{20}")


def keep(settings: str) -> str:
    """Keep settings, a JSON text; gives the id that they are found by.

    Raises:
        UserError: they are too large, or nothing can be written.
    """
    content = settings.encode("utf-8")
    if len(content) > LARGEST:
        raise UserError(
            f"These settings have {len(content) / 2**20:.1f} MB, and a link keeps up to "
            f"{LARGEST // 2**20}; save the settings file instead."
        )
    id = hashlib.sha256(content).hexdigest()[:20]
    path = _folder() / f"{id}.json"
    try:
        with cache.lock("links"):
            if path.is_file():
                touch(path)
                return id
            with cache.write_beside(path) as beside:
                beside.write_bytes(content)
            make_room(_folder().glob("*.json"), MOST_BYTES, spare=path)
    except OSError as error:
        raise cache.cannot_keep(_folder(), error) from error
    return id


def find(id: str) -> bytes:
    """The settings of an id.

    Raises:
        UserError: none are kept under it.
    """
    if _ID.fullmatch(id):  # anything else could be a path
        path = _folder() / f"{id}.json"
        try:
            content: bytes = path.read_bytes()
        except FileNotFoundError:
            pass
        else:
            touch(path)
            return content
    raise UserError(
        "The settings of this link are not kept here, or no longer; ask for the settings file and "
        "open that."
    )


def _folder() -> Path:
    return cache.home() / "links"
