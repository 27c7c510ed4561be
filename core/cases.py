"""What is run for one tweet: its clean and corrupted embeddings, and what is read of them.

The corruptions are named by `core.results.CORRUPTIONS`. Gaussian noise is that of Meng et al. 2022
(section 2 and appendix B): 3 times the standard deviation of the embeddings of the data set's
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core import runs
from core.models import Model
from core.probes import Probe
from core.prompts import Prompt, build_prompt, resolve_span, word_token
from core.results import Reads, TraceResult, TraceSettings
from core.runs import Array, Base, Readout, Source

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
    instead: torch.Tensor | None  # (T, D), where the corruption draws nothing

    @property
    def prompt(self) -> Prompt:
        """The clean prompt."""
        return self.blank.prompt

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


def case_of(model: Model, probe: Probe, text: str, settings: TraceSettings) -> Case:
    """Prepare a tweet to be run.

    Raises:
        ValueError: the probe, the tweet, the span or the counterfactual cannot be used.
    """
    _check_probe(model, probe)
    prompt = build_prompt(model, text, probe.suffix)
    embeddings = model.embed(prompt.ids)
    span = resolve_span(prompt, settings.corrupt)
    instead = None
    if settings.corruption == "mean":
        instead = embeddings.clone()
        instead[list(span)] = model.embedding_matrix.mean(0)
    elif settings.counterfactual is not None:
        other = build_prompt(model, settings.counterfactual, probe.suffix)
        span = _differing(prompt, other)
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
    )
    return Case(blank, readout_of(model, probe), embeddings, instead)


def _check_probe(model: Model, probe: Probe) -> None:
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


def _differing(prompt: Prompt, other: Prompt) -> tuple[int, ...]:
    """Positions at which a counterfactual's prompt has another token."""
    if len(other) != len(prompt):
        raise ValueError(
            f"The counterfactual {other.tweet!r} makes {len(other)} tokens, the tweet "
            f"{len(prompt)}; a counterfactual must have as many as the tweet."
        )
    span = tuple(
        position
        for position, (own, its) in enumerate(zip(prompt.ids, other.ids, strict=True))
        if own != its
    )
    if not span:
        raise ValueError(
            f"The counterfactual {other.tweet!r} has the tweet's own tokens; change a word."
        )
    return span


def runs_of(
    model: Model, cases: Sequence[Case], samples: Sequence[int], clean: Source
) -> tuple[Source, Base, Array]:
    """The run that states are taken from, the one they are put into, and the corrupted reads.

    Args:
        cases, samples: S of each: whose prompt, and which sample of its noise.
        clean: the clean run of each of them, or one for all.
    """
    settings, readout = cases[0].blank.settings, cases[0].readout
    corrupted = torch.stack(
        [case.corrupted(sample) for case, sample in zip(cases, samples, strict=True)]
    )
    if settings.direction == "restore":
        base = runs.run_base(model, corrupted, readout, clean, settings.kinds, settings.severed)
        return clean, base, numbers_of(base.read)
    source = runs.run_source(model, corrupted, readout)
    whole = torch.stack([case.embeddings for case in cases])
    base = runs.run_base(model, whole, readout, source, settings.kinds, settings.severed)
    return source, base, numbers_of(source.read)


def readout_of(model: Model, probe: Probe) -> Readout:
    """What is read of every run, for a probe and the proxies of its words."""
    words = tuple(
        word_token(model, word) for word in (*probe.words_positive, *probe.words_negative)
    )
    if probe.layer is None:
        return Readout(words)
    coefficients, mean, scale = map(np.array, (probe.coefficients, probe.mean, probe.scale))
    weight = coefficients / scale
    return Readout(words, probe.layer, weight, float(probe.intercept - mean @ weight))


def numbers_of(read: torch.Tensor) -> Array:
    """What was read, off the device."""
    numbers: Array = read.cpu().double().numpy()
    return numbers
