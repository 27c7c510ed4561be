"""What is run for one tweet: its clean and corrupted embeddings, and what is read of them.

The corruptions are named by `core.tracing.result.CORRUPTIONS`. Gaussian noise is that of Meng et
al. 2022 (section 2 and appendix B): 3 times the standard deviation of the embeddings of the data
set's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..errors import UserError
from ..models.model import Model
from ..patching.clean_and_corrupted import Base, Source, run_base, run_source
from ..patching.readout import Readout
from ..patching.sites import Cells, Kind
from ..probes.probe import Probe, check_model, word_tokens
from ..prompts.alignment import align, end_to_end
from ..prompts.prompt import Prompt, build_prompt, resolve_span
from ..statistics import Array
from .result import Reads, TraceResult, TraceSettings

PAPER_WINDOW = 10 / 48
"""Share of the layers that the paper's windows cover: 10 of GPT-2 XL's 48."""


def default_window(layers: int) -> int:
    """The paper's window of 10 of 48 layers, scaled to a model's depth."""
    return max(1, round(layers * PAPER_WINDOW))


@dataclass(frozen=True)
class Case:
    """One tweet, ready to be run."""

    blank: TraceResult  # without reads
    readout: Readout
    embeddings: torch.Tensor  # (T, D), clean
    instead: torch.Tensor | None  # (T, D), or of the counterfactual's length; None: drawn

    @property
    def prompt(self) -> Prompt:
        """The clean prompt."""
        return self.blank.prompt

    def span_at(self, position: int) -> range:
        """The positions that are restored at once at a site.

        Raises:
            UserError: no site stands at this position.
        """
        spans = self.blank.spans
        if position not in spans:
            where = (
                "Where rows are words, a cell stands at a word's last token"
                if self.blank.alignment is None
                else "With a counterfactual of another length, a cell stands at a token that both "
                "have or at the last one of an edited span"
            )
            raise UserError(f"{where}: {', '.join(map(str, spans))}, not {position}.")
        return spans[position] if self.places is None else self.places.spans[position]

    @property
    def length(self) -> int:
        """Positions of the longer one of the two runs."""
        return max(len(self.embeddings), 0 if self.instead is None else len(self.instead))

    @property
    def first(self) -> int:
        """The first position of the base at which the two runs differ."""
        if self.places is not None:
            return self.places.first
        return min(self.blank.corrupted_span)

    @cached_property
    def places(self) -> Places | None:
        """Where the sites stand in a base that has another length; None where it has the same."""
        alignment, settings = self.blank.alignment, self.blank.settings
        if alignment is None:
            return None
        into_other = settings.direction == "restore"
        source = np.zeros(len(alignment.other) if into_other else alignment.length, dtype=int)
        spans = {}
        for position, (own, other) in alignment.sites(settings.edited).items():
            span, taken = (other, own) if into_other else (own, other)
            spans[position] = span
            source[list(span)] = end_to_end(span, taken)
        edit = alignment.edits[0]
        return Places(spans, source.tolist(), edit[1 if into_other else 0].start)

    def corrupted(self, sample: int) -> torch.Tensor:
        """The corrupted embeddings (T, D) of one sample."""
        if self.instead is not None:
            return self.instead
        settings, span = self.blank.settings, self.blank.corrupted_span
        # Drawn by NumPy, position by position of the span, so that a sample is the same on every
        # device and in every version of torch.
        generator = np.random.default_rng([settings.seed, sample])
        shape = (len(span), self.embeddings.shape[1])
        if settings.corruption == "noise":
            drawn = generator.standard_normal(shape)
        else:
            drawn = generator.uniform(-np.sqrt(3), np.sqrt(3), shape)
        noise = torch.from_numpy(self.blank.noise * drawn)
        corrupted = self.embeddings.clone()
        corrupted[list(span)] += noise.to(corrupted.dtype).to(corrupted.device)
        return corrupted


@dataclass(frozen=True)
class Places:
    """Where a tweet's sites stand in the base, which is a prompt of another length.

    Results have the tweet's own positions; the engine knows those of the base.
    """

    spans: dict[int, range]  # of a site's last position in the tweet's prompt, those in the base
    source: list[int]  # of each position of the base, that of the source; 0 where no site is
    first: int  # position of the base at which it begins to differ from the source

    def cells(self, cells: Cells) -> Cells:
        """The tweet's cells (L, T) at the base's positions."""
        moved = {}
        for kind, chosen in cells.items():
            moved[kind] = np.zeros((len(chosen), len(self.source)), dtype=bool)
            for position, span in self.spans.items():
                moved[kind][:, span[-1]] = chosen[:, position]
        return moved

    def spans_by_last(self) -> dict[int, range]:
        """The base's positions that are restored at once, by the last of them."""
        return {span[-1]: span for span in self.spans.values()}

    def own(self, read: dict[Kind, Array], length: int) -> dict[Kind, Array]:
        """What was read at the base's positions (S, L, base's T, C) at the tweet's (S, L, T, C)."""
        brought: dict[Kind, Array] = {}
        for kind, values in read.items():
            brought[kind] = np.full((*values.shape[:2], length, values.shape[3]), np.nan)
            for position, span in self.spans.items():
                brought[kind][:, :, position] = values[:, :, span[-1]]
        return brought


def case_of(model: Model, probe: Probe, text: str, settings: TraceSettings) -> Case:
    """Prepare a tweet to be run.

    Raises:
        UserError: the probe, the tweet, the span or the counterfactual cannot be used.
    """
    _check_probe(model, probe)
    prompt = build_prompt(model, text, probe.template)
    embeddings = model.embed(prompt.ids)
    span = resolve_span(prompt, settings.corrupt)
    instead = alignment = None
    if settings.corruption == "mean":
        instead = embeddings.clone()
        instead[list(span)] = model.embedding_matrix.mean(0)
    elif settings.corruption == "counterfactual":
        if settings.counterfactual is None:
            raise UserError(
                "The corruption 'counterfactual' and a counterfactual tweet go together; name the "
                "tweet."
            )
        other = build_prompt(model, settings.counterfactual, probe.template)
        if len(other) == len(prompt):
            span = _differing(prompt, other)
        else:
            alignment = align(prompt.ids, other.ids, prompt.tweet_span)
            span = alignment.edited
            if settings.rows == "words":
                raise UserError(
                    f"The counterfactual {other.tweet!r} makes {len(other)} tokens, the tweet "
                    f"{len(prompt)}; words are restored at once only where both have as many: "
                    "leave rows at 'tokens'."
                )
        instead = model.embed(other.ids)
    blank = TraceResult(
        prompt=prompt,
        probe=probe,
        settings=settings,
        model_name=model.name,
        model_identity=model.identity,
        corrupted_span=span,
        window=min(settings.window or default_window(model.layers), model.layers),
        noise=settings.noise_scale * probe.embedding_std if instead is None else 0.0,
        reads=Reads(np.empty(0), np.empty((0, 0)), {}),
        seconds=0.0,
        alignment=alignment,
    )
    return Case(blank, readout_of(model, probe), embeddings, instead)


def _check_probe(model: Model, probe: Probe) -> None:
    if not model.untrained:
        check_model(probe, model)
    if probe.layer is not None and probe.layer >= model.layers:
        raise UserError(
            f"The probe reads layer {probe.layer}, but {model.name!r} has layers 0 to "
            f"{model.layers - 1}; choose a probe of this model or train one."
        )
    if probe.layer is not None and len(probe.coefficients) != model.width:
        raise UserError(
            f"The probe reads states of {len(probe.coefficients)} numbers, but those of "
            f"{model.name!r} have {model.width}; choose a probe of this model or train one."
        )


def _differing(prompt: Prompt, other: Prompt) -> tuple[int, ...]:
    """Positions at which a counterfactual's prompt of the same length has another token."""
    span = tuple(
        position
        for position, (own, its) in enumerate(zip(prompt.ids, other.ids, strict=True))
        if own != its
    )
    if not span:
        raise UserError(
            f"The counterfactual {other.tweet!r} has the tweet's own tokens; change a word."
        )
    return span


def runs_of(
    model: Model, cases: Sequence[Case], samples: Sequence[int], clean: Source
) -> tuple[Source, Base, Array]:
    """The run that states are taken from, the one they are put into, and the corrupted reads.

    Args:
        cases, samples: S of each: whose prompt, and which sample of its noise; of one case alone
            where its counterfactual has another length.
        clean: the clean run of each of them, or one for all.
    """
    settings, readout, places = cases[0].blank.settings, cases[0].readout, cases[0].places
    corrupted = torch.stack(
        [case.corrupted(sample) for case, sample in zip(cases, samples, strict=True)]
    )
    if settings.direction == "restore":
        source = clean if places is None else clean.at(places.source)
        base = run_base(model, corrupted, readout, source, settings.kinds, settings.severed)
        return source, base, numbers_of(base.read)
    source = run_source(model, corrupted, readout)
    if places is not None:
        source = source.at(places.source)
    whole = torch.stack([case.embeddings for case in cases])
    base = run_base(model, whole, readout, source, settings.kinds, settings.severed)
    return source, base, numbers_of(source.read)


def readout_of(model: Model, probe: Probe) -> Readout:
    """What is read of every run, for a probe and the proxies of its words."""
    words = tuple(word_tokens(model, probe))
    if probe.layer is None:
        return Readout(words)
    coefficients, mean, scale = map(np.array, (probe.coefficients, probe.mean, probe.scale))
    weight = coefficients / scale
    return Readout(words, probe.layer, weight, float(probe.intercept - mean @ weight))


def numbers_of(read: torch.Tensor) -> Array:
    """What was read, off the device."""
    numbers: Array = read.cpu().double().numpy()
    return numbers
