"""What may be said of an average, and how surely? From its numbers to words.

**Cells.** A cell is significant where a two-sided test by its interval's width says so, with
the false discovery rate among one kind's cells held at 5% (Benjamini and Hochberg 1995): the same
rule as for one trace (`core.tracing.findings`), over tweets instead of noise samples.

**Sites.** Meng et al. 2022 (section 2, figure 1) find an early site at the subject's last token in
early and middle layers, carried by MLPs, and a late site at the last token, carried by attention.
Moved to tweets, the early site is looked for at the roles of the tweet in the first two thirds of
the layers, the late one at the roles of the prompt's own words. A site must carry at least
`core.tracing.findings.SMALLEST_SHARE` of the average total effect, at a role that `FEWEST` tweets
have.

**Claims.** Four sentences of that picture are each held against the numbers. One is shown, or
refuted, only where the 95% intervals of the two things it compares do not overlap, which is a
stricter test than that of their difference; otherwise it stays open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import statistics
from ..patching.sites import Kind
from ..statistics import FALSE_DISCOVERIES
from ..tracing.findings import EARLY_LAYERS, PLACES, SMALLEST_SHARE, signed
from .average import Average, Mean

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["supported", "contradicted", "inconclusive"]
Side = Literal["tweet", "prompt"]

MOST_SENTIMENTAL = {"tweet": "sentiment_last", "paper": "subject_last"}
"""Where the early site is expected, by scheme of roles."""

RULE = "Faded cells are not significant (FDR 5% within a panel, by the intervals over tweets)."

FEWEST = 10
"""Tweets that must have a role before anything is said of it: an interval from fewer is too
narrow."""

AVERAGES_HELD = 16
"""Averages whose cells and findings are kept: a page asks for the same ones at every look."""


@dataclass(frozen=True)
class Peak:
    """Where one kind of site carries most on one side: its largest cell, if significant.

    `layers` are the first and last traced layer around it that carry at least half as much;
    `share` is that of the average total effect.
    """

    kind: Kind
    role: str
    title: str
    layer: int
    layers: tuple[int, int]
    mean: float
    lower: float
    upper: float
    n: int
    share: float

    @property
    def where(self) -> str:
        """Role and layers, and how much is carried there."""
        first, last = self.layers
        layers = f"layer {first}" if first == last else f"layers {first} to {last}"
        return (
            f"{self.title}, {layers}, up to {self.share:.0%} of the total effect (n = {self.n:,})"
        )

    @property
    def sentence(self) -> str:
        """The same with the kind of site."""
        return f"{PLACES[self.kind]} at {self.where}"


@dataclass(frozen=True)
class Claim:
    """A sentence of the expected picture, whether the numbers show it, and which numbers."""

    text: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Finding:
    """What an average found."""

    effect: str
    sentence: str
    early: tuple[Peak, ...]
    late: tuple[Peak, ...]
    claims: tuple[Claim, ...]


def side_of(role: str) -> Side:
    """Whether a role is one of the tweet's tokens or of the prompt's own words behind it."""
    own = role.startswith(("suffix", "template")) or role in ("last", "subsequent", "further")
    return "prompt" if own else "tweet"


@lru_cache(maxsize=AVERAGES_HELD)
def cells(average: Average) -> pd.DataFrame:
    """The average's frame with what may be said of each cell; others may hold it too.

    Columns beyond its own: p_value (adjusted; NaN at trivial cells and where n is below 2), faded
    (is not significant), largest (of its kind, trivial cells left out).
    """
    return judged(average.frame)


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The same of any frame with kind, mean, lower, upper, and trivial if it has that."""
    found = frame.copy()
    trivial = found["trivial"] if "trivial" in found else np.zeros(len(found), bool)
    mean = found["mean"].to_numpy()
    error = statistics.normal_error(found["lower"].to_numpy(), found["upper"].to_numpy())
    found["p_value"] = statistics.p_values(mean, error, None, np.abs(mean) < 1e-12)
    found.loc[np.asarray(trivial), "p_value"] = np.nan
    found["largest"] = False
    for _, group in found.groupby("kind", observed=True):
        found.loc[group.index, "p_value"] = statistics.adjusted(group["p_value"].to_numpy())
        free = group.loc[~np.asarray(trivial)[found.index.get_indexer(group.index)]]
        sizes = free["mean"].abs().dropna()
        if len(sizes) and sizes.max() > 0:
            found.loc[sizes.idxmax(), "largest"] = True
    found["faded"] = ~np.asarray(trivial, bool) & ~(found["p_value"] <= FALSE_DISCOVERIES)
    return found


@lru_cache(maxsize=AVERAGES_HELD)
def finding(average: Average) -> Finding:
    """What may be said of an average; nothing of sites where there is no effect to locate."""
    unit = average.about["unit"] if not average.about["normalised"] else _proxy_unit(average)
    effect = f"Average total effect {with_interval(average.total)} {unit}, {average.counted}"
    if not (average.total.lower > 0 or average.total.upper < 0):
        reason = "one tweet gives no interval" if average.n < 2 else "its interval holds zero"
        said = f"The average total effect is not significant ({reason}), so no sites are reported."
        return Finding(effect, said, (), (), ())
    frame = cells(average)
    early = _peaks(average, frame, "tweet")
    late = _peaks(average, frame, "prompt")
    sites = (
        _site_sentence("Early site", early, "in the first two thirds of the layers"),
        _site_sentence("Late site", late, "after the tweet"),
    )
    return Finding(effect, " ".join(sites), early, late, _claims(average, frame))


def with_interval(mean: Mean) -> str:
    """A mean with its interval."""
    if not math.isfinite(mean.lower):
        return signed(mean.mean)
    return f"{signed(mean.mean)} ({signed(mean.lower)} to {signed(mean.upper)})"


def blurs(difference: pd.DataFrame, average: Average) -> tuple[Claim, ...]:
    """Does the early site blur with length? Its own cells, short minus long tweets.

    The original experiment found that "for longer inputs, the earlier site is not as distinct".
    Each cell is a test of its own, and a verdict is given at 5% for all of them together
    (Bonferroni's correction).

    Args:
        difference: short minus long, as `core.sweeps.average.difference` gives it.
        average: of all tweets; cells are chosen by it, so that none is chosen by the difference:
            its early peaks of hidden states and MLPs, and the expected place of the early site.
    """
    claims = []
    asked = _early_cells(average)
    needed = statistics.bonferroni_quantile(len(asked))  # standard errors
    for kind, role, layer in asked:
        title = average.titles()[role]
        text = (
            f"The early site of {PLACES[kind]}s, at \u201c{title}\u201d, carries more in short "
            "tweets than in long."
        )
        row = difference[
            (difference["kind"] == kind)
            & (difference["layer"] == layer)
            & (difference["role"] == role)
        ]
        if row.empty or not math.isfinite(row["lower"].iloc[0]):
            claims.append(
                Claim(text, "inconclusive", "Too few short or long tweets have that cell.")
            )
            continue
        value, lower, upper = (
            float(row[name].iloc[0]) for name in ("difference", "lower", "upper")
        )
        told = abs(value) > needed * statistics.normal_error(lower, upper)
        verdict: Verdict = (
            "inconclusive" if not told else "supported" if value > 0 else "contradicted"
        )
        said = with_interval(Mean(value, lower, upper, 0))
        claims.append(
            Claim(
                text,
                verdict,
                f"At layer {layer}, short minus long is {said} {average.about['unit']}; n = "
                f"{int(row['n_first'].iloc[0])} and {int(row['n_second'].iloc[0])}.",
            )
        )
    return tuple(claims)


def _early_cells(average: Average) -> list[tuple[Kind, str, int]]:
    """The early peaks of hidden states and MLPs; and the hidden states' largest early cell at the
    role where the early site is expected, should the peak lie elsewhere."""
    found: list[tuple[Kind, str, int]] = [
        (p.kind, p.role, p.layer) for p in finding(average).early if p.kind != "attn"
    ]
    expected = MOST_SENTIMENTAL[average.about["roles"]]
    if ("hidden", expected) not in [cell[:2] for cell in found]:
        rows = _places(cells(average), average, "tweet")
        rows = rows[(rows["kind"] == "hidden") & (rows["role"] == expected) & ~rows["trivial"]]
        rows = rows.dropna(subset=["mean"])
        if len(rows):
            layer = rows["layer"].tolist()[int(rows["mean"].to_numpy().argmax())]
            found.insert(1, ("hidden", expected, int(layer)))
    return found


def summarises(ablation: pd.DataFrame, unit: str) -> Claim:
    """Does punctuation hold a summary of the sentiment (Tigges et al. 2023)?

    Args:
        ablation: as `core.sweeps.punctuation.ablation` gives it.
    """
    text = "Punctuation holds a summary: ablating it costs more than ablating as many other tokens."
    apart = ablation[ablation["group"] == "difference"].assign(kind="difference")
    told = judged(apart)
    told = told[~told["faded"]]
    above, below = told[told["mean"] > 0], told[told["mean"] < 0]
    verdict: Verdict = (
        "supported" if len(above) else "contradicted" if len(below) else "inconclusive"
    )
    rows = above if len(above) else below if len(below) else apart
    row = rows.to_dict("records")[int(rows["mean"].abs().to_numpy().argmax())]
    said = with_interval(Mean(row["mean"], row["lower"], row["upper"], row["n"]))
    return Claim(
        text,
        verdict,
        f"Ablated from layer {row['layer']} on, punctuation costs {said} {unit} more than other "
        f"tokens, where the two differ most; n = {row['n']} tweets.",
    )


# --- parts ---------------------------------------------------------------------------------------


def _proxy_unit(average: Average) -> str:
    return str(average.about["measured_in"])


def _peaks(average: Average, frame: pd.DataFrame, side: Side) -> tuple[Peak, ...]:
    whole = 1.0 if average.about["normalised"] else average.total.mean
    titles = average.titles()
    found = []
    for kind in average.about["kinds"]:
        rows = _places(frame, average, side)
        rows = rows[(rows["kind"] == kind) & ~rows["faded"] & ~rows["trivial"]]
        if rows.empty:
            continue
        shares = rows["mean"] / whole
        best = rows.loc[shares.idxmax()]
        share = float(shares.max())
        if share < SMALLEST_SHARE:
            continue
        at = frame[(frame["kind"] == kind) & (frame["role"] == best["role"])]
        at = at.sort_values("layer", ignore_index=True)
        strong = (at["mean"] / whole >= share / 2).tolist()
        first = last = int(at.index[at["layer"] == best["layer"]][0])
        while first > 0 and strong[first - 1]:
            first -= 1
        while last + 1 < len(strong) and strong[last + 1]:
            last += 1
        found.append(
            Peak(
                kind=kind,
                role=str(best["role"]),
                title=titles[str(best["role"])],
                layer=int(best["layer"]),
                layers=(int(at["layer"][first]), int(at["layer"][last])),
                mean=float(best["mean"]),
                lower=float(best["lower"]),
                upper=float(best["upper"]),
                n=int(best["n"]),
                share=share,
            )
        )
    return tuple(found)


def _places(frame: pd.DataFrame, average: Average, side: Side) -> pd.DataFrame:
    """Cells where a site of this side is looked for."""
    here = frame["role"].map(side_of).eq(side) & (frame["n"] >= FEWEST)
    if side == "tweet":
        here &= frame["layer"] < EARLY_LAYERS * average.about["layers"]
    return frame[here]


def _site_sentence(name: str, peaks: tuple[Peak, ...], where: str) -> str:
    if not peaks:
        return f"No {name.lower()} stands out {where}."
    return f"{name}: {'; '.join(peak.sentence for peak in peaks)}."


def _claims(average: Average, frame: pd.DataFrame) -> tuple[Claim, ...]:
    titles = average.titles()
    free = frame[~frame["trivial"]]
    early, behind = _places(free, average, "tweet"), _places(free, average, "prompt")
    last = behind[behind["role"] == "last"]
    expected = MOST_SENTIMENTAL[average.about["roles"]]
    place = f"The early site is at \u201c{titles.get(expected)}\u201d."
    attention = "Attention\u2019s late site is at the last token."
    claims = [
        _at_role(place, early, "hidden", expected, titles),
        _by_kind("MLPs carry the early site.", early, ("mlp", "attn"), titles),
        _by_kind("Attention carries the late site.", last, ("attn", "mlp"), titles),
        _at_role(attention, behind, "attn", "last", titles),
    ]
    return tuple(claim for claim in claims if claim is not None)


_Cell = tuple[str, Mean]
"""What a cell is called, and its mean."""


def _at_role(
    text: str, frame: pd.DataFrame, kind: Kind, expected: str, titles: dict[str, str]
) -> Claim | None:
    """Is the largest cell of the expected role larger than that of every other role?"""
    rows = frame[frame["kind"] == kind]
    roles = [role for role in dict.fromkeys(rows["role"]) if role != expected]
    own = _largest(rows[rows["role"] == expected], titles)
    others = [_largest(rows[rows["role"] == role], titles) for role in roles]
    rivals = [cell for cell in others if cell is not None]
    if own is None or not rivals:
        return None
    return _compared(text, own, max(rivals, key=lambda cell: cell[1].mean))


def _by_kind(
    text: str, frame: pd.DataFrame, kinds: tuple[Kind, Kind], titles: dict[str, str]
) -> Claim | None:
    """Is the largest cell of the first kind larger than that of the second?"""
    first, second = (_largest(frame[frame["kind"] == kind], titles) for kind in kinds)
    return None if first is None or second is None else _compared(text, first, second)


def _largest(rows: pd.DataFrame, titles: dict[str, str]) -> _Cell | None:
    known = rows.dropna(subset=["mean", "lower", "upper"])
    if known.empty:
        return None
    best = known.to_dict("records")[int(known["mean"].to_numpy().argmax())]
    mean = Mean(best["mean"], best["lower"], best["upper"], best["n"])
    name = f"{PLACES[best['kind']]} at \u201c{titles[best['role']]}\u201d, layer {best['layer']}"
    return name, mean


def _compared(text: str, first: _Cell, second: _Cell) -> Claim:
    """The first should be the larger one."""
    verdict: Verdict = "inconclusive"
    if first[1].lower > second[1].upper:
        verdict = "supported"
    elif second[1].lower > first[1].upper:
        verdict = "contradicted"
    said = (f"{name}: {with_interval(mean)}" for name, mean in (first, second))
    return Claim(text, verdict, f"{'; '.join(said)}.")
