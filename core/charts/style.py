"""How does every chart look? Colours, scales, axes, marks, titles and paper, each once.

Orange is towards negative and blue towards positive sentiment, or they are two sides of a
comparison; grey is what something is held against. The pair can be told apart with every common
form of colour blindness, and nothing is said by colour alone. Zero is transparent, so that a chart
reads well on a light page, a dark page and on paper.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt

Theme = Literal["light", "dark"]

INK: dict[Theme, str] = {"light": "#1c2128", "dark": "#e6e8eb"}
FAINT: dict[Theme, str] = {"light": "#57606a", "dark": "#9aa4af"}
PAPER: dict[Theme, str] = {"light": "#ffffff", "dark": "#14181d"}
CHOSEN: dict[Theme, str] = {"light": "#a3197f", "dark": "#ff9be3"}
BLUE: dict[Theme, str] = {"light": "#1f6fb2", "dark": "#6db3ee"}
ORANGE: dict[Theme, str] = {"light": "#b85300", "dark": "#f0a35e"}
MARKS = "rgba(128, 128, 128, 0.75)"  # hatching, frames and rules: visible on white and on black

RAMP: dict[Theme, tuple[str, ...]] = {
    # From the strongest negative effect over none to the strongest positive one.
    "light": (
        "rgba(158, 61, 0, 1)",
        "rgba(230, 126, 34, 0.78)",
        "rgba(128, 128, 128, 0)",
        "rgba(47, 128, 200, 0.78)",
        "rgba(0, 62, 128, 1)",
    ),
    "dark": (
        "rgba(255, 190, 120, 1)",
        "rgba(226, 121, 32, 0.78)",
        "rgba(128, 128, 128, 0)",
        "rgba(52, 131, 208, 0.78)",
        "rgba(150, 206, 255, 1)",
    ),
}
GREY = ("rgba(90, 90, 90, 0.6)", "rgba(128, 128, 128, 0.4)", "rgba(128, 128, 128, 0)",
        "rgba(128, 128, 128, 0.4)", "rgba(90, 90, 90, 0.6)")  # fmt: skip
GREY_SAFE = (
    "rgba(43, 18, 0, 1)",
    "rgba(140, 74, 22, 1)",
    "rgba(170, 170, 170, 1)",
    "rgba(190, 214, 236, 1)",
    "rgba(246, 250, 255, 1)",
)
"""`RAMP` where it is printed in grey: ever lighter."""

FADED = 0.28  # opacity of a cell that cannot be told from zero

SMALL: dict[str, Any] = {"titleFontSize": 11, "titleFontWeight": "normal"}
"""An axis's title."""

DASHED: dict[str, Any] = {"color": MARKS, "strokeDash": [4, 3], "tooltip": None}
"""A line that something is held against: chance, no change, what was chosen."""

NO_FRAME = alt.ViewBackground(stroke=None)
GROUND = alt.ViewBackground(fill="rgba(128, 128, 128, 0.07)", stroke=None)
"""Behind the cells of a heatmap."""

AS_WIDE_AS_ITS_PLACE: dict[str, Any] = {
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": {"left": 0, "right": 2, "top": 2, "bottom": 2},
}


# --- scales and axes -----------------------------------------------------------------------------


def effect_scale(end: float, theme: Theme, *, grey: bool = False) -> alt.Scale:
    """Of effects, centred on zero and with the same end on both sides."""
    colours = GREY if grey else RAMP[theme]
    stops = [-end, -end / 2, 0, end / 2, end]
    return alt.Scale(domain=stops, range=list(colours), clamp=True, nice=False)


def layer_ticks(layers: int) -> list[int]:
    """Layers that are named on an axis: round and few."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if layers <= 13 * step)
    return list(range(0, layers, step))


def layer_axis(values: Sequence[float], **others: Any) -> dict[str, Any]:
    """The axis below the columns of a heatmap, or bars, with these values named."""
    return {
        "title": "layer",
        "titlePadding": 2,
        **SMALL,
        "labelAngle": 0,
        "labelOverlap": True,
        "values": list(values),
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelPadding": 4,
        **others,
    }


def along_layers(last: int, **others: Any) -> dict[str, Any]:
    """The axis below lines by layer, up to the last one."""
    return {"values": layer_ticks(last + 1), "grid": False, **others}


def named_rows(**others: Any) -> dict[str, Any]:
    """The axis beside rows that have names: these alone."""
    return {"title": None, "ticks": False, "domain": False, **others}


# --- marks ---------------------------------------------------------------------------------------


def zero(along: Literal["x", "y"]) -> alt.Chart:
    """A line at no effect."""
    rule = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(color=MARKS, tooltip=None)
    drawn: alt.Chart = rule.encode(**{along: alt.X("zero:Q") if along == "x" else alt.Y("zero:Q")})
    return drawn


def level(along: Literal["x", "y"], value: float, name: str = "at") -> alt.Chart:
    """A dashed line at a value of the axis.

    Args:
        name: of the field that the axis reads.
    """
    drawn: alt.Chart = (
        alt.Chart(alt.InlineData([{name: value}]))
        .mark_rule(**DASHED)
        .encode(**{along: f"{name}:Q"})
    )
    return drawn


def hatched(base: alt.Chart, test: str, **others: Any) -> alt.Chart:
    """Marks of the cells that pass a test: what they show is fixed by construction."""
    drawn: alt.Chart = base.transform_filter(test).mark_point(
        shape="M-1,1L1,-1", stroke=MARKS, strokeWidth=1, size=30, aria=False, **others
    )
    return drawn


def outlined(base: alt.Chart, test: str, colour: str, width: float, **others: Any) -> alt.Chart:
    """Frames around the cells that pass a test."""
    drawn: alt.Chart = base.transform_filter(test).mark_rect(
        filled=False, stroke=colour, strokeWidth=width, aria=False, **others
    )
    return drawn


def interval_tooltips(
    low: str = "lower", high: str = "upper", form: str = "+.3f"
) -> list[alt.Tooltip]:
    """Both ends of an interval."""
    ends = ((low, "from"), (high, "to"))
    return [alt.Tooltip(f"{field}:Q", title=title, format=form) for field, title in ends]


def inlined(columns: Mapping[str, Sequence[Any]]) -> alt.InlineData:
    """Columns as values of the specification itself; what is no number becomes null.

    Altair turns a frame into values by a setting that all threads share, which Streamlit changes
    while it draws, and refuses more than 5,000 rows. A figure that is exported must know neither.
    """
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return alt.InlineData(
        [
            {
                name: None if value != value else value
                for name, value in zip(names, row, strict=True)
            }
            for row in rows
        ]
    )


# --- the whole -----------------------------------------------------------------------------------


def panel_title(text: str | list[str]) -> alt.TitleParams:
    """The title of one panel, above its cells."""
    return alt.TitleParams(text, anchor="start", frame="group", fontSize=13, offset=6)


def place(width: int | None) -> dict[str, Any]:
    """Properties of a chart so many pixels wide, or as wide as the place that it is put in."""
    return {"width": width} if width else dict(AS_WIDE_AS_ITS_PLACE)


def titled(layers: list[Any], title: str, height: int, width: int | None = None) -> alt.LayerChart:
    """Layers as one small chart with a title; as wide as its place unless a width is given."""
    return alt.LayerChart(
        layer=layers,
        height=height,
        title=alt.TitleParams(title, anchor="start", frame="bounds", fontSize=13, offset=8),
        view=NO_FRAME,
        description=title,
        **place(width),
    )


def framed(
    figure: alt.VConcatChart,
    title: str | None,
    caption: str | None,
    *,
    width: int,
    theme: Theme = "light",
) -> alt.VConcatChart:
    """A figure that is to be taken away: paper, title and caption, and the same letters as all.

    Args:
        width: pixels, about, that title and caption may take.
    """
    figure = figure.properties(padding=16, background=PAPER[theme])
    if title or caption:
        figure = figure.properties(
            title=alt.TitleParams(
                _wrapped(title or "", width // 8) or [""],
                subtitle=_wrapped(caption or "", width // 6),
                anchor="start",
                fontSize=15,
                subtitleFontSize=11,
                subtitlePadding=6,
                offset=14,
                color=INK[theme],
                subtitleColor=FAINT[theme],
            )
        )
    figure = (
        figure.configure(font="Helvetica, Arial, 'Liberation Sans', sans-serif")
        .configure_axis(
            labelColor=INK[theme],
            titleColor=FAINT[theme],
            titleFontWeight="normal",
            gridColor="rgba(128, 128, 128, 0.25)",
            domainColor=MARKS,
            tickColor=MARKS,
        )
        .configure_legend(labelColor=INK[theme])
        .configure_title(color=INK[theme], fontWeight=600)
        .configure_view(stroke=None)
    )
    return figure


def _wrapped(text: str, characters: int) -> list[str]:
    return textwrap.wrap(text, characters, break_long_words=True)[:8]
