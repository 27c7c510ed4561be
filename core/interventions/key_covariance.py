"""Which keys does a layer's MLP meet? Their second moment over a data set, for edits.

A key is what the MLP's output projection is given at one token: its inner activations (Meng et al.
2022, section 3.1 and appendix E.2). The paper's C = E[k k^T] is taken over 100,000 tokens of
Wikipedia; here it is taken over the tweets of the data set, because those are what the model is
asked about, and it is shrunk, because there are fewer of them:

    C = (1 - s) K^T K / n + s (trace / d) I

where s is the shrinkage of Ledoit and Wolf 2004 for keys that are not centred. The first token of
every text is left out: in many models its states are outliers that would drown all others
(attention sinks, Xiao et al. 2023).

Kept below the cache folder, one safetensors file for each layer and set of texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..models.model import Change, Model
from ..prompts.prompt import build_prompt
from ..storage import cache
from ..storage.bounded_folder import make_room, touch
from .forward import batches

FORMAT = 1
"""Version of what is kept; it is part of the key."""

KEYS = 20_000
"""Keys that C is made of, where the data gives as many."""

SPACE = 4 * 2**30
"""Bytes that all kept covariances may take together; a layer of GPT-2 XL takes 164 MB."""

AT_ONCE = 2**29
"""Bytes of second moments that are summed in one pass over the texts; more layers take more."""

Share = Callable[[float], None]


@dataclass(frozen=True)
class KeyCovariance:
    """The second moment of one layer's keys."""

    layer: int
    matrix: NDArray[np.float64]  # (inner, inner), shrunk
    keys: int  # tokens that it is made of
    shrinkage: float  # 0: as measured, 1: a multiple of the identity

    def solve(self, key: NDArray[np.float64]) -> NDArray[np.float64]:
        """C^-1 k, (inner,).

        Raises:
            UserError: C has no inverse, because the keys are all 0 or all alike.
        """
        from scipy.linalg import LinAlgError, solve

        try:
            found: NDArray[np.float64] = solve(self.matrix, key, assume_a="pos")
        except LinAlgError as error:
            alike = "all alike" if self.matrix.any() else "all 0"
            raise UserError(
                f"The MLP of layer {self.layer} cannot be edited: its inner activations at the "
                f"{self.keys:,} tokens of the data are {alike}; choose another layer, or give more "
                "texts."
            ) from error
        return found


def key_covariances(
    model: Model,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    keys: int = KEYS,
    progress: Share | None = None,
) -> dict[int, KeyCovariance]:
    """C of some layers, read back if they were made of these texts before.

    Args:
        texts: whose tokens are taken, in this order, until there are `keys` of them. Texts that the
            model cannot read are left out.
        keys: at least one for each; all that the texts give, if that is less.
        progress: called with the share done. An exception ends the work; whole layers are kept.

    Raises:
        UserError: the model is changed or overflows, or the texts give no key.
    """
    if model.is_changed:
        raise UserError("The model is changed; take the covariance of its keys before.")
    prompts = _prompts(model, texts, keys)
    place = _folder(model, prompts)
    found = {layer: stored for layer in layers if (stored := _load(place, layer)) is not None}
    missing = sorted(set(layers) - set(found))
    size = model.mlp_weight(0).shape[0]
    together = max(1, AT_ONCE // (size * size * 4))
    groups = [missing[start : start + together] for start in range(0, len(missing), together)]
    for done, group in enumerate(groups):

        def show(share: float, done: int = done) -> None:
            if progress is not None:
                progress((done + share) / len(groups))

        for layer, made in _measure(model, prompts, group, show).items():
            _save(place, made)
            # As it will be read back, so that the first edit is just like the next one.
            found[layer] = replace(made, matrix=made.matrix.astype(np.float32).astype(np.float64))
    return found


@torch.inference_mode()
def _measure(
    model: Model, prompts: Sequence[Sequence[int]], layers: Sequence[int], progress: Share
) -> dict[int, KeyCovariance]:
    moments: dict[int, Tensor] = {}
    fourth = dict.fromkeys(layers, 0.0)  # sums of |k|^4
    count = 0

    def recorder(layer: int) -> Change:
        def record(inner: Tensor) -> Tensor:
            rows = inner[:, 1:].reshape(-1, inner.shape[-1]).float()
            moment = rows.T @ rows
            moments[layer] = moments[layer].add_(moment) if layer in moments else moment
            fourth[layer] += float((rows * rows).sum(1).cpu().double().square().sum())
            return inner

        return Change(layer, "inner", record)

    total = sum(map(len, prompts))
    done = 0
    with model.changed([recorder(layer) for layer in layers]):
        for _, ids in batches(model, prompts):
            states = model.enter(model.embed(ids))
            for layer in range(max(layers) + 1):
                states = model.block(layer, states).states
            count += ids.shape[0] * (ids.shape[1] - 1)
            done += ids.numel()
            progress(done / total)
    for moment in moments.values():
        model.check_finite(moment)
    return {
        layer: shrunk(layer, moments[layer].cpu().double().numpy() / count, count, fourth[layer])
        for layer in layers
    }


def shrunk(layer: int, moment: NDArray[np.float64], count: int, fourth: float) -> KeyCovariance:
    """Shrink a second moment towards a multiple of the identity (Ledoit and Wolf 2004).

    Args:
        moment: K^T K / n, (inner, inner).
        count: n, the number of keys.
        fourth: the sum of |k|^4 over the keys.
    """
    size = len(moment)
    mean = float(np.trace(moment)) / size
    square = float((moment * moment).sum())
    away = square - size * mean**2  # |S - mean I|^2
    error = max(0.0, (fourth / count - square) / count)  # of S, expected
    shrinkage = 1.0 if away <= 0 else min(error / away, 1.0)
    matrix = (1 - shrinkage) * moment
    matrix[np.diag_indices(size)] += shrinkage * mean
    return KeyCovariance(layer, matrix, count, shrinkage)


def _prompts(model: Model, texts: Sequence[str], keys: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    count = 0
    for text in texts:
        if count >= keys:
            break
        try:
            ids = build_prompt(model, text, "").ids
        except UserError:
            continue  # too long, or empty
        if len(ids) > 1:
            found.append(ids)
            count += len(ids) - 1
    if not found:
        raise UserError("There are no texts with two tokens or more to take keys from.")
    return found


def _folder(model: Model, prompts: Sequence[tuple[int, ...]]) -> Path:
    digest = hashlib.sha256(f"{FORMAT} {model.identity}".encode())
    for ids in prompts:
        digest.update(f"\n{ids}".encode())
    return cache.home() / "keys" / digest.hexdigest()[:32]


def _load(folder: Path, layer: int) -> KeyCovariance | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / f"{layer:03}.safetensors"
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError):
        return None
    touch(path)
    return KeyCovariance(
        layer,
        arrays["matrix"].astype(np.float64),
        int(arrays["keys"][0]),
        float(arrays["shrinkage"][0]),
    )


def _save(folder: Path, made: KeyCovariance) -> None:
    from safetensors.numpy import save_file

    arrays = {
        "matrix": made.matrix.astype(np.float32),
        "keys": np.array([made.keys]),
        "shrinkage": np.array([made.shrinkage]),
    }
    path = folder / f"{made.layer:03}.safetensors"
    with cache.lock("keys"):
        with cache.write_beside(path) as beside:
            save_file(arrays, beside)
        make_room(folder.parent.glob("*/*.safetensors"), SPACE, spare=path)
