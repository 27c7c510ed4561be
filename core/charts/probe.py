"""How is the report of a probe drawn? The tidy frames of `Report.tables()` in, Altair charts out.

What the probe does is blue; what it is held against (a control, chance, a perfect calibration) is
grey. Intervals are 95%, as `core.probes.scores` makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from ..probes.scores import METRICS
from . import style
from .style import Theme

if TYPE_CHECKING:
    import pandas as pd

    from ..probes.scores import Report, Score

HEIGHT = 230  # pixels of a curve's drawing area
SHARE = "%"
LABELS = "datum.value ? 'positive' : 'negative'"


def score_table(report: Report) -> pd.DataFrame:
    """The probe and its controls, a row each: every score with its interval, as text to be read.

    The last column is how many points of accuracy the probe has more than the control.
    """
    import pandas as pd

    rows = [{"": "This probe"} | _score_cells(report.scores) | {"Gain over it": ""}]
    for control in report.controls:
        name = control.name[0].upper() + control.name[1:]
        gain = control.gain
        lead = f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        rows.append({"": name} | _score_cells(control.scores) | {"Gain over it": _signed(lead)})
    frame = pd.DataFrame(rows)
    return frame if report.controls else frame.drop(columns="Gain over it")


def comparison(controls: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """Accuracy of the probe and of every control, with intervals, one below the other."""
    found = controls[controls["metric"] == "accuracy"].assign(
        probe=lambda frame: frame["control"] == "probe"
    )
    found["control"] = found["control"].replace("probe", "this probe")
    base = alt.Chart(found).encode(
        y=alt.Y("control:N").sort(None).axis(**style.named_rows(labelLimit=140)),
        color=alt.condition("datum.probe", alt.value(style.BLUE[theme]), alt.value(style.MARKS)),
    )
    reach = base.mark_rule(strokeWidth=2, tooltip=None).encode(
        _share_axis("low", "accuracy", zero=False), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x="value:Q",
        tooltip=[
            alt.Tooltip("control:N", title="who"),
            alt.Tooltip("value:Q", title="accuracy", format=".1%"),
            *style.interval_tooltips("low", "high", ".1%"),
        ],
    )
    return style.titled([reach, points], "Accuracy beside its controls", HEIGHT)


def layer_curve(
    layers: pd.DataFrame,
    *,
    chosen: int | None = None,
    beside: float | None = None,
    theme: Theme = "light",
) -> alt.LayerChart:
    """Held-out accuracy of a regression on each layer's state.

    Args:
        chosen: the layer that the probe reads, marked by a line.
        beside: the accuracy of a probe that reads words, marked by a line.
    """
    drawn = _curve(layers, "layer", "accuracy", "layer", theme)
    if chosen is not None:
        drawn.append(style.level("x", chosen, "layer"))
    if beside is not None:
        drawn.append(style.level("y", beside, "accuracy"))
    at = ""
    if chosen is not None:
        at = f"; this probe reads layer {chosen}"
    elif beside is not None:
        at = f"; this probe reads words: {beside:.1%}"
    return style.titled(drawn, f"Accuracy by layer{at}", HEIGHT)


def learning_curve(learning: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """Held-out accuracy after training on some of the texts."""
    drawn = _curve(learning, "texts", "accuracy", "texts trained on", theme)
    return style.titled(drawn, "Learning curve", HEIGHT)


def roc(curve: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """Share of positive texts found, for every share of negative texts called positive."""
    line = (
        alt.Chart(_points(curve, ["false_positive_rate", "true_positive_rate"]))
        .mark_line(color=style.BLUE[theme], strokeWidth=2, interpolate="step-after", tooltip=True)
        .encode(
            _share_axis("false_positive_rate", "false positive rate", full=True),
            _share_axis("true_positive_rate", "true positive rate", full=True, y=True),
        )
    )
    return style.titled([_diagonal(), line], "ROC", HEIGHT)


def calibration(bins: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """Share of positive texts among those that were given about the same P(positive)."""
    base = alt.Chart(bins).encode(
        _share_axis("predicted", "predicted P(positive)", full=True),
        _share_axis("observed", "share positive", full=True, y=True),
    )
    line = base.mark_line(color=style.BLUE[theme], strokeWidth=1.5, opacity=0.45, tooltip=None)
    points = base.mark_point(filled=True, color=style.BLUE[theme], opacity=1).encode(
        size=alt.Size("texts:Q").scale(range=[25, 220]).legend(None),
        tooltip=[
            alt.Tooltip("predicted:Q", title="predicted", format=".1%"),
            alt.Tooltip("observed:Q", title="positive", format=".1%"),
            alt.Tooltip("texts:Q", title="texts"),
        ],
    )
    return style.titled([_diagonal(), line, points], "Calibration", HEIGHT)


def confusion(matrix: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """Texts by label (down) and by what the probe says (across)."""
    shares = matrix.assign(
        share=matrix["texts"] / matrix.groupby("label")["texts"].transform("sum").clip(lower=1)
    )
    axis: dict[str, Any] = {
        "labelExpr": LABELS, "labelAngle": 0, "grid": False, "ticks": False, "domain": False,
    }  # fmt: skip
    base = alt.Chart(shares).encode(
        x=alt.X("predicted:O").axis(title="predicted", orient="bottom", **axis),
        y=alt.Y("label:O").axis(title="label", **axis),
    )
    cells = base.mark_rect(color=style.BLUE[theme], cornerRadius=3, stroke=style.MARKS).encode(
        opacity=alt.Opacity("share:Q").scale(domain=[0, 1], range=[0.04, 0.6]).legend(None),
        tooltip=[
            alt.Tooltip("texts:Q", title="texts", format=","),
            alt.Tooltip("share:Q", title="of this label", format=".1%"),
        ],
    )
    counts = base.mark_text(fontSize=17, dy=-8, color=style.INK[theme], tooltip=None).encode(
        text=alt.Text("texts:Q", format=",")
    )
    parts = base.mark_text(fontSize=12, dy=11, color=style.INK[theme], tooltip=None).encode(
        text=alt.Text("share:Q", format=".1%")
    )
    return style.titled([cells, counts, parts], "Confusion matrix", HEIGHT)


# --- parts ---------------------------------------------------------------------------------------


def _curve(frame: pd.DataFrame, x: str, y: str, title: str, theme: Theme) -> list[Any]:
    """A line with its points over the band of their intervals."""
    # Whole numbers alone: there is no layer 2.5.
    across = alt.X(f"{x}:Q").scale(nice=False).axis(title=title, grid=False, tickMinStep=1)
    base = alt.Chart(frame).encode(across)
    # The interval of a few folds may reach beyond 100%, where no accuracy can be.
    capped = bool(frame["high"].max() > 1)
    band = base.mark_area(color=style.BLUE[theme], opacity=0.16, clip=True, tooltip=None).encode(
        _share_axis("low", y, zero=False, capped=capped, y=True), y2="high:Q"
    )
    line = base.mark_line(color=style.BLUE[theme], strokeWidth=2, tooltip=None).encode(y=f"{y}:Q")
    points = base.mark_point(filled=True, color=style.BLUE[theme], size=36, opacity=1).encode(
        y=f"{y}:Q",
        tooltip=[
            alt.Tooltip(f"{x}:Q", title=title),
            alt.Tooltip(f"{y}:Q", title=y, format=".1%"),
            *style.interval_tooltips("low", "high", ".1%"),
        ],
    )
    return [band, line, points]


def _share_axis(
    column: str,
    title: str,
    *,
    zero: bool = True,
    full: bool = False,
    capped: bool = False,
    y: bool = False,
) -> Any:
    channel: Any = alt.Y if y else alt.X
    scale = {"domain": [0, 1]} if full else {"zero": zero, **({"domainMax": 1} if capped else {})}
    return (
        channel(f"{column}:Q")
        .scale(nice=not full, **scale)
        .axis(title=title, format=SHARE, tickCount=5, gridOpacity=0.35, domain=False, ticks=False)
    )


def _diagonal() -> alt.Chart:
    ends = alt.InlineData([{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    chart: alt.Chart = (
        alt.Chart(ends).mark_line(**style.DASHED, strokeWidth=1).encode(x="x:Q", y="y:Q")
    )
    return chart


def _points(frame: pd.DataFrame, columns: list[str], most: int = 400) -> pd.DataFrame:
    """At most about so many points, the first and the last among them: all that a screen shows."""
    step = -(-len(frame) // most)
    kept = frame[columns].iloc[::step]
    if len(frame) and kept.index[-1] != frame.index[-1]:
        import pandas as pd

        kept = pd.concat([kept, frame[columns].iloc[[-1]]])
    return kept.round(4)


def _score_cells(scores: dict[str, Score]) -> dict[str, str]:
    return {
        label.partition(" (")[0]: f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})"
        for metric, label in METRICS.items()
        for s in (scores[metric],)
    }


def _signed(text: str) -> str:
    return text.replace("-", "\u2212")
