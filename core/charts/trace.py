"""What else is drawn of a trace: one cell, its neighbours, words, noise, and traces compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from . import style
from .row_labels import literal
from .style import Theme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

BAR = 22  # pixels per bar


def sample_strip(samples: pd.DataFrame, *, unit: str, theme: Theme = "light") -> alt.LayerChart:
    """A cell's effect in every noise sample, with the mean and its 95% interval.

    Args:
        samples: sample, effect; and, the same in every row, mean, lower, upper.
    """
    base = alt.Chart(samples)
    x = _number("effect", f"effect in {unit}")
    points = base.mark_point(
        filled=True, size=55, opacity=0.65, color=style.BLUE[theme], yOffset=9
    ).encode(
        x,
        tooltip=[
            alt.Tooltip("sample:O", title="sample"),
            alt.Tooltip("effect:Q", title="effect", format="+.3f"),
        ],
    )
    one = base.transform_filter("datum.sample == 0")
    reach = one.mark_rule(
        strokeWidth=3, color=style.CHOSEN[theme], yOffset=-9, tooltip=None, aria=False
    ).encode(x="lower:Q", x2="upper:Q")
    mean = one.mark_tick(thickness=3, size=14, color=style.CHOSEN[theme], yOffset=-9).encode(
        x="mean:Q",
        tooltip=[
            alt.Tooltip("mean:Q", title="mean", format="+.3f"),
            *style.interval_tooltips(),
        ],
    )
    return _finished([style.zero("x"), points, reach, mean], "Every noise sample", 54)


def neighbours(
    line: pd.DataFrame, layer: int, *, unit: str, theme: Theme = "light"
) -> alt.LayerChart:
    """The effect along the layers at one token, with 95% intervals; the chosen layer is marked.

    Args:
        line: layer, effect, lower, upper.
    """
    base = alt.Chart(line)
    x = alt.X("layer:Q").axis(**style.along_layers(int(line["layer"].max())))
    x = x.title("layer").scale(nice=False)
    band = base.mark_area(opacity=0.22, color=style.BLUE[theme], tooltip=None).encode(
        x, _number("lower", f"effect in {unit}", y=True), y2="upper:Q"
    )
    drawn = base.mark_line(color=style.BLUE[theme], strokeWidth=2, tooltip=None).encode(
        x, y="effect:Q"
    )
    points = base.mark_point(filled=True, color=style.BLUE[theme], opacity=1).encode(
        x,
        y="effect:Q",
        size=alt.condition(f"datum.layer == {layer}", alt.value(110), alt.value(22)),
        color=alt.condition(
            f"datum.layer == {layer}", alt.value(style.CHOSEN[theme]), alt.value(style.BLUE[theme])
        ),
        tooltip=_with_reach("layer:Q", "layer"),
    )
    return _finished([style.zero("y"), band, drawn, points], "Along the layers", 150)


def heads(frame: pd.DataFrame, *, unit: str, theme: Theme = "light") -> alt.LayerChart:
    """The effect of each head of one layer restored alone, with 95% intervals.

    Args:
        frame: head, effect, lower, upper.
    """
    base = alt.Chart(frame).encode(alt.X("head:O").axis(title="head", labelAngle=0, ticks=False))
    bars = base.mark_bar(color=style.BLUE[theme], width={"band": 0.6}).encode(
        _number("effect", f"effect in {unit}", y=True), tooltip=_with_reach("head:O", "head")
    )
    reach = base.mark_rule(color=style.INK[theme], tooltip=None).encode(y="lower:Q", y2="upper:Q")
    return _finished([bars, reach, style.zero("y")], "Each head alone", 150)


def run_points(frame: pd.DataFrame, *, theme: Theme = "light") -> alt.LayerChart:
    """P of the positive and the negative word in the clean, corrupted and restored run.

    Args:
        frame: run, word, side ("positive", "negative"), probability, in the runs' order.
    """
    base = alt.Chart(frame).encode(
        alt.Y("run:N").sort(None).axis(**style.named_rows(labelPadding=8))
    )
    words = list(dict.fromkeys(frame["word"]))
    points = base.mark_point(filled=True, size=85, opacity=1).encode(
        alt.X("probability:Q").axis(
            title="probability", format=".2~%", grid=True, tickCount=4, labelFlush=True
        ),
        color=alt.Color("word:N")
        .scale(domain=words, range=[style.BLUE[theme], style.ORANGE[theme]])
        .legend(orient="top", title=None, offset=2),
        shape=alt.Shape("word:N").scale(domain=words, range=["circle", "square"]),
        tooltip=[
            alt.Tooltip("run:N", title="run"),
            alt.Tooltip("word:N", title="next word"),
            alt.Tooltip("probability:Q", title="probability", format=".3%"),
        ],
    )
    return _finished([points], "Logit pair in the three runs", 84)


def word_bars(frame: pd.DataFrame, *, unit: str, theme: Theme = "light") -> alt.LayerChart:
    """What corrupting each word alone does, in the order of the text, with 95% intervals.

    Args:
        frame: word (index), text, total_effect, lower, upper.
    """
    texts = {int(word): text for word, text in zip(frame["word"], frame["text"], strict=True)}
    axis: dict[str, Any] = style.named_rows(
        labelExpr=f"({literal(texts)})[datum.value]",
        labelLimit=130,
        labelOverlap=False,
        labelFontSize=12,
        grid=False,
        labelPadding=6,
    )
    base = alt.Chart(frame[["word", "total_effect", "lower", "upper"]]).encode(
        alt.Y("word:O").axis(**axis)
    )
    bars = base.mark_bar(height={"band": 0.62}).encode(
        _number("total_effect", f"total effect in {unit}"),
        color=alt.condition(
            "datum.total_effect < 0", alt.value(style.ORANGE[theme]), alt.value(style.BLUE[theme])
        ),
        opacity=alt.condition("datum.lower < 0 && datum.upper > 0", alt.value(0.35), alt.value(1)),
        tooltip=[
            alt.Tooltip("total_effect:Q", title="total effect", format="+.3f"),
            *style.interval_tooltips(),
        ],
    )
    reach = base.mark_rule(color=style.INK[theme], tooltip=None).encode(x="lower:Q", x2="upper:Q")
    return _finished([bars, reach, style.zero("x")], None, BAR * len(frame))


def noise_curve(frame: pd.DataFrame, *, unit: str, theme: Theme = "light") -> alt.LayerChart:
    """The total effect at several strengths of noise, with 95% intervals.

    Args:
        frame: scale, total_effect, lower, upper, probability, word, changes (does the predicted
            side change?), as `core.tracing.verdict.total_effects` gives it.
    """
    base = alt.Chart(frame)
    x = alt.X("scale:Q").axis(
        title="noise, in standard deviations", values=frame["scale"].tolist(), grid=False
    )
    x = x.scale(padding=14, nice=False, zero=False)
    reach = base.mark_rule(strokeWidth=2, color=style.BLUE[theme], tooltip=None).encode(
        x, y="lower:Q", y2="upper:Q"
    )
    line = base.mark_line(
        strokeWidth=1.5, color=style.BLUE[theme], opacity=0.5, tooltip=None
    ).encode(x, _number("total_effect", f"total effect in {unit}", y=True))
    meanings = ["another side is predicted", "the same side is predicted"]
    points = (
        base.transform_calculate(said=f"datum.changes ? '{meanings[0]}' : '{meanings[1]}'")
        .mark_point(filled=True, size=95, opacity=1)
        .encode(
            x,
            y="total_effect:Q",
            shape=alt.Shape("said:N").scale(domain=meanings, range=["circle", "square"]),
            color=alt.Color("said:N")
            .scale(domain=meanings, range=[style.BLUE[theme], style.MARKS])
            .legend(orient="top", title=None, offset=2, labelLimit=220, columns=1),
            tooltip=[
                alt.Tooltip("scale:Q", title="standard deviations"),
                alt.Tooltip("total_effect:Q", title="total effect", format="+.2f"),
                *style.interval_tooltips(form="+.2f"),
                alt.Tooltip("probability:Q", title="P(positive), corrupted", format=".2f"),
                alt.Tooltip("word:N", title="next word"),
            ],
        )
    )
    return _finished([style.zero("y"), line, reach, points], None, 190)


def curves(
    frame: pd.DataFrame, *, unit: str, colours: Mapping[str, str], theme: Theme = "light"
) -> alt.LayerChart:
    """Effects along the layers in several traces, with 95% intervals.

    Args:
        frame: trace (its name), layer, effect, lower, upper.
        colours: of each trace, by name: "blue", "orange" or "ink"; they are dashed differently.
    """
    names = list(colours)
    palette = {"blue": style.BLUE[theme], "orange": style.ORANGE[theme], "ink": style.INK[theme]}
    base = alt.Chart(frame)
    x = alt.X("layer:Q").axis(**style.along_layers(int(frame["layer"].max())))
    x = x.title("layer").scale(nice=False)
    colour = (
        alt.Color("trace:N")
        .scale(domain=names, range=[palette[colours[name]] for name in names])
        .legend(orient="top", title=None, offset=2, labelLimit=240, columns=1)
    )
    band = base.mark_area(opacity=0.15, tooltip=None).encode(
        x,
        _number("lower", f"effect in {unit}", y=True),
        y2="upper:Q",
        color=colour,
    )
    line = base.mark_line(strokeWidth=2, point={"size": 26, "filled": True}).encode(
        x,
        y="effect:Q",
        color=colour,
        strokeDash=alt.StrokeDash("trace:N").scale(
            domain=names, range=[[1, 0], [6, 3], [2, 2]][: len(names)]
        ),
        tooltip=[alt.Tooltip("trace:N", title="trace"), *_with_reach("layer:Q", "layer")],
    )
    return _finished([style.zero("y"), band, line], None, 220)


# --- parts ---------------------------------------------------------------------------------------


def _number(field: str, title: str, *, y: bool = False) -> Any:
    return (alt.Y if y else alt.X)(f"{field}:Q").axis(title=title, tickCount=5, **style.SMALL)


def _with_reach(field: str, title: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip(field, title=title),
        alt.Tooltip("effect:Q", title="effect", format="+.3f"),
        *style.interval_tooltips(),
    ]


def _finished(drawn: list[Any], title: str | None, height: int) -> alt.LayerChart:
    chart = alt.LayerChart(layer=drawn, height=height, **style.AS_WIDE_AS_ITS_PLACE)
    chart.view = style.NO_FRAME
    if title:
        chart.title = style.panel_title(title)
    finished: alt.LayerChart = chart.configure_axis(**style.SMALL)
    return finished
