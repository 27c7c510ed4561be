"""Fetching a model's files from the Hugging Face hub, so that only whole and checked ones are kept.

Only safetensors weights, the configuration and the tokenizer's files are taken: nothing that runs
code when it is loaded. Every file is compared with the checksum that the hub lists for the
revision, and the folder gets its name when all of them are there. Until then what arrived lies in a
hidden folder beside it, from which an interrupted download goes on. ``HF_ENDPOINT`` names another
hub, ``HF_HUB_OFFLINE=1`` forbids asking any. Its library's own download would fetch a file that
broke off all over again (`docs/architecture.md`).

``huggingface_hub`` is imported when something is fetched, not before.
"""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import UserError
from ..storage.cache import flush_folder, lock, remove_leftovers, rename, sha256

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

MANIFEST = "sentitrace.json"  # written last: says what the folder is
ANSWER_SECONDS = 4.0  # how long the hub may take to say what it has
PART_SECONDS = 10.0  # how long the next part of a file may keep us waiting
ATTEMPTS = 4  # to go on with a file after its connection was cut
SPARE_BYTES = 200 * 2**20  # that a download leaves free on the disk

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FETCHING = ".fetching"
Progress = Callable[[int, int], None]


class HubError(UserError):
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


def joined_digest(digests: Sequence[str]) -> str:
    """Return the digest of weights from those of their files, in the order of the names."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def write_description(folder: Path, *, key: str, source: str, revision: str) -> None:
    """Write ``folder``'s sentitrace.json: where its model is from, and the weights' digest."""
    weights = sorted(folder.glob("model*.safetensors"))
    for file in weights:
        # The safetensors library makes files that only their owner may read; a cache can be shared.
        shutil.copymode(folder / "config.json", file)
    digest = joined_digest([sha256(file) for file in weights])
    description = {"key": key, "source": source, "revision": revision, "sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(description, indent=2) + "\n", "utf-8")


@dataclass(frozen=True)
class Offer:
    """What the hub has: how many bytes a download fetches, at which commit."""

    hub_id: str
    bytes: int
    commit: str


def look_up(hub_id: str, *, revision: str = "main", timeout: float = ANSWER_SECONDS) -> Offer:
    """Ask the hub how large a model is; raises as `download_model` does."""
    info = _ask(hub_id, revision, timeout)
    files = choose_files(hub_id, info.siblings or [])
    return Offer(hub_id, sum(file.size or 0 for file in files), str(info.sha))


def download_model(
    hub_id: str,
    folder: Path,
    *,
    revision: str = "main",
    timeout: float = ANSWER_SECONDS,
    progress: Progress | None = None,
    accept: Callable[[Path], None] | None = None,
) -> Path:
    """Fetch the model ``hub_id`` of the hub into ``folder`` and return it; at once if it is there.

    The commit that ``revision`` stands for is recorded in sentitrace.json. ``timeout`` (seconds) is
    for the hub's first answer. ``progress(done, total)`` is told bytes, and may raise to stop the
    download; the next one of the same commit goes on from there. ``accept`` is given the path of
    config.json before any weights are fetched, and may raise to refuse the model.

    Raises HubUnreachable when the hub does not answer in time, and HubError when there is no such
    model, it may not be fetched, it has no safetensors weights, the disk is too full, or what
    arrives is cut short or differs from the hub's checksum. Nothing but a whole model is ever at
    ``folder``.
    """
    folder = Path(folder)
    if describe_folder(folder) is not None:
        return folder
    info = _ask(hub_id, revision, timeout)
    files = choose_files(hub_id, info.siblings or [])
    with lock(f"model-{folder.name}"):
        if describe_folder(folder) is not None:
            return folder  # another process fetched it while this one waited
        remove_leftovers(folder)
        partial = folder.with_name(f".{folder.name}.{info.sha}{_FETCHING}")
        for other in unfinished(folder):
            if other != partial:
                shutil.rmtree(other, ignore_errors=True)  # of another commit
        partial.mkdir(parents=True, exist_ok=True)
        try:
            _fetch_all(hub_id, str(info.sha), files, partial, progress, accept)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise HubError(
                    f"{hub_id!r} cannot be kept in {folder.parent} ({error.strerror}): "
                    "make that folder writable, or name another by SENTITRACE_HOME."
                ) from error
            shutil.rmtree(partial, ignore_errors=True)
            raise HubError(
                f"The disk became full while {hub_id!r} was fetched: make room, or remove a model, "
                "and try again."
            ) from error
        write_description(partial, key=folder.name, source=f"hub: {hub_id}", revision=str(info.sha))
        flush_folder(partial)
        shutil.rmtree(folder, ignore_errors=True)  # without a description it was no model
        rename(partial, folder)
    return folder


def unfinished(folder: Path) -> list[Path]:
    """Hidden folders beside ``folder`` with what arrived of it before a download broke off."""
    return sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*{_FETCHING}"))


def discard(folder: Path) -> None:
    """Remove what arrived of a model whose download broke off."""
    with lock(f"model-{folder.name}"):
        for partial in unfinished(folder):
            shutil.rmtree(partial, ignore_errors=True)


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
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

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
    match answer:
        case None:
            raise HubUnreachable(
                f"{hub_id!r} cannot be fetched: the hub did not answer within {timeout:g} s."
            )
        case RevisionNotFoundError():
            raise HubError(f"{hub_id!r} has no revision {revision!r}: choose one that it has.")
        case Exception():
            raise hub_error(hub_id, "model", answer) or _unreached(hub_id, answer)
    return answer


def hub_error(hub_id: str, kind: Literal["model", "data set"], error: Exception) -> HubError | None:
    """The sentence for what `huggingface_hub` raises; None for what may be anything else's."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    match error:
        case OfflineModeIsEnabled():
            return HubUnreachable(f"{hub_id!r} cannot be fetched: HF_HUB_OFFLINE forbids it.")
        case GatedRepoError():
            return _refused(hub_id, "", error)
        case RepositoryNotFoundError() | HFValidationError():
            return HubError(f"The hub has no {kind} {hub_id!r}: check the name.")
        case HfHubHTTPError() if error.response.status_code < 500:
            return HubError(f"The hub refused {hub_id!r} with status {error.response.status_code}.")
        case HTTPError() | ConnectionError():
            return _unreached(hub_id, error)
    return None


def _unreached(hub_id: str, error: Exception) -> HubUnreachable:
    return HubUnreachable(
        f"{hub_id!r} cannot be fetched: the hub was not reached ({_first_line(error)})."
    )


def _fetch_all(
    hub_id: str,
    commit: str,
    files: "list[RepoSibling]",
    folder: Path,
    progress: Progress | None,
    accept: Callable[[Path], None] | None,
) -> None:
    total = sum(file.size or 0 for file in files)
    missing = total - sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free
    if missing + SPARE_BYTES > free:
        if missing == total:
            shutil.rmtree(folder, ignore_errors=True)
        raise HubError(
            f"{hub_id!r} needs {(missing + SPARE_BYTES) / 1e6:,.0f} MB on the disk, and "
            f"{free / 1e6:,.0f} MB are free: make room, or remove a model."
        )
    done = 0
    for file in files:
        path = folder / file.rfilename
        before = done
        if not path.exists():

            def told(count: int, before: int = before) -> None:
                if progress is not None:
                    progress(min(before + count, total), total)

            _fetch(hub_id, commit, file, path, told)
        done += file.size or 0
        if progress is not None:
            progress(done, total)
        if accept is not None and file.rfilename == "config.json":
            try:
                accept(path)
            except ValueError:
                shutil.rmtree(folder, ignore_errors=True)
                raise


def _fetch(
    hub_id: str, commit: str, file: "RepoSibling", path: Path, told: Callable[[int], None]
) -> None:
    """Fetch one file, going on from what arrived earlier, and give it its name when it is right."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    part = path.with_name(f"{path.name}.part")
    size = file.size or 0
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    reason: Exception | str = "it is shorter than the hub lists"
    for _ in range(ATTEMPTS):
        start = part.stat().st_size if part.exists() else 0
        if start == size and part.exists():
            break
        try:
            _receive(hub_id, commit, file.rfilename, part, start, size, told)
        except HfHubHTTPError as error:
            raise _refused(hub_id, file.rfilename, error) from error
        except HTTPError as error:
            reason = error
        if part.exists() and part.stat().st_size <= start:
            break  # nothing arrived: the next attempt is left to the person
    if not part.exists() or part.stat().st_size != size:
        raise HubError(
            f"{file.rfilename} of {hub_id!r} did not arrive whole ({_first_line(reason)}): "
            "try again, and the download goes on where it is."
        )
    try:
        _check(part, file)
    except HubError:
        part.unlink()
        raise
    rename(part, path)


def _receive(
    hub_id: str,
    commit: str,
    name: str,
    part: Path,
    start: int,
    size: int,
    told: Callable[[int], None],
) -> None:
    """Append to ``part`` what the hub sends from byte ``start`` on, up to ``size`` bytes in all."""
    from huggingface_hub import (
        constants,
        get_session,
        get_token,
        hf_hub_url,
        hf_raise_for_status,
    )

    address = hf_hub_url(hub_id, name, revision=commit, endpoint=_endpoint())
    # Bytes of the file itself: a part of something packed could not be gone on with.
    headers = {"Accept-Encoding": "identity"}
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if start:
        headers["Range"] = f"bytes={start}-"
    stream = get_session().stream(
        "GET", address, headers=headers, timeout=PART_SECONDS, follow_redirects=True
    )
    with stream as answer:
        hf_raise_for_status(answer)
        if start and answer.status_code != 206:
            start = 0  # the whole file comes anew
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            received = start
            for chunk in answer.iter_bytes():
                file.write(chunk[: size - received])
                received += len(chunk)
                if received > size:
                    file.flush()
                    return  # longer than listed: the checksum will tell
                told(received)
            file.flush()
            os.fsync(file.fileno())


def _refused(hub_id: str, name: str, error: "HfHubHTTPError") -> HubError:
    """The sentence for a file that the hub does not hand out."""
    status = error.response.status_code
    if status in (401, 403):
        return HubError(
            f"{hub_id!r} asks for an agreement on the hub: accept it on its page there and log in "
            "with `hf auth login`, or set HF_TOKEN."
        )
    if status in (404, 410):
        return HubError(f"The hub has no {name} of {hub_id!r} any more: choose another model.")
    if status in (429, 500, 502, 503, 504):
        return HubError(
            f"The hub is busy (status {status} for {name} of {hub_id!r}): try again later."
        )
    return HubError(f"The hub refused {name} of {hub_id!r} with status {status}.")


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
            f"{listed.rfilename} has the checksum {found}, but the hub lists {expected}: it was "
            "altered on its way; try again."
        )


def _endpoint() -> str | None:
    # Read at each call: the library reads it once, when it is imported.
    return os.environ.get("HF_ENDPOINT") or None


def _first_line(error: Exception | str) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
