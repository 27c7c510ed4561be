"""What does not rest on the corruption? Averages by noise and over pairs, held against each other.

Noise of three standard deviations takes a model out of what it was trained on, and a counterfactual
changes only what it exchanges (Zhang and Nanda 2024, section 3): each has faults that the other has
not, so that a site which both show is one of the model and not of the corruption.

**Scale.** Effects are shares of each corruption's own average total effect (ratios of means).

**Cells.** A cell is significant by the rule of `core.sweeps.average_findings`, among the cells of
its own average; cells that both have, and that neither has fixed by construction, are compared.

**Sites.** Each site that one of the two names is looked for in the other: it is there where a cell
of its kind, role and layers is significant and carries at least `SMALLEST_SHARE` of the other's
total effect.

**Claims.** The four claims of the expected picture are judged for each; both have to say the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import UserError
from ..storage import cache
from ..tracing.findings import PLACES, SMALLEST_SHARE
from .average import Average, average, default_proxy
from .average_findings import FEWEST, Claim, Peak, Side, cells, finding, side_of
from .store import Store
from .study import Options, average_from_json, average_to_json, origin_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Version of a kept file."""

Label = Literal["both", "noise only", "pairs only"]
LABELS: tuple[Label, ...] = ("both", "noise only", "pairs only")
NEITHER = "neither"

_ALIKE = {
    "model_identity": "model",
    "probe": "probe",
    "suffix": "suffix",
    "proxy": "proxy",
    "roles": "roles",
    "towards": "sign convention",
    "direction": "direction",
    "window": "window",
}
"""What both averages must have in common, and what a person calls it."""


@dataclass(frozen=True)
class Site:
    """A site that one corruption names, or both.

    `noise` and `pairs` are the largest shares of the total effects within its layers.
    """

    peak: Peak
    label: Label
    noise: float
    pairs: float

    @property
    def side(self) -> Side:
        """Of the tweet (the early site) or of the prompt's own words (the late one)."""
        return side_of(self.peak.role)

    @property
    def where(self) -> str:
        """Kind, role, layers, and how much each corruption finds there."""
        first, last = self.peak.layers
        layers = f"layer {first}" if first == last else f"layers {first} to {last}"
        return (
            f"{PLACES[self.peak.kind]} at {self.peak.title}, {layers} "
            f"({self.noise:.0%} of the total effect by noise, {self.pairs:.0%} by pairs)"
        )


@dataclass(frozen=True)
class JudgedTwice:
    """A claim of the expected picture, judged for each corruption."""

    text: str
    noise: Claim
    pairs: Claim

    @property
    def agreed(self) -> bool:
        """Whether both support it, or both contradict it."""
        return self.noise.verdict == self.pairs.verdict != "inconclusive"


@dataclass(frozen=True, eq=False)
class TwoCorruptions:
    """An average by noise and one over pairs, of one model, in shares of the total effect.

    Attributes:
        origin: data, selection and versions of each, as a sweep's manifest has them.
    """

    noise: Average
    pairs: Average
    origin: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each, allowed, what in (
            (self.noise, ("noise", "uniform"), "by noise"),
            (self.pairs, ("counterfactual",), "over pairs"),
        ):
            if each.about["corruption"] not in allowed:
                raise UserError(
                    "Of two corruptions one average is by noise and one over pairs; the one "
                    f"{what} is by {each.about['corruption']!r}."
                )
            if not each.about["normalised"]:
                raise UserError("Both averages must be in shares of the total effect.")
        for key, what in _ALIKE.items():
            if (one := self.noise.about[key]) != (other := self.pairs.about[key]):
                raise UserError(
                    f"The two sweeps differ in {what} ({one!r} and {other!r}); compare sweeps that "
                    "differ in their corruption alone."
                )

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Cells that both have: kind, layer, role, trivial, significant (a label or "neither"), and
        of each corruption mean, lower, upper, n as noise, noise_lower, ..., pairs_n."""
        numbers = ["mean", "lower", "upper", "n", "faded", "trivial"]
        keys = ["kind", "layer", "role"]
        one, two = (cells(each)[[*keys, *numbers]] for each in (self.noise, self.pairs))
        both = one.merge(two, on=keys, suffixes=("_noise", "_pairs"))
        told = [~both["faded_noise"], ~both["faded_pairs"]]
        label = np.select([told[0] & told[1], told[0], told[1]], [*LABELS], default=NEITHER)
        found = both[keys].assign(
            trivial=both["trivial_noise"] | both["trivial_pairs"], significant=label
        )
        for name in ("noise", "pairs"):
            found[name] = both[f"mean_{name}"]
            for number in ("lower", "upper", "n"):
                found[f"{name}_{number}"] = both[f"{number}_{name}"]
        known = found["noise"].notna() & found["pairs"].notna()
        return found[known].reset_index(drop=True)

    def frame_of(self, which: Literal["noise", "pairs"]) -> pd.DataFrame:
        """The cells that both have as one of them sees them, in the form of `Average.frame`."""
        own = cells(self.noise if which == "noise" else self.pairs)
        keys = ["kind", "layer", "role"]
        return own.merge(self.cells[keys], on=keys)

    @cached_property
    def overlap(self) -> dict[str, int]:
        """How many cells are significant by both, by one alone, and by neither."""
        free = self.cells[~self.cells["trivial"]]
        counts = free["significant"].value_counts()
        return {label: int(counts.get(label, 0)) for label in (*LABELS, NEITHER)}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site that either names, early ones first."""
        found: list[Site] = []
        named = [finding(each) for each in (self.noise, self.pairs)]
        for side in ("early", "late"):
            for peak in (peak for found_by in named for peak in getattr(found_by, side)):
                if any(_same(peak, site.peak) for site in found):
                    continue
                shares, there = zip(
                    *(_there(each, peak) for each in (self.noise, self.pairs)), strict=True
                )
                label = LABELS[0] if all(there) else LABELS[1] if there[0] else LABELS[2]
                found.append(Site(peak, label, *shares))
        return tuple(found)

    @cached_property
    def claims(self) -> tuple[JudgedTwice, ...]:
        """Each claim of the expected picture, judged for each."""
        judged = [
            {claim.text: claim for claim in finding(each).claims}
            for each in (self.noise, self.pairs)
        ]
        return tuple(
            JudgedTwice(text, *(each.get(text) or _not_judged(text) for each in judged))
            for text in dict.fromkeys(text for each in judged for text in each)
        )

    def sentences(self) -> tuple[str, ...]:
        """What both corruptions agree on, and where they differ."""
        return (self._said_of_cells(), self._said_of_sites(), self._said_of_claims())

    # --- words ---

    def _said_of_cells(self) -> str:
        both, noise, pairs, neither = self.overlap.values()
        said = (
            f"Of {both + noise + pairs + neither:,} cells {both:,} are significant by both "
            f"corruptions, {noise:,} by noise only, {pairs:,} by pairs only"
        )
        if both + noise:
            said += f"; {both / (both + noise):.0%} of those by noise survive pairs"
        return f"{said}."

    def _said_of_sites(self) -> str:
        if not self.sites:
            return "Neither corruption names a site."
        parts = []
        for label, name in zip(LABELS, ("Both", "Noise only", "Pairs only"), strict=True):
            here = [site.where for site in self.sites if site.label == label]
            if here:
                parts.append(f"{name}: {'; '.join(here)}.")
        return " ".join(parts)

    def _said_of_claims(self) -> str:
        parts = []
        for verdict in ("supported", "contradicted"):
            texts = [c.text for c in self.claims if c.agreed and c.noise.verdict == verdict]
            if texts:
                parts.append(f"{verdict.capitalize()} by both: {' '.join(texts)}")
        apart = [claim for claim in self.claims if not claim.agreed]
        if apart:
            each = (f"{c.text} ({c.noise.verdict}, {c.pairs.verdict})" for c in apart)
            parts.append(f"Not agreed on (by noise, by pairs): {'; '.join(each)}.")
        return " ".join(parts) or "No claim can be judged."


def of_sweeps(
    noise: Store,
    pairs: Store,
    options: Options | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> TwoCorruptions:
    """Average a sweep by noise and one over pairs in the same way.

    Args:
        options: how; effects are shares of the total effect whatever they say, and the proxy of
            both is by default that of pairs.

    Raises:
        UserError: nothing is traced yet, or the sweeps differ in more than their corruption.
    """
    how = asdict(replace(options or Options(), normalised=True))
    how["proxy"] = how["proxy"] or default_proxy("counterfactual")
    averages, origin = [], {}
    for number, (name, store) in enumerate((("noise", noise), ("pairs", pairs))):
        averages.append(average(store, **how))
        origin[name] = origin_of(store)
        if progress is not None:
            progress((number + 1) / 2)
    return TwoCorruptions(averages[0], averages[1], origin)


def save(found: TwoCorruptions, path: str | Path) -> Path:
    """Keep both averages as JSON: numbers and settings, no text; five digits each."""
    path = Path(path)
    content = {
        "form": FORMAT,
        "noise": average_to_json(found.noise),
        "pairs": average_to_json(found.pairs),
        "origin": found.origin,
    }
    with cache.write_beside(path) as beside:
        beside.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return path


def load(path: str | Path) -> TwoCorruptions:
    """Read what `save` kept.

    Raises:
        UserError: the file holds no such averages, or those of another form.
    """
    path = Path(path)
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["form"] != FORMAT:
            raise ValueError(f"form {content['form']}")
        return TwoCorruptions(
            average_from_json(content["noise"]),
            average_from_json(content["pairs"]),
            content["origin"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"The file {path.name!r} holds no two averages of form {FORMAT} ({error}); make it "
            "anew."
        ) from error


# --- parts ---------------------------------------------------------------------------------------


def _same(one: Peak, other: Peak) -> bool:
    """Whether two peaks are of one site: kind and role are the same, and layers overlap."""
    apart = one.layers[1] < other.layers[0] or other.layers[1] < one.layers[0]
    return (one.kind, one.role) == (other.kind, other.role) and not apart


def _there(average: Average, peak: Peak) -> tuple[float, bool]:
    """The largest share of the total effect within a site, and whether that makes a site."""
    frame = cells(average)
    here = frame[
        (frame["kind"] == peak.kind)
        & (frame["role"] == peak.role)
        & frame["layer"].between(*peak.layers)
        & ~frame["trivial"]
        & frame["mean"].notna()
    ]
    if here.empty:
        return 0.0, False
    told = here[~here["faded"] & (here["mean"] >= SMALLEST_SHARE) & (here["n"] >= FEWEST)]
    sound = average.total.lower > 0 or average.total.upper < 0
    return float(here["mean"].max()), sound and len(told) > 0


def _not_judged(text: str) -> Claim:
    return Claim(text, "inconclusive", "No significant total effect, or no such cell.")
