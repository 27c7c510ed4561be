"""How is a trace drawn? Tidy frames in, Altair charts out.

The heatmaps are those of Meng et al. 2022 (figure 1): tokens down, layers across, corrupted tokens
starred. Other than there, the panels that are seen together share one colour scale, centred on
zero and with the same end on both sides, because an effect may go either way and panels are only
worth comparing on one scale.

What is certain is not said by colour alone: cells that cannot be told from zero are faded, cells
that are fixed by construction hatched, and the largest other cell of a panel has a frame. Cells
that are estimated and not run are drawn at half their height. Another sample, unit, end of the
scale or chosen cell, and words in place of tokens in a tweet that is not long, change a panel's
data alone and not its specification: the browser redraws it in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from ..errors import UserError
from ..tracing.result import TraceResult
from ..tracing.view import KINDS, View, scale_end
from . import style
from .row_labels import Labels, Rows, literal, row_axis
from .style import Theme
from .templates import TEMPLATES, Drawing, Template

if TYPE_CHECKING:
    import pandas as pd

    from ..patching.sites import Kind

    Cell = tuple[Kind, int, int]
    """Kind, layer and position."""

ROW, TIGHT_ROW = 20, 18  # pixels per token; labels of 12 px cannot touch
WIDE_ROW = 26  # pixels per token of a panel that stands alone
TALL = 24  # tokens; a taller panel has tighter rows and names its layers above too


# What is drawn of a cell besides its colour, as bits of one small number.
_TRIVIAL, _FADED, _LARGEST, _CHOSEN, _EXACT, _ESTIMATED = 1, 2, 4, 8, 16, 32


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
        raise UserError(
            f"There is no site of kind {kind!r} in this trace; it holds "
            f"{', '.join(map(repr, dict.fromkeys(frame['kind'])))}."
        )
    rows = rows or Rows.of(frame)
    cells = _widened(
        cells.assign(
            row=cells["position"] + rows.first,
            shade=cells["effect"] / end,
            state=_state(cells, kind, chosen),
        )
    )
    shown = cells["row"].nunique()
    tall = shown > TALL and not strip
    template = _panel(
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
        across="at" if "at" in cells else "layer",
        estimated="estimated" in cells,
        select=select,
    )
    return Drawing(template, _slim(cells))


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
            alt.X("layer:O").axis(orient="top", **_layer_axis(int(layers["layer"].max()))),
            alt.Y("position:O").axis(axis),
        )
        .properties(
            title=style.panel_title(title),
            view=style.NO_FRAME,
            **style.AS_WIDE_AS_ITS_PLACE,
        )
    )
    return strip


@lru_cache(maxsize=TEMPLATES)
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
    across: str,
    estimated: bool,
    select: str | None,
) -> Template:
    """All of a panel but its cells.

    Args:
        height: of a row, in pixels.
        layers_above: the first row, of a panel so tall that it names its layers above too.
        across: the column that says under which layer a cell is drawn.
        estimated: some cells may be estimates.
    """
    layer_axis = _layer_axis(layers - 1)
    x = alt.X(f"{across}:O").axis(alt.Axis(orient="bottom", **layer_axis) if layers_below else None)
    y = alt.Y("row:O").axis(row_axis(rows.labels, labels))
    # The words of a tooltip stand in the specification once, not in every row.
    base = alt.Chart().transform_calculate(
        token=f"({literal(rows.names)})[datum.row]",
        certainty="isValid(datum.standard_error) ? format(datum.standard_error, '.3f')"
        f" : datum.state & {_EXACT} ? 'none: deterministic' : 'needs two samples'",
        told=f"datum.state & {_ESTIMATED} ? 'an estimate, not a run'"
        f" : datum.state & {_TRIVIAL} ? 'fixed by construction' : datum.state & {_FADED} ? 'no'"
        f" : datum.state & {_EXACT} || isValid(datum.standard_error) ? 'yes'"
        " : 'needs two samples'",
    )
    # Wider than its column by a quarter of a pixel or so, lest background shows between two cells.
    pointer: dict[str, Any] = {"cursor": "pointer"} if select else {}
    wide = {"band": 1 + layers / 1500}
    effects = base.mark_rect(aria=False, width=wide, **pointer).encode(
        x,
        y,
        color=alt.Color("shade:Q").scale(style.effect_scale(1, theme, grey=grey)).legend(None),
        opacity=alt.OpacityValue(
            1, condition={"test": f"datum.state & {_FADED}", "value": style.FADED}
        ),
        tooltip=[
            alt.Tooltip("token:N", title="token"),
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("effect:Q", title="effect", format="+.3f"),
            alt.Tooltip("certainty:N", title="standard error"),
            alt.Tooltip("samples:Q", title="samples"),
            alt.Tooltip("told:N", title="significant"),
        ],
    )
    drawn: list[Any] = [effects]
    if estimated:
        half = effects.copy()
        half.mark = alt.MarkDef(type="rect", aria=False, width=wide, height={"band": 0.5})
        drawn = [
            effects.transform_filter(f"!(datum.state & {_ESTIMATED})"),
            half.transform_filter(f"datum.state & {_ESTIMATED}"),
        ]
    if select:
        drawn[0] = drawn[0].add_params(
            alt.selection_point(
                name=select, fields=["layer", "position"], toggle="true", clear=False
            )
        )
    drawn += [
        style.hatched(base, f"datum.state & {_TRIVIAL}", tooltip=None).encode(x, y),
        *(
            style.outlined(base, test, colour, width, tooltip=None, strokeJoin="round").encode(x, y)
            for test, colour, width in (
                (f"datum.state & {_LARGEST}", style.INK[theme], 1.5),
                (f"datum.state & {_CHOSEN}", style.CHOSEN[theme], 3),
            )
        ),
    ]
    if layers_above is not None:
        # The layers stay in sight at the top of the panel too.
        above = alt.X(f"{across}:O").axis(orient="top", **{**layer_axis, "title": None})
        first_row = base.transform_filter(f"datum.row == {layers_above}")
        drawn.append(first_row.mark_rect(opacity=0, tooltip=None, aria=False).encode(above, y))
    chart = alt.LayerChart(
        layer=drawn,
        height=alt.Step(height),
        view=style.GROUND,
        description=f"{KINDS.get(kind, kind)}: effects, tokens down, layers across",
        **style.AS_WIDE_AS_ITS_PLACE,
    )
    if layers_above is not None:
        chart.resolve = alt.Resolve(axis=alt.AxisResolveMap(x="independent"))
    if title:
        chart.title = style.panel_title(title)
    return Template(chart)


def _widened(cells: pd.DataFrame) -> pd.DataFrame:
    """Coarse layers' cells drawn over the layers up to the next one that was traced at their token.

    A new column `at` is the layer under which a cell is drawn. Where every n-th layer is all that
    there is, the axis has no others.
    """
    layers = np.unique(cells["layer"])
    places = np.arange(layers[0], layers[-1] + 1, np.gcd.reduce(np.diff(layers)) or 1)
    if len(cells) == len(places) * cells["position"].nunique():
        return cells
    import pandas as pd

    drawn = [cells.assign(at=cells["layer"])]
    for _, row in cells.groupby("position"):
        row = row.sort_values("layer")
        own = np.searchsorted(row["layer"], places, side="right") - 1
        copies = row.iloc[own[own >= 0]].assign(at=places[own >= 0])
        copies["state"] &= _TRIVIAL | _FADED | _EXACT  # a frame is around the layer itself
        drawn.append(copies[copies["at"] != copies["layer"]])
    return pd.concat(drawn, ignore_index=True)


def _state(cells: pd.DataFrame, kind: str, chosen: Cell | None) -> pd.Series[int]:
    """What is drawn of each cell besides its colour."""
    state = cells["trivial"].astype("uint8") * _TRIVIAL
    for column, bit in (
        ("faded", _FADED),
        ("largest", _LARGEST),
        ("exact", _EXACT),
        ("estimated", _ESTIMATED),
    ):
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
        alt.GradientStop(offset=i / (len(style.RAMP[theme]) - 1), color=color)
        for i, color in enumerate(style.RAMP[theme])
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
                **style.SMALL,
                grid=False,
                ticks=False,
                domain=False,
                labelPadding=4,
            ),
            x2=alt.X2("to:Q"),
        )
        .properties(
            view=style.NO_FRAME,
            description=f"Colour scale from {-end:g} to {end:g} {unit}",
            **style.place(width),
        )
    )
    return strip


def trace_heatmaps(
    trace: View | TraceResult | pd.DataFrame,
    *,
    unit: str | None = None,
    title: str | None = None,
    caption: str | None = None,
    theme: Theme = "light",
    panel_width: int = 340,
    grey: bool | None = None,
    inline: bool = True,
    titles: Mapping[str, str] = KINDS,
) -> alt.VConcatChart:
    """A whole trace as one figure: a panel for each kind, title, caption and one legend.

    Args:
        trace: a view, or a result to be viewed as it is, whose own title, caption and unit are used
            where none is given; or a frame like that of `TraceResult.frame()`.
        panel_width: pixels.
        grey: no colours, for a trace whose cells mean nothing; by default as a view says.
        inline: hold the cells as values; otherwise as frames, which `core.exporting.figure_files`
            reads when the figure is saved.
        titles: of the panels, by the frame's kinds, in the order in which they stand.
    """
    if isinstance(trace, TraceResult):
        trace = View(trace)
    if isinstance(trace, View):
        unit = unit or trace.unit
        title = trace.title if title is None else title
        caption = trace.caption if caption is None else caption
        grey = trace.grey if grey is None else grey
        trace = trace.frame
    frame = trace
    unit = unit or "proxy"
    end = scale_end(frame)
    kinds = [kind for kind in titles if (frame["kind"] == kind).any()]
    panels = []
    for i, kind in enumerate(kinds):
        labels: Labels = "never" if i else "always"
        drawn = heatmap(
            frame, kind, end=end, labels=labels, theme=theme, title=titles[kind], grey=bool(grey)
        )
        panel = drawn.chart(width=panel_width)
        if inline:
            panel.data = style.inlined(
                {str(name): column.tolist() for name, column in drawn.data.items()}
            )
        panels.append(panel)
    figure: alt.VConcatChart = alt.vconcat(
        alt.hconcat(*panels, spacing=18),
        scale_bar(end, unit, theme=theme, width=280),
        spacing=16,
    )
    return style.framed(figure, title, caption, width=panel_width * len(kinds) + 110, theme=theme)


# --- parts ---------------------------------------------------------------------------------------


def _layer_axis(last: int) -> dict[str, Any]:
    return style.layer_axis(style.layer_ticks(last + 1))


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
    if "at" in cells:
        types["at"] = "int16"
    return cells[list(types)].astype(types)
