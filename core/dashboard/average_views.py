"""Which sides of an average can be looked at closer? By layer, by group, beside another sweep."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from ..charts import average as drawing
from ..charts.figures import scale_bar
from ..errors import UserError
from ..sweeps import average_findings as words
from ..sweeps.average import Average, difference
from ..sweeps.store import Store
from ..sweeps.study import Options, Study
from ..tracing.findings import signed
from ..tracing.view import KINDS
from . import follow, job, plain, start, switch, theme
from .ablating_punctuation import punctuation_test
from .average_parts import (
    end_figure,
    kind_panels,
    line_figure,
    role_choice,
    row_of_panels,
    save_below,
    short_unit,
    totals_frame,
)
from .average_peaks import single_tweets
from .averaging import FIRST_ROLES, VIEWS, averaging, show_claim
from .charts import show_chart
from .noise_and_pairs import noise_and_pairs
from .saving import downloads
from .sweeping import title_of

if TYPE_CHECKING:
    import pandas as pd


def view(found: Study, store: Store | None, stores: list[Store], options: Options | None) -> None:
    """One side of the study, as the person chooses; only that one is drawn."""
    st.space("small")
    chosen = switch("Details", VIEWS, "average:view")
    draw = {
        "layers": partial(_layers, found),
        "peaks": partial(single_tweets, found, store),
        "label": partial(_label, found),
        "length": partial(_length, found),
        "sweeps": partial(_sweeps, found, store, stores, options),
        "corruptions": partial(noise_and_pairs, store, stores, options),
        "punctuation": partial(punctuation_test, found, store),
        "precision": partial(_precision, found),
    }
    draw[chosen]()


def _layers(found: Study) -> None:
    average, titles = found.average, found.average.titles()
    firsts = FIRST_ROLES[average.about["roles"]]
    chosen = st.pills(
        "Roles",
        list(titles),
        selection_mode="multi",
        default=[role for role in firsts if role in titles],
        format_func=titles.__getitem__,
        key=f"average:lines:{average.about['roles']}",
    )
    if not chosen:
        st.info("Choose a role above.", icon=":material/show_chart:")
        return
    some = {role: titles[role] for role in titles if role in chosen}
    shown = average.frame[average.frame["role"].isin(list(some))]
    unit = drawing.unit_of(average)
    draw = partial(
        drawing.lines,
        average.frame,
        titles=some,
        unit=unit,
        domain=drawing.line_domain(shown),
        theme=theme(),
    )
    row_of_panels(average, draw, "average:lines")
    line = "Bands are the 95% intervals over tweets; settings are those of the figure above."
    caption = f"{drawing.caption_of(average, 'A point')} Bands are the 95% intervals."
    end_figure("lines", average, draw, shown, line, caption, "Effects by layer")


def _label(found: Study) -> None:
    if not found.by_label:
        st.info("This sweep has tweets of one sentiment alone.", icon=":material/info:")
        return
    _groups(found, "label", found.by_label, "positive minus negative")


def _length(found: Study) -> None:
    if not found.by_length:
        st.info("All tweets of this sweep are equally long.", icon=":material/info:")
        return
    st.caption(
        f"Short tweets have up to {found.median} tokens, the median; the original experiment found "
        "that \u201cfor longer inputs, the earlier site is not as distinct\u201d. Verdicts hold "
        "at 5% for all claims together (Bonferroni)."
    )
    for claim in words.blurs(found.differences["length"], found.average):
        show_claim(claim)
    _groups(found, "length", found.by_length, "short minus long")


def _groups(found: Study, name: str, groups: dict[str, Average], minus: str) -> None:
    """Two groups of tweets: total effects, one role by layer, and the difference with interval."""
    average = found.average
    unit, titles = drawing.unit_of(average), average.titles()
    first, second = st.columns([3, 5], gap="large", vertical_alignment="bottom")
    with first:
        role = role_choice(average, f"average:{name}:role")
    totals = totals_frame(found)
    totals = totals[totals["group"].isin(["all", *groups])]
    with second:
        show_chart(
            drawing.totals(totals, unit=f"total effect, {short_unit(average)}", theme=theme()),
            key=f"average:{name}:totals",
        )
    _compared(
        name,
        {f"{group}, n = {each.n:,}": each for group, each in groups.items()},
        role,
        found.differences[name],
        titles,
        unit,
        minus,
    )


def _compared(
    name: str,
    groups: dict[str, Average],
    role: str,
    apart: pd.DataFrame,
    titles: dict[str, str],
    unit: str,
    minus: str,
) -> None:
    import pandas as pd

    first = next(iter(groups.values()))
    lines = pd.concat(
        [
            each.frame[each.frame["role"] == role].assign(group=group)
            for group, each in groups.items()
        ],
        ignore_index=True,
    )
    draw = partial(
        drawing.group_lines,
        lines,
        groups=list(groups),
        unit=unit,
        domain=drawing.line_domain(lines),
        theme=theme(),
    )
    st.markdown(f"**{plain(titles[role])}, by layer**")
    row_of_panels(first, draw, f"average:{name}:lines")
    cells = difference_cells(apart, first)
    st.markdown(f"**The difference, {plain(minus)}**")
    with st.container(width=360):
        st.caption(f"{plain(minus)}, {plain(unit)}")
        end = drawing.effect_end(cells)
        show_chart(scale_bar(end, unit, theme=theme()), key=f"average:{name}:scale")
    kind_panels(cells, titles, end, unit, f"average:{name}:difference")
    whole = apart[apart["kind"] == "total"]
    said = (
        f"A cell is the difference of two means, {minus}, with 95% bootstrap intervals over tweets "
        f"in its tooltip; {words.RULE[0].lower()}{words.RULE[1:]}"
    )
    if len(whole):
        row = whole.iloc[0]
        said += (
            f" Total effects differ by {signed(row['difference'])} ({signed(row['lower'])} to "
            f"{signed(row['upper'])}) {short_unit(first)}."
        )
    caption = f"{said} {drawing.caption_of(first, 'Each mean')}"
    save_below(
        name,
        charts={
            "Difference": partial(
                drawing.heatmap_figure,
                cells,
                titles=titles,
                unit=f"{unit}, {minus}",
                caption=caption,
            ),
            "By layer": partial(line_figure, first, draw, caption),
        },
        tables={"Difference": lambda: apart, "By layer": lambda: lines},
        caption=caption,
        said=said,
    )


def difference_cells(apart: pd.DataFrame, average: Average) -> pd.DataFrame:
    """A difference in the form of an average's frame; what is trivial in the average stays so."""
    cells = apart[apart["kind"] != "total"].rename(columns={"difference": "mean"})
    cells = cells.assign(n=cells["n_first"] + cells["n_second"])
    trivial = average.frame[["kind", "layer", "role", "trivial"]]
    return cells.merge(trivial, on=["kind", "layer", "role"], how="left").fillna({"trivial": False})


def _sweeps(
    found: Study, store: Store | None, stores: list[Store], options: Options | None
) -> None:
    others = {other.id: title_of(other) for other in stores if other.finished()}
    if store is not None:
        others.pop(store.id, None)
    if store is None or options is None:
        st.info(
            "The example cannot be compared; choose a sweep of your own above.",
            icon=":material/info:",
        )
        return
    if not others:
        st.info(
            "There is no other sweep yet: start one with another model, probe or settings.",
            icon=":material/info:",
        )
        return
    if st.session_state.get("average:other") not in others:
        st.session_state.pop("average:other", None)
    left, right = st.columns([5, 3], gap="large", vertical_alignment="bottom")
    other = left.selectbox(
        "Compared with",
        list(others),
        format_func=others.__getitem__,
        key="average:other",
        persist_state="session",
        help="The difference is the sweep above minus this one; tweets of both count as pairs.",
    )
    with right:
        role = role_choice(found.average, "average:sweeps:role")
    second = next(each for each in stores if each.id == other)
    key = (second.id, options, len(second.finished()))
    if st.session_state.get("average:other:key") != key:
        st.session_state["average:other:key"] = key
        start("average:other", averaging(second, options))
    current = job("average:other")
    assert current is not None
    progress = current.progress()
    if progress.active:
        follow(current, progress)
        return
    if progress.error or progress.partial is None:
        st.error(plain(progress.error or "This sweep has nothing to compare."))
        return
    try:
        apart = difference(found.average, progress.partial.average)
    except UserError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return
    if len(apart) < 2:
        st.info("The two sweeps have no cell in common.", icon=":material/info:")
        return
    if found.average.about["layers"] != progress.partial.average.about["layers"]:
        st.caption(
            f"The models have {found.average.about['layers']} and "
            f"{progress.partial.average.about['layers']} layers; layers of the same number are "
            "compared."
        )
    names = [f"{title_of(each)}" for each in (store, second)]
    _compared(
        "sweeps",
        dict(zip(names, (found.average, progress.partial.average), strict=True)),
        role,
        apart,
        found.average.titles(),
        drawing.unit_of(found.average),
        "the first minus the second",
    )


def _precision(found: Study) -> None:
    average, titles = found.average, found.average.titles()
    unit = short_unit(average)
    cells = {"The total effect": ("total", -1, "")}
    said = words.finding(average)
    for peak in (*said.early, *said.late):
        name = f"{KINDS[peak.kind]}, {titles[peak.role]}, layer {peak.layer}"
        cells[name] = (peak.kind, peak.layer, peak.role)
    left, right = st.columns([3, 5], gap="large")
    with left:
        chosen = st.selectbox(
            "Mean of",
            list(cells),
            key=f"average:cell:{average.about['roles']}",
            help="The total effect, or the largest cell of a site.",
        )
        kind, layer, role = cells[chosen]
        history = average.history
        rows = history[(history["kind"] == kind) & (history["role"].astype(str) == role)]
        rows = rows[(rows["layer"] == layer) & rows["reach"].notna()]
        if rows.empty:
            st.info("Too few tweets for an estimate.", icon=":material/info:")
            return
        now = float(rows["reach"].iloc[-1])
        wanted = st.number_input(
            f"Wanted: \u00b1, {unit}",
            value=float(f"{now / 2:.2g}") or now,
            min_value=0.0,
            format="%.4g",
            key=f"average:wanted:{chosen}:{average.about['proxy']}",
            help="Half the width of the 95% interval of the mean.",
        )
        if not wanted > 0:
            st.info("Give a width above 0.", icon=":material/info:")
            return
        more = average.more_tweets(wanted, kind, layer, role)
        if more:
            st.markdown(
                f"It is known to \u00b1 {now:.3g} now, from {average.counted}. About "
                f"**{more:,} more tweets** give \u00b1 {wanted:.3g}."
            )
        else:
            st.markdown(f"It is known to \u00b1 {now:.3g} already, from {average.counted}.")
        st.caption(
            "Intervals shrink with the square root of the number of tweets; the estimate is from "
            "the spread between the tweets so far. More noise samples per tweet would hardly help."
        )
    needed = int(rows["n"].iloc[-1]) if not more else max(int(rows["n"].iloc[-1]), average.n + more)
    chart = partial(drawing.precision, rows, wanted=wanted, needed=needed, unit=unit)
    with right:
        show_chart(chart(theme=theme()), key="average:precision")
        downloads(
            "precision",
            charts={"Precision": chart},
            tables={"Precision": lambda: rows},
            caption=f"Half the 95% t interval of the mean over tweets ({chosen}), {unit}, by "
            "number of tweets; dashed: extrapolated.",
        )
