"""Fetching a model's files from the Hugging Face hub, so that only whole and checked ones are kept.

Only safetensors weights, the configuration and the tokenizer's files are taken: nothing that runs
code when it is loaded. Every file is compared with the checksum that the hub lists for the
revision, and the folder gets its name when all of them are there. ``HF_ENDPOINT`` names another
hub, ``HF_HUB_OFFLINE=1`` forbids asking any.

``huggingface_hub`` is imported when something is fetched, not before.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cache import lock, remove_leftovers, sha256, write_folder_beside

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

MANIFEST = "sentitrace.json"  # written last: says what the folder is
ANSWER_SECONDS = 4.0  # how long the hub may take to say what it has

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class HubError(ValueError):
    """The hub does not have what was asked, in a form that is taken, or broke off while sending."""


class HubUnreachable(HubError):
    """Nobody answered, or not in time."""


def describe_folder(folder: Path) -> dict[str, str] | None:
    """Return what ``folder``'s sentitrace.json says, or None where no whole model folder is."""
    try:
        description = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {str(name): str(value) for name, value in description.items()}


def write_description(folder: Path, *, key: str, source: str, revision: str) -> None:
    """Write ``folder``'s sentitrace.json: where its model is from, and the weights' SHA-256.

    For weights in several files it is the SHA-256 of the files' digests, in the order of the names.
    """
    # The safetensors library makes files that only their owner may read; a cache can be shared.
    digests = []
    for weights in sorted(folder.glob("model*.safetensors")):
        shutil.copymode(folder / "config.json", weights)
        digests.append(sha256(weights))
    together = (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
    description = {"key": key, "source": source, "revision": revision, "sha256": together}
    (folder / MANIFEST).write_text(json.dumps(description, indent=2) + "\n", "utf-8")


def download_model(
    hub_id: str,
    folder: Path,
    *,
    revision: str = "main",
    timeout: float = ANSWER_SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch the model ``hub_id`` of the hub into ``folder`` and return it; at once if it is there.

    The commit that ``revision`` stands for is recorded in sentitrace.json. ``timeout`` (seconds) is
    for the hub's first answer. ``progress(done, total)`` is told bytes, and may raise to stop the
    download, which then leaves nothing behind. Raises HubUnreachable when the hub does not answer
    in time, and HubError when there is no such model, it has no safetensors weights, or what
    arrives is cut short or differs from the hub's checksum.
    """
    folder = Path(folder)
    if describe_folder(folder) is not None:
        return folder
    info = _ask(hub_id, revision, timeout)
    files = choose_files(hub_id, info.siblings or [])
    total = sum(file.size or 0 for file in files)
    with lock(f"model-{folder.name}"):
        if describe_folder(folder) is not None:
            return folder  # another process fetched it while this one waited
        remove_leftovers(folder)
        with write_folder_beside(folder) as temporary:
            done = 0
            for file in files:
                _fetch(hub_id, file.rfilename, info.sha, temporary, progress, done, total)
                _check(temporary / file.rfilename, file)
                done += file.size or 0
                if progress is not None:
                    progress(done, total)
            shutil.rmtree(temporary / ".cache", ignore_errors=True)
            write_description(
                temporary, key=folder.name, source=f"hub: {hub_id}", revision=str(info.sha)
            )
    return folder


def choose_files(hub_id: str, siblings: "list[RepoSibling]") -> "list[RepoSibling]":
    """Return the files to fetch of those that the hub lists; HubError where no safetensors are."""
    listed = {sibling.rfilename: sibling for sibling in siblings}
    if "config.json" not in listed:
        raise HubError(
            f"{hub_id!r} has no config.json, so it is no transformers model: choose another one."
        )
    if _WEIGHTS in listed:
        weights = [_WEIGHTS]
    else:
        weights = [name for name in sorted(listed) if _SHARD.fullmatch(name)]
        if not weights or _INDEX not in listed:
            only_pickles = any(name.endswith(_PICKLES) for name in listed)
            found = "only pickled weights, which can run code" if only_pickles else "no weights"
            raise HubError(
                f"{hub_id!r} has {found}: choose a model that has {_WEIGHTS}, or convert it first."
            )
        weights.append(_INDEX)
    return [listed[name] for name in (*_SIDE_FILES, *weights) if name in listed]


def _ask(hub_id: str, revision: str, timeout: float) -> "ModelInfo":
    """Ask the hub once which files ``hub_id`` has and at which commit."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    outcome: list[ModelInfo | Exception] = []
    # The last three: what answers is no hub (a page of a network that asks for a log-in, say).
    expected = (HTTPError, OSError, HFValidationError, ValueError, KeyError, TypeError)

    def ask() -> None:
        api = HfApi(endpoint=_endpoint())
        try:
            outcome.append(
                api.model_info(hub_id, revision=revision, files_metadata=True, timeout=timeout)
            )
        except expected as error:
            outcome.append(error)

    # The time-out of the connection covers neither looking up the name nor an answer that comes in
    # drops, so the question is asked in a thread that can be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    answer = outcome[0] if outcome else None
    cannot = f"{hub_id!r} cannot be fetched"
    match answer:
        case None:
            raise HubUnreachable(f"{cannot}: the hub did not answer within {timeout:g} s.")
        case OfflineModeIsEnabled():
            raise HubUnreachable(f"{cannot}: HF_HUB_OFFLINE forbids asking the hub.")
        case GatedRepoError():
            raise HubError(f"{hub_id!r} asks for an agreement on the hub: log in there first.")
        case RevisionNotFoundError():
            raise HubError(f"{hub_id!r} has no revision {revision!r}: choose one that it has.")
        case RepositoryNotFoundError() | HFValidationError():
            raise HubError(f"The hub has no model {hub_id!r}: check the name.")
        case HfHubHTTPError() if answer.response.status_code < 500:
            raise HubError(f"The hub refused {hub_id!r} with status {answer.response.status_code}.")
        case Exception():
            raise HubUnreachable(f"{cannot}: the hub was not reached ({_first_line(answer)}).")
    return answer


def _fetch(
    hub_id: str,
    name: str,
    commit: str | None,
    folder: Path,
    progress: Callable[[int, int], None] | None,
    done: int,
    total: int,
) -> None:
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(
            hub_id,
            name,
            revision=commit,
            local_dir=folder,
            endpoint=_endpoint(),
            tqdm_class=_meter(progress, done, total),
        )
    except (HTTPError, OSError) as error:
        raise HubError(
            f"{name} of {hub_id!r} did not arrive whole ({_first_line(error)}): try again."
        ) from error


def _check(path: Path, listed: "RepoSibling") -> None:
    """Compare a file with the checksum that the hub lists: SHA-256 for large ones, else git's."""
    if listed.lfs is not None:
        expected, found = listed.lfs.sha256, sha256(path)
    elif listed.blob_id is not None:
        content = path.read_bytes()
        expected = listed.blob_id
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        raise HubError(f"The hub lists no checksum for {listed.rfilename}, so it is not taken.")
    if found != expected:
        raise HubError(
            f"{listed.rfilename} has the checksum {found}, but the hub lists {expected}: try again."
        )


def _meter(progress: Callable[[int, int], None] | None, done: int, total: int) -> Any:
    """Return a silent progress bar class that passes on how many bytes of all are there."""
    from tqdm import tqdm

    class Meter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.received = int(options.get("initial") or 0)
            options["disable"] = True
            super().__init__(*args, **options)

        def update(self, n: float | None = 1) -> None:
            self.received += int(n or 0)
            if progress is not None:
                progress(min(done + self.received, total), total)

    return Meter


def _endpoint() -> str | None:
    # Read at each call: the library reads it once, when it is imported.
    return os.environ.get("HF_ENDPOINT") or None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
