"""How are the traces of several models drawn? Side by side, in common rows, on one colour scale.

Rows are tokens or words (`core.sweeps.comparison`), columns are layers, either counted or as a
share of the model's depth. The cells of a trace that means nothing are grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from ..errors import UserError
from ..tracing.view import KINDS, scale_end
from . import style
from .figures import ROW, TALL, TIGHT_ROW, scale_bar
from .row_labels import Labels, literal, row_axis
from .style import Theme

if TYPE_CHECKING:
    import pandas as pd

    from ..sweeps.average import Average

Depth = Literal["layer", "relative"]
SHARE_UNIT = "% of the total effect"


def shared_end(frame: pd.DataFrame, nothing: Collection[str] = ()) -> float:
    """Where the one colour scale ends: by the traces that mean something, if there are any.

    Args:
        nothing: names of the traces that mean nothing.
    """
    meant = frame[~frame["trace"].isin(list(nothing))]
    return scale_end(meant if len(meant) else frame)


def panel(
    frame: pd.DataFrame,
    trace: str,
    kind: str,
    *,
    end: float,
    unit: str,
    layers: int,
    depth: Depth = "layer",
    labels: Labels = "always",
    theme: Theme = "light",
    grey: bool = False,
    title: str | None = None,
    width: int | None = None,
) -> alt.LayerChart:
    """The cells of one kind of one trace.

    Args:
        frame: as `core.sweeps.comparison.cells` or `core.sweeps.comparison.difference` give it.
        end: where the colour scale ends on both sides, from `shared_end`.
        layers: of the deepest model that is seen together with this one.
        depth: "layer" counts, "relative" makes all models equally wide.
        labels: "narrow" names the rows only in windows in which panels stand one below the other.
        width: pixels; without it, as wide as the place it is put in.

    Raises:
        ValueError: the trace has no cells of this kind.
    """
    cells = frame[(frame["trace"] == trace) & (frame["kind"] == kind)]
    if cells.empty:
        raise UserError(f"The trace {trace!r} has no cells of the kind {kind!r}.")
    rows = row_labels(frame)
    relative = depth == "relative"
    if relative:
        x = alt.X("from:Q").scale(domain=[0, 1], nice=False)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axis = style.layer_axis(ticks, title="relative depth", format=".2~f", labelFlush=True)
    else:
        x = alt.X("from:Q").scale(domain=[0, layers], nice=False)
        # A layer's number stands below its middle.
        ticks = [layer + 0.5 for layer in style.layer_ticks(layers)]
        axis = style.layer_axis(ticks, labelExpr="datum.value - 0.5")
    x = x.axis(**axis)
    y = alt.Y("position:O").axis(row_axis(dict(enumerate(rows)), labels))
    base = alt.Chart(_values(cells, relative)).transform_calculate(
        token=f"({literal(dict(enumerate(rows)))})[datum.position]",
        certainty="isValid(datum.lower) ? format(datum.lower, '+.3~g') + ' to ' + "
        "format(datum.upper, '+.3~g') : 'needs two samples'",
        told="datum.trivial ? 'fixed by construction' : datum.faded ? 'no' : 'yes'",
    )
    effects = base.mark_rect(aria=False).encode(
        x,
        y,
        x2="upto:Q",
        color=alt.Color("effect:Q").scale(style.effect_scale(end, theme, grey=grey)).legend(None),
        opacity=alt.condition("datum.faded", alt.value(style.FADED), alt.value(1)),
        tooltip=[
            alt.Tooltip("token:N", title="token or word"),
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("effect:Q", title=unit, format="+.3f"),
            alt.Tooltip("certainty:N", title="95% interval"),
            alt.Tooltip("told:N", title="significant"),
        ],
    )
    trivial = (
        style.hatched(base, "datum.trivial", tooltip=None)
        .transform_calculate(middle="(datum.from + datum.upto) / 2")
        .encode(alt.X("middle:Q"), y)
    )
    chart = alt.LayerChart(
        layer=[effects, trivial],
        height=(TIGHT_ROW if len(rows) > TALL else ROW) * len(rows),
        view=style.GROUND,
        description=f"{trace}, {KINDS.get(kind, kind)}: effect in {unit}, tokens or words down, "
        "layers across",
    )
    if title:
        chart.title = style.panel_title(textwrap.wrap(title, 34)[:2])
    return chart.properties(**style.place(width))


def panels(
    frame: pd.DataFrame,
    layers: Mapping[str, int],
    *,
    unit: str,
    nothing: Collection[str] = (),
    depth: Depth = "layer",
    title: str | None = None,
    caption: str | None = None,
    theme: Theme = "light",
    width: int = 260,
) -> alt.VConcatChart:
    """A whole comparison as one figure: a row for each kind, a column for each trace, one legend.

    Args:
        layers: of each trace, by its name, in the order of the columns.
        nothing: names of the traces that mean nothing; their cells are grey.
        width: pixels of a panel.
    """
    end = shared_end(frame, nothing)
    deepest = max(layers.values())
    kinds = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    rows = []
    for kind in kinds:
        named = [name for name in layers if _has(frame, name, kind)]
        row = [
            panel(
                frame,
                name,
                kind,
                end=end,
                unit=unit,
                layers=deepest,
                depth=depth,
                labels="never" if column else "always",
                theme=theme,
                grey=name in nothing,
                title=f"{KINDS[kind]}, {name}",
                width=width,
            )
            for column, name in enumerate(named)
        ]
        rows.append(alt.hconcat(*row, spacing=18))
    figure: alt.VConcatChart = alt.vconcat(
        *rows, scale_bar(end, unit, theme=theme, width=280), spacing=18
    )
    return style.framed(figure, title, caption, width=width * len(layers) + 110, theme=theme)


def sites_chart(
    sites: pd.DataFrame, names: Sequence[str], *, theme: Theme = "light", width: int | None = None
) -> alt.LayerChart:
    """Where each trace's sites lie along the depth: a range of layers and the best one in it.

    Args:
        sites: as `core.sweeps.comparison.sites` gives it.
        names: of the traces, from top to bottom.
    """
    base = alt.Chart(alt.InlineData(_site_rows(sites)))
    y = alt.Y("trace:N").sort(list(names)).title(None).axis(labelLimit=220)
    offset = alt.YOffset("kind:N").sort(list(KINDS.values()))
    colour = (
        alt.Color("kind:N")
        .scale(
            domain=list(KINDS.values()),
            range=["#1f5f9e", "#c2571a", "#6b8e23"]
            if theme == "light"
            else ["#7db8f0", "#f0a060", "#b5d16a"],
        )
        .legend(title=None, orient="bottom", symbolType="circle")
    )
    x = alt.X("from:Q").scale(domain=[0, 1], nice=False).title("relative depth")
    tooltip = [
        alt.Tooltip("trace:N", title="model"),
        alt.Tooltip("kind:N", title="kind"),
        alt.Tooltip("site:N", title="site"),
        alt.Tooltip("token:N", title="token"),
        alt.Tooltip("layers:N", title="layers"),
        alt.Tooltip("share:N", title="of the total effect"),
    ]
    ranges = base.mark_rule(strokeWidth=5, opacity=0.35, strokeCap="round").encode(
        x, y, x2="upto:Q", yOffset=offset, color=colour, tooltip=tooltip
    )
    best = base.mark_point(filled=True, size=70, opacity=1).encode(
        alt.X("depth:Q"),
        y,
        yOffset=offset,
        color=colour,
        shape=alt.Shape("site:N")
        .scale(domain=["early", "late"], range=["circle", "diamond"])
        .legend(title=None, orient="bottom"),
        tooltip=tooltip,
    )
    words = base.mark_text(dy=-9, fontSize=11, aria=False).encode(
        alt.X("depth:Q"), y, yOffset=offset, text="token:N", color=alt.value(style.FAINT[theme])
    )
    chart = alt.LayerChart(
        layer=[ranges, best, words],
        height=66 * max(len(names), 1),
        view=style.NO_FRAME,
        description="Sites of each model along its depth",
    )
    return chart.properties(**style.place(width))


# --- parts ---------------------------------------------------------------------------------------


def _has(frame: pd.DataFrame, trace: str, kind: str) -> bool:
    return bool(((frame["trace"] == trace) & (frame["kind"] == kind)).any())


def row_labels(frame: pd.DataFrame) -> list[str]:
    """Labels of the rows, a star behind those that are corrupted in any trace."""
    marked = frame.groupby("position", sort=True).agg(
        token=("token", "first"), corrupted=("corrupted", "any")
    )
    return [
        f"{' '.join(str(token).split()) or token}{' *' if corrupted else ''}"
        for token, corrupted in zip(marked["token"], marked["corrupted"], strict=True)
    ]


def _values(cells: pd.DataFrame, relative: bool) -> alt.InlineData:
    start = cells["depth"] if relative else cells["layer"]
    upto = cells["upto"] if relative else cells["next_layer"]
    columns: dict[str, list[Any]] = {
        "layer": cells["layer"].tolist(),
        "from": [round(float(value), 4) for value in start],
        "upto": [round(float(value), 4) for value in upto],
        "position": cells["position"].tolist(),
        "trivial": cells["trivial"].tolist(),
        "faded": cells["faded"].tolist(),
    }
    for name in ("effect", "lower", "upper"):
        columns[name] = [float(f"{value:.5g}") for value in cells[name].tolist()]
    return style.inlined(columns)


def _site_rows(sites: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for site in sites.to_dict("records"):
        first, last = site["first_layer"], site["last_layer"]
        interval = ""
        if site["lower"] == site["lower"]:
            interval = f" ({site['lower']:.0%} to {site['upper']:.0%})"
        rows.append(
            {
                "trace": site["trace"],
                "site": site["site"],
                "kind": KINDS[site["kind"]],
                "token": site["token"],
                "depth": site["depth"],
                "from": site["depth_from"],
                "upto": site["depth_upto"],
                "layers": f"{first} to {last}, most at {site['layer']}",
                "share": f"{site['share']:.0%}{interval}",
            }
        )
    return rows


# --- averages ------------------------------------------------------------------------------------


def in_shown_unit(cells: pd.DataFrame, averages: Collection[Average]) -> pd.DataFrame:
    """The cells of averages, shares among them in percent."""
    if not _are_shares(averages):
        return cells
    return cells.assign(**{name: 100 * cells[name] for name in ("effect", "lower", "upper")})


def unit_of_averages(averages: Collection[Average]) -> str:
    """What those cells are measured in."""
    return SHARE_UNIT if _are_shares(averages) else str(next(iter(averages)).about["measured_in"])


def _are_shares(averages: Collection[Average]) -> bool:
    shares = {bool(average.about["normalised"]) for average in averages}
    if len(shares) > 1:
        raise UserError("Averages of shares and of effects cannot stand side by side.")
    return shares == {True}
