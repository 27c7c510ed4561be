"""Causal tracing in the plain way: one full forward pass per cell, with hooks, nothing shared.

The yardstick for `core.patching.restore`. It uses the network's own forward method and nothing of
the engine but the rule for windows.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch

from core.models.families import FAMILIES
from core.models.model import Model
from core.patching.sites import Kind, window_layers


def _modules(model: Model, kind: Kind) -> list[torch.nn.Module]:
    family = FAMILIES[model.family]
    blocks = model.network.get_submodule(family.blocks)
    if kind == "hidden":
        return list(blocks)
    return [block.get_submodule(getattr(family, kind)) for block in blocks]


def _hook(stack: ExitStack, module: torch.nn.Module, function) -> None:
    handle = module.register_forward_hook(function)
    stack.callback(handle.remove)


def _first(output):
    return output[0] if isinstance(output, tuple) else output


def _whole(state: torch.Tensor) -> torch.Tensor:
    """(1, T, D); OPT's MLP has no axis for the batch."""
    return state.view(1, -1, state.shape[-1])


def _log_probs(model: Model, embeddings: torch.Tensor, words: Sequence[int]) -> torch.Tensor:
    logits = model.network(inputs_embeds=embeddings[None], use_cache=False).logits[0, -1]
    return logits.log_softmax(-1)[list(words)]


@torch.no_grad()
def record(
    model: Model, kind: Kind, embeddings: torch.Tensor, words: Sequence[int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States of every site, one (T, D) tensor per layer, and log P of the words."""
    states: list[torch.Tensor] = []
    with ExitStack() as stack:
        for module in _modules(model, kind):
            _hook(
                stack,
                module,
                lambda _m, _a, output: states.append(_whole(_first(output))[0].clone()),
            )
        log_probs = _log_probs(model, embeddings, words)
    return states, log_probs


@torch.no_grad()
def ablated(
    model: Model,
    kind: Kind,
    embeddings: torch.Tensor,
    words: Sequence[int],
    *,
    layer: int,
    positions: list[int],
) -> torch.Tensor:
    """log P of the words where one layer's site is 0 at some positions: (words,)."""

    def put_zero(_module, _arguments, output):
        state = _first(output).clone()
        _whole(state)[:, positions] = 0
        return (state, *output[1:]) if isinstance(output, tuple) else state

    with ExitStack() as stack:
        _hook(stack, _modules(model, kind)[layer], put_zero)
        return _log_probs(model, embeddings, words)


def restored(*arguments, **options) -> np.ndarray:
    """log P of the words in every restored run, (L, T, words); see `restored_states`."""
    return restored_states(*arguments, **options)[0]


@torch.no_grad()
def restored_states(
    model: Model,
    kind: Kind,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    words: Sequence[int],
    *,
    window: int = 1,
    layer: int = 0,
    spans: Mapping[int, range] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of every restored run, log P of the words (L, T, words) and one state (L, T, D).

    Args:
        clean, corrupted: input embeddings (T, D).
        spans: positions restored at once, by the last of them; NaN at those that are no last one.
        layer: the state is that of the last position after this block.
    """
    states, _ = record(model, kind, clean, words)
    modules = _modules(model, kind)
    read_block = _modules(model, "hidden")[layer]
    log_probs = np.full((model.layers, len(clean), len(words)), np.nan)
    read = np.empty((model.layers, len(clean), model.width))
    spans = spans or {position: range(position, position + 1) for position in range(len(clean))}
    for cell in range(model.layers):
        layers = [cell] if kind == "hidden" else window_layers(cell, window, model.layers)
        for position, span in spans.items():

            def put_back(source: torch.Tensor, span: range = span):
                def hook(_module, _arguments, output):
                    state = _first(output).clone()
                    _whole(state)[:, list(span)] = source[list(span)]
                    return (state, *output[1:]) if isinstance(output, tuple) else state

                return hook

            def keep(_module, _arguments, output, place=(cell, position)):
                read[place] = _first(output)[0, -1].double().numpy()

            with ExitStack() as stack:
                for covered in layers:
                    _hook(stack, modules[covered], put_back(states[covered]))
                _hook(stack, read_block, keep)  # after the state is put back
                found = _log_probs(model, corrupted, words)
                log_probs[cell, position] = found.double().numpy()
    return log_probs, read


@torch.no_grad()
def restored_sites(
    model: Model,
    kind: Kind,
    source: torch.Tensor,
    base: torch.Tensor,
    words: Sequence[int],
    sites: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    window: int = 1,
) -> np.ndarray:
    """log P of the words where a site's states come from other positions, (L, sites, words).

    Args:
        source, base: input embeddings (T, D), of unequal lengths too.
        sites: positions of the base, and of the source one for each of them.
    """
    states, _ = record(model, kind, source, words)
    modules = _modules(model, kind)
    log_probs = np.empty((model.layers, len(sites), len(words)))
    for cell in range(model.layers):
        layers = [cell] if kind == "hidden" else window_layers(cell, window, model.layers)
        for number, (into, taken) in enumerate(sites):

            def put_in(state_of: torch.Tensor, into=tuple(into), taken=tuple(taken)):
                def hook(_module, _arguments, output):
                    state = _first(output).clone()
                    for at, other in zip(into, taken, strict=True):
                        _whole(state)[:, at] = state_of[other]
                    return (state, *output[1:]) if isinstance(output, tuple) else state

                return hook

            with ExitStack() as stack:
                for covered in layers:
                    _hook(stack, modules[covered], put_in(states[covered]))
                log_probs[cell, number] = _log_probs(model, base, words).double().numpy()
    return log_probs


@torch.no_grad()
def severed(
    model: Model,
    path: Kind,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    words: Sequence[int],
    spans: Mapping[int, range] | None = None,
) -> np.ndarray:
    """log P of the words where a hidden state is restored and `path` is cut, (L, T, words).

    At the restored position every contribution of the kind `path` is that of the corrupted run.
    """
    states, _ = record(model, "hidden", clean, words)
    frozen, _ = record(model, path, corrupted, words)
    log_probs = np.full((model.layers, len(clean), len(words)), np.nan)
    spans = spans or {position: range(position, position + 1) for position in range(len(clean))}
    for layer in range(model.layers):
        for position, span in spans.items():

            def put_in(source: torch.Tensor, span: range = span):
                def hook(_module, _arguments, output):
                    state = _first(output).clone()
                    _whole(state)[:, list(span)] = source[list(span)]
                    return (state, *output[1:]) if isinstance(output, tuple) else state

                return hook

            with ExitStack() as stack:
                for module, own in zip(_modules(model, path), frozen, strict=True):
                    _hook(stack, module, put_in(own))
                _hook(stack, _modules(model, "hidden")[layer], put_in(states[layer]))
                found = _log_probs(model, corrupted, words)
                log_probs[layer, position] = found.double().numpy()
    return log_probs


@torch.no_grad()
def restored_heads(
    model: Model,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    words: Sequence[int],
    layer: int,
    span: range,
) -> np.ndarray:
    """log P of the words where one head's values are restored before the projection, (H, words)."""
    positions = list(span)
    block = _modules(model, "hidden")[layer]
    projection = block.get_submodule(FAMILIES[model.family].heads_out)
    seen: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(
        lambda _module, arguments: seen.append(arguments[0][0, positions].clone())
    )
    _log_probs(model, clean, words)
    handle.remove()
    size = seen[0].shape[-1] // model.heads
    log_probs = np.empty((model.heads, len(words)))
    for head in range(model.heads):
        own = slice(head * size, (head + 1) * size)

        def put_back(_module, arguments, own=own):
            mixed = arguments[0].clone()
            mixed[:, positions, own] = seen[0][:, own]
            return (mixed, *arguments[1:])

        handle = projection.register_forward_pre_hook(put_back)
        log_probs[head] = _log_probs(model, corrupted, words).double().numpy()
        handle.remove()
    return log_probs
