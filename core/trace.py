"""Where does the model keep the sentiment of one tweet, and how sure are we?

Puts the runs of `core.runs` together, noise sample by noise sample, so that a whole picture stands
after the first one and each further one narrows its error.

Corruption (Meng et al. 2022, section 2 and appendix B): Gaussian noise on the input embeddings of
the corrupted span, 3 times the standard deviation of the embeddings of the data set's tokens,
10 samples, the same samples for every cell. `core.results.CORRUPTIONS` names the others.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core import kept, runs
from core.cases import Case, case_of, numbers_of, runs_of
from core.models import Model
from core.probes import Probe
from core.prompts import build_prompt
from core.results import Reads, TraceResult, TraceSettings
from core.runs import Array, Batches, Kind, Source

if TYPE_CHECKING:
    import pandas as pd


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
            ones. Only for weights that are as they were loaded; within `Model.changed` and
            `Model.with_mlp_weight` it is refused.
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
    if keep and model.is_changed:
        # Samples are found again by the weights' identity, which a change leaves as it is.
        raise ValueError(
            f"The model {model.name!r} is changed for a while, and its traces cannot be kept; "
            "trace it with keep=False."
        )
    case = case_of(model, probe, text, settings)
    return _results(model, case, keep, memory or _half_of_free_memory(model), progress)


def trace_together(
    model: Model,
    probe: Probe,
    texts: Sequence[str],
    settings: TraceSettings | None = None,
    *,
    positions: Sequence[Collection[int]] | None = None,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[TraceResult]:
    """Trace tweets whose prompts have equally many tokens, in shared batches.

    Equal to tracing them one by one, but for the order of sums in float arithmetic; short prompts
    and few samples fill the device better together. Ends only when all samples are done.

    Args:
        positions: of each text, the token positions to trace; effects are NaN at others.
        settings, memory, progress: as in `trace_progressively`.

    Raises:
        ValueError: the prompts have unequal lengths, or one of them cannot be used.
        EngineError: the self-check failed.
    """
    settings = settings or TraceSettings()
    cases = [case_of(model, probe, text, settings) for text in texts]
    lengths = sorted({len(case.prompt) for case in cases})
    if len(lengths) > 1:
        raise ValueError(
            "Tweets are traced together only when their prompts have equally many tokens, "
            f"not {', '.join(map(str, lengths))}."
        )
    if not cases:
        return []
    began = time.perf_counter()
    units = [(index, sample) for index in range(len(cases)) for sample in range(settings.draws)]
    batches = _batches(model, cases[0], len(units), memory or _half_of_free_memory(model))
    wanted = None if positions is None else sorted(set().union(*positions))
    reads: list[Reads | None] = [None] * len(cases)
    done = 0
    while done < len(units):
        part = units[done : done + batches.samples]
        chosen = sorted({index for index, _ in part})
        clean = runs.run_source(
            model, torch.stack([cases[index].embeddings for index in chosen]), cases[0].readout
        )
        clean = clean.of([chosen.index(index) for index, _ in part])
        try:
            corrupted, restored = _read(
                model,
                [cases[index] for index, _ in part],
                [sample for _, sample in part],
                clean,
                batches,
                positions=wanted,
                progress=_share_of(progress, done, len(part), len(units)),
            )
        except torch.OutOfMemoryError as error:
            batches = _smaller(batches, len(part), model, cases[0], error)
            continue
        for number, (index, _) in enumerate(part):
            row = slice(number, number + 1)
            own = Reads(
                numbers_of(clean.read)[number],
                corrupted[row],
                {kind: values[row] for kind, values in restored.items()},
            )
            before = reads[index]
            reads[index] = own if before is None else before.joined(own)
        done += len(part)
    seconds = (time.perf_counter() - began) / len(cases)
    results = []
    for number, (case, found) in enumerate(zip(cases, reads, strict=True)):
        assert found is not None
        if positions is not None:
            found = found.at(positions[number])
        results.append(replace(case.blank, reads=found, seconds=seconds))
    return results


def total_effects(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    scales: Sequence[float] = (1, 2, 3, 4, 5),
    *,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """How strongly must a tweet be corrupted? The total effect at several strengths of the noise.

    No site is restored, so that this costs a forward pass per sample and strength.

    Returns:
        One row per strength: scale (standard deviations), high, low, low_error, total_effect,
        lower and upper (its 95% t interval over the samples), probability (the probe's P(positive)
        of the corrupted run, mean), word (the corrupted run's most probable next token), changes
        (does the probe's predicted side change?).
    """
    import pandas as pd

    settings = settings or TraceSettings()
    rows: list[dict[str, Any]] = []
    for scale in scales:
        case = case_of(model, probe, text, replace(settings, noise_scale=float(scale)))
        clean, corrupted, last = _without_restoring(model, case, range(settings.draws))
        result = replace(case.blank, reads=Reads(clean, corrupted, {}))
        reach = result.low_reach
        _, words = model.next_tokens(last, 1)
        rows.append(
            {
                "scale": float(scale),
                "high": result.high,
                "low": result.low,
                "low_error": result.low_error,
                "total_effect": result.total_effect,
                "lower": result.total_effect - reach,
                "upper": result.total_effect + reach,
                "probability": result.corrupted_probability,
                "word": model.tokenizer.decode(words.tolist()),
                "changes": (result.clean_probability >= 0.5)
                != (result.corrupted_probability >= 0.5),
            }
        )
        if progress is not None:
            progress(len(rows) / len(scales))
    return pd.DataFrame(rows)


def word_effects(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Which word matters most? The total effect of each of the tweet's words corrupted alone.

    A word that shares its only token with a neighbour is corrupted, and counted, with that one.

    Returns:
        One row per word: word (index), text, start, end (characters of the prompt), total_effect,
        standard_error, samples.
    """
    import pandas as pd

    settings = settings or TraceSettings()
    prompt = build_prompt(model, text, probe.suffix)
    rows = []
    numbers = [n for n, word in enumerate(prompt.words) if word.in_tweet and word.tokens]
    for done, number in enumerate(numbers, start=1):
        word = prompt.words[number]
        case = case_of(model, probe, text, replace(settings, corrupt=word.tokens))
        clean, corrupted, _ = _without_restoring(model, case, range(settings.draws))
        result = replace(case.blank, reads=Reads(clean, corrupted, {}))
        rows.append(
            {
                "word": number,
                "text": word.text,
                "start": word.start,
                "end": word.end,
                "total_effect": result.total_effect,
                "standard_error": result.low_error,
                "samples": result.samples_done,
            }
        )
        if progress is not None:
            progress(done / len(numbers))
    return pd.DataFrame(rows)


def _results(
    model: Model,
    case: Case,
    keep: bool,
    memory: int,
    progress: Callable[[float], None] | None,
) -> Iterator[TraceResult]:
    began = time.perf_counter()
    blank, settings = case.blank, case.blank.settings
    key = kept.key_of(model, case.readout, blank)
    reads = kept.load(key) if keep else None
    result = blank
    if reads is not None:
        result = replace(blank, reads=reads.first(settings.draws))
        yield result
        if result.samples_done == settings.draws:
            return
    clean = runs.run_source(model, case.embeddings[None], case.readout)
    batches = _batches(model, case, settings.draws, memory)
    pictures = [result] if reads is not None else []
    done = result.samples_done
    while done < settings.draws:
        # The first picture is not kept waiting for others.
        size = min(batches.samples if done else 1, settings.draws - done)
        try:
            corrupted, restored = _read(
                model,
                [case] * size,
                range(done, done + size),
                clean,
                batches,
                progress=_share_of(progress, done, size, settings.draws),
            )
        except torch.OutOfMemoryError as error:
            batches = _smaller(batches, size, model, case, error)
            continue
        fresh = Reads(numbers_of(clean.read)[0], corrupted, restored)
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


def _batches(model: Model, case: Case, samples: int, memory: int) -> Batches:
    settings = case.blank.settings
    return Batches.within(
        model,
        len(case.prompt),
        kinds=settings.kinds,
        window=case.blank.window,
        every=settings.every,
        samples=samples,
        budget=memory,
    )


def _smaller(
    batches: Batches, size: int, model: Model, case: Case, error: torch.OutOfMemoryError
) -> Batches:
    """Half as many samples at once, after the device ran out of memory."""
    if size == 1:
        raise ValueError(
            f"The {model.device.type} device has too little memory for {model.name!r} and "
            f"this tweet of {len(case.prompt)} tokens; choose a smaller model, a shorter "
            "tweet or another device."
        ) from error
    return replace(batches, samples=size // 2)


def _read(
    model: Model,
    cases: Sequence[Case],
    samples: Sequence[int],
    clean: Source,
    batches: Batches,
    *,
    positions: Sequence[int] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[Array, dict[Kind, Array]]:
    """The columns read of S samples' corrupted runs, (S, C), and restored ones, (S, L, T, C)."""
    blank = cases[0].blank
    source, base, corrupted = runs_of(model, cases, samples, clean)
    restored = runs.restore(
        model,
        source,
        base,
        cases[0].readout,
        kinds=blank.settings.kinds,
        window=blank.window,
        every=blank.settings.every,
        first=min(min(case.blank.corrupted_span) for case in cases),
        positions=positions,
        batches=batches,
        progress=progress,
    )
    return corrupted, restored.read


def _without_restoring(
    model: Model, case: Case, samples: Sequence[int]
) -> tuple[Array, Array, torch.Tensor]:
    """Columns (C,) of the clean and (S, C) of the corrupted runs, and their last states (S, D)."""
    rows = max(1, runs.TOKENS_PER_CALL[model.device.type] // len(case.prompt))
    clean = runs.run_source(model, case.embeddings[None], case.readout)
    read, last = [], []
    for start in range(0, len(samples), rows):
        part = torch.stack([case.corrupted(sample) for sample in samples[start : start + rows]])
        corrupted = runs.run_source(model, part, case.readout)
        read.append(numbers_of(corrupted.read))
        last.append(corrupted.states[-1][:, -1])
    return numbers_of(clean.read)[0], np.concatenate(read), torch.cat(last)


def _is_enough(pictures: list[TraceResult], settings: TraceSettings, began: float) -> bool:
    """Is the time up, or has the largest cell of every kind stayed where it is?"""
    if settings.seconds is not None and time.perf_counter() - began >= settings.seconds:
        return True
    if settings.stable_for is None or len(pictures) <= settings.stable_for:
        return False
    tops = [picture.top_cells for picture in pictures[-settings.stable_for - 1 :]]
    return all(top == tops[0] for top in tops)


def _half_of_free_memory(model: Model) -> int:
    import psutil

    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        return int(free // 2)
    return int(psutil.virtual_memory().available // 2)


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
