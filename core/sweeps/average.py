"""Where do tweets, on average, keep their sentiment; and how sure are we?

The average indirect effect (AIE) of Meng et al. 2022 (section 2, figures 1 and 3): the mean over
tweets of a site's indirect effect, by kind of site, layer and role of the token
(`core.prompts.token_roles`); the average total effect (ATE) likewise. What varies is mostly the
tweets, not the noise, so intervals are over tweets and a tweet counts once, whatever the number of
its noise samples.

Four rules:

1. Sign. Corrupting a positive tweet lowers "positive", corrupting a negative one raises it, and
   their plain mean would cancel. Effects are therefore counted towards what the probe says of the
   clean run (`towards="prediction"`; the paper's proxy, the probability of the right answer, does
   the same), towards the label, or towards "positive" as they are.
2. Several tokens of one role in a tweet are averaged first, so that tweets weigh alike. A tweet
   without a role contributes nothing there; `n` counts those that do.
3. Normalised effects are ratios of means (AIE / ATE of the same tweets): a mean of ratios would be
   ruled by tweets whose total effect is near zero. Their t intervals are those of the delta method
   for a ratio of two means over the same units (Cochran 1977, "Sampling Techniques", section 6.3),
   their bootstrap intervals come from resampling both means at once (Efron and Tibshirani 1993, "An
   Introduction to the Bootstrap", section 10.5). Fieller's interval (1954) differs from them only
   where the total effect is not significant, and nothing is said of sites there.
4. In a sweep over pairs the unit is the tweet that was edited: pairs of one tweet are no
   independent observations (Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust
   Inference"), so their effects are averaged first, and `n` counts the tweets.

Everything streams: 100,000 tweets need no more memory than 100, but for their peaks (about a
hundred bytes a tweet). The bootstrap over tweets does too: instead of drawing n tweets out of n,
each tweet counts Poisson(1) times in each replicate (Hanley & MacGibbon 2006, "Creating
non-parametric bootstrap samples using Poisson frequencies"; Chamandy et al. 2012, "Estimating
uncertainty for massive data streams"). The counts are drawn from the tweet's text, so equal texts
are drawn together, results do not depend on the order, and two averages over the same tweets are
compared tweet by tweet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..patching.sites import Kind
from ..prompts import token_roles
from ..prompts.token_roles import Scheme
from ..showing import Shown
from ..statistics import Array, percentile_interval, t_quantile
from ..tracing.result import PROXIES, Corruption, Proxy, TraceResult, units_of
from .record import Record

if TYPE_CHECKING:
    import pandas as pd

Interval = Literal["bootstrap", "normal"]
INTERVALS: dict[Interval, str] = {
    "bootstrap": "95% percentile bootstrap over tweets (Poisson counts)",
    "normal": "95% t interval over tweets",
}
Towards = Literal["prediction", "label", "positive"]
TOWARDS: dict[Towards, str] = {
    "prediction": "towards the clean prediction",
    "label": "towards the label",
    "positive": "towards positive",
}
REPLICATES = 1000
_BLOCK = 64  # tweets that share one matrix product
_FIRST_LOOK = 8  # tweets before the first row of the history
_ALL = ""  # stands among the roles for "every tweet"


@dataclass(frozen=True)
class Mean:
    """A mean over tweets with its 95% interval; NaN where there are too few tweets."""

    mean: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True, eq=False)  # equal is what is the same: what is found of one is kept by it
class Average(Shown):
    """Average effects of many traces.

    Attributes:
        frame: one row per kind, layer and role: kind, layer, role, mean, lower, upper (proxy units,
            or shares of the total effect when normalised), n (tweets that have the role),
            peak_share (share of all tweets, or pairs, whose largest cell of the kind lies here),
            trivial (the effect is fixed by construction in every tweet).
        total: the average total effect, in proxy units.
        peaks: one row per tweet or pair and kind, the largest cell not fixed by construction:
            tweet (number in the sweep), row (of the source), kind, layer, role, position, effect
            (towards the same side as the means, proxy units), total_effect.
        history: how intervals shrank: n (tweets so far), kind, layer, role, mean, reach (half the
            95% t interval); kind "total" is the total effect.
        about: what was averaged, and how; values that JSON knows.
    """

    frame: pd.DataFrame
    total: Mean
    peaks: pd.DataFrame
    history: pd.DataFrame
    about: dict[str, Any]
    _sums: _Sums | None = field(default=None, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Tweets that were averaged; of pairs, those that were edited."""
        return self.total.n

    @property
    def counted(self) -> str:
        """How many tweets or pairs it is of, in words."""
        pairs = self.about.get("pairs")
        if pairs is None:
            return f"{self.n:,} tweets"
        return f"{pairs:,} pairs" + (f" of {self.n:,} tweets" if pairs != self.n else "")

    @property
    def intervals(self) -> str:
        """How its intervals are made, in words."""
        said = INTERVALS[self.about["interval"]]
        if self.about.get("pairs") is None:
            return said
        return f"{said.replace('over tweets', 'over pairs')}, those of one tweet counted as one"

    @property
    def roles(self) -> list[str]:
        """Roles that occur, in a figure's order."""
        return token_roles.in_order(self.frame["role"], self.about["roles"])

    def titles(self) -> dict[str, str]:
        """What a figure calls each role."""
        labels = self.about["suffix_tokens"], self.about["template_tokens"]
        return {role: token_roles.title_of(role, *labels) for role in self.roles}

    def more_tweets(self, reach: float, kind: str = "total", layer: int = 0, role: str = "") -> int:
        """About how many more tweets does it take to know a mean to ± `reach`?

        Args:
            reach: half the width of the wanted 95% interval, in the unit of the means.
            kind, layer, role: a cell, or by default the total effect.

        Returns:
            Tweets of any kind; a rare role takes many. 0 where it is known as well as that.

        Raises:
            UserError: no such cell, too few tweets to estimate from, or no positive reach.
        """
        if not reach > 0:
            raise UserError(f"The wanted reach must be above 0, not {reach}.")
        rows = self.history[self.history["kind"] == kind]
        if kind != "total":
            rows = rows[(rows["layer"] == layer) & (rows["role"] == role)]
        rows = rows[rows["reach"].notna()]
        if rows.empty:
            raise UserError(
                f"Too few tweets have the cell {kind}, layer {layer}, role {role!r} to estimate "
                "from; trace more first."
            )
        last = rows.iloc[-1]
        return max(0, int(np.ceil(last["n"] * (last["reach"] / reach) ** 2)) - self.n)


def average(
    source: Iterable[TraceResult | Record],
    *,
    roles: Scheme = "tweet",
    interval: Interval = "bootstrap",
    normalised: bool = False,
    proxy: Proxy | None = None,
    where: Callable[[Record], bool] | None = None,
    towards: Towards = "prediction",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Average:
    """Average the effects of many traces, one at a time.

    Args:
        source: results, or a sweep's store (`core.sweeps.store.Store`), whose records are read in
        turn.
        roles: how tokens are grouped, see `core.prompts.token_roles`.
        interval: how the 95% intervals are made, see `INTERVALS`.
        normalised: give effects as shares of the total effect of the same tweets.
        proxy: the number whose change is the effect; any can be read from any trace. By default
            the probe's log-odds, and of pairs the logit difference log P(good) - log P(bad), which
            Zhang and Nanda 2024 (section 4) recommend there.
        where: keep only these tweets.
        towards: which side effects count to, see the module.
        replicates, seed: of the bootstrap.

    Raises:
        UserError: no tweet is left, or the traces are of different models or settings.
    """
    by = None if where is None else (lambda record: "" if where(record) else None)
    found = average_by(
        source,
        by or (lambda record: ""),
        roles=roles,
        interval=interval,
        normalised=normalised,
        proxy=proxy,
        towards=towards,
        replicates=replicates,
        seed=seed,
    )
    if not found:
        raise UserError(
            "There is no traced tweet to average; trace some first, or choose fewer conditions."
        )
    return found[""]


def average_by(
    source: Iterable[TraceResult | Record],
    by: Callable[[Record], str | None],
    *,
    roles: Scheme = "tweet",
    interval: Interval = "bootstrap",
    normalised: bool = False,
    proxy: Proxy | None = None,
    towards: Towards = "prediction",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Average]:
    """Average groups of tweets in one pass; `by` names a tweet's group, or None to leave it out.

    Arguments and errors are those of `average`; groups come in the order of their first tweet.
    """
    for chosen, allowed, what in (
        (roles, token_roles.SCHEMES, "roles"),
        (interval, INTERVALS, "interval"),
        (proxy, (*PROXIES, None), "proxy"),
        (towards, TOWARDS, "direction"),
    ):
        if chosen not in allowed:
            raise UserError(
                f"The {what} {chosen!r} is not known; choose one of "
                f"{', '.join(filter(None, allowed))}."
            )
    groups: dict[str, _Sums] = {}
    for record in _records(source):
        group = by(record)
        if group is None:
            continue
        if group not in groups:
            groups[group] = _Sums(roles, proxy, towards, replicates, seed)
        groups[group].add(record)
    return {group: sums.average(interval, normalised) for group, sums in groups.items()}


def default_proxy(corruption: Corruption) -> Proxy:
    """The proxy of averages over traces of a corruption, where none is chosen."""
    return "log_ratio" if corruption == "counterfactual" else "log_odds"


def average_effects(results: Iterable[TraceResult | Record], **options: Any) -> pd.DataFrame:
    """The table of an average: the indirect effect of each kind, layer and role of a token.

    Args:
        results: one a tweet, of one model and one probe, traced with the same settings.
        options: as of `core.sweeps.average.average`.

    Returns:
        One row a cell, with kind, layer, role, mean, lower and upper (95% interval over tweets, in
        proxy units, or shares of the total effect where `normalised`), n (tweets that have the
        role), peak_share and trivial.

    Raises:
        UserError: there is no result, or they do not measure the same.

    Source: the average indirect effect of Meng et al. 2022.
    """
    return average(results, **options).frame


def difference(first: Average, second: Average) -> pd.DataFrame:
    """Compare two averages cell by cell: the first minus the second.

    Tweets that both have are drawn together in each bootstrap replicate, so a comparison of two
    settings on the same tweets is a paired one; different tweets are independent.

    Returns:
        kind, layer, role, difference, lower, upper (95% percentile bootstrap), n_first, n_second,
        for the cells that both have; kind "total" is the total effect.

    Raises:
        UserError: the averages do not measure the same, or hold no replicates (as those of a
            summary do).
    """
    import pandas as pd

    for what in ("roles", "proxy", "towards", "normalised", "replicates", "bootstrap_seed"):
        if first.about[what] != second.about[what]:
            raise UserError(
                f"The averages differ in {what} ({first.about[what]!r} and "
                f"{second.about[what]!r}); make both with the same."
            )
    if first._sums is None or second._sums is None:
        raise UserError(
            "An average from a summary holds no bootstrap replicates; average the sweep's store."
        )
    normalised = bool(first.about["normalised"])
    cells = []
    for average in (first, second):
        sums = average._sums
        assert sums is not None
        frame = average.frame[["kind", "layer", "role", "mean", "n"]].copy()
        frame["replicates"] = list(sums.replicates(normalised))
        whole = {"kind": "total", "layer": -1, "role": "", "mean": average.total.mean}
        whole |= {"n": average.n, "replicates": sums.total_replicates()}
        cells.append(pd.concat([pd.DataFrame([whole]), frame], ignore_index=True))
    both = cells[0].merge(cells[1], on=["kind", "layer", "role"], suffixes=("_first", "_second"))
    replicates = np.stack(list(both["replicates_first"])) - np.stack(
        list(both["replicates_second"])
    )
    lower, upper = percentile_interval(replicates.T)
    return pd.DataFrame(
        {
            "kind": both["kind"],
            "layer": both["layer"],
            "role": both["role"],
            "difference": both["mean_first"] - both["mean_second"],
            "lower": lower,
            "upper": upper,
            "n_first": both["n_first"],
            "n_second": both["n_second"],
        }
    )


def _records(source: Iterable[TraceResult | Record]) -> Iterator[Record]:
    for number, item in enumerate(source):
        if isinstance(item, TraceResult):
            yield Record(number=number, row=number, label=None, result=item)
        else:
            yield item


_Found = dict[str, tuple[Array, float]]
"""Of each role of a unit its mean effects (K, L), and its total effect."""


def _mean_of(pairs: Sequence[_Found]) -> _Found:
    """One unit of the pairs of a tweet: of each role the mean over those that have it."""
    found: _Found = {}
    for role in dict.fromkeys(role for pair in pairs for role in pair):
        effects, totals = zip(*(pair[role] for pair in pairs if role in pair), strict=True)
        found[role] = np.mean(effects, axis=0), float(np.mean(totals))
    return found


class _Sums:
    """Running sums over units (tweets, of pairs those that were edited), plain and of each
    bootstrap replicate.

    Axes: R roles (the first stands for every unit), K kinds, L traced layers; B replicates, of
    which number 0 counts every unit once.
    """

    def __init__(
        self, scheme: Scheme, proxy: Proxy | None, towards: Towards, replicates: int, seed: int
    ) -> None:
        self.scheme = scheme
        self.chosen = proxy
        self.towards = towards
        self.count = replicates
        self.seed = seed
        self.roles = [_ALL]
        self.n = 0
        self.records = 0
        self.peaks = _Peaks()
        self.history: list[dict[str, Any]] = []
        self.model: tuple[Any, ...] | None = None
        self._next_look = _FIRST_LOOK

    def add(self, record: Record) -> None:
        """Count one tweet or pair."""
        result = record.result
        result = result.under(self.chosen or default_proxy(result.settings.corruption))
        if self.model is None:
            self._begin(result)
        elif self.model != _model_of(result):
            raise UserError(
                f"Traces of {result.model_name!r} with other settings are among those to be "
                "averaged; average traces of one model and one setting at a time."
            )
        sign = self._sign(record, result)
        named = token_roles.roles_of(result.prompt, self.scheme, corrupted=result.corrupted_span)
        effects = np.stack([result.effects[kind] for kind in self.kinds])[:, self.layers] * sign
        free = ~np.stack([result.trivial[kind] for kind in self.kinds])[:, self.layers]
        total = sign * result.total_effect
        found: _Found = {_ALL: (np.zeros(effects.shape[:2]), total)}
        for role in dict.fromkeys(named):
            if role is None:
                continue
            positions = [
                t
                for t, name in enumerate(named)
                if name == role and not np.isnan(effects[:, :, t]).any()
            ]
            if not positions:
                continue
            if role not in self.roles:
                self._widen(role)
            found[role] = effects[:, :, positions].mean(axis=2), total
            self.free[self.roles.index(role)] |= free[:, :, positions].any(axis=2)
        self._count_peaks(record, result, named, sign)
        self.samples.add(result.samples_done)
        self.records += 1
        text = _text_seed(result)
        if not self.paired:
            self._count(found, text)
            return
        self._open.setdefault(text, []).append(found)
        if len(self._open[text]) == record.pairs:
            self._count(_mean_of(self._open.pop(text)), text)

    def _count(self, found: _Found, text: int) -> None:
        """Count one unit."""
        self._block.append((found, text))
        self.n += 1
        if len(self._block) == _BLOCK or self.n == self._next_look:
            self._flush()
        if self.n == self._next_look:
            self._look()
            self._next_look = int(np.ceil(self._next_look * 2**0.5))

    def average(self, interval: Interval, normalised: bool) -> Average:
        """What was found."""
        import pandas as pd

        for text in list(self._open):
            self._count(_mean_of(self._open.pop(text)), text)
        self._flush()
        if not self.history or self.history[-1]["n"] != self.n:
            self._look()
        shape = (len(self.roles) - 1, len(self.kinds), len(self.layers))
        names = token_roles.in_order(self.roles[1:], self.scheme)
        order = [self.roles.index(role) for role in names]
        numbers = self.present[0, order].astype(int)
        mean, reach = self._moments(normalised)
        if interval == "normal":
            lower, upper = mean - reach, mean + reach
        else:
            lower, upper = self._bounds(normalised)
        role, kind, layer = (index.ravel() for index in np.indices(shape))
        frame = pd.DataFrame(
            {
                "kind": np.array(self.kinds, dtype=object)[kind],
                "layer": self.layers[layer],
                "role": np.array(names, dtype=object)[role],
                "mean": mean[order].ravel(),
                "lower": lower[order].ravel(),
                "upper": upper[order].ravel(),
                "n": numbers[role],
                "peak_share": self.peaked[order].ravel() / self.records,
                "trivial": ~self.free[order].ravel(),
            }
        )
        self._order = order
        return Average(
            frame=frame,
            total=self._total(interval),
            peaks=self.peaks.frame(self.kinds, self.roles),
            history=self._history(normalised),
            about=self._about(interval, normalised),
            _sums=self,
        )

    def replicates(self, normalised: bool) -> Array:
        """(rows of the frame, B), the means of each bootstrap replicate."""
        with np.errstate(invalid="ignore", divide="ignore"):
            below = self.totals if normalised else self.present
            means = self.effects / below[:, :, None, None]
        return means[1:, self._order].reshape(self.count, -1).T

    def total_replicates(self) -> Array:
        """(B,), the mean total effect of each bootstrap replicate."""
        with np.errstate(invalid="ignore", divide="ignore"):
            totals: Array = self.totals[1:, 0] / self.present[1:, 0]
        return totals

    # --- counting ---

    def _begin(self, result: TraceResult) -> None:
        self.model = _model_of(result)
        self.kinds: tuple[Kind, ...] = result.settings.kinds
        self.layers: NDArray[np.int64] = np.arange(0, result.layers, result.settings.every)
        self.first = result
        self.proxy: Proxy = result.settings.proxy
        self.paired = result.settings.corruption == "counterfactual"
        self.samples: set[int] = set()
        rows, shape = self.count + 1, (1, len(self.kinds), len(self.layers))
        self.effects = np.zeros((rows, *shape))
        self.present = np.zeros((rows, 1))
        self.totals = np.zeros((rows, 1))
        self.squares, self.products = np.zeros(shape), np.zeros(shape)
        self.total_squares = np.zeros(1)
        self.peaked = np.zeros(shape, dtype=np.int64)
        self.free = np.zeros(shape, dtype=bool)
        self._block: list[tuple[_Found, int]] = []
        self._open: dict[int, list[_Found]] = {}  # of which more pairs may come
        labels, start = list(result.prompt.labels), result.prompt.suffix_start
        self.suffix_tokens = labels[start:]
        self.template_tokens = labels[result.prompt.tweet_span[-1] + 1 : start]

    def _widen(self, role: str) -> None:
        """Make room for a role that did not occur before."""
        self.roles.append(role)
        self.effects, self.present, self.totals = (
            np.pad(array, [(0, 0), (0, 1), *[(0, 0)] * (array.ndim - 2)])
            for array in (self.effects, self.present, self.totals)
        )
        self.squares, self.products, self.peaked, self.free, self.total_squares = (
            np.pad(array, [(0, 1), *[(0, 0)] * (array.ndim - 1)])
            for array in (
                self.squares,
                self.products,
                self.peaked,
                self.free,
                self.total_squares,
            )
        )

    def _sign(self, record: Record, result: TraceResult) -> float:
        if self.towards == "positive":
            return 1.0
        if self.towards == "label":
            if record.label is None:
                raise UserError(
                    "Effects cannot be counted towards the label, because a tweet has none; "
                    "choose 'prediction'."
                )
            positive = record.label == 1
        else:
            positive = result.clean_probability >= 0.5
        return 1.0 if positive != (self.proxy == "bad") else -1.0

    def _count_peaks(
        self,
        record: Record,
        result: TraceResult,
        named: tuple[str | None, ...],
        sign: float,
    ) -> None:
        for number, kind in enumerate(self.kinds):
            layer, position = result.top_cells[kind]
            effect = result.effects[kind][layer, position]
            role = named[position]
            if result.trivial[kind][layer, position] or np.isnan(effect) or role is None:
                continue  # every cell is fixed by construction, or was left out
            place = self.roles.index(role)
            self.peaked[place, number, int(np.searchsorted(self.layers, layer))] += 1
            self.peaks.add(
                (record.number, record.row, number, layer, place, position),
                (sign * float(effect), sign * result.total_effect),
            )

    def _flush(self) -> None:
        """Add the units of the block to the sums."""
        if not self._block:
            return
        units, width = len(self._block), len(self.roles)
        values = np.zeros((units, *self.squares.shape))
        there, totals = np.zeros((2, units, width))
        counts = np.ones((self.count + 1, units))
        for unit, (found, text) in enumerate(self._block):
            for role, (effects, total) in found.items():
                place = self.roles.index(role)
                values[unit, place], there[unit, place], totals[unit, place] = effects, 1, total
            counts[1:, unit] = np.random.default_rng([self.seed, text]).poisson(1.0, self.count)
        self._block.clear()
        self.effects += (counts @ values.reshape(units, -1)).reshape(self.effects.shape)
        self.present += counts @ there
        self.totals += counts @ totals
        self.squares += (values**2).sum(axis=0)
        self.products += np.einsum("trkl,tr->rkl", values, totals)
        self.total_squares += (totals**2).sum(axis=0)

    # --- reading ---

    def _moments(self, normalised: bool) -> tuple[Array, Array]:
        """Means and half widths of their 95% t intervals: (R, K, L) each."""
        n = self.present[0][:, None, None]
        total = self.totals[0][:, None, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.effects[0] / n
            variance = (self.squares - n * mean**2) / (n - 1)
            if normalised:
                # The delta method, for a ratio of two means over the same tweets.
                center = total / n
                ratio = mean / center
                covariance = (self.products - n * mean * center) / (n - 1)
                spread = (self.total_squares[:, None, None] - n * center**2) / (n - 1)
                variance = (variance - 2 * ratio * covariance + ratio**2 * spread) / center**2
                mean = ratio
            return mean, t_quantile(n - 1) * np.sqrt(np.maximum(variance, 0) / n)

    def _bounds(self, normalised: bool) -> tuple[Array, Array]:
        """Lower and upper ends of the bootstrap intervals: (R, K, L) each."""
        lower, upper = np.full((2, *self.squares.shape), np.nan)
        below = self.totals if normalised else self.present
        for role in range(1, len(self.roles)):  # one at a time, to need little memory
            if self.present[0, role] > 1:
                with np.errstate(invalid="ignore", divide="ignore"):
                    means = self.effects[1:, role] / below[1:, role, None, None]
                lower[role], upper[role] = percentile_interval(means)
        return lower, upper

    def _total(self, interval: Interval) -> Mean:
        mean = float(self.totals[0, 0] / self.n)
        if interval == "normal":
            reach = self._total_reach()
            return Mean(mean, mean - reach, mean + reach, self.n)
        if self.n < 2:
            return Mean(mean, float("nan"), float("nan"), self.n)
        lower, upper = percentile_interval(self.total_replicates())
        return Mean(mean, float(lower), float(upper), self.n)

    def _total_reach(self) -> float:
        if self.n < 2:
            return float("nan")
        mean = self.totals[0, 0] / self.n
        variance = max(0.0, (self.total_squares[0] - self.n * mean**2) / (self.n - 1))
        return float(t_quantile(self.n - 1)) * float(np.sqrt(variance / self.n))

    def _look(self) -> None:
        """Note how well everything is known by now."""
        looks: dict[str, Any] = {"n": self.n, "roles": len(self.roles)}
        for normalised in (False, True):
            looks[str(normalised)] = self._moments(normalised)
        looks["total"] = float(self.totals[0, 0] / self.n), self._total_reach()
        self.history.append(looks)

    def _history(self, normalised: bool) -> pd.DataFrame:
        import pandas as pd

        parts = []
        for look in self.history:
            mean, reach = look["total"]
            whole = {"n": look["n"], "kind": "total", "layer": -1, "role": "", "mean": mean}
            parts.append(pd.DataFrame([whole | {"reach": reach}]))
            means, reaches = look[str(normalised)]
            role, kind, layer = (index.ravel() for index in np.indices(means[1:].shape))
            parts.append(
                pd.DataFrame(
                    {
                        "n": look["n"],
                        "kind": np.array(self.kinds, dtype=object)[kind],
                        "layer": self.layers[layer],
                        "role": np.array(self.roles[1:], dtype=object)[role],
                        "mean": means[1:].ravel(),
                        "reach": reaches[1:].ravel(),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def _about(self, interval: Interval, normalised: bool) -> dict[str, Any]:
        first = self.first
        settings = first.settings
        name = first.model_name
        measured_in = units_of(first.probe)[self.proxy]
        return {
            # Of a model in a folder, not where that folder lies on this machine.
            "model": Path(name).name if Path(name).is_absolute() else name,
            "model_identity": first.model_identity,
            "probe": first.probe.features,
            "suffix": first.probe.suffix,
            "suffix_tokens": self.suffix_tokens,
            "template_tokens": self.template_tokens,
            "n": self.n,
            "pairs": self.records if self.paired else None,
            "kinds": list(self.kinds),
            "layers": first.layers,
            "every": settings.every,
            "samples": [min(self.samples), max(self.samples)],
            "window": first.window,
            "corruption": settings.corruption,
            "noise_scale": settings.noise_scale,
            "noise": first.noise,
            "corrupt": settings.corrupt if isinstance(settings.corrupt, str) else "positions",
            "direction": settings.direction,
            "severed": settings.severed,
            "edited": settings.edited,
            "seed": settings.seed,
            "roles": self.scheme,
            "interval": interval,
            "normalised": normalised,
            "proxy": self.proxy,
            "unit": "share of the total effect" if normalised else measured_in,
            "measured_in": measured_in,
            "towards": self.towards,
            "replicates": self.count,
            "bootstrap_seed": self.seed,
        }


class _Peaks:
    """Peaks as numbers alone, in arrays that grow."""

    def __init__(self) -> None:
        self._places = np.empty((0, 6), dtype=np.int32)
        self._numbers = np.empty((0, 2), dtype=np.float32)
        self._count = 0

    def add(self, place: tuple[int, ...], numbers: tuple[float, float]) -> None:
        if self._count == len(self._places):
            room = max(256, len(self._places) // 4)
            self._places = np.concatenate([self._places, np.empty((room, 6), np.int32)])
            self._numbers = np.concatenate([self._numbers, np.empty((room, 2), np.float32)])
        self._places[self._count], self._numbers[self._count] = place, numbers
        self._count += 1

    def frame(self, kinds: tuple[Kind, ...], roles: list[str]) -> pd.DataFrame:
        import pandas as pd

        tweet, row, kind, layer, role, position = self._places[: self._count].T
        effect, total = self._numbers[: self._count].T
        return pd.DataFrame(
            {
                "tweet": tweet,
                "row": row,
                "kind": pd.Categorical(np.array(kinds, dtype=object)[kind], categories=list(kinds)),
                "layer": layer,
                "role": pd.Categorical(np.array(roles, dtype=object)[role], categories=roles[1:]),
                "position": position,
                "effect": effect,
                "total_effect": total,
            }
        )


def _model_of(result: TraceResult) -> tuple[Any, ...]:
    """What all traces of one average have in common."""
    settings = result.settings
    return (
        result.model_identity,
        result.probe.features,
        result.prompt.template,
        result.layers,
        result.window,
        settings.kinds,
        settings.every,
        settings.corruption,
        settings.noise_scale,
        settings.direction,
        settings.severed,
        settings.edited,
    )


def _text_seed(result: TraceResult) -> int:
    digest = hashlib.sha256(result.prompt.tweet.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
