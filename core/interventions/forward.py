"""What does the model, as it is or changed, say of whole texts?

Plain forward passes without patching: what a probe reads after each text, how surprising texts are
(perplexity), and how the model goes on from one. Within `Model.changed` or
`Model.with_mlp_weight` they speak of the changed model; nothing is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..models.model import Model
from ..patching.batches import TOKENS_PER_CALL
from ..patching.readout import Readout
from ..prompts.prompt import build_prompt
from ..prompts.template import DEFAULT_SUFFIX, Template
from ..statistics import Array

Share = Callable[[float], None]

GRAMS = {2: 2 / 3, 3: 4 / 3}
"""Lengths of the n-grams whose entropies make the n-gram entropy, and their weights."""


def batches(model: Model, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Prompts of one length together: their numbers, and their token ids (batch, positions)."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, ids in enumerate(prompts):
        by_length[len(ids)].append(number)
    for length, numbers in sorted(by_length.items(), reverse=True):
        rows = max(1, TOKENS_PER_CALL[model.device.type] // length)
        for start in range(0, len(numbers), rows):
            part = numbers[start : start + rows]
            yield part, torch.tensor([list(prompts[number]) for number in part])


@torch.inference_mode()
def read_texts(
    model: Model,
    readout: Readout,
    texts: Sequence[str],
    *,
    template: Template | str = DEFAULT_SUFFIX,
    progress: Share | None = None,
) -> Array:
    """The columns of the readout at the last position of every prompt: (texts, C).

    Raises:
        UserError: a text cannot be read, there is none, or the model overflows.
    """
    prompts = [build_prompt(model, text, template).ids for text in texts]
    found: Array | None = None
    done = 0
    for numbers, ids in batches(model, prompts):
        states, heard = model.enter(model.embed(ids)), None
        for layer in range(model.layers):
            if layer == model.layers - 1:
                states = model.block_at_last(layer, states)
            else:
                states = model.block(layer, states).states
            if layer == readout.layer:
                heard = states[:, -1]
        read = readout.read(model, states[:, -1], heard).cpu().double()
        model.check_finite(read)
        if found is None:
            found = np.empty((len(texts), read.shape[1]))
        found[numbers] = read.numpy()
        done += len(numbers)
        if progress is not None:
            progress(done / len(texts))
    if found is None:
        raise UserError("There are no texts to read: give at least one.")
    return found


@torch.inference_mode()
def states_at(
    model: Model,
    ids: Sequence[int],
    position: int,
    layers: Collection[int],
) -> dict[int, Tensor]:
    """The residual stream (D,) after some layers' blocks at one position of a prompt."""
    found: dict[int, Tensor] = {}
    states = model.enter(model.embed(torch.tensor([list(ids)])))
    for layer in range(max(layers) + 1):
        states = model.block(layer, states).states
        if layer in layers:
            found[layer] = states[0, position].clone()
    return found


@dataclass(frozen=True)
class Surprise:
    """How surprising the model finds texts: nats of each text, over so many tokens."""

    nats: Array  # (texts,)
    tokens: NDArray[np.int64]  # (texts,)

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise of a token."""
        return float(np.exp(self.nats.sum() / self.tokens.sum()))


@torch.inference_mode()
def surprise(model: Model, texts: Sequence[str], *, progress: Share | None = None) -> Surprise:
    """How surprising every text is, from its second token on; no suffix is added.

    Raises:
        UserError: a text cannot be read, or has one token only.
    """
    prompts = [build_prompt(model, text, "").ids for text in texts]
    for text, own in zip(texts, prompts, strict=True):
        if len(own) < 2:
            raise UserError(f"The text {text!r} has one token; perplexity needs two at least.")
    nats = np.empty(len(texts))
    done = 0
    for numbers, ids in batches(model, prompts):
        states = model.enter(model.embed(ids))
        for layer in range(model.layers):
            states = model.block(layer, states).states
        normaliser = model.log_normaliser(states[:, :-1])  # (batch, T - 1)
        following = ids[:, 1:]
        tokens, place = following.unique(return_inverse=True)
        logits = model.logits(states[:, :-1], tokens.tolist()).cpu()  # (batch, T - 1, tokens)
        given = logits.gather(-1, place[..., None])[..., 0]
        surprises = (normaliser.cpu() - given).double().sum(1)
        model.check_finite(surprises)
        nats[numbers] = surprises.numpy()
        done += len(numbers)
        if progress is not None:
            progress(done / len(texts))
    return Surprise(nats, np.array([len(own) - 1 for own in prompts]))


@torch.inference_mode()
def continuations(
    model: Model,
    ids: Sequence[int],
    count: int,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    progress: Share | None = None,
) -> list[list[int]]:
    """How the model goes on from a prompt: `samples` lists of `count` token ids.

    Tokens are drawn by NumPy, so that a seed draws the same ones on every device.

    Args:
        temperature: 0 takes the most probable token each time; there is one such continuation.
        top_k: draw from so many most probable tokens only; None: from all.
    """
    generator = np.random.default_rng(seed)
    samples = samples if temperature > 0 else 1
    chosen: list[list[int]] = [[] for _ in range(samples)]
    count = max(0, min(count, model.max_positions - len(ids)))
    caches: list[tuple[Tensor, Tensor] | None] = [None] * model.layers
    fresh = torch.tensor([list(ids)] * samples)
    start = 0
    for step in range(count):
        states = model.enter(model.embed(fresh), start=start)
        for layer in range(model.layers):
            keys, values = caches[layer] or (None, None)
            output = model.block(layer, states, start=start, keys=keys, values=values)
            states, caches[layer] = output.states, (output.keys, output.values)
        start += fresh.shape[1]
        vocabulary = model.embedding_matrix.shape[0]
        many = vocabulary if temperature > 0 and top_k is None else min(top_k or 1, vocabulary)
        drawn = []
        for row in range(samples):
            probabilities, tokens = model.next_tokens(states[row, -1:], many)
            if temperature == 0:
                drawn.append(int(tokens[0]))
                continue
            logs = probabilities.cpu().double().log().numpy() / temperature
            weights = np.exp(logs - logs.max())
            place = int(generator.choice(len(weights), p=weights / weights.sum()))
            drawn.append(int(tokens[place]))
        for row, token in enumerate(drawn):
            chosen[row].append(token)
        fresh = torch.tensor(drawn)[:, None]
        if progress is not None:
            progress((step + 1) / count)
    return chosen


def gram_entropy(ids: Sequence[int]) -> float:
    """n-gram entropy of a continuation, in bits; low where it repeats itself.

    The weighted mean of the entropies of bigrams and trigrams (Meng et al. 2022, section 3.4, where
    it is called GE; Zhang et al. 2018), of tokens instead of words. NaN below three tokens.
    """
    if len(ids) < max(GRAMS):
        return float("nan")
    total = 0.0
    for size, weight in GRAMS.items():
        grams = Counter(tuple(ids[i : i + size]) for i in range(len(ids) - size + 1))
        counts = np.array(list(grams.values()), dtype=float)
        shares = counts / counts.sum()
        total -= weight * float((shares * np.log2(shares)).sum())
    return total / len(GRAMS)
