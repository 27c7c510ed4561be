"""What does the model make of each text? Encoded once, then read in seconds.

Of every prompt the last position is kept: its residual stream after each block, and the logarithm
of the next-token distribution's normaliser. From these the log-probability of any word follows by
one small product with that word's row of the read-out, so other words, features, folds or
regularisation never need the model's blocks again.

Kept below the cache folder as float32 safetensors (float16 would overflow on the few coordinates
that grow into the thousands, and blur the others). The key is made of the model's identity and of
the token ids, whatever order the texts come in. A chunk of texts is a file, so an encoding that was
killed goes on where it stopped; what was used least recently makes room for what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..data.labels import excerpt
from ..errors import UserError
from ..models.model import Model
from ..prompts.prompt import Prompt, Unreadable, build_prompt
from ..prompts.template import DEFAULT_SUFFIX, Template
from ..server import logs
from ..statistics import Array
from ..storage import cache
from ..storage.bounded_folder import make_room, touch

Progress = Callable[[int, int], None]

FORMAT = 1
"""Version of what is kept; it is part of the key."""

SPACE = 4 * 2**30
"""Bytes that all kept features may take together."""

CHUNK = 32 * 2**20
"""Bytes of states in one file, about: what a killed encoding has to do again."""

TOKENS_PER_BATCH = 2048


class Encoding:
    """The last position of every prompt, in the order in which the texts were given.

    Attributes:
        layers, width: of the model.
        embedding_std: see `tweet_embedding_std`.
    """

    def __init__(self, chunks: Sequence[Any], rows: NDArray[np.int64], embedding_std: float):
        """Read opened chunks; text i is row `rows[i]` of the chunks put one after another."""
        self._chunks = chunks
        self._rows = rows
        self.layers, _, self.width = chunks[0].get_slice("states").get_shape()
        self.embedding_std = embedding_std

    def __len__(self) -> int:
        return len(self._rows)

    def states(self, layer: int) -> NDArray[np.float32]:
        """The residual stream after block `layer` (0-based): (texts, width)."""
        parts = [chunk.get_slice("states")[layer] for chunk in self._chunks]
        states: NDArray[np.float32] = np.concatenate(parts)[self._rows]
        return states

    @torch.inference_mode()
    def log_probs(self, model: Model, token_ids: Sequence[int]) -> Array:
        """log P of some next tokens: (texts, len(token_ids)).

        Args:
            model: the model that encoded the texts.
        """
        normaliser = np.concatenate([chunk.get_tensor("log_normaliser") for chunk in self._chunks])
        last = torch.from_numpy(self.states(self.layers - 1)).to(model.device, model.dtype)
        logits = model.logits(last, token_ids).cpu().double().numpy()
        log_probs: Array = logits - normaliser[self._rows, None]
        return log_probs


def encode(
    model: Model,
    texts: Iterable[str],
    *,
    template: Template | str = DEFAULT_SUFFIX,
    progress: Progress | None = None,
) -> Encoding:
    """Encode texts, or read them back if these weights have encoded them before.

    Prompts of one length form a batch, so that there is no padding; equal prompts are encoded
    once; at the last layer only the last position is computed.

    Args:
        progress: called with (prompts done, different prompts in all). An exception ends the work;
            what was done is kept.

    Raises:
        UserError: a text that cannot be a prompt, a model that overflows, more texts than there
            may be room for, or a cache folder that cannot be written.
    """
    if model.is_changed:  # what is kept goes by the weights as they were loaded
        raise UserError("The model is changed for now; encode texts before or after.")
    template = Template.of(template).rendered(model.tokenizer, model.name)
    prompts = [_prompt(model, row, text, template) for row, text in enumerate(texts)]
    if not prompts:
        raise UserError("There are no texts to encode; give at least one.")
    # The longest first: the time left is not estimated too low.
    different = sorted({prompt.ids for prompt in prompts}, key=lambda ids: (-len(ids), ids))
    place = {ids: row for row, ids in enumerate(different)}
    rows = np.array([place[prompt.ids] for prompt in prompts])
    name = _key(model, different)
    folder = features_folder() / name
    try:
        with _held(_lock(name), progress, len(different)):
            _make_room(_needed(model, len(different)), folder)
            chunks = _chunks(model, different, folder, progress)
            touch(folder)
    except (OSError, SafetensorError) as error:
        raise cache.cannot_keep(folder, error) from error
    return Encoding(chunks, rows, tweet_embedding_std(model, prompts))


def _prompt(model: Model, row: int, text: str, template: Template) -> Prompt:
    """The prompt of one text among many, which the sentence names where it cannot be read."""
    try:
        return build_prompt(model, text, template)
    except Unreadable as error:
        raise UserError(
            f"Text {row:,} of the data, {excerpt(str(text))!r}, cannot be read by {model.name}: "
            f"{error.reason}; leave such texts out with core.readable_texts."
        ) from error


def features_folder() -> Path:
    """Where features are kept."""
    return cache.home() / "features"


def tweet_embedding_std(model: Model, prompts: Iterable[Prompt]) -> float:
    """Standard deviation over all numbers in the input embeddings of all tweet tokens.

    The noise rule of Meng et al. 2022 (section 2 and appendix B) is a multiple of this.
    """
    ids: list[int] = []
    for prompt in prompts:
        ids += [prompt.ids[position] for position in prompt.tweet_span]
    tokens, counts = np.unique(ids, return_counts=True)
    embedded = model.embed(torch.from_numpy(tokens)).cpu().double()  # (distinct tokens, D)
    weights = torch.from_numpy(counts / counts.sum())[:, None]
    mean = (weights * embedded).sum() / embedded.shape[1]
    variance = (weights * (embedded - mean) ** 2).sum() / embedded.shape[1]
    return float(variance.sqrt())


def _chunks(
    model: Model,
    prompts: Sequence[tuple[int, ...]],
    folder: Path,
    progress: Progress | None,
) -> list[Any]:
    """Open every chunk of the encoding, made now if it is not there."""
    size = max(1, CHUNK // _needed(model, 1))
    opened = []
    for start in range(0, len(prompts), size):
        path = folder / f"{start // size:05}.safetensors"
        part = prompts[start : start + size]
        chunk = _open(path)
        logs.count("texts encoded" if chunk is None else "texts read back", len(part))
        if chunk is None:
            cache.remove_leftovers(path)
            made = _encode(model, part, _from(progress, start, len(prompts)))
            with cache.write_beside(path) as beside:
                save_file(made, beside)
            chunk = _open(path)
            assert chunk is not None
        elif progress is not None:
            progress(start + len(part), len(prompts))
        opened.append(chunk)
    return opened


def _open(path: Path) -> Any:
    """Open a chunk; None where there is none, or one that the disk has damaged.

    An open chunk can be read to the end even when its file is removed to make room.
    """
    try:
        return safe_open(path, framework="np")
    except (FileNotFoundError, SafetensorError):
        return None


@torch.inference_mode()
def _encode(
    model: Model, prompts: Sequence[tuple[int, ...]], progress: Progress | None
) -> dict[str, NDArray[Any]]:
    """States (L, prompts, D) and log-normalisers (prompts,) of prompts sorted by length."""
    states = np.empty((model.layers, len(prompts), model.width), dtype=np.float32)
    log_normaliser = np.empty(len(prompts))
    for start, stop in _batches(prompts):
        stream = model.enter(model.embed(torch.tensor(prompts[start:stop])))
        for layer in range(model.layers - 1):
            stream = model.block(layer, stream).states
            states[layer, start:stop] = stream[:, -1].float().cpu().numpy()
        last = model.block_at_last(model.layers - 1, stream)[:, 0]
        states[-1, start:stop] = last.float().cpu().numpy()
        normaliser = model.log_normaliser(last).cpu().double()
        model.check_finite(normaliser)  # nothing is kept of a model that overflows
        log_normaliser[start:stop] = normaliser.numpy()
        if progress is not None:
            progress(stop, len(prompts))
    return {"states": states, "log_normaliser": log_normaliser}


def _batches(prompts: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Ranges of prompts of one length, `TOKENS_PER_BATCH` tokens at most where that is possible."""
    start = 0
    while start < len(prompts):
        length = len(prompts[start])
        most = start + max(1, TOKENS_PER_BATCH // length)
        stop = start + 1
        while stop < min(most, len(prompts)) and len(prompts[stop]) == length:
            stop += 1
        yield start, stop
        start = stop


def _from(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)


def _needed(model: Model, prompts: int) -> int:
    """Bytes that the states of so many prompts take."""
    return prompts * model.layers * model.width * np.dtype(np.float32).itemsize


def _key(model: Model, prompts: Sequence[tuple[int, ...]]) -> str:
    digest = hashlib.sha256(f"{FORMAT} {CHUNK} {model.identity}".encode())
    for ids in prompts:
        digest.update(f"\n{ids}".encode())
    return digest.hexdigest()[:32]


def _lock(name: str, timeout: float | None = None) -> filelock.BaseFileLock:
    return cache.lock(f"features-{name}", timeout)


@contextmanager
def _held(lock: filelock.BaseFileLock, progress: Progress | None, total: int) -> Iterator[None]:
    """Hold a lock; while another process has it, `progress` is called so that it can end this."""
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except filelock.Timeout:
            if progress is not None:
                progress(0, total)
    try:
        yield
    finally:
        lock.release()


def _make_room(needed: int, folder: Path) -> None:
    """Remove what was used least recently until `needed` bytes fit; never what is in use."""
    if needed > SPACE:
        raise UserError(
            f"The features of these texts would take {needed / 1e9:.1f} GB, more than the "
            f"{SPACE / 1e9:.1f} GB there are; use fewer texts or a smaller model."
        )
    folder.mkdir(parents=True, exist_ok=True)
    make_room(
        (path for path in features_folder().iterdir() if path.is_dir() and path != folder),
        SPACE,
        needed=needed,
        held=lambda path: _lock(path.name, timeout=0),  # being encoded or opened in this moment
    )
