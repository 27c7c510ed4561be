"""How is an intervention drawn? Frames of `interventions.plan.Outcome` in, Altair charts out.

The intervention is blue, what it is held against (random sites or directions) grey. Of the
intervention intervals are 95%; of the controls the bar goes from the least to the largest of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import numpy as np

from ..errors import UserError
from . import style
from .style import Theme

if TYPE_CHECKING:
    import pandas as pd

    from ..interventions.plan import Outcome

GREY = "#8a929b"
HEIGHT = 190  # pixels of a curve's drawing area
ROW = 40  # pixels of a sort of texts
Group = Literal["moves", "shares", "costs"]
GROUPS: dict[Group, tuple[tuple[str, ...], str, str]] = {
    "moves": (("moves",), "Shift of the log-odds", "nats, to the wanted side"),
    "shares": (("flips", "keeps"), "Texts that flip or keep their side", "share of texts"),
    "costs": (
        ("perplexity",),
        "Cost in perplexity",
        "perplexity, times the unchanged model\u2019s",
    ),
}
"""Measures that share an axis, its panel's title and its axis's title."""

ROWS = {
    ("moves", "tweet"): "this tweet",
    ("moves", "paraphrases"): "paraphrases",
    ("moves", "same word"): "same word",
    ("flips", "tweet"): "this tweet flips",
    ("flips", "paraphrases"): "paraphrases flip",
    ("flips", "same word"): "same word flips",
    ("keeps", "others"): "others keep theirs",
    ("perplexity", "neutral"): "neutral texts",
}
RANDOM = "random"


def summary(outcome: Outcome, *, theme: Theme = "light") -> alt.VConcatChart:
    """Everything that was judged as one figure, with what was done and its caption.

    Raises:
        ValueError: nothing was judged.
    """
    judged = outcome.judged
    found = [] if judged is None else judged["measure"][judged["value"].notna()].tolist()
    panels = [
        judgement(judged, group, theme=theme, width=420)
        for group, (measures, _, _) in GROUPS.items()
        if judged is not None and set(measures) & set(found)
    ]
    if not panels:
        raise UserError("Nothing was evaluated yet, so there is nothing to draw.")
    return style.framed(
        alt.vconcat(*panels, spacing=22),
        f"\u201c{outcome.prompt.tweet}\u201d",
        caption_of(outcome),
        width=620,
        theme=theme,
    )


def judgement(
    judged: pd.DataFrame, group: Group, *, theme: Theme = "light", width: int | None = None
) -> alt.LayerChart:
    """One panel of what an intervention did, beside its controls.

    Args:
        judged: as `Outcome.judged`.
        group: a key of `GROUPS`.
        width: pixels; without it, as wide as its place.

    Raises:
        ValueError: nothing of this group was judged.
    """
    measures, title, unit = GROUPS[group]
    found = judged[judged["measure"].isin(measures)].copy()
    found = found[found["value"].notna()]
    if found.empty:
        raise UserError(f"Nothing was evaluated by {', '.join(measures)}.")
    keys = list(zip(found["measure"], found["texts"], strict=True))
    found["row"] = [ROWS.get(key, " ".join(key)) for key in keys]
    found["who"] = found["arm"].where(found["arm"] == RANDOM, "this one")
    order = [label for key, label in ROWS.items() if key in set(keys)]
    arms = ["this one", RANDOM] if (found["arm"] == RANDOM).any() else ["this one"]
    axis: dict[str, Any] = {"grid": True, "title": unit, "tickCount": 5, **style.SMALL}
    scale: dict[str, Any] = {"nice": True}
    if group == "shares":
        axis, scale = axis | {"format": "%"}, {"domain": [0, 1]}
    elif group == "costs":
        ends = found[["value", "lower", "upper"]].to_numpy(dtype=float)
        low, high = min(0.95, float(np.nanmin(ends))), max(1.05, float(np.nanmax(ends)))
        scale = {"domain": [low, high], "nice": True, "zero": False}
    base = alt.Chart(found).encode(
        y=alt.Y("row:N")
        .sort(order)
        # The extent, so that panels one below the other line up.
        .axis(**style.named_rows(labelLimit=130, labelPadding=6, minExtent=118)),
        yOffset=alt.YOffset("who:N").sort(arms).scale(domain=arms, paddingInner=0.2),
        color=alt.Color("who:N")
        .scale(domain=arms, range=[style.BLUE[theme], GREY][: len(arms)])
        .legend(None),
    )
    reach = base.mark_rule(strokeWidth=2, tooltip=None).encode(
        x=alt.X("lower:Q").scale(**scale).axis(**axis), x2="upper:Q"
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("value:Q").scale(**scale).axis(**axis),
        tooltip=[
            alt.Tooltip("who:N", title="who"),
            alt.Tooltip("row:N", title="texts"),
            alt.Tooltip("value:Q", title="value", format=".3f"),
            *style.interval_tooltips(form=".3f"),
            alt.Tooltip("n:Q", title="n"),
        ],
    )
    nothing = [] if group == "shares" else [style.level("x", 1.0 if group == "costs" else 0.0)]
    return style.titled([*nothing, reach, points], title, ROW * len(order), width)


def layer_curves(curve: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """By layer: how far an intervention there moves the tweet (blue), and what the trace restores
    there (grey, on the right axis)."""
    frame = curve.assign(restored=curve["effect"])
    x = alt.X("layer:Q").axis(title="layer", grid=False, tickMinStep=1, **_SMALL)
    moves = alt.Chart(frame).encode(
        x,
        alt.Y("moves:Q").axis(
            title="log-odds moved (nats)", titleColor=style.BLUE[theme], tickCount=5, **_SMALL
        ),
        tooltip=[
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("moves:Q", title="moved (nats)", format="+.2f"),
            alt.Tooltip("flips:N", title="flips the prediction"),
            alt.Tooltip("restored:Q", title="traced effect", format=".0%"),
        ],
    )
    restored = alt.Chart(frame).encode(
        x,
        alt.Y("restored:Q").axis(
            title="traced effect, of the total", format="%", orient="right", grid=False,
            titleColor=GREY, tickCount=5, **_SMALL,
        ),
    )  # fmt: skip
    chart = style.titled(
        [
            restored.mark_area(color=GREY, opacity=0.25, line={"color": GREY}),
            alt.layer(
                moves.mark_line(color=style.BLUE[theme], strokeWidth=2, tooltip=None),
                moves.mark_point(filled=True, size=60, opacity=1, color=style.BLUE[theme]),
            ),
        ],
        "Efficacy and traced effect by layer",
        HEIGHT,
    )
    chart.resolve = alt.Resolve(scale=alt.ScaleResolveMap(y="independent"))
    return chart


def agreement(curve: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """A point for each layer: traced effect across, efficacy up (Hase et al. 2023, figure 3)."""
    base = alt.Chart(curve).encode(
        alt.X("effect:Q").axis(
            title="traced effect, of the total", format="%", grid=True, tickCount=5, **_SMALL
        ),
        alt.Y("moves:Q").axis(title="log-odds moved (nats)", tickCount=5, **_SMALL),
    )
    points = base.mark_point(filled=True, size=60, opacity=1, color=style.BLUE[theme]).encode(
        tooltip=[
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("effect:Q", title="traced effect", format=".0%"),
            alt.Tooltip("moves:Q", title="moved (nats)", format="+.2f"),
        ]
    )
    names = base.mark_text(dx=9, align="left", fontSize=10, color=GREY, tooltip=None).encode(
        text="layer:Q"
    )
    return style.titled([points, names], "Efficacy against traced effect", HEIGHT)


def strength_curve(
    strengths: pd.DataFrame, what: Literal["log_odds", "perplexity"], *, theme: Theme = "light"
) -> alt.LayerChart:
    """What every strength does to the tweet's log-odds, or to the perplexity of neutral texts."""
    x = alt.X("strength:Q").axis(title="strength", grid=False, tickCount=7, **_SMALL)
    axis_title = "log-odds of positive (nats)" if what == "log_odds" else "perplexity, times"
    y = alt.Y(f"{what}:Q").scale(zero=False).axis(title=axis_title, tickCount=5, **_SMALL)
    base = alt.Chart(strengths).encode(x, y)
    drawn: list[Any] = [style.level("y", 0.0 if what == "log_odds" else 1.0)]
    if what == "perplexity":
        drawn.append(
            alt.Chart(strengths)
            .mark_area(color=style.BLUE[theme], opacity=0.15, tooltip=None)
            .encode(x, alt.Y("lower:Q"), y2="upper:Q")
        )
    drawn += [
        base.mark_line(color=style.BLUE[theme], strokeWidth=2, tooltip=None),
        base.mark_point(filled=True, size=60, opacity=1, color=style.BLUE[theme]).encode(
            tooltip=[
                alt.Tooltip("strength:Q", title="strength"),
                alt.Tooltip(f"{what}:Q", title=axis_title, format=".3f"),
            ]
        ),
    ]
    title = "The tweet" if what == "log_odds" else "Neutral texts"
    return style.titled(drawn, title, HEIGHT)


def judged_table(judged: pd.DataFrame) -> pd.DataFrame:
    """What was judged, as text to be read: a row for each measure, a column for each arm."""
    import pandas as pd

    rows: dict[str, dict[str, str]] = {}
    for found in judged.to_dict("records"):
        name = {
            "flips": "Flip",
            "moves": "Move (nats)",
            "keeps": "Keep their side",
            "perplexity": "Perplexity, times",
            "entropy": "n-gram entropy, change (bits)",
        }[str(found["measure"])]
        form = "{:.0%}" if found["measure"] in ("flips", "keeps") else "{:+.2f}"
        if found["measure"] == "perplexity":
            form = "{:.3f}"
        cell = form.format(found["value"])
        if np.isfinite(found["lower"]):
            cell += f" ({form.format(found['lower'])} to {form.format(found['upper'])})"
        key = f"{name}: {found['texts']}"
        rows.setdefault(key, {})[str(found["arm"])] = f"{cell}, n = {found['n']}".replace(
            "-", "\u2212"
        )
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return frame.rename_axis("measure").reset_index()


def caption_of(outcome: Outcome) -> str:
    """What was done, where, with what beside it, and on how many texts."""
    plan = outcome.plan
    layer, position = outcome.site
    parts = [f"{outcome.label[0].upper()}{outcome.label[1:]}" if outcome.label else "Intervention"]
    if position is not None:
        parts[0] += f", token {position} ({outcome.prompt.labels[position]})"
    where = "at the largest traced effect" if outcome.located else "as chosen"
    parts.append(f"The site is {where}; wanted: {outcome.wanted}")
    if outcome.controls:
        kind = "directions" if plan.what in ("steer", "ablate", "exchange") else "matched sites"
        parts.append(
            f"Blue: this one, with 95% intervals over texts; grey: {len(outcome.controls)} random "
            f"{kind}, mean and range"
        )
    parts.append(f"Model {outcome.trace_before.model_name}, seed {plan.seed}")
    return ". ".join(parts) + "."


_SMALL: dict[str, Any] = {**style.SMALL, "domain": False, "ticks": False, "labelPadding": 5}
