"""What did a trace find, and how is it read?

A result keeps what was read of every run, so that any proxy for the sentiment, any mean and any
error can be made from it without the model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..models.model import Contribution
from ..patching.sites import KINDS, Kind, window_layers
from ..probes.probe import Probe
from ..prompts.alignment import Alignment, Edited
from ..prompts.prompt import Prompt
from ..settings import described
from ..showing import Shown
from ..statistics import Array, standard_error, t_quantile

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


def units_of(probe: Probe) -> dict[Proxy, str]:
    """What each proxy is measured in, by the probe's own words."""
    good, bad = (word.strip() for word in probe.words)
    ratio = f"log P({good}) - log P({bad}) (nats)"
    units = PROXIES | {"log_ratio": ratio, "good": f"P({good})", "bad": f"P({bad})"}
    if probe.is_contrast:
        units |= {"log_odds": ratio, "probability": f"P({good}) as a share of both words"}
    return units


def proxies_of(probe: Probe) -> list[Proxy]:
    """The proxies that a probe offers, each number once."""
    return [proxy for proxy in PROXIES if not (probe.is_contrast and proxy == "log_ratio")]


Corruption = Literal["noise", "uniform", "mean", "counterfactual"]
CORRUPTIONS: dict[Corruption, str] = {
    "noise": "Gaussian noise on the tokens' embeddings",
    "uniform": "uniform noise on the tokens' embeddings",
    "mean": "the mean embedding in place of the tokens'",
    "counterfactual": "another tweet's tokens",
}
Direction = Literal["restore", "corrupt"]
Until = Literal["settled", "all"]
Rows = Literal["tokens", "words"]


ROUNDING = 1e-5
"""Share of the proxy by which two runs of equal inputs may differ in single precision."""


@dataclass(frozen=True)
class TraceSettings:
    """All that determines a trace besides model, probe and tweet.

    `core.commands.options` makes the options of commands from these fields.

    Attributes:
        samples: every cell sees the same ones; sample i is the same however many are drawn.
        corruption: what takes the place of the span's embeddings: "noise" adds Gaussian noise to
            them (Meng et al. 2022), "uniform" uniform noise of the same standard deviation, "mean"
            is the mean of the model's embeddings, "counterfactual" another tweet's tokens (Zhang
            and Nanda 2024). The last two draw nothing: one sample is all there is.
        counterfactual: what differs in it is the corrupted span. Where it has another number of
            tokens, its positions are aligned by the edit (`core.prompts.alignment`). None in a
            sweep over pairs, where each text has its own.
        edited: of such a counterfactual's edited spans, where their sites stand.
        direction: "restore" puts clean activations into the corrupted run (denoising); "corrupt"
            corrupted ones into the clean run (noising), and the effect is what the proxy loses.
        severed: Meng et al. 2022, section 2, figure 3; kinds must be ("hidden",).
        rows: a word's cell stands at its last token, and effects are NaN at its others; links and
            emoji are words too.
        every: layers 0, every, 2 * every, ...; effects are NaN elsewhere.
        proxy: see `PROXIES`.
        until: "settled" leaves out layers between the coarse ones at the positions where, by what
            these say, no site is (`core.tracing.coarse_to_fine`); their effects are NaN.
    """

    kinds: tuple[Kind, ...] = described(KINDS, "Kinds of site to restore.", metavar="LIST")
    samples: int = described(10, "Noise samples.")
    total_samples: int | None = described(
        None,
        "Noise samples of the total effect, which cost a forward pass each.",
        unset="as many as of the cells",
    )
    noise_scale: float = described(
        3.0, "Noise, in standard deviations of the token embeddings.", option="--noise"
    )
    seed: int = described(0, "Seed of the noise.")
    window: int | None = described(
        None, "Layers over which mlp and attn are restored.", unset="the paper's 10 of 48, scaled"
    )
    corrupt: str | tuple[int, ...] = described(
        "tweet",
        'What is corrupted: "tweet", the N-th word as "word:N" (from 0), or tokens as "3,4".',
    )
    corruption: Corruption = described(
        "noise",
        "What takes the place of the corrupted tokens: Gaussian or uniform noise on top of them, "
        "or the mean embedding.",
        choices=("noise", "uniform", "mean"),
    )
    counterfactual: str | None = described(None, "Corrupt by another tweet instead.")
    edited: Edited = described(
        "last",
        "Of a counterfactual of another length: restore an edited span at its last token, or all "
        "of it at once, end to end.",
        choices=("last", "all"),
    )
    direction: Direction = described(
        "restore",
        "Noising: corrupt activations in the clean run, and measure the loss.",
        option="--reverse",
        flag="corrupt",
    )
    severed: Contribution | None = described(
        None,
        "Restore hidden states alone, with this path frozen (path patching): the token's own "
        "later contributions of that kind stay corrupted.",
        option="--sever",
    )
    rows: Rows = described(
        "tokens",
        "What is restored at once: one token, or all tokens of a word.",
        choices=("tokens", "words"),
    )
    every: int = described(1, "Trace every n-th layer only.")
    proxy: Proxy = described("log_odds", "The number whose change is the effect.")
    until: Until = described(
        "all",
        "Stop when the sites are settled, or when all cells are computed.",
        choices=("settled", "all"),
    )
    seconds: float | None = described(None, "Stop after this time, with the samples so far.")
    stable_for: int | None = described(
        None, "Stop when the largest cell of every kind is unchanged for this many samples."
    )

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise UserError(
                f"The kinds {self.kinds!r} cannot be traced; "
                f"name each of {', '.join(KINDS)} at most once."
            )
        if self.samples < 1:
            raise UserError(f"The number of samples must be at least 1, not {self.samples}.")
        if self.total_samples is not None and self.total_samples < 1:
            raise UserError(f"The number of samples must be at least 1, not {self.total_samples}.")
        if not (np.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise UserError(f"The noise scale must be above 0, not {self.noise_scale}.")
        if self.seed < 0:
            raise UserError(f"The seed must be 0 or more, not {self.seed}.")
        if self.window is not None and self.window < 1:
            raise UserError(f"The window must cover at least 1 layer, not {self.window}.")
        if self.proxy not in get_args(Proxy):
            raise UserError(
                f"The proxy {self.proxy!r} is not known; choose one of {', '.join(PROXIES)}."
            )
        if self.corruption not in CORRUPTIONS:
            raise UserError(
                f"The corruption {self.corruption!r} is not known; "
                f"choose one of {', '.join(CORRUPTIONS)}."
            )
        if self.counterfactual is not None and self.corruption != "counterfactual":
            raise UserError(
                "A counterfactual tweet and the corruption 'counterfactual' go together; "
                f"the corruption is {self.corruption!r} and the tweet {self.counterfactual!r}."
            )
        if self.corruption == "counterfactual" and self.corrupt != "tweet":
            raise UserError(
                "A counterfactual decides by itself what is corrupted; "
                f"leave corrupt at 'tweet' instead of {self.corrupt!r}."
            )
        if self.edited not in get_args(Edited):
            raise UserError(
                f"Of an edited span the 'last' token is restored or 'all' of it, not "
                f"{self.edited!r}."
            )
        if self.direction not in get_args(Direction):
            raise UserError(
                f"The direction {self.direction!r} is not known; choose 'restore' or 'corrupt'."
            )
        if self.severed is not None and (
            self.severed not in get_args(Contribution) or self.kinds != ("hidden",)
        ):
            raise UserError(
                "Frozen paths are 'mlp' or 'attn', of hidden states alone; "
                f"{self.severed!r} was asked for with the kinds {', '.join(self.kinds)}."
            )
        if self.rows not in get_args(Rows):
            raise UserError(f"Rows are 'tokens' or 'words', not {self.rows!r}.")
        if self.until not in get_args(Until):
            raise UserError(f"A trace goes on until 'settled' or 'all', not {self.until!r}.")
        if self.every < 1:
            raise UserError(f"Every layer or every n-th can be traced, not every {self.every}.")
        if self.seconds is not None and not self.seconds > 0:
            raise UserError(f"The time must be above 0 seconds, not {self.seconds}.")
        if self.stable_for is not None and self.stable_for < 1:
            raise UserError(
                f"The largest cell must be stable for at least 1 sample, not {self.stable_for}."
            )

    @property
    def draws(self) -> int:
        """Samples that there will be: one where the corruption draws nothing."""
        return self.samples if self.corruption in ("noise", "uniform") else 1

    @property
    def total_draws(self) -> int:
        """Samples that the total effect will rest on; those of the cells are among them."""
        if self.corruption not in ("noise", "uniform"):
            return 1
        return max(self.samples, self.total_samples or 0)


@dataclass(frozen=True)
class Reads:
    """What was read at the last position of every run of one trace.

    The C columns are those of `core.patching.readout.Readout`: log P of the probe's words and, for
    a probe of states, its log-odds.
    """

    clean: Array  #: (C,)
    corrupted: Array  #: (S, C)
    restored: dict[Kind, Array]  #: each (S, L, T, C)
    total: Array = field(default_factory=lambda: np.empty((0, 0)))
    """(N, C) of the corrupted runs of the total effect, the cells' S first; empty: there are no
    others."""

    def first(self, samples: int) -> Reads:
        """The reads of the first samples alone."""
        return Reads(
            self.clean,
            self.corrupted[:samples],
            {kind: values[:samples] for kind, values in self.restored.items()},
            self.total,
        )

    def at(self, positions: Collection[int]) -> Reads:
        """The same with NaN for cells at other token positions."""
        others = [t for t in range(self._length) if t not in set(positions)]
        restored = {kind: values.copy() for kind, values in self.restored.items()}
        for values in restored.values():
            values[:, :, others] = np.nan
        return Reads(self.clean, self.corrupted, restored, self.total)

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
            self.total,
        )

    @property
    def of_the_total(self) -> Array:
        """The corrupted runs that the total effect rests on, (N, C)."""
        return self.total if len(self.total) > len(self.corrupted) else self.corrupted


@dataclass(frozen=True)
class TraceResult(Shown):
    """What a trace found after some noise samples.

    Axes are (sample, layer, position). S is the samples that the cells rest on, N those of the
    total effect, L the layers and T the tokens of the prompt. Effects are in units of the proxy
    that the settings name.
    """

    prompt: Prompt
    probe: Probe
    settings: TraceSettings
    model_name: str
    model_identity: str
    corrupted_span: tuple[int, ...]  #: positions
    window: int  #: layers
    noise: float  #: standard deviation of the noise, in embedding units
    reads: Reads
    seconds: float  #: of this computation; samples that were kept from an earlier one cost nothing
    alignment: Alignment | None = None  #: with a counterfactual of another number of tokens

    @property
    def tokens(self) -> tuple[str, ...]:
        """Labels of the prompt's tokens."""
        return self.prompt.labels

    @property
    def has_cells(self) -> bool:
        """Whether any site was restored; a verdict of forward passes alone has no cells."""
        return bool(self.reads.restored)

    @property
    def layers(self) -> int:
        """Number of layers of the model; of a result that has cells."""
        return int(next(iter(self.reads.restored.values())).shape[1])

    @cached_property
    def traced(self) -> dict[Kind, NDArray[np.bool_]]:
        """Cells (L, T) of each kind that were restored in every sample."""
        return {
            kind: np.asarray(np.isfinite(read).all(axis=(0, 3)))
            for kind, read in self.reads.restored.items()
        }

    @cached_property
    def spans(self) -> dict[int, range]:
        """The sites' positions: of the last one of each, those that are restored at once."""
        if self.alignment is not None:
            sites = self.alignment.sites(self.settings.edited)
            return {position: own for position, (own, _) in sites.items()}
        if self.settings.rows == "words":
            return self.prompt.words_by_last_token
        return {position: range(position, position + 1) for position in range(len(self.prompt))}

    @property
    def is_coarse(self) -> bool:
        """Whether cells that were asked for are left out."""
        asked = slice(None, None, self.settings.every), list(self.spans)
        return not all(traced[asked].all() for traced in self.traced.values())

    @property
    def samples_done(self) -> int:
        """Noise samples in this result."""
        return len(self.reads.corrupted)

    @property
    def total_samples_done(self) -> int:
        """Noise samples that the total effect rests on."""
        return len(self.reads.of_the_total)

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
        """The proxy of the corrupted run, one value for each of the cells' samples: (S,)."""
        return read_proxy(self.settings.proxy, self.probe, self.reads.corrupted)

    @cached_property
    def total_low_samples(self) -> Array:
        """The same for each of the total effect's samples: (N,)."""
        return read_proxy(self.settings.proxy, self.probe, self.reads.of_the_total)

    @property
    def low(self) -> float:
        """The proxy of the corrupted run, mean over the total effect's samples."""
        return float(self.total_low_samples.mean())

    @property
    def total_effect(self) -> float:
        """high - low."""
        return self.high - self.low

    @property
    def paired_total_effect(self) -> float:
        """The total effect over the cells' own samples, of which a cell's share is taken."""
        return self.high - float(self.low_samples.mean())

    @property
    def low_error(self) -> float:
        """Standard error of `low`, and so of the total effect; NaN for one sample."""
        return float(standard_error(self.total_low_samples))

    @property
    def t_quantile(self) -> float:
        """Half of a 95% t interval over the cells' samples, in standard errors; NaN for one."""
        return float(t_quantile(self.samples_done - 1))

    @property
    def low_reach(self) -> float:
        """Half the width of the 95% t interval of `low`, and so of the total effect; or NaN."""
        return float(t_quantile(self.total_samples_done - 1)) * self.low_error

    @property
    def distinguishable(self) -> bool | None:
        """Does the total effect's 95% t interval over the samples leave zero out?

        Where it does not, no cell means anything. None for one sample, which has no interval. An
        effect within `ROUNDING` is none: without any spread, sums in another order would be one.
        """
        if self.total_samples_done < 2:
            return None
        rounding = ROUNDING * max(abs(self.high), abs(self.low))
        return abs(self.total_effect) > max(self.low_reach, rounding)

    @property
    def clean_probability(self) -> float:
        """The probe's P(positive) of the clean run."""
        return float(read_proxy("probability", self.probe, self.reads.clean))

    @property
    def corrupted_probability(self) -> float:
        """The probe's P(positive) of the corrupted run, mean over samples."""
        return float(read_proxy("probability", self.probe, self.reads.of_the_total).mean())

    @cached_property
    def sample_effects(self) -> dict[Kind, Array]:
        """Indirect effects, each (S, L, T), in proxy units; NaN at layers that were left out.

        proxy(restored) - proxy(corrupted); of noising proxy(clean) - proxy(patched). Both
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
        return {kind: standard_error(values) for kind, values in self.sample_effects.items()}

    @cached_property
    def trivial(self) -> dict[Kind, NDArray[np.bool_]]:
        """Cells (L, T) whose effect is fixed by construction: 0, or the total effect.

        Before the span nothing differs. At the layer that is read (the last one, or that of a
        probe of states) only the last position is read, and there the hidden state is the whole
        clean answer; above it nothing is.
        """
        read = self._layer_read
        masks: dict[Kind, NDArray[np.bool_]] = {}
        for kind, effects in self.effects.items():
            mask = np.zeros(effects.shape, dtype=bool)
            mask[:, : min(self.corrupted_span)] = True
            for layer in range(self.layers):
                covered = window_layers(layer, self.window, self.layers)
                first = layer if kind == "hidden" else covered.start
                if first >= read:
                    mask[layer, :-1] = True
                if first > read or (first == read and kind == "hidden"):
                    mask[layer, -1] = True
            masks[kind] = mask
        return masks

    @property
    def _layer_read(self) -> int:
        """The layer after which the proxy is read."""
        if self.probe.layer is not None and self.settings.proxy in ("log_odds", "probability"):
            return self.probe.layer
        return self.layers - 1

    def _left_out_zeros(self, kind: Kind) -> NDArray[np.bool_]:
        """Cells (L, T) that a coarse trace left out and whose effect is 0 by construction."""
        traced = self.traced[kind]
        zeros = np.zeros_like(traced)
        zeros[:: self.settings.every] = True
        zeros &= self.trivial[kind] & ~traced & traced.any(axis=0)
        if kind == "hidden":
            zeros[self._layer_read, -1] = False  # the whole clean answer
        return zeros

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
        """One row per cell that was traced, or that is known to be 0 where it was left out.

        Columns: kind, layer, position, token, corrupted, effect (mean IE, proxy units), normalised
        (effect / total effect over the same samples; NaN where that is 0), standard_error, samples,
        trivial.
        """
        import pandas as pd

        positions = len(self.prompt)
        layer, position = np.divmod(np.arange(self.layers * positions), positions)
        corrupted = np.isin(np.arange(positions), self.corrupted_span)
        frames = []
        for kind, traced in self.effects.items():
            effects = np.where(self._left_out_zeros(kind), 0.0, traced)
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "layer": layer,
                        "position": position,
                        "token": np.array(self.tokens, dtype=object)[position],
                        "corrupted": corrupted[position],
                        "effect": effects.ravel(),
                        "normalised": effects.ravel() / (self.paired_total_effect or np.nan),
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
