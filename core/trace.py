"""Where does the model keep the sentiment of one tweet, and how sure are we?

Puts the runs of `core.runs` together: which positions are corrupted and how, which number is read
(the proxy), and what every cell did to it. Noise sample by noise sample, so that a whole picture
stands after the first one and each further one narrows its error.

Corruption (Meng et al. 2022, section 2 and appendix B): Gaussian noise on the input embeddings of
the corrupted span, 3 times the standard deviation of the embeddings of the data set's tokens,
10 samples, the same samples for every cell.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from core import runs
from core.models import Model
from core.probes import Probe
from core.prompts import Prompt, build_prompt, resolve_span, word_token
from core.runs import KINDS, Array, Kind

if TYPE_CHECKING:
    import pandas as pd

Proxy = Literal["log_odds", "probability", "log_ratio", "good", "bad"]
PROXIES: dict[Proxy, str] = {
    "log_odds": "probe's log-odds of positive (nats)",
    "probability": "probe's probability of positive",
    "log_ratio": "log P(good) - log P(bad) (nats)",
    "good": "P(good)",
    "bad": "P(bad)",
}
PAPER_WINDOW = 10 / 48
"""Share of the layers that the paper's windows cover: 10 of GPT-2 XL's 48."""


@dataclass(frozen=True)
class TraceSettings:
    """All that determines a trace besides model, probe and tweet.

    Attributes:
        kinds: sites to restore, of "hidden", "mlp", "attn".
        samples: noise samples; every cell sees the same ones.
        noise_scale: standard deviations of the data set's token embeddings.
        seed: of the noise; sample i is the same however many are drawn.
        window: layers over which mlp and attn are restored; None scales the paper's 10 of 48.
        corrupt: "tweet", "word:N" (the N-th word) or positions of tokens.
        proxy: the number whose change is the effect, see `PROXIES`.
    """

    kinds: tuple[Kind, ...] = KINDS
    samples: int = 10
    noise_scale: float = 3.0
    seed: int = 0
    window: int | None = None
    corrupt: str | tuple[int, ...] = "tweet"
    proxy: Proxy = "log_odds"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(
                f"The kinds {self.kinds!r} cannot be traced; "
                f"name each of {', '.join(KINDS)} at most once."
            )
        if self.samples < 1:
            raise ValueError(f"The number of samples must be at least 1, not {self.samples}.")
        if not (np.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise ValueError(f"The noise scale must be above 0, not {self.noise_scale}.")
        if self.seed < 0:
            raise ValueError(f"The seed must be 0 or more, not {self.seed}.")
        if self.window is not None and self.window < 1:
            raise ValueError(f"The window must cover at least 1 layer, not {self.window}.")
        if self.proxy not in get_args(Proxy):
            raise ValueError(
                f"The proxy {self.proxy!r} is not known; choose one of {', '.join(PROXIES)}."
            )


@dataclass(frozen=True)
class TraceResult:
    """What a trace found after some noise samples. Axes: (sample, layer, position, word).

    The run is kept as log-probabilities of the probe's words, so that every proxy can be read from
    it without the model.
    """

    prompt: Prompt
    probe: Probe
    settings: TraceSettings
    model_name: str
    model_identity: str
    corrupted_span: tuple[int, ...]  # positions
    window: int  # layers
    noise: float  # standard deviation of the noise, in embedding units
    clean_log_probs: Array  # (words,)
    corrupted_log_probs: Array  # (S, words)
    restored_log_probs: dict[Kind, Array]  # each (S, L, T, words)
    seconds: float

    @property
    def tokens(self) -> tuple[str, ...]:
        """Labels of the prompt's tokens."""
        return self.prompt.labels

    @property
    def layers(self) -> int:
        """Number of layers of the model."""
        return int(next(iter(self.restored_log_probs.values())).shape[1])

    @property
    def samples_done(self) -> int:
        """Noise samples in this result."""
        return len(self.corrupted_log_probs)

    @property
    def samples_wanted(self) -> int:
        """Noise samples of the whole trace."""
        return self.settings.samples

    @cached_property
    def high(self) -> float:
        """The proxy of the clean run."""
        return float(read_proxy(self.settings.proxy, self.probe, self.clean_log_probs))

    @cached_property
    def low_samples(self) -> Array:
        """The proxy of the corrupted run, one value per sample: (S,)."""
        return read_proxy(self.settings.proxy, self.probe, self.corrupted_log_probs)

    @property
    def low(self) -> float:
        """The proxy of the corrupted run, mean over samples."""
        return float(self.low_samples.mean())

    @property
    def total_effect(self) -> float:
        """high - low."""
        return self.high - self.low

    @property
    def low_error(self) -> float:
        """Standard error of `low`, and so of the total effect; NaN for one sample."""
        return float(_standard_error(self.low_samples))

    @property
    def distinguishable(self) -> bool | None:
        """Does the total effect's 95% t interval over the samples leave zero out?

        Where it does not, no cell means anything. None for one sample, which has no interval.
        """
        from scipy.stats import t

        if self.samples_done < 2:
            return None
        reach = float(t.ppf(0.975, self.samples_done - 1)) * self.low_error
        return abs(self.total_effect) > reach

    @property
    def clean_probability(self) -> float:
        """The probe's P(positive) of the clean run."""
        return float(read_proxy("probability", self.probe, self.clean_log_probs))

    @property
    def corrupted_probability(self) -> float:
        """The probe's P(positive) of the corrupted run, mean over samples."""
        return float(read_proxy("probability", self.probe, self.corrupted_log_probs).mean())

    @cached_property
    def sample_effects(self) -> dict[Kind, Array]:
        """Indirect effects proxy(restored) - proxy(corrupted), each (S, L, T), in proxy units."""
        low = self.low_samples[:, None, None]
        return {
            kind: read_proxy(self.settings.proxy, self.probe, log_probs) - low
            for kind, log_probs in self.restored_log_probs.items()
        }

    @cached_property
    def effects(self) -> dict[Kind, Array]:
        """Indirect effects, mean over samples, each (L, T), in proxy units."""
        return {kind: values.mean(axis=0) for kind, values in self.sample_effects.items()}

    @cached_property
    def standard_errors(self) -> dict[Kind, Array]:
        """Standard errors of `effects`; each cell is paired with its own corrupted run."""
        return {kind: _standard_error(values) for kind, values in self.sample_effects.items()}

    @cached_property
    def trivial(self) -> dict[Kind, NDArray[np.bool_]]:
        """Cells (L, T) whose effect is fixed by construction: 0, or the total effect.

        Before the span nothing differs. At the last layer only the last position is read: the
        others have no effect, and there the hidden state is the whole clean answer.
        """
        masks: dict[Kind, NDArray[np.bool_]] = {}
        for kind, effects in self.effects.items():
            mask = np.zeros(effects.shape, dtype=bool)
            mask[:, : min(self.corrupted_span)] = True
            for layer in range(self.layers):
                covered = runs.window_layers(layer, self.window, self.layers)
                first = layer if kind == "hidden" else covered.start
                if first == self.layers - 1:
                    mask[layer, :-1] = True
            if kind == "hidden":
                mask[-1, -1] = True
            masks[kind] = mask
        return masks

    def under(self, proxy: Proxy) -> TraceResult:
        """The same run, read through another proxy; the model is not called."""
        return replace(self, settings=replace(self.settings, proxy=proxy))

    def frame(self) -> pd.DataFrame:
        """One row per cell.

        Columns: kind, layer, position, token, corrupted, effect (mean IE, proxy units), normalised
        (effect / total effect; NaN where that is 0), standard_error, samples, trivial.
        """
        import pandas as pd

        positions = len(self.prompt)
        layer, position = np.divmod(np.arange(self.layers * positions), positions)
        corrupted = np.isin(np.arange(positions), self.corrupted_span)
        frames = []
        for kind, effects in self.effects.items():
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "layer": layer,
                        "position": position,
                        "token": np.array(self.tokens, dtype=object)[position],
                        "corrupted": corrupted[position],
                        "effect": effects.ravel(),
                        "normalised": effects.ravel() / (self.total_effect or np.nan),
                        "standard_error": self.standard_errors[kind].ravel(),
                        "samples": self.samples_done,
                        "trivial": self.trivial[kind].ravel(),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)


def read_proxy(proxy: Proxy, probe: Probe, log_probs: Array) -> Array:
    """A proxy for the sentiment, from log P of the positive and the negative words.

    Args:
        log_probs: (..., words), positive words first; a proxy of one word takes its side's first.

    Returns:
        (...), in the unit that `PROXIES` names.
    """
    if proxy == "log_odds":
        return probe.log_odds(log_probs)
    if proxy == "probability":
        # 1 / (1 + exp(-x)) without overflow
        return np.exp(-np.logaddexp(0.0, -probe.log_odds(log_probs)))
    good, bad = log_probs[..., 0], log_probs[..., len(probe.words_positive)]
    if proxy == "log_ratio":
        ratio: Array = good - bad
        return ratio
    return np.exp(good if proxy == "good" else bad)


def default_window(layers: int) -> int:
    """The paper's window of 10 of 48 layers, scaled to a model's depth."""
    return max(1, round(layers * PAPER_WINDOW))


def trace(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> TraceResult:
    """Trace one tweet with all its noise samples; see `trace_progressively`."""
    return deque(trace_progressively(model, probe, text, settings, progress=progress), maxlen=1)[0]


def trace_progressively(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> Iterator[TraceResult]:
    """Trace one tweet noise sample by noise sample.

    Yields after each sample a whole result (all kinds, all cells) of the samples so far; the last
    one is what `trace` returns.

    Args:
        model: the model that is traced; its weights must be those the probe was trained on,
            or, for a control, those of its untrained twin.
        probe: reads the sentiment and names suffix and words.
        text: the tweet.
        progress: called with the share of the whole work that is done, several times a sample.
            An exception that it raises ends the trace.

    Raises:
        ValueError: a tweet, span or probe that cannot be used; one sentence says why.
        EngineError: the self-check failed.
    """
    settings = settings or TraceSettings()
    if probe.model_identity != model.identity and not model.untrained:
        raise ValueError(
            f"The probe was trained on {probe.model_name!r}, not on {model.name!r}; "
            "choose a probe of this model or train one."
        )
    prompt = build_prompt(model, text, probe.suffix)
    if probe.reads == "states":
        raise ValueError("A probe of hidden states cannot be traced yet; choose one of words.")
    words = [word_token(model, word) for word in (*probe.words_positive, *probe.words_negative)]
    span = resolve_span(prompt, settings.corrupt)
    window = settings.window or default_window(model.layers)
    noise = settings.noise_scale * probe.embedding_std
    return _samples(
        model, probe, prompt, words, span, min(window, model.layers), noise, settings, progress
    )


def _samples(
    model: Model,
    probe: Probe,
    prompt: Prompt,
    words: Sequence[int],
    span: tuple[int, ...],
    window: int,
    noise: float,
    settings: TraceSettings,
    progress: Callable[[float], None] | None,
) -> Iterator[TraceResult]:
    began = time.perf_counter()
    embeddings = model.embed(prompt.ids)
    clean = runs.run_clean(model, embeddings, words)
    corrupted_log_probs: list[Array] = []
    restored_log_probs: dict[Kind, list[Array]] = {kind: [] for kind in settings.kinds}
    for sample in range(settings.samples):
        corrupted = runs.run_corrupted(
            model,
            _with_noise(embeddings, span, noise, settings.seed, sample)[None],
            words,
            clean,
            settings.kinds,
        )
        restored = runs.restore(
            model,
            clean,
            corrupted,
            words,
            kinds=settings.kinds,
            window=window,
            first=min(span),
            progress=_share_of(progress, sample, settings.samples),
        )
        corrupted_log_probs.append(corrupted.log_probs.double().cpu().numpy())
        for kind, values in restored.log_probs.items():
            restored_log_probs[kind].append(values)
        yield TraceResult(
            prompt=prompt,
            probe=probe,
            settings=settings,
            model_name=model.name,
            model_identity=model.identity,
            corrupted_span=span,
            window=window,
            noise=noise,
            clean_log_probs=clean.log_probs.double().cpu().numpy(),
            corrupted_log_probs=np.concatenate(corrupted_log_probs),
            restored_log_probs={
                kind: np.concatenate(values) for kind, values in restored_log_probs.items()
            },
            seconds=time.perf_counter() - began,
        )


def _with_noise(
    embeddings: torch.Tensor, span: tuple[int, ...], noise: float, seed: int, sample: int
) -> torch.Tensor:
    """The embeddings (T, D) with sample number `sample` of the noise added on the span.

    Drawn by NumPy, position by position of the span, so that a sample is the same on every device
    and in every version of torch.
    """
    drawn = np.random.default_rng([seed, sample]).standard_normal((len(span), embeddings.shape[1]))
    corrupted = embeddings.clone()
    corrupted[list(span)] += torch.from_numpy(noise * drawn).to(embeddings)
    return corrupted


def _share_of(
    progress: Callable[[float], None] | None, sample: int, samples: int
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress((sample + share) / samples)


def _standard_error(values: Array) -> Any:
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


class _CallableModule(ModuleType):
    """`core.trace` is this module and, as the library's public face promises, also its function."""

    def __call__(self, *arguments: Any, **options: Any) -> TraceResult:
        return trace(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
