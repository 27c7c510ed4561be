"""How is a trace drawn? Tidy frames in, Altair charts out.

The heatmaps are those of Meng et al. 2022 (figure 1): tokens down, layers across, corrupted tokens
starred. Other than there, the panels that are seen together share one colour scale, centred on
zero and with the same end on both sides, because an effect may go either way and panels are only
worth comparing on one scale. Orange is towards negative and blue towards positive sentiment; the
pair can be told apart with every common form of colour blindness.

Zero is transparent, so that a chart reads well on a light page, a dark page and on paper. The
numbers of a trace that is still sharpening change the data alone and, as the scale ends on round
numbers, hardly ever the specification: the browser then redraws cells in place.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

if TYPE_CHECKING:
    import pandas as pd

    from core.results import TraceResult

Theme = Literal["light", "dark"]
Labels = Literal["always", "narrow", "never"]

KINDS = {"hidden": "Hidden state", "mlp": "MLP", "attn": "Attention"}
"""Kinds of site in the order in which they are drawn, and what a person calls them."""

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
ROUND_ENDS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
ROW, TIGHT_ROW = 20, 18  # pixels per token; labels of 12 px cannot touch
NOTHING = 1e-12  # a largest effect below this is rounding, and gets no scale of its own
NARROW = 640  # pixels: windows up to this width show the panels one below the other
TALL = 24  # tokens; a taller panel has tighter rows and names its layers above too
LABEL_LIMIT = 130  # pixels; a longer token label is cut off with an ellipsis
AS_WIDE_AS_ITS_PLACE: dict[str, Any] = {
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": {"left": 0, "right": 2, "top": 2, "bottom": 2},
}
MARKS = "rgba(128, 128, 128, 0.75)"  # hatching and frames: visible on white and on black


def scale_end(frame: pd.DataFrame) -> float:
    """Where a shared colour scale ends: the largest effect of either sign, rounded up."""
    largest = float(frame["effect"].abs().max()) if len(frame) else 0.0
    if not math.isfinite(largest) or largest < NOTHING:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    step = next((end for end in ROUND_ENDS if largest / power <= end + 1e-9), 10.0)
    return float(f"{step * power:.3g}")


def label_width(frame: pd.DataFrame) -> int:
    """Pixels that the token labels beside a panel take, about."""
    longest = max((len(label) for label in _labels(frame)), default=1)
    return min(LABEL_LIMIT, 7 * longest) + 10


def heatmap(
    frame: pd.DataFrame,
    kind: str,
    *,
    end: float,
    unit: str,
    labels: Labels = "always",
    theme: Theme = "light",
    title: str | None = None,
) -> alt.LayerChart:
    """One panel of a trace, as wide as the place it is put in: every site of one kind.

    Args:
        frame: as `TraceResult.frame()` gives it.
        end: where the colour scale ends on both sides, from `scale_end` of all panels together.
        unit: of the effects, such as "log-odds of positive".
        labels: of the tokens. "narrow" shows them only in windows so narrow that the panels stand
            one below the other; beside another panel they would only be repeated.

    Raises:
        ValueError: the frame holds no site of this kind.
    """
    panel = _panel(frame, kind, _slim, end=end, unit=unit, labels=labels, theme=theme, title=title)
    return panel.properties(**AS_WIDE_AS_ITS_PLACE)


def _panel(
    frame: pd.DataFrame,
    kind: str,
    form: Callable[[pd.DataFrame], Any],
    *,
    end: float,
    unit: str,
    labels: Labels,
    theme: Theme,
    title: str | None,
) -> alt.LayerChart:
    cells = frame.loc[frame["kind"] == kind]
    if cells.empty:
        raise ValueError(
            f"There is no site of kind {kind!r} in this trace; it holds "
            f"{', '.join(map(repr, dict.fromkeys(frame['kind'])))}."
        )
    token_labels = _labels(frame)
    layers = int(cells["layer"].max()) + 1
    layer_axis: dict[str, Any] = {
        "title": "layer",
        "titlePadding": 2,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelAngle": 0,
        "labelOverlap": True,
        "values": _ticks(layers),
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelPadding": 4,
    }
    x = alt.X("layer:O").axis(orient="bottom", **layer_axis)
    y = alt.Y("position:O").axis(_token_axis(token_labels, labels))
    base = alt.Chart(form(cells)).transform_calculate(
        certainty="isValid(datum.standard_error) ? format(datum.standard_error, '.3f')"
        " : 'needs two samples'"
    )
    # Wider than its column by a quarter of a pixel or so, lest background shows between two cells.
    effects = base.mark_rect(aria=False, width={"band": 1 + layers / 1500}).encode(
        x,
        y,
        color=alt.Color("effect:Q").scale(_scale(end, theme)).legend(None),
        tooltip=[
            alt.Tooltip("token:N", title="token"),
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("effect:Q", title="effect", format="+.3f"),
            alt.Tooltip("certainty:N", title="standard error"),
        ],
    )
    trivial = (
        base.transform_filter("datum.trivial")
        .mark_point(
            shape="M-1,1L1,-1", stroke=MARKS, strokeWidth=1, size=30, tooltip=None, aria=False
        )
        .encode(x, y)
    )
    drawn: list[Any] = [effects, trivial]
    tall = len(token_labels) > TALL
    if tall:
        # The layers stay in sight at the top of the panel too.
        above = alt.X("layer:O").axis(orient="top", **{**layer_axis, "title": None})
        first_row = base.transform_filter("datum.position == 0")
        drawn.append(first_row.mark_rect(opacity=0, tooltip=None, aria=False).encode(above, y))
    chart = alt.LayerChart(
        layer=drawn,
        height=(TIGHT_ROW if tall else ROW) * len(token_labels),
        view=alt.ViewBackground(fill="rgba(128, 128, 128, 0.07)", stroke=None),
        description=f"{KINDS.get(kind, kind)}: effect in {unit}, tokens down, layers across",
    )
    if tall:
        chart.resolve = alt.Resolve(axis=alt.AxisResolveMap(x="independent"))
    if title:
        chart.title = alt.TitleParams(title, anchor="start", frame="group", fontSize=13, offset=6)
    return chart


def scale_bar(
    end: float, unit: str, *, theme: Theme = "light", width: int | None = None
) -> alt.Chart:
    """The legend that panels share, as a strip of its own.

    Args:
        width: pixels, for a strip inside a figure that names its unit; without it, one as wide as
            the place it is put in, where the unit stands beside it.
    """
    stops = [
        alt.GradientStop(offset=i / (len(RAMP[theme]) - 1), color=color)
        for i, color in enumerate(RAMP[theme])
    ]
    strip: alt.Chart = (
        alt.Chart(alt.InlineData([{"from": -end, "to": end}]), height=10)
        .mark_rect(
            tooltip=None,
            color=alt.LinearGradient(gradient="linear", stops=stops, x1=0, x2=1, y1=0, y2=0),
        )
        .encode(
            x=alt.X("from:Q")
            .scale(domain=[-end, end], nice=False)
            .axis(
                values=[-end, -end / 2, 0, end / 2, end],
                labelExpr="datum.value ? format(datum.value, '+.3~r') : '0'",
                labelFlush=True,
                labelOverlap=False,
                title=f"change in {unit}" if width else None,
                titleFontSize=11,
                titleFontWeight="normal",
                grid=False,
                ticks=False,
                domain=False,
                labelPadding=4,
            ),
            x2="to:Q",
        )
        .properties(
            view=alt.ViewBackground(stroke=None),
            description=f"Colour scale from {-end:g} to {end:g} {unit}",
        )
    )
    place: dict[str, Any] = {"width": width} if width else dict(AS_WIDE_AS_ITS_PLACE)
    strip = strip.properties(**place)
    return strip


def trace_heatmaps(
    trace: TraceResult | pd.DataFrame,
    *,
    unit: str | None = None,
    title: str | None = None,
    caption: str | None = None,
    theme: Theme = "light",
    panel_width: int = 340,
) -> alt.VConcatChart:
    """A whole trace as one figure: a panel for each kind, title, caption and one legend.

    Args:
        trace: a result, whose own title, caption and unit are used where none is given, or a frame
            like that of `TraceResult.frame()`.
        panel_width: pixels.
    """
    import pandas as pd

    if isinstance(trace, pd.DataFrame):
        frame = trace
    else:
        frame = trace.frame()
        unit = unit or unit_of(trace)
        title = f"\u201c{trace.prompt.tweet}\u201d" if title is None else title
        caption = caption_of(trace) if caption is None else caption
    unit = unit or "proxy"
    end = scale_end(frame)
    kinds = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    panels = [
        _panel(
            frame,
            kind,
            _inline,
            end=end,
            unit=unit,
            labels="never" if i else "always",
            theme=theme,
            title=KINDS[kind],
        ).properties(width=panel_width)
        for i, kind in enumerate(kinds)
    ]
    ink, faint = ("#1c2128", "#57606a") if theme == "light" else ("#e6e8eb", "#9aa4af")
    figure_width = panel_width * len(kinds) + 110
    figure: alt.VConcatChart = alt.vconcat(
        alt.hconcat(*panels, spacing=18),
        scale_bar(end, unit, theme=theme, width=280),
        spacing=16,
    ).properties(padding=16, background="#ffffff" if theme == "light" else "#14181d")
    if title or caption:
        figure = figure.properties(
            title=alt.TitleParams(
                _wrapped(title or "", figure_width // 8) or [""],
                subtitle=_wrapped(caption or "", figure_width // 6),
                anchor="start",
                fontSize=15,
                subtitleFontSize=11,
                subtitlePadding=6,
                offset=14,
                color=ink,
                subtitleColor=faint,
            )
        )
    figure = (
        figure.configure(font="Helvetica, Arial, 'Liberation Sans', sans-serif")
        .configure_axis(labelColor=ink, titleColor=faint)
        .configure_title(color=ink, fontWeight=600)
        .configure_view(stroke=None)
    )
    return figure


# --- words ---------------------------------------------------------------------------------------


def unit_of(result: TraceResult) -> str:
    """What the effects of a result are measured in."""
    from core.results import PROXIES

    return PROXIES[result.settings.proxy]


def headline(result: TraceResult) -> str:
    """What the model makes of the tweet: "Negative, P(positive) = 0.01"."""
    positive = result.clean_probability
    shown = f"= {positive:.2f}"
    if min(positive, 1 - positive) < 0.005:
        shown = "< 0.01" if positive < 0.5 else "> 0.99"
    return f"{'Positive' if positive >= 0.5 else 'Negative'}, P(positive) {shown}"


def effect_line(result: TraceResult) -> str:
    """What the corruption did to it, each number with its standard error over the samples."""
    probability = result.under("probability")
    return (
        f"Corrupted: {_with_error(probability.low, probability.low_error)}. "
        f"Total effect: {_with_error(result.total_effect, result.low_error)} "
        f"in {unit_of(result)}."
    )


def caption_of(result: TraceResult) -> str:
    """What a cell is, its unit, how many samples it rests on, and with which settings."""
    settings = result.settings
    samples = f"{result.samples_done} noise sample{'s' if result.samples_done != 1 else ''}"
    if result.samples_done < result.samples_wanted:
        samples += f" of {result.samples_wanted}"
    windowed = [KINDS[kind] for kind in settings.kinds if kind != "hidden"]
    window = ""
    if windowed:
        layers = f"{result.window} layers" if result.window != 1 else "1 layer"
        window = f" {' and '.join(windowed)} cells restore {layers} around the one named."
    noise = settings.noise_scale
    report = result.probe.report
    return (
        f"A cell is the change in {unit_of(result)} when one site of the corrupted run is put back "
        f"to its clean state: the mean of {samples}.{window} Starred tokens are corrupted with "
        f"Gaussian noise of {noise:g} standard deviation{'s' if noise != 1 else ''} "
        f"(seed {settings.seed}). Hatched cells are what they are by construction. "
        f"Model {result.model_name}; probe accuracy {report.accuracy:.1%} "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}) on {report.n:,} texts."
    )


# --- parts ---------------------------------------------------------------------------------------


def _scale(end: float, theme: Theme) -> alt.Scale:
    return alt.Scale(
        domain=[-end, -end / 2, 0, end / 2, end], range=list(RAMP[theme]), clamp=True, nice=False
    )


def _labels(frame: pd.DataFrame) -> list[str]:
    """Labels of the tokens in their order, a star behind those that are corrupted."""
    tokens = frame.drop_duplicates("position").sort_values("position")
    return [
        f"{token}{' *' if corrupted else ''}"
        for token, corrupted in zip(tokens["token"], tokens["corrupted"], strict=True)
    ]


def _token_axis(tokens: Sequence[str], labels: Labels) -> alt.Axis | None:
    if labels == "never":
        return None
    # JSON in ASCII is a safe literal of Vega's expression language, whatever the tokens hold.
    label = f"{json.dumps(list(tokens))}[datum.value]"
    if labels == "narrow":
        # The mention of width makes Vega ask again whenever the chart is resized.
        label = f"width >= 0 && windowSize()[0] <= {NARROW} ? {label} : ''"
    return alt.Axis(
        title=None,
        labelExpr=label,
        labelLimit=LABEL_LIMIT,
        labelOverlap=False,
        labelFlush=False,
        labelBound=False,
        labelPadding=6,
        labelFontSize=12,
        grid=False,
        ticks=False,
        domain=False,
    )


def _ticks(layers: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if layers <= 13 * step)
    return list(range(0, layers, step))


def _slim(cells: pd.DataFrame) -> pd.DataFrame:
    """Only what the chart reads, in the fewest bytes: it is sent anew for every noise sample."""
    columns = ["layer", "position", "token", "effect", "standard_error", "trivial"]
    return cells[columns].astype(
        {
            "layer": "int16",
            "position": "int16",
            "effect": "float32",
            "standard_error": "float32",
            "trivial": bool,
        }
    )


def _with_error(mean: float, error: float) -> str:
    """A mean to the second digit of its standard error, as far as there is one."""
    if not math.isfinite(error) or error <= 0:
        return f"{mean:.3g}".replace("-", "\u2212")
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6)
    return f"{mean:.{digits}f} \u00b1 {error:.{digits}f}".replace("-", "\u2212")


def _inline(cells: pd.DataFrame) -> alt.InlineData:
    """The same as values of the specification itself.

    Altair turns a frame into values by a setting that all threads share, which Streamlit changes
    while it draws, and refuses more than 5,000 rows. A figure that is exported must know neither.
    """
    slim = _slim(cells)
    columns = {
        str(name): [None if value != value else value for value in column.tolist()]
        for name, column in slim.items()
    }
    names = list(columns)
    return alt.InlineData(
        [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )


def _wrapped(text: str, characters: int) -> list[str]:
    return textwrap.wrap(text, characters, break_long_words=True)[:6]
