"""Where does the model keep the sentiment of one tweet, and how sure are we?

Puts the runs of `core.patching` together, noise sample by noise sample, so that a whole
picture stands after the first one and each further one narrows its error.

Corruption (Meng et al. 2022, section 2 and appendix B): Gaussian noise on the input embeddings of
the corrupted span, 3 times the standard deviation of the embeddings of the data set's tokens,
10 samples, the same samples for every cell. `core.tracing.result.CORRUPTIONS` names the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ..errors import UserError
from ..models.model import Model
from ..patching.batches import Batches
from ..patching.clean_and_corrupted import Source, run_source
from ..patching.restore import restore
from ..patching.sites import Cells, Kind, grid
from ..probes.probe import Probe
from ..showing import Told, teller
from ..statistics import Array
from . import sample_cache
from .coarse_to_fine import (
    Held,
    Meter,
    cells_to_settle,
    coarse_layers,
    groups_of,
    in_parts,
    is_enough,
    without,
)
from .corruption import Case, case_of, numbers_of, runs_of
from .result import Reads, TraceResult, TraceSettings
from .verdict import verdicts, with_total


def trace(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    keep: bool = False,
    memory: int | None = None,
    progress: Told | None = None,
) -> TraceResult:
    """Trace one tweet with all its noise samples.

    Args:
        model, probe, text, settings, keep, memory, progress: as of `trace_progressively`.

    Returns:
        For each kind of site an effect a cell, `effects[kind]` of shape (layers, positions), with
        the samples behind it, `sample_effects[kind]` of shape (samples, layers, positions), in
        units of the proxy.

    Raises:
        UserError: a tweet, span or probe that cannot be used, or a device too small for it.
        EngineError: the self-check failed.

    Source: causal tracing, Meng et al. 2022, section 2 and appendix B.
    """
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
    stages: bool = False,
    memory: int | None = None,
    progress: Told | None = None,
) -> Iterator[TraceResult]:
    """Trace one tweet noise sample by noise sample.

    Yields after each sample a whole result (all kinds, all cells) of the samples so far; the last
    one is what `trace` returns. Ends after `settings.samples` samples, or earlier where
    `settings.until`, `settings.seconds` or `settings.stable_for` ask for it.

    Args:
        model: the model that is traced; its weights must be those the probe was trained on,
            or, for a control, those of its untrained twin.
        probe: reads the sentiment and names suffix and words.
        text: the tweet.
        keep: look for kept samples of this very trace on disk, go on from them, and keep the new
            ones. Only for weights that are as they were loaded; within `Model.changed` and
            `Model.with_mlp_weight` it is refused.
        stages: yield the verdict before any cell is restored: what the clean and all corrupted
            runs say, a result without cells (`TraceResult.has_cells`), whose prediction, total
            effect and interval are those that the whole trace will have; left out where all that
            is asked for was kept, since it is then there at once. Then go from coarse layers to
            fine ones (`core.tracing.coarse_to_fine`) in place of sample by sample, and yield each
            step (`TraceResult.is_coarse`); not where layers are few, whole samples were kept, or
            `settings.stable_for` asks for whole samples.
        memory: bytes that the trace may need beyond the model's own weights; by default half of
            what is free.
        progress: called with the share of the whole work that is done, several times a sample.
            An exception that it raises ends the trace. True draws a bar.

    Raises:
        UserError: a tweet, span or probe that cannot be used, or a device too small for it; one
            sentence says why.
        EngineError: the self-check failed.
    """
    settings = settings or TraceSettings()
    if keep and model.is_changed:
        # Samples are found again by the weights' identity, which a change leaves as it is.
        raise UserError(
            f"The model {model.name!r} is changed for a while, and its traces cannot be kept; "
            "trace it with keep=False."
        )
    case = case_of(model, probe, text, settings)
    told = teller(progress, "Tracing")
    return _results(model, case, keep, stages, memory or _half_of_free_memory(model), told)


def trace_together(
    model: Model,
    probe: Probe,
    texts: Sequence[str],
    settings: TraceSettings | None = None,
    *,
    counterfactuals: Sequence[str] | None = None,
    positions: Sequence[Collection[int]] | None = None,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[TraceResult]:
    """Trace tweets whose prompts have equally many tokens, in shared batches.

    Equal to tracing them one by one, but for the order of sums in float arithmetic; short prompts
    and few samples fill the device better together. Ends only when all samples are done. A pair of
    prompts of unequal length is traced by itself.

    Args:
        counterfactuals: of each text, where the corruption is "counterfactual".
        positions: of each text, the token positions to trace; effects are NaN at others.
        settings, memory, progress: as in `trace_progressively`.

    Raises:
        UserError: the prompts have unequal lengths, one of them cannot be used, or rows are words.
        EngineError: the self-check failed.
    """
    settings = settings or TraceSettings()
    if settings.rows == "words":
        raise UserError("Tweets are traced together token by token: their words differ.")
    each = [settings] * len(texts)
    if counterfactuals is not None:
        each = [replace(settings, counterfactual=other) for other in counterfactuals]
    cases = [case_of(model, probe, *pair) for pair in zip(texts, each, strict=True)]
    lengths = sorted({len(case.prompt) for case in cases})
    if len(lengths) > 1:
        raise UserError(
            "Tweets are traced together only when their prompts have equally many tokens, "
            f"not {', '.join(map(str, lengths))}."
        )
    alone = [[index] for index, case in enumerate(cases) if case.places is not None]
    shared = [index for index, case in enumerate(cases) if case.places is None]
    results: dict[int, TraceResult] = {}
    done = 0
    for group in [*([shared] if shared else []), *alone]:
        traced = _together(
            model,
            [cases[index] for index in group],
            None if positions is None else [positions[index] for index in group],
            memory or _half_of_free_memory(model),
            _share_of(progress, done, len(group), len(cases)),
        )
        results.update(zip(group, traced, strict=True))
        done += len(group)
    return [results[index] for index in range(len(cases))]


def _together(
    model: Model,
    cases: Sequence[Case],
    positions: Sequence[Collection[int]] | None,
    memory: int,
    progress: Callable[[float], None] | None,
) -> list[TraceResult]:
    """Cases in shared batches: of equal lengths, or a single one."""
    settings = cases[0].blank.settings
    began = time.perf_counter()
    units = [(index, sample) for index in range(len(cases)) for sample in range(settings.draws)]
    cells = grid(
        *(settings.kinds, model.layers, len(cases[0].prompt)),
        every=settings.every,
        positions=None if positions is None else sorted(set().union(*positions)),
    )
    batches = _batches(model, cases[0], len(units), memory, cells)
    reads: list[Reads | None] = [None] * len(cases)
    done = 0
    while done < len(units):
        part = units[done : done + batches.samples]
        chosen = sorted({index for index, _ in part})
        clean = run_source(
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
                cells,
                _share_of(progress, done, len(part), len(units)),
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


def _results(
    model: Model,
    case: Case,
    keep: bool,
    stages: bool,
    memory: int,
    progress: Callable[[float], None] | None,
) -> Iterator[TraceResult]:
    began = time.perf_counter()
    blank, settings = case.blank, case.blank.settings
    key = sample_cache.key_of(model, case.readout, blank)
    reads = sample_cache.load(key) if keep else None
    kept = None if reads is None else replace(blank, reads=reads.first(settings.draws))
    total = np.empty((0, 0)) if reads is None else reads.total
    lacks_total = settings.total_draws > max(settings.draws, len(total))
    if lacks_total or (stages and not (kept is not None and is_enough(kept))):
        verdict = verdicts(model, [case], range(settings.draws))[0]
        if stages:
            yield replace(verdict, seconds=time.perf_counter() - began)
        if settings.total_draws > settings.draws:
            verdict = with_total(model, case, verdict)
            if stages:
                yield replace(verdict, seconds=time.perf_counter() - began)
            total = verdict.reads.total
        if lacks_total and kept is not None and reads is not None:
            sample_cache.save(key, replace(reads, total=total))
            kept = replace(kept, reads=replace(kept.reads, total=total))
    enough = kept is not None and is_enough(kept)
    if kept is not None and (enough or stages or not kept.is_coarse):
        yield kept
    if enough:
        return
    work = _Work(model, model.layers, case, memory, progress, key if keep else None, began, total)
    coarse_first = settings.until == "settled" or (stages and settings.stable_for is None)
    if kept is not None:
        coarse_first = kept.is_coarse  # as it was begun
    if coarse_first and any(chosen.any() for chosen in work.between.values()):
        yield from _coarse_to_fine(work, kept, stages)
    else:
        yield from _sample_by_sample(work, kept)


@dataclass
class _Work:
    """A trace that is being made."""

    model: Model
    layers: int
    case: Case
    memory: int
    progress: Callable[[float], None] | None
    key: str | None  # under which its samples are kept
    began: float
    total: Array  # (N, C), corrupted reads of the total effect

    @cached_property
    def clean(self) -> Source:
        return run_source(self.model, self.case.embeddings[None], self.case.readout)

    @cached_property
    def asked(self) -> Cells:
        """The cells that are asked for."""
        blank = self.case.blank
        return grid(
            *(blank.settings.kinds, self.layers, len(blank.prompt)),
            every=blank.settings.every,
            positions=list(blank.spans),
        )

    @cached_property
    def coarse(self) -> Cells:
        """Those at the layers that are traced first."""
        layers = coarse_layers(self.layers, self.case.blank.settings)
        rows = np.isin(np.arange(self.layers), layers)[:, None]
        return {kind: chosen & rows for kind, chosen in self.asked.items()}

    @cached_property
    def between(self) -> Cells:
        """The others."""
        return without(self.asked, self.coarse)

    def result(self, reads: Reads) -> TraceResult:
        """The trace so far; kept, where it is to be kept."""
        reads = replace(reads, total=self.total)
        if self.key is not None:
            sample_cache.save(self.key, reads)
        return replace(self.case.blank, reads=reads, seconds=time.perf_counter() - self.began)


def _sample_by_sample(work: _Work, kept: TraceResult | None) -> Iterator[TraceResult]:
    """All cells of each sample before those of the next."""
    model, case, settings = work.model, work.case, work.case.blank.settings
    batches = _batches(model, case, settings.draws, work.memory, work.asked)
    reads = None if kept is None else kept.reads
    pictures = [] if kept is None else [kept]
    done = 0 if kept is None else kept.samples_done
    while done < settings.draws:
        # The first picture is not kept waiting for others.
        size = min(batches.samples if done else 1, settings.draws - done)
        try:
            corrupted, restored = _read(
                model,
                [case] * size,
                range(done, done + size),
                work.clean,
                batches,
                work.asked,
                _share_of(work.progress, done, size, settings.draws),
            )
        except torch.OutOfMemoryError as error:
            batches = _smaller(batches, size, model, case, error)
            continue
        fresh = Reads(numbers_of(work.clean.read)[0], corrupted, restored)
        reads = fresh if reads is None else reads.joined(fresh)
        whole = work.result(reads)
        for _ in range(size):
            done += 1
            result = replace(whole, reads=whole.reads.first(done))
            pictures.append(result)
            yield result
            if _is_enough(pictures, settings, work.began):
                return


def _coarse_to_fine(work: _Work, kept: TraceResult | None, stages: bool) -> Iterator[TraceResult]:
    """The coarse layers of all samples, then all layers where a site may be, then the rest.

    Yields after every step what is there; without `stages` only what is asked for.
    """
    settings = work.case.blank.settings
    held = Held(work.case.blank, numbers_of(work.clean.read)[0], work.layers)
    if kept is not None:
        held.add(range(kept.samples_done), kept.reads.corrupted, kept.reads.restored)
    meter = Meter(work.case.blank, work.coarse, work.between)

    def step(samples: Sequence[int], cells: Cells) -> TraceResult:
        _fill(work, held, samples, cells, meter.within(work.progress, samples, cells))
        return work.result(held.reads(work.coarse))

    def steps() -> Iterator[TraceResult]:
        for samples in groups_of(held.missing(work.coarse)):
            yield step(samples, work.coarse)
        needed = cells_to_settle(replace(work.case.blank, reads=held.reads(work.coarse)))
        meter.know(needed)
        parts: list[Cells] = [needed]
        if settings.until == "all":
            rest = without(work.between, needed)
            parts += in_parts(rest)
        for part in parts:
            if samples := held.missing(part):
                yield step(samples, part)

    result = None
    for result in steps():
        up = _is_time_up(settings, work.began)
        if stages or up:
            yield result
        if up:
            return
    if not stages and result is not None:
        yield result


def _fill(
    work: _Work,
    held: Held,
    samples: Sequence[int],
    cells: Cells,
    progress: Callable[[float], None] | None,
) -> None:
    """Compute some samples' cells, a pass at a time."""
    model, case = work.model, work.case
    batches = _batches(model, case, len(samples), work.memory, cells)
    done = 0
    while done < len(samples):
        part = samples[done : done + batches.samples]
        share = _share_of(progress, done, len(part), len(samples))
        try:
            read = _read(model, [case] * len(part), part, work.clean, batches, cells, share)
        except torch.OutOfMemoryError as error:
            batches = _smaller(batches, len(part), model, case, error)
            continue
        held.add(part, *read)
        done += len(part)


def _batches(model: Model, case: Case, samples: int, memory: int, cells: Cells) -> Batches:
    return Batches.within(
        model,
        case.length,
        cells=cells,
        window=case.blank.window,
        samples=samples,
        budget=memory,
    )


def _smaller(
    batches: Batches, size: int, model: Model, case: Case, error: torch.OutOfMemoryError
) -> Batches:
    """Half as many samples at once, after the device ran out of memory."""
    if size == 1:
        raise UserError(
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
    cells: Cells,
    progress: Callable[[float], None] | None = None,
) -> tuple[Array, dict[Kind, Array]]:
    """The columns read of S samples' corrupted runs, (S, C), and restored ones, (S, L, T, C)."""
    source, base, corrupted = runs_of(model, cases, samples, clean)
    places = cases[0].places
    restored = restore(
        model,
        source,
        base,
        cases[0].readout,
        cells=cells if places is None else places.cells(cells),
        spans=cases[0].blank.spans if places is None else places.spans_by_last(),
        window=cases[0].blank.window,
        first=min(case.first for case in cases),
        batches=batches,
        progress=progress,
    )
    if places is None:
        return corrupted, restored.read
    return corrupted, places.own(restored.read, len(cases[0].prompt))


def _is_enough(pictures: list[TraceResult], settings: TraceSettings, began: float) -> bool:
    """Is the time up, or has the largest cell of every kind stayed where it is?"""
    if _is_time_up(settings, began):
        return True
    if settings.stable_for is None or len(pictures) <= settings.stable_for:
        return False
    tops = [picture.top_cells for picture in pictures[-settings.stable_for - 1 :]]
    return all(top == tops[0] for top in tops)


def _is_time_up(settings: TraceSettings, began: float) -> bool:
    return settings.seconds is not None and time.perf_counter() - began >= settings.seconds


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
