"""How is an average over tweets drawn? Frames of `core.sweeps.average` in, Altair charts out.

The heatmaps are those of Meng et al. 2022 (figure 1): roles of tokens down, layers across, the
kinds of site on one scale that is centred on zero. The lines are those of their appendix: the same
numbers by layer, a line and a 95% band for each role. The peak histogram shows what both hide:
where single tweets have their largest effect.

Every chart that a page shows is as wide as its place; `heatmap_figure` and `line_figure` put
panels, title and caption together for a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import altair as alt

from ..errors import UserError
from ..sweeps.average_findings import RULE, judged
from ..tracing.view import KINDS, noise_in_words, ordinal, scale_end
from . import style
from .figures import scale_bar
from .row_labels import Labels, literal, row_axis
from .style import Theme
from .templates import TEMPLATES, Drawing, Template

ROLE_LIMIT = 190  # pixels of a role's name beside a panel

if TYPE_CHECKING:
    import pandas as pd

    from ..sweeps.average import Average

ROW = 23  # pixels per role
LINES = 230  # pixels of a line panel's height
BAR = 25  # pixels per bar of a histogram
COMPARED = ("blue", "orange", "grey")

COLOURS: dict[str, tuple[str, str]] = {
    # Role -> on light and on dark; told apart by people who see no red or green too.
    "tweet_first": ("#8c6d1f", "#d8bd6a"),
    "middle": ("#7a828a", "#a3abb3"),
    "sentiment_first": ("#e08a00", "#ffc04d"),
    "sentiment_last": ("#c44500", "#ff8a47"),
    "negation": ("#b3478f", "#f08fce"),
    "emoji": ("#6a51a3", "#b9a3f0"),
    "name": ("#3a9fd4", "#7fcdf5"),
    "punctuation": ("#00805a", "#3fd0a0"),
    "tweet_last": ("#1f6fb2", "#6db3ee"),
    "template": ("#5d7052", "#a9bd9c"),
    "suffix": ("#94783f", "#cbb27a"),
    "last": ("#1c2128", "#e6e8eb"),
    "subject_first": ("#e08a00", "#ffc04d"),
    "subject_middle": ("#7a828a", "#a3abb3"),
    "subject_last": ("#c44500", "#ff8a47"),
    "subsequent": ("#00805a", "#3fd0a0"),
    "further": ("#b3478f", "#f08fce"),
}
DASHES = ([1, 0], [7, 3], [2, 2], [7, 3, 2, 3], [4, 2])

_TRIVIAL, _FADED, _LARGEST = 1, 2, 4  # as bits of one small number
_COLUMNS = ["place", "layer", "mean", "lower", "upper", "n", "state"]


# --- heatmaps ------------------------------------------------------------------------------------


def effect_end(*frames: pd.DataFrame, column: str = "mean") -> float:
    """Where one scale for all panels of these frames ends, on both sides."""
    import pandas as pd

    parts = [frame[[column]].rename(columns={column: "effect"}) for frame in frames]
    return scale_end(pd.concat(parts, ignore_index=True))


def heatmap(
    frame: pd.DataFrame,
    kind: str,
    *,
    titles: Mapping[str, str],
    end: float,
    unit: str,
    labels: Labels = "always",
    theme: Theme = "light",
    title: str | None = None,
) -> Drawing:
    """Mean effects of one kind of site: roles down, layers across.

    Args:
        frame: kind, layer, role, mean, lower, upper, n, and trivial where cells may be; as
            `Average.frame` has it.
        titles: what the roles are called, in the order in which they stand.
        end: where the colour scale ends, from `effect_end` of all panels together.
        labels: of the roles; "narrow" shows them only where panels stand one below the other.

    Raises:
        ValueError: the frame holds no site of this kind.
    """
    cells = frame[(frame["kind"] == kind) & frame["role"].isin(list(titles))]
    if cells.empty:
        raise UserError(
            f"There is no site of kind {kind!r} in this average; it holds "
            f"{', '.join(map(repr, dict.fromkeys(frame['kind'])))}."
        )
    cells = judged(cells) if "faded" not in cells else cells
    roles = [role for role in titles if role in set(cells["role"])]
    state = cells["faded"].astype("uint8") * _FADED + cells["largest"].astype("uint8") * _LARGEST
    if "trivial" in cells:
        state = state + cells["trivial"].astype("uint8") * _TRIVIAL
    place = cells["role"].map({role: i for i, role in enumerate(roles)}).astype("int16")
    shown = cells.assign(place=place, state=state)
    template = _heatmap(
        kind,
        tuple(titles[role] for role in roles),
        tuple(sorted(shown["layer"].unique().tolist())),
        end=end,
        unit=unit,
        labels=labels,
        theme=theme,
        title=title,
    )
    return Drawing(template, shown[_COLUMNS])


@lru_cache(maxsize=TEMPLATES)
def _heatmap(
    kind: str,
    roles: tuple[str, ...],
    layers: tuple[int, ...],
    *,
    end: float,
    unit: str,
    labels: Labels,
    theme: Theme,
    title: str | None,
) -> Template:
    """All of a heatmap but its cells."""
    named = dict(enumerate(roles))
    x = alt.X("layer:O").axis(**_layer_axis(list(layers)))
    y = alt.Y("place:O").axis(row_axis(named, labels, limit=ROLE_LIMIT))
    base = alt.Chart().transform_calculate(
        role=f"({literal(named)})[datum.place]",
        told=f"datum.state & {_TRIVIAL} ? 'fixed by construction' : "
        f"datum.state & {_FADED} ? 'no' : 'yes'",
        interval="isValid(datum.lower) ? format(datum.lower, '+.3f') + ' to ' + "
        "format(datum.upper, '+.3f') : 'needs two tweets'",
    )
    drawn = [
        base.mark_rect(aria=False, width={"band": 1 + len(layers) / 1500}).encode(
            x,
            y,
            color=alt.Color("mean:Q").scale(style.effect_scale(end, theme)).legend(None),
            opacity=alt.OpacityValue(
                1, condition={"test": f"datum.state & {_FADED}", "value": style.FADED}
            ),
            tooltip=[
                alt.Tooltip("role:N", title="role"),
                alt.Tooltip("layer:Q", title="layer"),
                alt.Tooltip("mean:Q", title="mean effect", format="+.3f"),
                alt.Tooltip("interval:N", title="95% interval"),
                alt.Tooltip("n:Q", title="tweets", format=","),
                alt.Tooltip("told:N", title="significant"),
            ],
        ),
        style.hatched(base, f"datum.state & {_TRIVIAL}").encode(x, y),
        style.outlined(base, f"datum.state & {_LARGEST}", style.INK[theme], 1.5).encode(x, y),
    ]
    chart = alt.LayerChart(
        layer=drawn,
        height=ROW * len(roles),
        view=style.GROUND,
        description=f"{KINDS.get(kind, kind)}: mean effect in {unit}, roles down, layers across",
        **style.AS_WIDE_AS_ITS_PLACE,
    )
    if title:
        chart.title = style.panel_title(title)
    return Template(chart)


def heatmap_figure(
    frame: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    unit: str,
    title: str = "",
    caption: str = "",
    theme: Theme = "light",
    panel_width: int = 300,
    end: float | None = None,
) -> alt.VConcatChart:
    """A panel for each kind, on one scale, with title, caption and legend: one figure for a file.

    Args:
        frame: as for `heatmap`.
        end: where the colour scale ends; by default where the frame's effects do.
    """
    end = effect_end(frame) if end is None else end
    kinds = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    panels = [
        heatmap(
            frame,
            kind,
            titles=titles,
            end=end,
            unit=unit,
            labels="never" if i else "always",
            theme=theme,
            title=KINDS[kind],
        ).chart(width=panel_width)
        for i, kind in enumerate(kinds)
    ]
    whole = alt.vconcat(
        alt.hconcat(*panels, spacing=16),
        scale_bar(end, unit, theme=theme, width=280),
        spacing=16,
    )
    return style.framed(whole, title, caption, width=panel_width * len(kinds) + 200, theme=theme)


def agreement(
    frame: pd.DataFrame,
    kind: str,
    *,
    titles: Mapping[str, str],
    theme: Theme = "light",
    title: str | None = None,
) -> alt.LayerChart:
    """By which of two corruptions each cell of one kind is significant: roles down, layers across.

    Args:
        frame: kind, layer, role, significant, trivial, and noise and pairs, the mean effects as
            shares, as `TwoCorruptions.cells` has them.
        titles: what the roles are called, in the order in which they stand.
    """
    rows = frame[(frame["kind"] == kind) & ~frame["trivial"]]
    shown = rows.assign(title=rows["role"].map(dict(titles)))
    dark = theme == "dark"
    colours = {
        "both": COLOURS["punctuation"][dark],
        "noise only": style.ORANGE[theme],
        "pairs only": style.BLUE[theme],
        "neither": "rgba(128, 128, 128, 0.12)",
    }
    layers = sorted(frame["layer"].unique().tolist())
    base = alt.Chart(shown[["title", "layer", "significant", "noise", "pairs"]])
    drawn = base.mark_rect(aria=False).encode(
        alt.X("layer:O").scale(domain=layers).axis(**_layer_axis(layers)),
        alt.Y("title:N")
        .scale(domain=list(titles.values()))
        .axis(**style.named_rows(labelLimit=ROLE_LIMIT)),
        alt.Color("significant:N")
        .scale(domain=list(colours), range=list(colours.values()))
        .legend(None),
        tooltip=[
            alt.Tooltip("title:N", title="role"),
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("significant:N", title="significant by"),
            alt.Tooltip("noise:Q", title="noise, share", format="+.1%"),
            alt.Tooltip("pairs:Q", title="pairs, share", format="+.1%"),
        ],
    )
    chart = alt.LayerChart(
        layer=[drawn],
        height=ROW * len(titles),
        description=f"{KINDS.get(kind, kind)}: cells significant by noise, by pairs, or by both",
    )
    if title:
        chart.title = style.panel_title(title)
    return _placed(chart)


# --- lines ---------------------------------------------------------------------------------------


def lines(
    frame: pd.DataFrame,
    kind: str,
    *,
    titles: Mapping[str, str],
    unit: str,
    theme: Theme = "light",
    domain: tuple[float, float] | None = None,
    title: str | None = None,
    named: bool = True,
) -> Drawing:
    """Mean effects of one kind of site by layer: a line with a 95% band for each role.

    Args:
        frame: kind, layer, role, mean, lower, upper, n; trivial cells are left out.
        titles: the roles that are drawn, in their order, and what they are called.
        domain: of the effects, so that panels share an axis; see `line_domain`.
        named: draw the legend.
    """
    rows = frame[(frame["kind"] == kind) & frame["role"].isin(list(titles))]
    if "trivial" in rows:
        rows = rows[~rows["trivial"]]
    shown = rows.assign(series=rows["role"].map(dict(titles)))
    dark = theme == "dark"
    names = list(dict.fromkeys(titles.values()))
    colours = [COLOURS[role.partition(":")[0]][dark] for role in titles]
    return _bands(
        shown,
        names,
        colours,
        unit=unit,
        what="role",
        domain=domain,
        title=title,
        named=named,
        last=int(frame["layer"].max()),
    )


def group_lines(
    frame: pd.DataFrame,
    kind: str,
    groups: Sequence[str],
    *,
    unit: str,
    theme: Theme = "light",
    domain: tuple[float, float] | None = None,
    title: str | None = None,
    named: bool = True,
) -> Drawing:
    """Mean effects at one role by layer, in several groups of tweets, with 95% bands.

    Args:
        frame: group, kind, layer, mean, lower, upper, n, of one role.
        groups: their names in order.
    """
    rows = frame[frame["kind"] == kind]
    if "trivial" in rows:
        rows = rows[~rows["trivial"]]
    palette = {"blue": style.BLUE[theme], "orange": style.ORANGE[theme], "grey": style.MARKS}
    return _bands(
        rows.assign(series=rows["group"]),
        groups,
        [palette[name] for name in COMPARED[: len(groups)]],
        unit=unit,
        what="tweets",
        domain=domain,
        title=title,
        named=named,
        last=int(frame["layer"].max()),
    )


def ablation_lines(
    ablation: pd.DataFrame,
    groups: Mapping[str, str],
    *,
    unit: str,
    theme: Theme = "light",
    title: str | None = None,
) -> Drawing:
    """What is lost when tokens are silenced from a layer on, with 95% bands.

    Args:
        ablation: group, layer, mean, lower, upper, n, as `core.sweeps.punctuation.ablation` gives
        it.
        groups: those that are drawn, and what they are called.
    """
    rows = ablation[ablation["group"].isin(list(groups))]
    palette = {"punctuation": "punctuation", "other": "middle", "sentiment": "sentiment_last"}
    colours = [COLOURS[palette.get(group, "tweet_last")][theme == "dark"] for group in groups]
    return _bands(
        rows.assign(series=rows["group"].map(dict(groups))),
        list(groups.values()),
        colours,
        unit=unit,
        what="tokens",
        title=title,
        along="ablated from this layer on",
    )


def line_domain(frame: pd.DataFrame) -> tuple[float, float]:
    """Least and largest end of an interval, zero included, with some room; trivial cells out."""
    rows = frame[~frame["trivial"]] if "trivial" in frame else frame
    low = min(0.0, float(rows[["lower", "mean"]].min().min()))
    high = max(0.0, float(rows[["upper", "mean"]].max().max()))
    room = 0.04 * (high - low or 1.0)
    return low - room if low < 0 else 0.0, high + room


def line_figure(
    panels: Sequence[Drawing],
    *,
    title: str = "",
    caption: str = "",
    theme: Theme = "light",
    panel_width: int = 300,
) -> alt.VConcatChart:
    """Panels beside each other, with title and caption, for a file."""
    charts = [panel.chart(width=panel_width) for panel in panels]
    whole = alt.vconcat(alt.hconcat(*charts, spacing=22))
    return style.framed(whole, title, caption, width=(panel_width + 30) * len(panels), theme=theme)


# --- peaks ---------------------------------------------------------------------------------------


def peak_roles(
    peaks: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    theme: Theme = "light",
    select: str | None = None,
    chosen: str | None = None,
) -> alt.LayerChart:
    """In how many tweets the largest effect of one kind lies at each role.

    Args:
        peaks: of one kind, one row a tweet: role, as `Average.peaks` has it.
        titles: all roles, in order.
        select: name of a point selection over `role` (the key, not the title).
        chosen: the role whose bar is drawn strong.
    """
    counts = peaks["role"].astype(str).value_counts()
    rows = [
        {
            "role": role,
            "title": name,
            "tweets": int(counts.get(role, 0)),
            "share": int(counts.get(role, 0)) / max(len(peaks), 1),
        }
        for role, name in titles.items()
    ]
    base = alt.Chart(alt.InlineData(rows)).encode(
        alt.Y("title:N").sort(None).axis(**style.named_rows(labelLimit=190, labelPadding=6))
    )
    bars = base.mark_bar(
        color=style.BLUE[theme], height={"band": 0.66}, cursor="pointer" if select else "default"
    ).encode(
        alt.X("tweets:Q").axis(title="tweets", tickMinStep=1, tickCount=5, **style.SMALL),
        opacity=_strong("role", chosen),
        tooltip=[
            alt.Tooltip("title:N", title="role"),
            alt.Tooltip("tweets:Q", title="tweets", format=","),
            alt.Tooltip("share:Q", title="share", format=".1%"),
        ],
    )
    if select:
        bars = bars.add_params(alt.selection_point(name=select, fields=["role"], clear=False))
    shares = (
        base.transform_filter("datum.tweets > 0")
        .mark_text(align="left", dx=4, fontSize=11, color=style.FAINT[theme])
        .encode(x="tweets:Q", text=alt.Text("share:Q", format=".0%"))
    )
    chart = alt.LayerChart(layer=[bars, shares], height=BAR * len(rows))
    chart.title = style.panel_title("By role of the token")
    return _placed(chart)


def peak_layers(
    peaks: pd.DataFrame,
    layers: Sequence[int],
    *,
    theme: Theme = "light",
    select: str | None = None,
    chosen: int | None = None,
    of: str = "",
    height: int = LINES,
) -> alt.LayerChart:
    """In how many tweets the largest effect of one kind lies at each layer.

    Args:
        peaks: of one kind (and one role, if one is chosen), one row a tweet: layer.
        layers: that were traced.
        select: name of a point selection over `layer`.
        chosen: the layer whose bar is drawn strong.
        of: the role whose tweets alone are counted, for the title.
    """
    counts = peaks["layer"].value_counts()
    rows = [{"layer": layer, "tweets": int(counts.get(layer, 0))} for layer in layers]
    bars = (
        alt.Chart(alt.InlineData(rows))
        .mark_bar(
            color=style.BLUE[theme], width={"band": 0.84}, cursor="pointer" if select else "default"
        )
        .encode(
            alt.X("layer:O").axis(**_layer_axis(list(layers))),
            alt.Y("tweets:Q").axis(
                title="tweets",
                tickMinStep=1,
                tickCount=4,
                **style.SMALL,
            ),
            opacity=_strong("layer", chosen),
            tooltip=[
                alt.Tooltip("layer:Q", title="layer"),
                alt.Tooltip("tweets:Q", title="tweets", format=","),
            ],
        )
    )
    if select:
        bars = bars.add_params(alt.selection_point(name=select, fields=["layer"], clear=False))
    chart = alt.LayerChart(layer=[bars], height=height)
    chart.title = style.panel_title(f"By layer, at {of}" if of else "By layer")
    return _placed(chart)


# --- how large, how sure -------------------------------------------------------------------------


def totals(
    frame: pd.DataFrame, *, unit: str, theme: Theme = "light", title: str | None = None
) -> alt.LayerChart:
    """Means with 95% intervals, one below the other.

    Args:
        frame: group, mean, lower, upper, n, in the order in which they stand.
    """
    base = alt.Chart(frame[["group", "mean", "lower", "upper", "n"]]).encode(
        alt.Y("group:N").sort(None).axis(**style.named_rows(labelLimit=200))
    )
    drawn = [
        style.zero("x"),
        base.mark_rule(strokeWidth=2.5, color=style.BLUE[theme]).encode(x="lower:Q", x2="upper:Q"),
        base.mark_point(filled=True, size=75, opacity=1, color=style.BLUE[theme]).encode(
            alt.X("mean:Q").axis(title=unit, tickCount=5, **style.SMALL),
            tooltip=[
                alt.Tooltip("group:N", title="tweets"),
                alt.Tooltip("mean:Q", title="mean", format="+.3f"),
                *style.interval_tooltips(),
                alt.Tooltip("n:Q", title="n", format=","),
            ],
        ),
    ]
    chart = alt.LayerChart(layer=drawn, height=26 * len(frame))
    if title:
        chart.title = style.panel_title(title)
    return _placed(chart)


def precision(
    history: pd.DataFrame,
    *,
    wanted: float,
    needed: int,
    unit: str,
    theme: Theme = "light",
) -> alt.LayerChart:
    """How the interval of one mean shrank, how it would go on, and where it meets a wanted width.

    Args:
        history: n, reach (half the 95% interval) of one cell, or of the total effect.
        wanted: half width that is asked for, in the unit of the means.
        needed: tweets that it takes, by 1 / sqrt(n).
    """
    known = history[["n", "reach"]].dropna()
    known = known[(known["reach"] > 0) & (known["n"] > 1)]
    drawn: list[Any] = []
    x = (
        alt.X("n:Q")
        .scale(type="log", nice=False)
        .axis(
            title="tweets",
            tickCount=6,
            **style.SMALL,
            format="~s",
            grid=False,
        )
    )
    y = (
        alt.Y("reach:Q")
        .scale(type="log", nice=False)
        .axis(
            title=["half the 95% interval,", unit],
            tickCount=5,
            **style.SMALL,
            format="~g",
        )
    )
    if len(known):
        last, reach = int(known["n"].iloc[-1]), float(known["reach"].iloc[-1])
        furthest = max(needed, round(1.5 * last))
        onward = [
            {"n": n, "reach": reach * (last / n) ** 0.5}
            for n in (last, *(round(last * (furthest / last) ** (i / 12)) for i in range(1, 13)))
        ]
        drawn.append(
            alt.Chart(alt.InlineData(onward))
            .mark_line(color=style.BLUE[theme], strokeDash=[4, 4], strokeWidth=1.5, tooltip=None)
            .encode(x, y)
        )
    tooltip = [
        alt.Tooltip("n:Q", title="tweets", format=","),
        alt.Tooltip("reach:Q", title="half the interval", format=".3g"),
    ]
    drawn.append(
        alt.Chart(known)
        .mark_line(
            color=style.BLUE[theme],
            strokeWidth=2,
            point={"size": 36, "filled": True, "color": style.BLUE[theme]},
        )
        .encode(x, y, tooltip=tooltip)
    )
    goal = alt.Chart(alt.InlineData([{"reach": wanted, "n": needed}]))
    drawn.append(goal.mark_rule(color=style.ORANGE[theme], strokeDash=[2, 3]).encode(y="reach:Q"))
    drawn.append(
        goal.mark_point(filled=True, size=90, opacity=1, color=style.ORANGE[theme]).encode(
            x, y, tooltip=tooltip
        )
    )
    return _placed(alt.LayerChart(layer=drawn, height=LINES))


# --- words ---------------------------------------------------------------------------------------


def unit_of(average: Average) -> str:
    """What the means are measured in."""
    return str(average.about["unit"])


def caption_of(average: Average, what: str = "A cell") -> str:
    """What is drawn, its unit, how many tweets it rests on, and with which settings."""
    from ..sweeps.average import TOWARDS

    about = average.about
    low, high = about["samples"]
    samples = f"{low} noise sample{'s' if high != 1 else ''}" if low == high else f"{low} to {high}"
    if about["corruption"] not in ("noise", "uniform"):
        samples = "one run"
    done = "of the corrupted run is restored to its clean activation"
    if about["direction"] == "corrupt":
        done = "of the clean run is replaced by its corrupted activation (a loss)"
    units = "tweets" if about.get("pairs") is None else "pairs"
    several = ", and pairs of one tweet" if about.get("pairs") not in (None, about["n"]) else ""
    said = [
        f"{what} is the mean over {units} of the change in {_measured(average)} when one site "
        f"{done}, counted {TOWARDS[about['towards']]}; {average.counted}, {samples} each, tokens "
        f"of one role in a tweet averaged first{several}.",
        f"Intervals: {average.intervals}.",
    ]
    windowed = [KINDS[kind] for kind in about["kinds"] if kind != "hidden"]
    if windowed:
        layers = f"{about['window']} layer{'s' if about['window'] != 1 else ''}"
        said.append(f"{' and '.join(windowed)} sites cover {layers} around the one named.")
    if about["every"] > 1:
        said.append(f"Every {ordinal(about['every'])} layer of {about['layers']} was traced.")
    with_what = noise_in_words(about["corruption"], about["noise_scale"], about["seed"])
    said.append(f"The tweet is corrupted with {with_what}.")
    said.append(f"Model {about['model']}; the probe reads {_reads(about['probe'])}.")
    return " ".join(said)


def heatmap_caption(average: Average) -> str:
    """The same of heatmaps, with what is faded, hatched and framed."""
    said = "A frame marks a panel\u2019s largest cell."
    if average.frame["trivial"].any():
        said = "Hatched cells are fixed by construction; a frame marks the largest other one."
    return f"{caption_of(average)} {RULE} {said}"


# --- parts ---------------------------------------------------------------------------------------


def _measured(average: Average) -> str:
    unit = str(average.about["measured_in"])
    return f"the {unit}, as a share of the total effect" if average.about["normalised"] else unit


def _reads(features: str) -> str:
    from ..probes.probe import FEATURES

    layer = features.partition(":")[2]
    return f"the state after layer {layer}" if layer else dict(FEATURES).get(features, features)


def _bands(
    shown: pd.DataFrame,
    names: Sequence[str],
    colours: Sequence[str],
    *,
    last: int | None = None,
    **look: Any,
) -> Drawing:
    """Lines of means with bands, by layer.

    Args:
        last: the layer at which the axis ends; without it the last one that is shown.
        look: as for `_band_template`.
    """
    end = int(shown["layer"].max()) if last is None else last
    template = _band_template(tuple(names), tuple(colours), end, **look)
    rows = shown[["series", "layer", "mean", "lower", "upper", "n"]]
    return Drawing(template, rows.astype({"series": "str"}))


@lru_cache(maxsize=TEMPLATES)
def _band_template(
    names: tuple[str, ...],
    colours: tuple[str, ...],
    end: int,
    *,
    unit: str,
    what: str,
    domain: tuple[float, float] | None = None,
    title: str | None = None,
    named: bool = True,
    along: str = "layer",
) -> Template:
    """All of a panel of lines but its numbers."""
    base = alt.Chart()
    x = (
        alt.X("layer:Q")
        .scale(nice=False, domain=[0, end])
        .axis(**style.along_layers(end, title=along, **style.SMALL))
    )
    span: Any = alt.Undefined if domain is None else list(domain)
    y = alt.Y("lower:Q").scale(nice=False, domain=span).axis(title=unit, tickCount=5, **style.SMALL)
    legend: Any = alt.Legend(
        orient="bottom",
        title=None,
        columns=2,
        labelLimit=260,
        symbolType="stroke",
        symbolStrokeWidth=3,
        symbolSize=220,
        symbolOpacity=1,
        offset=6,
        rowPadding=2,
    )
    colour = (
        alt.Color("series:N")
        .scale(domain=list(names), range=list(colours))
        .legend(legend if named else None)
    )
    dash = (
        alt.StrokeDash("series:N")
        .scale(domain=list(names), range=[DASHES[i % len(DASHES)] for i in range(len(names))])
        .legend(legend if named else None)
    )
    band = base.mark_area(opacity=0.16, tooltip=None, aria=False).encode(
        x, y, alt.Y2("upper:Q"), color=colour
    )
    mean = alt.Y("mean:Q")
    drawn = base.mark_line(strokeWidth=2, tooltip=None).encode(
        x, mean, color=colour, strokeDash=dash
    )
    points = base.mark_point(filled=True, size=28, opacity=1).encode(
        x,
        mean,
        color=colour,
        tooltip=[
            alt.Tooltip("series:N", title=what),
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("mean:Q", title="mean", format="+.3f"),
            *style.interval_tooltips(),
            alt.Tooltip("n:Q", title="tweets", format=","),
        ],
    )
    chart = alt.LayerChart(
        layer=[style.zero("y"), band, drawn, points],
        height=LINES,
        view=style.NO_FRAME,
        **style.AS_WIDE_AS_ITS_PLACE,
    )
    if title:
        chart.title = style.panel_title(title)
    return Template(chart)


def _placed(chart: alt.LayerChart) -> alt.LayerChart:
    chart.view = style.NO_FRAME
    # Set one by one: `properties` would copy the chart and check it against the schema.
    for name, value in style.AS_WIDE_AS_ITS_PLACE.items():
        setattr(chart, name, value)
    return chart


def _strong(field: str, chosen: str | int | None) -> Any:
    """Full opacity for the chosen bar, or for all where none is."""
    if chosen is None:
        return alt.value(0.9)
    literal_of = f"'{chosen}'" if isinstance(chosen, str) else str(chosen)
    return alt.condition(f"datum.{field} === {literal_of}", alt.value(1), alt.value(0.35))


def _layer_axis(layers: list[int]) -> dict[str, Any]:
    round_ones = set(style.layer_ticks(max(layers, default=0) + 1))
    named = [layer for layer in layers if layer in round_ones]
    if len(named) < 3:
        named = layers[:: max(1, len(layers) // 8)]
    return style.layer_axis(named, orient="bottom")
