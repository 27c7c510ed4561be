"""Where does the model keep the sentiment of one tweet, and how sure are we?

Puts the runs of `core.runs` together, noise sample by noise sample, so that a whole picture stands
after the first one and each further one narrows its error.

Corruption (Meng et al. 2022, section 2 and appendix B): Gaussian noise on the input embeddings of
the corrupted span, 3 times the standard deviation of the embeddings of the data set's tokens,
10 samples, the same samples for every cell.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

from core import kept, runs
from core.models import Model
from core.probes import Probe
from core.prompts import build_prompt, resolve_span, word_token
from core.results import Reads, TraceResult, TraceSettings
from core.runs import Batches, Readout

PAPER_WINDOW = 10 / 48
"""Share of the layers that the paper's windows cover: 10 of GPT-2 XL's 48."""


def default_window(layers: int) -> int:
    """The paper's window of 10 of 48 layers, scaled to a model's depth."""
    return max(1, round(layers * PAPER_WINDOW))


def trace(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    keep: bool = False,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> TraceResult:
    """Trace one tweet with all its noise samples; see `trace_progressively`."""
    partial = trace_progressively(
        model, probe, text, settings, keep=keep, memory=memory, progress=progress
    )
    return deque(partial, maxlen=1)[0]


def trace_progressively(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    keep: bool = False,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[TraceResult]:
    """Trace one tweet noise sample by noise sample.

    Yields after each sample a whole result (all kinds, all cells) of the samples so far; the last
    one is what `trace` returns. Ends after `settings.samples` samples, or earlier where
    `settings.seconds` or `settings.stable_for` ask for it.

    Args:
        model: the model that is traced; its weights must be those the probe was trained on,
            or, for a control, those of its untrained twin.
        probe: reads the sentiment and names suffix and words.
        text: the tweet.
        keep: look for kept samples of this very trace on disk, go on from them, and keep the new
            ones. Only for weights that are as they were loaded.
        memory: bytes that the trace may need beyond the model's own weights; by default half of
            what is free.
        progress: called with the share of the whole work that is done, several times a sample.
            An exception that it raises ends the trace.

    Raises:
        ValueError: a tweet, span or probe that cannot be used, or a device too small for it; one
            sentence says why.
        EngineError: the self-check failed.
    """
    settings = settings or TraceSettings()
    if probe.model_identity != model.identity and not model.untrained:
        raise ValueError(
            f"The probe was trained on {probe.model_name!r}, not on {model.name!r}; "
            "choose a probe of this model or train one."
        )
    if probe.layer is not None and probe.layer >= model.layers:
        raise ValueError(
            f"The probe reads layer {probe.layer}, but {model.name!r} has layers 0 to "
            f"{model.layers - 1}; choose a probe of this model or train one."
        )
    if probe.layer is not None and len(probe.coefficients) != model.width:
        raise ValueError(
            f"The probe reads states of {len(probe.coefficients)} numbers, but those of "
            f"{model.name!r} have {model.width}; choose a probe of this model or train one."
        )
    prompt = build_prompt(model, text, probe.suffix)
    readout = _readout(model, probe)
    blank = TraceResult(
        prompt=prompt,
        probe=probe,
        settings=settings,
        model_name=model.name,
        model_identity=model.identity,
        corrupted_span=resolve_span(prompt, settings.corrupt),
        window=min(settings.window or default_window(model.layers), model.layers),
        noise=settings.noise_scale * probe.embedding_std,
        reads=Reads(np.empty(0), np.empty((0, 0)), {}),
        seconds=0.0,
    )
    return _results(model, readout, blank, keep, memory or _half_of_free_memory(model), progress)


def _results(
    model: Model,
    readout: Readout,
    blank: TraceResult,
    keep: bool,
    memory: int,
    progress: Callable[[float], None] | None,
) -> Iterator[TraceResult]:
    began = time.perf_counter()
    settings, span = blank.settings, blank.corrupted_span
    key = kept.key_of(model, readout, blank)
    reads = kept.load(key) if keep else None
    result = blank
    if reads is not None:
        result = replace(blank, reads=reads.first(settings.samples))
        yield result
        if result.samples_done == settings.samples:
            return
    embeddings = model.embed(blank.prompt.ids)
    clean = runs.run_clean(model, embeddings, readout)
    batches = Batches.within(
        model,
        len(blank.prompt),
        kinds=settings.kinds,
        window=blank.window,
        samples=settings.samples,
        budget=memory,
    )
    pictures = [result] if reads is not None else []
    done = result.samples_done
    while done < settings.samples:
        # The first picture is not kept waiting for others.
        size = min(batches.samples if done else 1, settings.samples - done)
        noisy = [
            _with_noise(embeddings, span, blank.noise, settings.seed, sample)
            for sample in range(done, done + size)
        ]
        try:
            corrupted = runs.run_corrupted(
                model, torch.stack(noisy), readout, clean, settings.kinds
            )
            restored = runs.restore(
                model,
                clean,
                corrupted,
                readout,
                kinds=settings.kinds,
                window=blank.window,
                first=min(span),
                batches=batches,
                progress=_share_of(progress, done, size, settings.samples),
            )
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise ValueError(
                    f"The {model.device.type} device has too little memory for {model.name!r} and "
                    f"this tweet of {len(blank.prompt)} tokens; choose a smaller model, a shorter "
                    "tweet or another device."
                ) from error
            batches = replace(batches, samples=size // 2)
            continue
        fresh = Reads(
            clean.read.cpu().double().numpy(),
            corrupted.read.cpu().double().numpy(),
            restored.read,
        )
        reads = fresh if reads is None else reads.joined(fresh)
        if keep:
            kept.save(key, reads)
        for _ in range(size):
            done += 1
            result = replace(blank, reads=reads.first(done), seconds=time.perf_counter() - began)
            pictures.append(result)
            yield result
            if _is_enough(pictures, settings, began):
                return


def _is_enough(pictures: list[TraceResult], settings: TraceSettings, began: float) -> bool:
    """Is the time up, or has the largest cell of every kind stayed where it is?"""
    if settings.seconds is not None and time.perf_counter() - began >= settings.seconds:
        return True
    if settings.stable_for is None or len(pictures) <= settings.stable_for:
        return False
    tops = [picture.top_cells for picture in pictures[-settings.stable_for - 1 :]]
    return all(top == tops[0] for top in tops)


def _readout(model: Model, probe: Probe) -> Readout:
    words = tuple(
        word_token(model, word) for word in (*probe.words_positive, *probe.words_negative)
    )
    if probe.layer is None:
        return Readout(words)
    coefficients, mean, scale = map(np.array, (probe.coefficients, probe.mean, probe.scale))
    weight = coefficients / scale
    return Readout(words, probe.layer, weight, float(probe.intercept - mean @ weight))


def _half_of_free_memory(model: Model) -> int:
    import psutil

    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        return int(free // 2)
    return int(psutil.virtual_memory().available // 2)


def _with_noise(
    embeddings: torch.Tensor, span: tuple[int, ...], noise: float, seed: int, sample: int
) -> torch.Tensor:
    """The embeddings (T, D) with sample number `sample` of the noise added on the span.

    Drawn by NumPy, position by position of the span, so that a sample is the same on every device
    and in every version of torch.
    """
    drawn = np.random.default_rng([seed, sample]).standard_normal((len(span), embeddings.shape[1]))
    corrupted = embeddings.clone()
    corrupted[list(span)] += (
        torch.from_numpy(noise * drawn).to(embeddings.dtype).to(embeddings.device)
    )
    return corrupted


def _share_of(
    progress: Callable[[float], None] | None, done: int, size: int, samples: int
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress((done + size * share) / samples)


class _CallableModule(ModuleType):
    """`core.trace` is this module and, as the library's public face promises, also its function."""

    def __call__(self, *arguments: Any, **options: Any) -> TraceResult:
        return trace(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
