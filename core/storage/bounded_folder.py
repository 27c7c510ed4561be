"""What goes when a folder of things that can be made again is full? That used least recently.

An entry is a file or a folder; its time of modification says when it was used last (`touch`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import filelock


def touch(entry: Path) -> None:
    """Note that an entry was used just now."""
    with suppress(FileNotFoundError):  # another process has just made room
        os.utime(entry)


def make_room(
    entries: Iterable[Path],
    space: int,
    *,
    needed: int = 0,
    spare: Path | None = None,
    held: Callable[[Path], AbstractContextManager[object]] | None = None,
) -> None:
    """Remove entries, those first that were used longest ago, until all is within the space.

    Args:
        space: bytes that the entries may take together.
        needed: bytes that are about to be added.
        spare: an entry that stays whatever its age; what it holds counts.
        held: a lock that nobody has who does not use the entry; where it raises
            `filelock.Timeout`, the entry stays.
    """
    found = []
    for entry in entries:
        with suppress(FileNotFoundError):
            found.append((entry.stat().st_mtime, _size(entry), entry))
    over = sum(size for _, size, _ in found) + needed - space
    for _, size, entry in sorted(found):
        if over <= 0:
            return
        if entry == spare:
            continue
        try:
            with held(entry) if held is not None else nullcontext():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        except (filelock.Timeout, PermissionError):
            continue  # in use at this moment: on Windows an open file cannot be removed
        over -= size


def _size(entry: Path) -> int:
    if entry.is_file():
        return entry.stat().st_size
    return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
