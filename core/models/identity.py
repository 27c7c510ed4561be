"""Which model is this? One string over all that its numbers come from.

An identity reads `weights.form.precision.generation`:

    weights      SHA-256 of the weights (of the files' digests, where there are several)
    form         digest of config.json and of the tokenizer's files
    precision    in which products are made, a key of `core.models.loading.DTYPES`
    generation   `ENGINE`, of the code that computes

and begins with `untrained-0-` for an untrained twin. Whatever is kept on disk of a model, features,
probes, traces, keys, sweeps, is found by the whole identity: nothing else of a model belongs into a
key, and nothing of it may be left out. A probe or a recipe that a person brings has to be of the
same model, in whatever precision (`same_model`).

Identities of before named the weights alone. They are taken for the model of those weights.
"""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from ..storage import cache
from . import hub

ENGINE = 2
"""Changes whenever the engine's numbers do; what was kept before is then not found any more."""

UNREAD = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype"})
"""Fields of config.json that no number depends on; every other field is part of the identity."""

TOKENIZER_FILES = (
    "*token*.json",
    "*vocab*.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
)
"""Names of files from which transformers makes a tokenizer."""

_INDEX = "*.safetensors.index.json"  # says which file holds which weight


def of_folder(folder: Path) -> str:
    """What identifies the model in a folder, whatever it is loaded as: `weights.form`."""
    weights = _described_weights(folder) or hub.joined_digest(
        [_sha256(path) for path in _files(folder, ("*.safetensors",))]
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    read = {field: value for field, value in config.items() if field not in UNREAD}
    form = hashlib.sha256(json.dumps(read, sort_keys=True).encode())
    for path in _files(folder, (_INDEX, *TOKENIZER_FILES)):
        form.update(f"\n{path.name} {_sha256(path)}".encode())
    return f"{weights}.{form.hexdigest()[:16]}"


def of_model(origin: str, precision: str) -> str:
    """The identity of a model that is loaded from `of_folder`'s origin in this precision."""
    return f"{origin}.{precision}.{ENGINE}"


def same_model(stored: str, own: str) -> bool:
    """Whether what was made with one identity is of the model that has the other.

    Precision and generation may differ. An identity of before says nothing but the weights; that of
    a folder of one file was then the SHA-256 of its digest.
    """
    weights, _, rest = own.partition(".")
    if "." not in stored:
        twin, _, digest = weights.rpartition("-")
        again = hashlib.sha256(digest.encode()).hexdigest()
        return stored in (weights, f"{twin}-{again}" if twin else again)
    return stored.rsplit(".", 2)[0] == f"{weights}.{rest}".rsplit(".", 2)[0]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that its tokenizer is made from, by name."""
    return _files(folder, TOKENIZER_FILES)


def _described_weights(folder: Path) -> str | None:
    """The weights' digest that the folder's description holds, unless a file is newer than that."""
    description = hub.describe_folder(folder)
    if description is None:
        return None
    written = (folder / hub.MANIFEST).stat().st_mtime_ns
    if any(path.stat().st_mtime_ns > written for path in _files(folder, ("*.safetensors",))):
        return None
    return description.get("sha256")


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if any(fnmatchcase(path.name, pattern) for pattern in patterns) and path.is_file()
    ]


def _sha256(path: Path) -> str:
    """Of a file that may be large: read again only when another or a changed one is there."""
    about = path.stat()
    return _digest(path.resolve(), about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, _file: int, _size: int, _time: int) -> str:
    return cache.sha256(path)
