"""How is an average made for the page, and how is each side of it shown?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import streamlit as st

from core import average_figures as drawing
from core import average_findings as words
from core import sweep
from core.average import INTERVALS, TOWARDS, Average, Towards, difference
from core.datasets import BUILT_IN, dataset_file
from core.figures import KINDS, label_reach, scale_bar
from core.findings import signed
from core.jobs import Job, Step, Work
from core.probes import Probe, key_of
from core.registry import REGISTRY
from core.results import PROXIES
from core.roles import Scheme
from core.session import ASSETS, follow, job, loaded_for, plain, start, theme, tweets
from core.session.probing import of_tweets
from core.session.saving import downloads
from core.session.sweeping import shown_count, title_of
from core.store import Store
from core.studies import Options, Study, keep_ablation, kept_ablation, load, study

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE = "example"
FILE = ASSETS / "average-smollm2.json"
LISTED = 100  # tweets of a bar
ABLATED = 300  # tweets of the punctuation test, at most
SCHEMES: dict[Scheme, str] = {"tweet": "What tweets are made of", "paper": "The paper's six"}
VIEWS = {
    "layers": "By layer",
    "peaks": "Single tweets",
    "label": "Positive and negative",
    "length": "Short and long",
    "sweeps": "Two sweeps",
    "punctuation": "Punctuation",
    "precision": "How sure",
}
BADGES = {
    "shown": ("Shown", "green", ":material/check:"),
    "refuted": ("Refuted", "orange", ":material/close:"),
    "open": ("Open", "gray", ":material/question_mark:"),
}
FIRST_ROLES = ("sentiment_last", "middle", "punctuation", "tweet_last", "last")
FIRST_PAPER_ROLES = ("subject_first", "subject_last", "subsequent", "last")


# --- which average -------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False, max_entries=2)
def _example(stamp: int) -> Study:
    return load(FILE)


def example() -> Study | None:
    """The study that comes with SentiTrace, if it is there and can be read."""
    try:
        return _example(FILE.stat().st_mtime_ns) if FILE.is_file() else None
    except ValueError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


def shown_choice(stores: list[Store]) -> str | None:
    """Which sweep's average is shown, or the example; None where there is nothing to show.

    The address can name a sweep: `?sweep=0a1b2c`.
    """
    names = {store.id: title_of(store) for store in stores if store.finished()}
    if FILE.is_file():
        names[EXAMPLE] = "Example: a sweep that comes with SentiTrace"
    if not names:
        return None
    linked = st.query_params.get("sweep", "")
    if linked and "average:shown" not in st.session_state:
        found = next((id for id in names if id.startswith(linked)), None)
        if found is not None:
            st.session_state["average:shown"] = found
    if st.session_state.get("average:shown") not in names:
        st.session_state.pop("average:shown", None)
    chosen = st.selectbox(
        "Average of",
        list(names),
        format_func=names.__getitem__,
        key="average:shown",
        persist_state="session",
        help="Every sweep on this disk that has traced something.",
    )
    if chosen != EXAMPLE:
        st.query_params["sweep"] = chosen
    elif "sweep" in st.query_params:
        del st.query_params["sweep"]
    return chosen


def options_choice() -> Options:
    """How tweets are averaged; read from the same traces, nothing is traced again."""
    with st.popover("How it is counted", icon=":material/tune:", key="average:options"):
        proxy = st.selectbox(
            "Effect measured in",
            list(PROXIES),
            format_func=PROXIES.__getitem__,
            key="average:proxy",
            persist_state="session",
            help="The number whose change is the effect.",
        )
        roles = st.selectbox(
            "Roles of tokens",
            list(SCHEMES),
            format_func=SCHEMES.__getitem__,
            key="average:roles",
            persist_state="session",
            help="How tokens of different tweets are put together.",
        )
        towards = st.selectbox(
            "Counted",
            ["prediction", "label"],
            format_func=TOWARDS.__getitem__,
            key="average:towards",
            persist_state="session",
            help="So that positive and negative tweets do not cancel.",
        )
        interval = st.selectbox(
            "95% intervals",
            list(INTERVALS),
            format_func=INTERVALS.__getitem__,
            key="average:interval",
            persist_state="session",
            help="Both are over tweets, which vary more than noise samples.",
        )
        normalised = st.toggle(
            "As a share of the total effect",
            key="average:normalised",
            persist_state="session",
            help="A ratio of means over the same tweets.",
        )
    return Options(
        roles=roles,
        interval=interval,
        normalised=normalised,
        proxy=proxy,
        towards=cast("Towards", towards),
    )


def averaging(store: Store, options: Options) -> Work:
    """The work of reading a sweep's store and averaging it from every side."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, "Averaging the traced tweets")
        yield 1.0, study(store, options, progress=job.report)

    return work


def study_of(store: Store, options: Options) -> Study | None:
    """The study of a sweep as far as it is; the last one while a newer one is made."""
    key = (store.id, options, shown_count(store.status()))
    if st.session_state.get("average:key") != key:
        st.session_state["average:key"] = key
        start("average", averaging(store, options))
    current = job("average")
    assert current is not None
    progress = current.progress()
    if progress.active:
        follow(current, progress)
    if progress.error:
        st.error(plain(progress.error), icon=":material/error:")
    kept: dict[str, Study] = st.session_state.setdefault("average:studies", {})
    if progress.partial is not None:
        kept[store.id] = progress.partial
        for id in list(kept)[:-2]:
            del kept[id]
    return kept.get(store.id)


# --- what was found ------------------------------------------------------------------------------


def finding(found: Study, store: Store | None) -> None:
    """The total effect, the sites in words, and the expected picture held against the numbers."""
    average = found.average
    said = words.finding(average)
    st.caption(plain(_origin_line(found, store)))
    total, early, late = st.columns([2, 3, 3], gap="small")
    with total, st.container(border=True, height="stretch"):
        st.metric(
            f"Average total effect, {_short_unit(average)}",
            signed(average.total.mean),
            help="How far the corruption moves the proxy, high minus low; the mean over tweets.",
        )
        st.caption(plain(_interval_line(average)))
    if not said.early and not said.late and not said.claims:
        with early:
            st.info(plain(said.sentence), icon=":material/info:")
        return
    for place, name, peaks, where in (
        (early, "Early site", said.early, "in the tweet, in the first two thirds of the layers"),
        (late, "Late site", said.late, "behind the tweet"),
    ):
        with place, st.container(border=True, height="stretch", gap="xsmall"):
            st.markdown(f"**{name}** :gray[{where}]")
            for peak in peaks:
                st.markdown(f":gray[{KINDS[peak.kind]}] {plain(peak.where)}")
            if not peaks:
                st.markdown("None stands out: no cell carries a tenth of the total effect.")
    if said.claims:
        st.space("small")
        st.markdown("**The expected picture (Meng et al. 2022), claim by claim**")
        halves = st.columns(2, gap="medium")
        for i, claim in enumerate(said.claims):
            with halves[i % 2]:
                show_claim(claim)


def show_claim(claim: words.Claim) -> None:
    """A verdict, what it is about, and the numbers."""
    label, colour, icon = BADGES[claim.verdict]
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        with st.container(width=92):
            st.badge(label, icon=icon, color=cast("Any", colour))
        with st.container(gap=None):
            st.markdown(plain(claim.text))
            st.caption(plain(claim.why))


def heatmaps(found: Study) -> None:
    """A panel for each kind of site, on one scale, with what can be saved of them."""
    average = found.average
    frame, titles, unit = words.cells(average), average.titles(), drawing.unit_of(average)
    caption = drawing.heatmap_caption(average)
    head, scale = st.columns([4, 3], gap="medium", vertical_alignment="bottom")
    head.subheader("Where the sentiment is, on average", anchor=False)
    end = drawing.effect_end(frame)
    with scale:
        st.caption(f"change in {plain(unit)}")
        st.altair_chart(scale_bar(end, unit, theme=theme()), key="average:scale")
    _panels(frame, titles, end, unit, "average:heatmap")
    said, save = _below()
    said.caption(plain(caption))
    title = f"{average.about['model']}, {average.n:,} tweets"
    with save:
        downloads(
            "average",
            charts={
                "Roles by layers": drawing.heatmap_figure(
                    frame, titles=titles, unit=unit, title=title, caption=caption
                )
            },
            tables={
                "Average effects": frame,
                "Total effects": totals_frame(found),
                "Peaks of tweets": average.peaks,
                "Settings": _settings_frame(found),
            },
            caption=caption,
        )


def view(found: Study, store: Store | None, stores: list[Store], options: Options | None) -> None:
    """One side of the study, as the person chooses; only that one is drawn."""
    st.space("small")
    chosen = st.segmented_control(
        "Look closer",
        list(VIEWS),
        default="layers",
        format_func=VIEWS.__getitem__,
        required=True,
        key="average:view",
        persist_state="session",
    )
    draw = {
        "layers": partial(_layers, found),
        "peaks": partial(_peaks, found, store),
        "label": partial(_label, found),
        "length": partial(_length, found),
        "sweeps": partial(_sweeps, found, store, stores, options),
        "punctuation": partial(_punctuation, found, store),
        "precision": partial(_precision, found),
    }
    draw[chosen or "layers"]()


# --- by layer ------------------------------------------------------------------------------------


def _layers(found: Study) -> None:
    average, titles = found.average, found.average.titles()
    firsts = FIRST_ROLES if average.about["roles"] == "tweet" else FIRST_PAPER_ROLES
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
    _row_of_panels(average, draw, "average:lines")
    line = "Bands are the 95% intervals over tweets; settings are those of the figure above."
    caption = f"{drawing.caption_of(average, 'A point')} Bands are the 95% intervals."
    _end("lines", average, draw, shown, line, caption, "Effects by layer")


# --- single tweets -------------------------------------------------------------------------------


def _peaks(found: Study, store: Store | None) -> None:
    average, titles = found.average, found.average.titles()
    st.markdown(
        "Averages hide where single tweets differ: here each tweet counts once, at its own largest "
        "effect."
    )
    kinds = average.about["kinds"]
    kind = st.segmented_control(
        "Kind of site",
        kinds,
        default="mlp" if "mlp" in kinds else kinds[0],
        format_func=KINDS.__getitem__,
        required=True,
        key="average:peaks:kind",
        persist_state="session",
    )
    peaks = average.peaks[average.peaks["kind"].astype(str) == (kind or kinds[0])]
    if peaks.empty:
        st.info("Every cell of this kind is fixed by construction.", icon=":material/info:")
        return
    chosen: dict[str, Any] = st.session_state.setdefault("average:bar", {})
    if chosen.get("kind") != kind:
        chosen.clear()
        chosen["kind"] = kind
    role, layer = chosen.get("role"), chosen.get("layer")
    left, right = st.columns([3, 4], gap="large")
    drawn = chosen.get("clicks", 0)
    with left:
        st.altair_chart(
            drawing.peak_roles(peaks, titles=titles, theme=theme(), select="bar", chosen=role),
            key=f"average:bar:role:{kind}:{drawn}",
            on_select=partial(_take_bar, "role", f"average:bar:role:{kind}:{drawn}"),
            selection_mode="bar",
        )
    here = peaks if role is None else peaks[peaks["role"].astype(str) == role]
    layers = sorted(average.frame["layer"].unique().tolist())
    with right:
        st.altair_chart(
            drawing.peak_layers(
                here,
                layers,
                theme=theme(),
                select="bar",
                chosen=layer,
                of="" if role is None else titles.get(role, ""),
                height=drawing.BAR * len(titles) - 12,
            ),
            key=f"average:bar:layer:{kind}:{drawn}",
            on_select=partial(_take_bar, "layer", f"average:bar:layer:{kind}:{drawn}"),
            selection_mode="bar",
        )
    if layer is not None:
        here = here[here["layer"] == layer]
    place = [titles[role]] if role in titles else []
    place += [] if layer is None else [f"layer {layer}"]
    caption = (
        f"How many of {len(peaks):,} tweets have their largest {KINDS[kind or kinds[0]]} effect at "
        "each role and layer; cells fixed by construction are left out."
    )
    below, save = _below()
    below.caption(plain(caption))
    with save:
        downloads(
            "peaks",
            charts={
                "Peaks by role": drawing.peak_roles(peaks, titles=titles),
                "Peaks by layer": drawing.peak_layers(here, layers),
            },
            tables={"Peaks": average.peaks},
            caption=caption,
        )
    if not place:
        st.info("Click a bar to list its tweets.", icon=":material/ads_click:")
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"**{len(here):,} tweets: {plain(', '.join(place))}**", width="stretch")
        st.button("Show all", key="average:bar:clear", on_click=_forget_bar)
    _tweet_table(found, store, here)


def _take_bar(field: str, key: str) -> None:
    """Choose the clicked bar, or let it go when it is clicked again."""
    event = st.session_state.get(key)
    found = (event or {}).get("selection", {}).get("bar") or []
    chosen = st.session_state["average:bar"]
    value = found[0].get(field) if found else None
    if value is not None and field == "layer":
        value = int(value)
    chosen[field] = None if chosen.get(field) == value else value
    chosen["clicks"] = chosen.get("clicks", 0) + 1  # a new chart, which holds no selection
    if field == "role":
        chosen["layer"] = None


def _forget_bar() -> None:
    chosen = st.session_state["average:bar"]
    chosen["role"] = chosen["layer"] = None


def _tweet_table(found: Study, store: Store | None, peaks: pd.DataFrame) -> None:
    texts = _texts(found, store)
    if not texts:
        st.caption(
            "This average carries no texts, and its data set is not on this disk; `make setup` "
            "fetches it."
        )
        return
    shown = peaks.assign(size=peaks["effect"].abs()).nlargest(LISTED, "size")
    name, probe, settings = _trace_settings(found, store)
    table = shown.assign(
        tweet=[texts.get(int(row), "") for row in shown["row"]],
        share=100 * shown["effect"] / shown["total_effect"].where(shown["total_effect"] != 0),
    )
    table = table[table["tweet"] != ""]
    table["trace"] = [
        link_to_trace(tweet, name, probe, settings) if name in REGISTRY else None
        for tweet in table["tweet"]
    ]
    st.dataframe(
        table[["tweet", "layer", "effect", "share", "trace"]],
        hide_index=True,
        height=min(38 + 35 * len(table), 420),
        column_config={
            "tweet": st.column_config.TextColumn("Tweet", width="large"),
            "layer": st.column_config.NumberColumn("Layer", width="small"),
            "effect": st.column_config.NumberColumn("Effect", format="%+.2f", width="small"),
            "share": st.column_config.NumberColumn(
                "Share of total", format="%.0f%%", width="small"
            ),
            "trace": st.column_config.LinkColumn("Trace", display_text="Open trace", width="small"),
        },
    )
    if len(peaks) > LISTED:
        st.caption(f"The {LISTED} largest of {len(peaks):,}; all are in the saved table.")


def link_to_trace(tweet: str, name: str, probe: str, settings: dict[str, str]) -> str:
    """The address at which the Trace page shows a tweet's trace."""
    return "./?" + urlencode({"tweet": tweet, "model": name, "probe": probe, **settings})


def _trace_settings(found: Study, store: Store | None) -> tuple[str, str, dict[str, str]]:
    """Model, probe and settings as the Trace page's address names them."""
    about = found.average.about
    name = found.origin.get("model") or about["model"]
    probe = _probe_name(store.probe) if store is not None else about["probe"]
    settings = {}
    if about["noise_scale"] != 3:
        settings["noise"] = f"{about['noise_scale']:g}"
    if about["seed"]:
        settings["seed"] = str(about["seed"])
    return str(name), probe, settings


def _probe_name(probe: Probe) -> str:
    return of_tweets(probe) or key_of(probe)


def _texts(found: Study, store: Store | None) -> dict[int, str]:
    """Texts by row of their source, where they are at hand."""
    if store is not None:
        frame = store.tweets
    else:
        data = found.origin.get("data", "")
        if data not in BUILT_IN or not dataset_file(data).is_file():
            return {}
        frame = tweets(data)
    return dict(zip(frame["row"].tolist(), frame["text"].tolist(), strict=True))


# --- groups --------------------------------------------------------------------------------------


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
        role = _role_choice(average, f"average:{name}:role")
    totals = totals_frame(found)
    totals = totals[totals["group"].isin(["all", *groups])]
    with second:
        st.altair_chart(
            drawing.totals(totals, unit=f"total effect, {_short_unit(average)}", theme=theme()),
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
    _row_of_panels(first, draw, f"average:{name}:lines")
    cells = difference_cells(apart, first)
    st.markdown(f"**The difference, {plain(minus)}**")
    with st.container(width=360):
        st.caption(f"{plain(minus)}, {plain(unit)}")
        end = drawing.effect_end(cells)
        st.altair_chart(scale_bar(end, unit, theme=theme()), key=f"average:{name}:scale")
    _panels(cells, titles, end, unit, f"average:{name}:difference")
    whole = apart[apart["kind"] == "total"]
    said = (
        f"A cell is the difference of two means, {minus}, with 95% bootstrap intervals over tweets "
        f"in its tooltip; {words.RULE[0].lower()}{words.RULE[1:]}"
    )
    if len(whole):
        row = whole.iloc[0]
        said += (
            f" Total effects differ by {signed(row['difference'])} ({signed(row['lower'])} to "
            f"{signed(row['upper'])}) {_short_unit(first)}."
        )
    caption = f"{said} {drawing.caption_of(first, 'Each mean')}"
    below, save = _below()
    below.caption(plain(said))
    with save:
        downloads(
            name,
            charts={
                "Difference": drawing.heatmap_figure(
                    cells, titles=titles, unit=f"{unit}, {minus}", caption=caption
                ),
                "By layer": _line_figure(first, draw, caption),
            },
            tables={"Difference": apart, "By layer": lines},
            caption=caption,
        )


def difference_cells(apart: pd.DataFrame, average: Average) -> pd.DataFrame:
    """A difference in the form of an average's frame; what is trivial in the average stays so."""
    cells = apart[apart["kind"] != "total"].rename(columns={"difference": "mean"})
    cells = cells.assign(n=cells["n_first"] + cells["n_second"])
    trivial = average.frame[["kind", "layer", "role", "trivial"]]
    return cells.merge(trivial, on=["kind", "layer", "role"], how="left").fillna({"trivial": False})


def totals_frame(found: Study) -> pd.DataFrame:
    """The average total effect of all tweets and of every group: group, mean, lower, upper, n."""
    import pandas as pd

    groups = {"all": found.average, **found.by_label, **found.by_length}
    rows = [
        {"group": name, "mean": each.total.mean, "lower": each.total.lower}
        | {"upper": each.total.upper, "n": each.n}
        for name, each in groups.items()
    ]
    return pd.DataFrame(rows)


# --- two sweeps ----------------------------------------------------------------------------------


def _sweeps(
    found: Study, store: Store | None, stores: list[Store], options: Options | None
) -> None:
    others = {other.id: title_of(other) for other in stores if other.finished()}
    if store is not None:
        others.pop(store.id, None)
    if store is None or options is None:
        st.info(
            "A kept example cannot be compared; choose a sweep of your own above.",
            icon=":material/info:",
        )
        return
    if not others:
        st.info(
            "There is no other sweep yet: begin one with another model, probe or settings.",
            icon=":material/info:",
        )
        return
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
        role = _role_choice(found.average, "average:sweeps:role")
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
    except ValueError as mistake:
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


# --- punctuation ---------------------------------------------------------------------------------


def _punctuation(found: Study, store: Store | None) -> None:
    st.markdown(
        "Tigges et al. 2023 find that models gather the sentiment of a phrase at its punctuation. "
        "The test: hold the states at a tweet\u2019s inner commas and stops to their mean over "
        "tweets, from a layer on, and see how much is lost; as many other tokens are the control."
    )
    frame = found.punctuation
    if store is not None:
        frame = _ablated(store)
    elif frame is None:
        st.info("The example holds no such test.", icon=":material/info:")
    if frame is None:
        return
    unit = PROXIES["log_odds"]
    show_claim(words.summarises(frame, "nats"))
    groups = {
        "punctuation": "Punctuation",
        "other": "As many other tokens",
        "sentiment": "Sentiment words, last token",
    }
    apart = {"difference": "Punctuation minus other tokens"}
    draw = partial(drawing.ablation_lines, frame, unit=f"loss in {unit}")
    left, right = st.columns(2, gap="large")
    with left:
        st.altair_chart(
            draw(groups, theme=theme(), title="What is lost"), key="average:punctuation"
        )
    with right:
        st.altair_chart(
            draw(apart, theme=theme(), title="Beyond the control"), key="average:punctuation:apart"
        )
    counts = frame.groupby("group")["n"].max()
    caption = (
        f"Loss of {unit}, towards what the probe says of the clean run, when a group of tokens is "
        "held to its mean state over tweets after this layer and all later ones. "
        f"{counts['punctuation']:,} tweets have inner punctuation without a sentiment of its own "
        f"(not ! and ?), {counts['sentiment']:,} of them a sentiment word; bands are 95% bootstrap "
        "intervals over tweets."
    )
    below, save = _below()
    below.caption(plain(caption))
    with save:
        downloads(
            "punctuation",
            charts={"Silenced tokens": draw(groups), "Beyond the control": draw(apart)},
            tables={"Silenced tokens": frame},
            caption=caption,
        )


def _ablated(store: Store) -> pd.DataFrame | None:
    """The test's numbers, or a button that makes them."""
    current = job("punctuation")
    progress = current.progress() if current is not None else None
    if progress is not None and progress.partial is not None and progress.partial[0] == store.id:
        return cast("pd.DataFrame", progress.partial[1])
    kept = kept_ablation(store)
    if kept is not None:
        return kept
    name = str(store.manifest["origin"]["model"])
    if name not in REGISTRY:
        st.info("The test needs a model of the list; this one is a folder.", icon=":material/info:")
        return None
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        running = progress is not None and progress.active
        if st.button("Run the test", type="primary", key="punctuation:run", disabled=running):
            current = start("punctuation", silencing(store))
            progress = current.progress()
        st.caption("Two plain passes a tweet, a few seconds each on a small model; it is kept.")
    if current is not None and progress is not None:
        if progress.active:
            follow(current, progress)
            st.button("Stop", key="punctuation:stop", on_click=current.stop)
        if progress.error:
            st.error(plain(progress.error), icon=":material/error:")
    return None


def silencing(store: Store) -> Work:
    """The work of the ablation of punctuation, on a sweep's own tweets."""

    def work(job: Job) -> Iterator[Step]:
        from core.punctuation import ablation

        loaded = loaded_for(job, str(store.manifest["origin"]["model"]))
        sweep.check_model(loaded, store.model)
        plan = store.tweets
        texts = plan.loc[plan["tokens"] > 0].sort_values("number")["text"].tolist()
        job.report(0.0, "Silencing punctuation, and the control")
        found = ablation(loaded, store.probe, texts[:ABLATED], progress=job.report)
        keep_ablation(store, found)
        yield 1.0, (store.id, found)

    return work


# --- how sure ------------------------------------------------------------------------------------


def _precision(found: Study) -> None:
    average, titles = found.average, found.average.titles()
    unit = _short_unit(average)
    cells = {"The total effect": ("total", -1, "")}
    said = words.finding(average)
    for peak in (*said.early, *said.late):
        name = f"{KINDS[peak.kind]}, {titles[peak.role]}, layer {peak.layer}"
        cells[name] = (peak.kind, peak.layer, peak.role)
    left, right = st.columns([3, 5], gap="large")
    with left:
        chosen = st.selectbox(
            "Of which mean",
            list(cells),
            key=f"average:cell:{average.about['roles']}",
            help="The total effect, or the largest cell of a site.",
        )
        kind, layer, role = cells[chosen]
        history = average.history
        rows = history[(history["kind"] == kind) & (history["role"].astype(str) == role)]
        rows = rows[(rows["layer"] == layer) & rows["reach"].notna()]
        if rows.empty:
            st.info("Too few tweets yet to tell.", icon=":material/info:")
            return
        now = float(rows["reach"].iloc[-1])
        wanted = st.number_input(
            f"Wanted: the mean to \u00b1, {unit}",
            value=float(f"{now / 2:.2g}") or now,
            min_value=0.0,
            format="%.4g",
            key=f"average:wanted:{chosen}:{average.about['proxy']}",
            help="Half the width of the 95% interval.",
        )
        if not wanted > 0:
            st.info("Give a width above 0.", icon=":material/info:")
            return
        more = average.more_tweets(wanted, kind, layer, role)
        if more:
            st.markdown(
                f"It is known to \u00b1 {now:.3g} now, from {average.n:,} tweets. About "
                f"**{more:,} more tweets** give \u00b1 {wanted:.3g}."
            )
        else:
            st.markdown(f"It is known to \u00b1 {now:.3g} already, from {average.n:,} tweets.")
        st.caption(
            "Intervals shrink with the square root of the number of tweets; the estimate is from "
            "the spread between the tweets so far. More noise samples per tweet would hardly help."
        )
    needed = int(rows["n"].iloc[-1]) if not more else max(int(rows["n"].iloc[-1]), average.n + more)
    chart = partial(drawing.precision, rows, wanted=wanted, needed=needed, unit=unit)
    with right:
        st.altair_chart(chart(theme=theme()), key="average:precision")
        downloads(
            "precision",
            charts={"How sure": chart()},
            tables={"How sure": rows},
            caption=f"Half the 95% t interval of a mean over tweets ({chosen}), {unit}, after so "
            "many tweets; dashed is how it would go on.",
        )


# --- parts ---------------------------------------------------------------------------------------


def _role_choice(average: Average, key: str) -> str:
    titles = average.titles()
    early = words.finding(average).early
    first = early[0].role if early else words.MOST_SENTIMENTAL[average.about["roles"]]
    names = list(titles)
    return st.selectbox(
        "Role that is drawn by layer",
        names,
        index=names.index(first) if first in names else 0,
        format_func=titles.__getitem__,
        key=f"{key}:{average.about['roles']}",
        help="At first the role of the early site.",
    )


def _panels(frame: pd.DataFrame, titles: dict[str, str], end: float, unit: str, key: str) -> None:
    """Heatmaps side by side; one below the other on a narrow screen."""
    kinds = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    # The leftmost panel has the role labels beside it, and room for them.
    widths = [1 + label_reach(titles.values(), limit=drawing.ROLE_LIMIT) / 375] + [1.0] * (
        len(kinds) - 1
    )
    for i, (kind, column) in enumerate(zip(kinds, st.columns(widths), strict=True)):
        column.altair_chart(
            drawing.heatmap(
                frame,
                kind,
                titles=titles,
                end=end,
                unit=unit,
                labels="narrow" if i else "always",
                theme=theme(),
                title=KINDS[kind],
            ),
            key=f"{key}:{kind}",
        )


def _row_of_panels(average: Average, draw: Any, key: str) -> None:
    kinds = average.about["kinds"]
    for kind, column in zip(kinds, st.columns(len(kinds), gap="medium"), strict=True):
        column.altair_chart(draw(kind=kind, title=KINDS[kind]), key=f"{key}:{kind}")


def _line_figure(average: Average, draw: Any, caption: str) -> Any:
    panels = [
        draw(kind=kind, title=KINDS[kind], width=300, theme="light")
        for kind in average.about["kinds"]
    ]
    return drawing.line_figure(panels, caption=caption)


def _end(
    key: str, average: Average, draw: Any, table: pd.DataFrame, line: str, caption: str, name: str
) -> None:
    """What the page says below a figure, and Save beside it; a file has the whole caption."""
    said, save = _below()
    said.caption(plain(line))
    with save:
        downloads(
            key,
            charts={name: _line_figure(average, draw, caption)},
            tables={name: table},
            caption=caption,
        )


def _below() -> tuple[Any, Any]:
    """A place for what is said below a figure, and one at its right for Save."""
    said, save = st.columns([8, 1], gap="medium")
    return said, save.container(horizontal=True, horizontal_alignment="right")


def _short_unit(average: Average) -> str:
    """The unit in few words, of total effects too, which are never shares."""
    unit = PROXIES[average.about["proxy"]]
    return "nats" if unit.endswith("(nats)") else unit


def _interval_line(average: Average) -> str:
    total = average.total
    if total.lower != total.lower:
        return "One tweet gives no interval."
    return (
        f"95% interval {signed(total.lower)} to {signed(total.upper)}, n = {average.n:,} tweets, "
        f"{PROXIES[average.about['proxy']]}"
    )


def _origin_line(found: Study, store: Store | None) -> str:
    """Which model, data and selection the numbers are of."""
    about, origin = found.average.about, found.origin
    selection = origin.get("selection") or {}
    drawn = "predicted right, " if selection.get("which") == "correct" else ""
    data = origin.get("data") or "texts without a name"
    said = (
        f"{about['model']} on {about['n']:,} tweets of {data}, {drawn}drawn with seed "
        f"{selection.get('seed', 0)}."
    )
    if store is None:
        made = str(origin.get("created", ""))[:10]
        said = (
            "This is the sweep that comes with SentiTrace, kept as aggregated numbers without "
            f"tweets: {said} Made on {made}."
            if made
            else "This is the sweep that comes with SentiTrace, kept as aggregated numbers without "
            f"tweets: {said}"
        )
    return said


def _settings_frame(found: Study) -> pd.DataFrame:
    """All that determines the numbers, as a table."""
    import json

    import pandas as pd

    held = {**found.average.about, **{f"origin: {key}": v for key, v in found.origin.items()}}
    return pd.DataFrame(
        {"setting": list(held), "value": [json.dumps(value) for value in held.values()]}
    )
