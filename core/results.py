"""What did a trace find, and how is it read?

A result keeps what was read of every run, so that any proxy for the sentiment, any mean and any
error can be made from it without the model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from core import runs
from core.models import Contribution
from core.probes import Probe
from core.prompts import Prompt
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

Corruption = Literal["noise", "uniform", "mean", "counterfactual"]
CORRUPTIONS: dict[Corruption, str] = {
    "noise": "Gaussian noise on the tokens' embeddings",
    "uniform": "uniform noise on the tokens' embeddings",
    "mean": "the mean embedding in place of the tokens'",
    "counterfactual": "another tweet's tokens",
}
Direction = Literal["restore", "corrupt"]


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
        corruption: what takes the place of the span's embeddings: "noise" adds Gaussian noise to
            them (Meng et al. 2022), "uniform" uniform noise of the same standard deviation, "mean"
            is the mean of the model's embeddings, "counterfactual" another tweet's tokens (Zhang
            and Nanda 2024). The last two draw nothing: one sample is all there is.
        counterfactual: the other tweet; its prompt must have as many tokens. What differs is then
            the corrupted span.
        direction: "restore" puts clean states into the corrupted run; "corrupt" puts corrupted
            states into the clean run (reverse patching), and the effect is what the proxy loses.
        severed: hold "mlp" or "attn" contributions at a restored hidden state's own position to
            the corrupted run (Meng et al. 2022, section 2, figure 3); kinds must be ("hidden",).
        every: trace only the layers 0, every, 2 * every, ...; effects are NaN elsewhere.
        proxy: the number whose change is the effect, see `PROXIES`.
        seconds: end before all samples are done when this time is over; None: no limit.
        stable_for: end before all samples are done when the largest cell of every kind has stayed
            where it is for this many further samples; None: never.
    """

    kinds: tuple[Kind, ...] = KINDS
    samples: int = 10
    noise_scale: float = 3.0
    seed: int = 0
    window: int | None = None
    corrupt: str | tuple[int, ...] = "tweet"
    corruption: Corruption = "noise"
    counterfactual: str | None = None
    direction: Direction = "restore"
    severed: Contribution | None = None
    every: int = 1
    proxy: Proxy = "log_odds"
    seconds: float | None = None
    stable_for: int | None = None

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
        if self.corruption not in CORRUPTIONS:
            raise ValueError(
                f"The corruption {self.corruption!r} is not known; "
                f"choose one of {', '.join(CORRUPTIONS)}."
            )
        if (self.corruption == "counterfactual") != (self.counterfactual is not None):
            raise ValueError(
                "A counterfactual tweet and the corruption 'counterfactual' go together; "
                f"the corruption is {self.corruption!r} and the tweet {self.counterfactual!r}."
            )
        if self.counterfactual is not None and self.corrupt != "tweet":
            raise ValueError(
                "A counterfactual decides by itself what is corrupted; "
                f"leave corrupt at 'tweet' instead of {self.corrupt!r}."
            )
        if self.direction not in get_args(Direction):
            raise ValueError(
                f"The direction {self.direction!r} is not known; choose 'restore' or 'corrupt'."
            )
        if self.severed is not None and (
            self.severed not in get_args(Contribution) or self.kinds != ("hidden",)
        ):
            raise ValueError(
                "Severed paths are 'mlp' or 'attn', of hidden states alone; "
                f"{self.severed!r} was asked for with the kinds {', '.join(self.kinds)}."
            )
        if self.every < 1:
            raise ValueError(f"Every layer or every n-th can be traced, not every {self.every}.")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"The time must be above 0 seconds, not {self.seconds}.")
        if self.stable_for is not None and self.stable_for < 1:
            raise ValueError(
                f"The largest cell must be stable for at least 1 sample, not {self.stable_for}."
            )

    @property
    def draws(self) -> int:
        """Samples that there will be: one where the corruption draws nothing."""
        return self.samples if self.corruption in ("noise", "uniform") else 1


@dataclass(frozen=True)
class Reads:
    """What was read at the last position of every run of one trace.

    The C columns are those of `core.runs.Readout`: log P of the probe's words and, for a probe of
    states, its log-odds.
    """

    clean: Array  # (C,)
    corrupted: Array  # (S, C)
    restored: dict[Kind, Array]  # each (S, L, T, C)

    def first(self, samples: int) -> Reads:
        """The reads of the first samples alone."""
        return Reads(
            self.clean,
            self.corrupted[:samples],
            {kind: values[:samples] for kind, values in self.restored.items()},
        )

    def at(self, positions: Collection[int]) -> Reads:
        """The same with NaN for cells at other token positions."""
        others = [t for t in range(self._length) if t not in set(positions)]
        restored = {kind: values.copy() for kind, values in self.restored.items()}
        for values in restored.values():
            values[:, :, others] = np.nan
        return Reads(self.clean, self.corrupted, restored)

    @property
    def _length(self) -> int:
        return int(next(iter(self.restored.values())).shape[2])

    def joined(self, more: Reads) -> Reads:
        """These samples and, after them, those of another part of the same trace."""
        return Reads(
            self.clean,
            np.concatenate([self.corrupted, more.corrupted]),
            {
                kind: np.concatenate([values, more.restored[kind]])
                for kind, values in self.restored.items()
            },
        )


@dataclass(frozen=True)
class TraceResult:
    """What a trace found after some noise samples. Axes: (sample, layer, position)."""

    prompt: Prompt
    probe: Probe
    settings: TraceSettings
    model_name: str
    model_identity: str
    corrupted_span: tuple[int, ...]  # positions
    window: int  # layers
    noise: float  # standard deviation of the noise, in embedding units
    reads: Reads
    seconds: float  # of this computation; samples that were kept from an earlier one cost nothing

    @property
    def tokens(self) -> tuple[str, ...]:
        """Labels of the prompt's tokens."""
        return self.prompt.labels

    @property
    def layers(self) -> int:
        """Number of layers of the model."""
        return int(next(iter(self.reads.restored.values())).shape[1])

    @property
    def samples_done(self) -> int:
        """Noise samples in this result."""
        return len(self.reads.corrupted)

    @property
    def samples_wanted(self) -> int:
        """Noise samples of the whole trace."""
        return self.settings.draws

    @cached_property
    def high(self) -> float:
        """The proxy of the clean run."""
        return float(read_proxy(self.settings.proxy, self.probe, self.reads.clean))

    @cached_property
    def low_samples(self) -> Array:
        """The proxy of the corrupted run, one value per sample: (S,)."""
        return read_proxy(self.settings.proxy, self.probe, self.reads.corrupted)

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
    def low_reach(self) -> float:
        """Half the width of the 95% t interval of `low`, and so of the total effect; or NaN."""
        from scipy.stats import t

        if self.samples_done < 2:
            return float("nan")
        return float(t.ppf(0.975, self.samples_done - 1)) * self.low_error

    @property
    def distinguishable(self) -> bool | None:
        """Does the total effect's 95% t interval over the samples leave zero out?

        Where it does not, no cell means anything. None for one sample, which has no interval.
        """
        return None if self.samples_done < 2 else abs(self.total_effect) > self.low_reach

    @property
    def clean_probability(self) -> float:
        """The probe's P(positive) of the clean run."""
        return float(read_proxy("probability", self.probe, self.reads.clean))

    @property
    def corrupted_probability(self) -> float:
        """The probe's P(positive) of the corrupted run, mean over samples."""
        return float(read_proxy("probability", self.probe, self.reads.corrupted).mean())

    @cached_property
    def sample_effects(self) -> dict[Kind, Array]:
        """Indirect effects, each (S, L, T), in proxy units; NaN at layers that were left out.

        proxy(restored) - proxy(corrupted); of reverse patching proxy(clean) - proxy(patched). Both
        are the total effect where a site carries everything.
        """
        low = self.low_samples[:, None, None]
        patched = {
            kind: read_proxy(self.settings.proxy, self.probe, reads)
            for kind, reads in self.reads.restored.items()
        }
        if self.settings.direction == "corrupt":
            return {kind: self.high - values for kind, values in patched.items()}
        return {kind: values - low for kind, values in patched.items()}

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

        Before the span nothing differs. At the layer that is read (the last one, or that of a
        probe of states) only the last position is read, and there the hidden state is the whole
        clean answer; above it nothing is.
        """
        read = self.layers - 1
        if self.probe.layer is not None and self.settings.proxy in ("log_odds", "probability"):
            read = self.probe.layer
        masks: dict[Kind, NDArray[np.bool_]] = {}
        for kind, effects in self.effects.items():
            mask = np.zeros(effects.shape, dtype=bool)
            mask[:, : min(self.corrupted_span)] = True
            for layer in range(self.layers):
                covered = runs.window_layers(layer, self.window, self.layers)
                first = layer if kind == "hidden" else covered.start
                if first >= read:
                    mask[layer, :-1] = True
                if first > read or (first == read and kind == "hidden"):
                    mask[layer, -1] = True
            masks[kind] = mask
        return masks

    @cached_property
    def top_cells(self) -> dict[Kind, tuple[int, int]]:
        """(layer, position) of each kind's largest share of the total effect, trivial cells out."""
        tops: dict[Kind, tuple[int, int]] = {}
        for kind, effects in self.effects.items():
            out = self.trivial[kind] | np.isnan(effects)
            towards = np.where(out, -np.inf, effects * np.sign(self.total_effect))
            layer, position = np.unravel_index(int(towards.argmax()), towards.shape)
            tops[kind] = int(layer), int(position)
        return tops

    def under(self, proxy: Proxy) -> TraceResult:
        """The same run, read through another proxy; the model is not called."""
        return replace(self, settings=replace(self.settings, proxy=proxy))

    def frame(self) -> pd.DataFrame:
        """One row per cell that was traced.

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
        whole = pd.concat(frames, ignore_index=True)
        return whole[whole["effect"].notna()].reset_index(drop=True)


def read_proxy(proxy: Proxy, probe: Probe, reads: Array) -> Array:
    """A proxy for the sentiment, from what was read of a run.

    Args:
        reads: (..., C), log P of the probe's words, positive ones first, and then, for a probe of
            states, its log-odds. A proxy of one word takes its side's first.

    Returns:
        (...), in the unit that `PROXIES` names.
    """
    if proxy in ("log_odds", "probability"):
        odds = reads[..., -1] if probe.reads == "states" else probe.log_odds(reads)
        if proxy == "log_odds":
            return odds
        with np.errstate(invalid="ignore"):  # NaN where a cell was left out
            # The probability is 1 / (1 + exp(-odds)), without overflow.
            probability: Array = np.exp(-np.logaddexp(0.0, -odds))
        return probability
    good, bad = reads[..., 0], reads[..., len(probe.words_positive)]
    if proxy == "log_ratio":
        ratio: Array = good - bad
        return ratio
    return np.exp(good if proxy == "good" else bad)


def _standard_error(values: Array) -> Any:
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))
