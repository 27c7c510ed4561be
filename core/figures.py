"""How is a trace drawn? Tidy frames in, Altair charts out.

The heatmaps are those of Meng et al. 2022 (figure 1): tokens down, layers across, corrupted tokens
starred. Other than there, the panels that are seen together share one colour scale, centred on
zero and with the same end on both sides, because an effect may go either way and panels are only
worth comparing on one scale. Orange is towards negative and blue towards positive sentiment; the
pair can be told apart with every common form of colour blindness.

What is certain is not said by colour alone: cells that cannot be told from zero are faded, cells
that are fixed by construction hatched, and the largest other cell of a panel has a frame.

Zero is transparent, so that a chart reads well on a light page, a dark page and on paper. Another
sample, unit, end of the scale or chosen cell, and words in place of tokens in a tweet that is not
long, change a panel's data alone and not its specification: the browser redraws it in place.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from core.forms import AS_WIDE_AS_ITS_PLACE, FORMS, Drawing, Form
from core.rows import Labels, Rows, literal, row_axis

if TYPE_CHECKING:
    import pandas as pd

    from core.results import Proxy, TraceResult
    from core.runs import Kind

    Cell = tuple[Kind, int, int]
    """Kind, layer and position."""

Theme = Literal["light", "dark"]

KINDS = {"hidden": "Hidden state", "mlp": "MLP", "attn": "Attention"}
"""Kinds of site in the order in which they are drawn, and what a person calls them."""

SHORT_UNITS: dict[Proxy, str] = {
    "log_odds": "log-odds (nats)",
    "probability": "P(positive)",
    "log_ratio": "log P ratio (nats)",
    "good": "P(good)",
    "bad": "P(bad)",
}

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
WIDE_ROW = 26  # pixels per token of a panel that stands alone
FADED = 0.28  # opacity of a cell that cannot be told from zero
NOTHING = 1e-12  # a largest effect below this is rounding, and gets no scale of its own
TALL = 24  # tokens; a taller panel has tighter rows and names its layers above too
GREY = ("rgba(90, 90, 90, 0.6)", "rgba(128, 128, 128, 0.4)", "rgba(128, 128, 128, 0)",
        "rgba(128, 128, 128, 0.4)", "rgba(90, 90, 90, 0.6)")  # fmt: skip
INK: dict[Theme, str] = {"light": "#1c2128", "dark": "#e6e8eb"}
FAINT: dict[Theme, str] = {"light": "#57606a", "dark": "#9aa4af"}
PAPER: dict[Theme, str] = {"light": "#ffffff", "dark": "#14181d"}
CHOSEN: dict[Theme, str] = {"light": "#a3197f", "dark": "#ff9be3"}
MARKS = "rgba(128, 128, 128, 0.75)"  # hatching and frames: visible on white and on black


# What is drawn of a cell besides its colour, as bits of one small number.
_TRIVIAL, _FADED, _LARGEST, _CHOSEN, _EXACT = 1, 2, 4, 8, 16


def as_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with effects, and their errors, in percent of the total effect."""
    factor = 100 * (frame["normalised"] / frame["effect"]).abs().median()
    return frame.assign(
        effect=100 * frame["normalised"], standard_error=frame["standard_error"] * factor
    )


def scale_end(frame: pd.DataFrame) -> float:
    """Where a shared colour scale ends: the largest effect of either sign, rounded up."""
    largest = float(frame["effect"].abs().max()) if len(frame) else 0.0
    if not math.isfinite(largest) or largest < NOTHING:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    step = next((end for end in ROUND_ENDS if largest / power <= end + 1e-9), 10.0)
    return float(f"{step * power:.3g}")


def heatmap(
    frame: pd.DataFrame,
    kind: str,
    *,
    end: float,
    labels: Labels = "always",
    rows: Rows | None = None,
    theme: Theme = "light",
    title: str | None = None,
    grey: bool = False,
    row: int | None = None,
    strip: bool = False,
    chosen: Cell | None = None,
    select: str | None = None,
) -> Drawing:
    """One panel of a trace, as wide as the place it is put in: every site of one kind.

    Args:
        frame: as `TraceResult.frame()` gives it, or `findings.cells`, which adds what is faded and
            which cell is the largest.
        end: where the colour scale ends on both sides, from `scale_end` of all panels together.
        labels: of the tokens. "narrow" shows them only in windows so narrow that the panels stand
            one below the other; beside another panel they would only be repeated.
        rows: all that the panel may come to show; None takes those of the frame.
        grey: no colours, for a trace whose cells mean nothing.
        row: pixels per token.
        strip: leave title and layer axis to `layer_strip`, which stays in sight above.
        chosen: a cell that is framed.
        select: name of a point selection over layer and position; every click toggles its cell.

    Raises:
        ValueError: the frame holds no site of this kind.
    """
    cells = frame.loc[frame["kind"] == kind]
    if cells.empty:
        raise ValueError(
            f"There is no site of kind {kind!r} in this trace; it holds "
            f"{', '.join(map(repr, dict.fromkeys(frame['kind'])))}."
        )
    rows = rows or Rows.of(frame)
    cells = cells.assign(
        row=cells["position"] + rows.first,
        shade=cells["effect"] / end,
        state=_state(cells, kind, chosen),
    )
    shown = cells["row"].nunique()
    tall = shown > TALL and not strip
    form = _panel(
        kind,
        int(cells["layer"].max()) + 1,
        # Of which row the first position is, only the data know.
        replace(rows, first=0),
        labels=labels,
        theme=theme,
        title=None if strip else title,
        grey=grey,
        height=row or (TIGHT_ROW if shown > TALL else ROW),
        layers_above=int(cells["row"].min()) if tall else None,
        layers_below=not strip,
        select=select,
    )
    return Drawing(form, _slim(cells))


def layer_strip(
    frame: pd.DataFrame,
    kind: str,
    *,
    title: str,
    labels: Labels = "always",
    rows: Rows | None = None,
) -> alt.Chart:
    """Title and layer axis of a panel, as wide as the panel, to stand above one that scrolls."""
    cells = frame.loc[frame["kind"] == kind]
    layers = cells.drop_duplicates("layer")[["layer"]].astype("int16").assign(position=0)
    axis = row_axis((rows or Rows.of(frame)).labels, labels)
    if axis is not None:
        axis.labelExpr = "''"
    strip: alt.Chart = (
        alt.Chart(layers, height=1)
        .mark_rect(opacity=0, tooltip=None, aria=False)
        .encode(
            alt.X("layer:O").axis(orient="top", **_layer_axis(int(layers["layer"].max()) + 1)),
            alt.Y("position:O").axis(axis),
        )
        .properties(
            title=_panel_title(title),
            view=alt.ViewBackground(stroke=None),
            **AS_WIDE_AS_ITS_PLACE,
        )
    )
    return strip


@lru_cache(maxsize=FORMS)
def _panel(
    kind: str,
    layers: int,
    rows: Rows,
    *,
    labels: Labels,
    theme: Theme,
    title: str | None,
    grey: bool,
    height: int,
    layers_above: int | None,
    layers_below: bool,
    select: str | None,
) -> Form:
    """All of a panel but its cells.

    Args:
        height: of a row, in pixels.
        layers_above: the first row, of a panel so tall that it names its layers above too.
    """
    layer_axis = _layer_axis(layers)
    x = alt.X("layer:O").axis(alt.Axis(orient="bottom", **layer_axis) if layers_below else None)
    y = alt.Y("row:O").axis(row_axis(rows.labels, labels))
    # The words of a tooltip stand in the specification once, not in every row.
    base = alt.Chart().transform_calculate(
        token=f"({literal(rows.names)})[datum.row]",
        certainty="isValid(datum.standard_error) ? format(datum.standard_error, '.3f')"
        f" : datum.state & {_EXACT} ? 'none: nothing is drawn' : 'needs two samples'",
        told=f"datum.state & {_TRIVIAL} ? 'fixed by construction' : datum.state & {_FADED} ? 'no'"
        f" : datum.state & {_EXACT} || isValid(datum.standard_error) ? 'yes'"
        " : 'needs two samples'",
    )
    # Wider than its column by a quarter of a pixel or so, lest background shows between two cells.
    pointer: dict[str, Any] = {"cursor": "pointer"} if select else {}
    effects = base.mark_rect(aria=False, width={"band": 1 + layers / 1500}, **pointer).encode(
        x,
        y,
        color=alt.Color("shade:Q").scale(_scale(theme, grey)).legend(None),
        opacity=alt.OpacityValue(1, condition={"test": f"datum.state & {_FADED}", "value": FADED}),
        tooltip=[
            alt.Tooltip("token:N", title="token"),
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("effect:Q", title="effect", format="+.3f"),
            alt.Tooltip("certainty:N", title="standard error"),
            alt.Tooltip("samples:Q", title="samples"),
            alt.Tooltip("told:N", title="told from zero"),
        ],
    )
    if select:
        effects = effects.add_params(
            alt.selection_point(
                name=select, fields=["layer", "position"], toggle="true", clear=False
            )
        )
    trivial = (
        base.transform_filter(f"datum.state & {_TRIVIAL}")
        .mark_point(
            shape="M-1,1L1,-1", stroke=MARKS, strokeWidth=1, size=30, tooltip=None, aria=False
        )
        .encode(x, y)
    )

    def framed(bit: int, colour: str, width: float) -> alt.Chart:
        frame: alt.Chart = (
            base.transform_filter(f"datum.state & {bit}")
            .mark_rect(
                filled=False,
                stroke=colour,
                strokeWidth=width,
                tooltip=None,
                aria=False,
                strokeJoin="round",
            )  # fmt: skip
            .encode(x, y)
        )
        return frame

    drawn: list[Any] = [
        effects,
        trivial,
        framed(_LARGEST, INK[theme], 1.5),
        framed(_CHOSEN, CHOSEN[theme], 3),
    ]
    if layers_above is not None:
        # The layers stay in sight at the top of the panel too.
        above = alt.X("layer:O").axis(orient="top", **{**layer_axis, "title": None})
        first_row = base.transform_filter(f"datum.row == {layers_above}")
        drawn.append(first_row.mark_rect(opacity=0, tooltip=None, aria=False).encode(above, y))
    chart = alt.LayerChart(
        layer=drawn,
        height=alt.Step(height),
        view=alt.ViewBackground(fill="rgba(128, 128, 128, 0.07)", stroke=None),
        description=f"{KINDS.get(kind, kind)}: effects, tokens down, layers across",
        **AS_WIDE_AS_ITS_PLACE,
    )
    if layers_above is not None:
        chart.resolve = alt.Resolve(axis=alt.AxisResolveMap(x="independent"))
    if title:
        chart.title = _panel_title(title)
    return Form(chart)


def _state(cells: pd.DataFrame, kind: str, chosen: Cell | None) -> pd.Series[int]:
    """What is drawn of each cell besides its colour."""
    state = cells["trivial"].astype("uint8") * _TRIVIAL
    for column, bit in (("faded", _FADED), ("largest", _LARGEST), ("exact", _EXACT)):
        if column in cells:
            state = state + cells[column].astype("uint8") * bit
    if chosen is not None and chosen[0] == kind:
        here = cells["layer"].eq(chosen[1]) & cells["position"].eq(chosen[2])
        state = state + here.astype("uint8") * _CHOSEN
    return state


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
            x2=alt.X2("to:Q"),
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
    grey: bool = False,
    inline: bool = True,
    titles: Mapping[str, str] = KINDS,
) -> alt.VConcatChart:
    """A whole trace as one figure: a panel for each kind, title, caption and one legend.

    Args:
        trace: a result, whose own title, caption and unit are used where none is given, or a frame
            like that of `TraceResult.frame()`.
        panel_width: pixels.
        grey: no colours, for a trace whose cells mean nothing.
        inline: hold the cells as values; otherwise as frames, which `core.export` reads when the
            figure is saved.
        titles: of the panels, by the frame's kinds, in the order in which they stand.
    """
    import pandas as pd

    from core.findings import cells

    if isinstance(trace, pd.DataFrame):
        frame = trace
    else:
        frame = cells(trace)
        unit = unit or unit_of(trace)
        title = f"\u201c{trace.prompt.tweet}\u201d" if title is None else title
        caption = caption_of(trace) if caption is None else caption
    unit = unit or "proxy"
    end = scale_end(frame)
    kinds = [kind for kind in titles if (frame["kind"] == kind).any()]
    panels = []
    for i, kind in enumerate(kinds):
        labels: Labels = "never" if i else "always"
        drawn = heatmap(
            frame, kind, end=end, labels=labels, theme=theme, title=titles[kind], grey=grey
        )
        panel = drawn.chart(width=panel_width)
        if inline:
            panel.data = _inline(drawn.data)
        panels.append(panel)
    figure: alt.VConcatChart = alt.vconcat(
        alt.hconcat(*panels, spacing=18),
        scale_bar(end, unit, theme=theme, width=280),
        spacing=16,
    )
    return framed(figure, title, caption, width=panel_width * len(kinds) + 110, theme=theme)


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


def titled(layers: list[Any], title: str, height: int, width: int | None = None) -> alt.LayerChart:
    """Layers as one small chart with a title; as wide as its place unless a width is given."""
    place: dict[str, Any] = {"width": width} if width else dict(AS_WIDE_AS_ITS_PLACE)
    return alt.LayerChart(
        layer=layers,
        height=height,
        title=alt.TitleParams(title, anchor="start", frame="bounds", fontSize=13, offset=8),
        view=alt.ViewBackground(stroke=None),
        description=title,
        **place,
    )


# --- words ---------------------------------------------------------------------------------------


def unit_of(result: TraceResult) -> str:
    """What the effects of a result are measured in."""
    from core.results import PROXIES

    return PROXIES[result.settings.proxy]


def short_unit(result: TraceResult) -> str:
    """The same in the few words that fit along a small chart's axis."""
    return SHORT_UNITS[result.settings.proxy]


def headline(result: TraceResult) -> str:
    """What the model makes of the tweet: "Negative, P(positive) = 0.01"."""
    positive = result.clean_probability
    shown = f"= {positive:.2f}"
    if min(positive, 1 - positive) < 0.005:
        shown = "< 0.01" if positive < 0.5 else "> 0.99"
    return f"{'Positive' if positive >= 0.5 else 'Negative'}, P(positive) {shown}"


def effect_line(result: TraceResult) -> str:
    """What the corruption did to it: the proxy clean and corrupted, and 95% intervals."""
    reach = result.low_reach
    return (
        f"In {unit_of(result)}: {rounded(result.high, reach)} clean, "
        f"{with_interval(result.low, reach)} corrupted; "
        f"total effect {with_interval(result.total_effect, reach)}."
    )


def caption_of(result: TraceResult, *, shares: bool = False, words: bool = False) -> str:
    """What a cell is, its unit, how many samples it rests on, and with which settings.

    Args:
        shares: effects are in percent of the total effect.
        words: rows are words instead of tokens.
    """
    from core.findings import RULE

    settings = result.settings
    unit = f"the total effect in {unit_of(result)}, in percent" if shares else unit_of(result)
    drawn = settings.corruption in ("noise", "uniform")
    samples = f"{result.samples_done} noise sample{'s' if result.samples_done != 1 else ''}"
    if result.samples_done < result.samples_wanted:
        samples += f" of {result.samples_wanted}"
    rests = f"the mean of {samples}" if drawn else "exact, since the corruption draws nothing"
    said = [f"A cell is the {_cell_is(result, unit)}: {rests}."]
    windowed = [KINDS[kind] for kind in settings.kinds if kind != "hidden"]
    if windowed:
        layers = f"{result.window} layers" if result.window != 1 else "1 layer"
        done = "restore" if settings.direction == "restore" else "corrupt"
        said.append(f"{' and '.join(windowed)} cells {done} {layers} around the one named.")
    if settings.severed:
        said.append(
            f"The token's later {KINDS[settings.severed]} contributions stay as in the corrupted "
            "run."
        )
    said.append(f"Starred tokens are corrupted with {corrupted_with(result)}.")
    if words:
        said.append("A word's cells are those of its last token.")
    if result.samples_done > 1:
        said.append(RULE)
    said.append("Hatched cells are fixed by construction; a frame marks the largest other one.")
    report = result.probe.report
    said.append(
        f"Model {result.model_name}; probe accuracy {report.accuracy:.1%} "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}) on {report.n:,} texts."
    )
    return " ".join(said)


def _cell_is(result: TraceResult, unit: str) -> str:
    if result.settings.direction == "corrupt":
        return f"loss in {unit} when one site of the clean run is put to its corrupted state"
    return f"change in {unit} when one site of the corrupted run is put back to its clean state"


def corrupted_with(result: TraceResult) -> str:
    """What takes the place of the corrupted tokens, in words."""
    settings = result.settings
    if settings.corruption == "mean":
        return "the mean embedding of the vocabulary"
    if settings.counterfactual is not None:
        return f"the tokens of \u201c{settings.counterfactual}\u201d"
    noise = settings.noise_scale
    name = "Gaussian" if settings.corruption == "noise" else "uniform"
    plural = "s" if noise != 1 else ""
    return f"{name} noise of {noise:g} standard deviation{plural} (seed {settings.seed})"


# --- parts ---------------------------------------------------------------------------------------


def _scale(theme: Theme, grey: bool = False) -> alt.Scale:
    """Of effects as shares of the scale's end."""
    colours = GREY if grey else RAMP[theme]
    return alt.Scale(domain=[-1, -0.5, 0, 0.5, 1], range=list(colours), clamp=True, nice=False)


def _layer_axis(layers: int) -> dict[str, Any]:
    return {
        "title": "layer",
        "titlePadding": 2,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelAngle": 0,
        "labelOverlap": True,
        "values": layer_ticks(layers),
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelPadding": 4,
    }


def _panel_title(title: str) -> alt.TitleParams:
    return alt.TitleParams(title, anchor="start", frame="group", fontSize=13, offset=6)


def layer_ticks(layers: int) -> list[int]:
    """Layers that are named on an axis: round and few."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if layers <= 13 * step)
    return list(range(0, layers, step))


def _slim(cells: pd.DataFrame) -> pd.DataFrame:
    """Only what the chart reads, in the fewest bytes: it is sent anew for every noise sample."""
    types = {
        "layer": "int16",
        "position": "int16",
        "row": "int16",
        "effect": "float32",
        "shade": "float32",
        "standard_error": "float32",
        "samples": "int16",
        "state": "uint8",
    }
    return cells[list(types)].astype(types)


def with_interval(mean: float, reach: float) -> str:
    """A mean with its interval, to the second digit of the interval's half width."""
    if not math.isfinite(reach) or reach <= 0:
        return rounded(mean, reach)
    low, high = rounded(mean - reach, reach), rounded(mean + reach, reach)
    return f"{rounded(mean, reach)} ({low} to {high})"


def rounded(value: float, reach: float = math.nan) -> str:
    """A number to the second digit of half its interval, or to three digits."""
    if not math.isfinite(reach) or reach <= 0:
        return f"{value:.3g}".replace("-", "\u2212")
    digits = min(max(1 - math.floor(math.log10(reach)), 0), 6)
    shown = f"{value:.{digits}f}"
    return (shown if float(shown) else shown.removeprefix("-")).replace("-", "\u2212")


def _inline(cells: pd.DataFrame) -> alt.InlineData:
    """The same as values of the specification itself.

    Altair turns a frame into values by a setting that all threads share, which Streamlit changes
    while it draws, and refuses more than 5,000 rows. A figure that is exported must know neither.
    """
    columns = {
        str(name): [None if value != value else value for value in column.tolist()]
        for name, column in cells.items()
    }
    names = list(columns)
    return alt.InlineData(
        [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )


def _wrapped(text: str, characters: int) -> list[str]:
    return textwrap.wrap(text, characters, break_long_words=True)[:8]
