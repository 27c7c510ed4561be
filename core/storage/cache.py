"""Where SentiTrace keeps what it fetches and computes, and how a file there is never half written.

Everything lives below one folder, ``home()``, which the environment variable ``SENTITRACE_HOME``
can move. A file or folder gets its final name only when it is whole and on the disk: it is written
beside its place under a temporary name and then renamed, so whatever has its final name can be
trusted, whenever the process that wrote it was interrupted. Two processes that prepare the same
thing wait for each other by ``lock(name)``.
"""

import glob
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import platformdirs

from ..errors import UserError

_LEFTOVER = ".partial"

WINDOWS = os.name == "nt"
"""There a file that somebody has open can be neither replaced nor removed."""

_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds until another reader has let go of a file


def home() -> Path:
    """Return the folder of everything fetched or computed; asking does not create it."""
    moved = os.environ.get("SENTITRACE_HOME")
    if moved:
        return Path(moved).expanduser().absolute()
    return platformdirs.user_cache_path("sentitrace", appauthor=False)


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; it becomes ``path`` when the block ends well.

    The file that was at ``path`` stays untouched until then, and for good when the block raises.
    The temporary path lies in a hidden folder beside ``path``: writers that choose a format by the
    file's ending work, and nobody who lists ``*.json`` sees a file that is not whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _name_beside(path)
    folder.mkdir()
    try:
        temporary = folder / path.name
        yield temporary
        _flush(temporary)
        rename(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _flush(path.parent)


@contextmanager
def write_folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside ``path``; it becomes ``path`` when the block ends well.

    A folder that is already at ``path`` is replaced; between its removal and the renaming there is
    a moment without either, so readers in other processes should hold the same ``lock``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _name_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        flush_folder(temporary)
        if path.exists():
            # A folder cannot be renamed over a full one. The old one gets a leftover's name first,
            # so an interruption in the removal leaves no damaged folder under the final name.
            replaced = _name_beside(path)
            rename(path, replaced)
            rename(temporary, path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _flush(path.parent)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder its name at once, in place of the file that had it.

    On Windows the readers of a moment, virus scanners among them, are waited for.

    Raises:
        OSError: the system refuses it; a PermissionError on Windows where somebody keeps it open.
    """
    for wait in _WAITS if WINDOWS else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(source, target)


def flush_folder(path: Path) -> None:
    """Ask the system to put a folder and all files in it on the disk before going on."""
    for folder, _, files in os.walk(path):
        for name in files:
            _flush(Path(folder) / name)
        _flush(Path(folder))


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it; call it where no other can write."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{_LEFTOVER}"):
        shutil.rmtree(leftover, ignore_errors=True)


def lock(name: str, timeout: float | None = None) -> filelock.BaseFileLock:
    """Return the lock called ``name``, to be used in a ``with`` statement.

    It holds between processes and is let go by the system when its holder dies. ``timeout`` is in
    seconds; None waits for ever; ``filelock.Timeout`` is raised when it has passed.
    """
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / f"{name}.lock", timeout=-1 if timeout is None else timeout)


def cannot_keep(folder: Path, error: Exception) -> UserError:
    """What a person is told when nothing can be written into a folder of the cache.

    Args:
        error: the system's, or that of a library which quotes the system's.
    """
    reason = error.strerror if isinstance(error, OSError) else None
    if reason is None:
        quoted = re.search(r"I/O error: (.+?)(?: \(os error \d+\))?$", str(error))
        reason = quoted[1] if quoted else str(error)
    return UserError(
        f"Nothing can be kept in {folder} ({reason}); make room there, or move the cache folder "
        "with SENTITRACE_HOME."
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at ``path`` as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{_LEFTOVER}")


def _flush(path: Path) -> None:
    """Ask the system to put the file or folder on the disk before going on."""
    if WINDOWS and path.is_dir():
        return  # it cannot be opened there
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        # Some file systems (network shares, a few container mounts) cannot flush a folder.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
