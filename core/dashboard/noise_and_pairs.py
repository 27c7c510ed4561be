"""Which findings rest on the corruption? A sweep by noise beside one over pairs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from ..charts import average as drawing
from ..charts.figures import scale_bar
from ..distribution import ASSETS
from ..errors import UserError
from ..prompts import token_roles
from ..server.job_queue import Job, Step
from ..sweeps.store import Store
from ..sweeps.study import Options
from ..sweeps.two_corruptions import TwoCorruptions, load, of_sweeps
from ..tracing.view import KINDS
from . import follow, job, plain, start, theme
from .average_parts import CLAIM_BADGES, kind_panels, save_below
from .charts import show_chart
from .door import NO_MODEL, Guarded
from .sweeping import shown_count, title_of

if TYPE_CHECKING:
    import pandas as pd

FILE = ASSETS / "noise-and-pairs-smollm2.json"
SITE_BADGES = {
    "both": ("green", ":material/done_all:"),
    "noise only": ("orange", ":material/grain:"),
    "pairs only": ("blue", ":material/compare_arrows:"),
}
UNIT = "share of the total effect"


def noise_and_pairs(store: Store | None, stores: list[Store], options: Options | None) -> None:
    """The sweep that is shown beside one of the other corruption; of the example, what was kept."""
    if store is None or options is None:
        kept = _kept()
        if kept is None:
            st.info(
                "The example has no average over pairs; choose a sweep of your own above.",
                icon=":material/info:",
            )
            return
        _show(kept)
        return
    other = _other_choice(store, stores)
    if other is None:
        return
    counts = [shown_count(each.status()) for each in (store, other)]
    key = (store.id, other.id, options, *counts)
    if st.session_state.get("average:corruptions:key") != key:
        st.session_state["average:corruptions:key"] = key
        start("average:corruptions", averaging_both(store, other, options))
    current = job("average:corruptions")
    assert current is not None
    progress = current.progress()
    if progress.active:
        follow(current, progress)
        return
    if progress.error or progress.partial is None:
        st.error(plain(progress.error or "These sweeps have nothing to compare."))
        return
    _show(progress.partial)


def averaging_both(store: Store, other: Store, options: Options) -> Guarded:
    """The work of averaging two sweeps in shares of their total effects; a `TwoCorruptions`."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, "Averaging both sweeps")
        noise, pairs = (other, store) if _is_of_pairs(store) else (store, other)
        yield 1.0, of_sweeps(noise, pairs, options, progress=job.report)

    return Guarded(NO_MODEL, work)


def _kept() -> TwoCorruptions | None:
    """The averages that come with SentiTrace, if they are there and can be read."""
    try:
        return load(FILE) if FILE.is_file() else None
    except UserError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


def _is_of_pairs(store: Store) -> bool:
    return store.task.settings.corruption == "counterfactual"


def _other_choice(store: Store, stores: list[Store]) -> Store | None:
    """A sweep of the same model by the other corruption."""
    others = {
        other.id: other
        for other in stores
        if other.finished()
        and _is_of_pairs(other) != _is_of_pairs(store)
        and other.model.identity == store.model.identity
    }
    if not others:
        missing = "by noise" if _is_of_pairs(store) else "over pairs"
        st.info(
            f"There is no sweep {missing} of this model yet: start one above.",
            icon=":material/info:",
        )
        return None
    key = f"average:corruptions:other:{store.id}"
    if st.session_state.get(key) not in others:
        st.session_state.pop(key, None)
    chosen = st.selectbox(
        "Compared with",
        list(others),
        format_func=lambda id: title_of(others[id]),
        key=key,
        persist_state="session",
        help="Both are averaged as shares of their own total effect.",
    )
    return others[chosen]


def _show(found: TwoCorruptions) -> None:
    said = found.sentences()
    st.markdown(plain(said[0]))
    sites, claims = st.columns(2, gap="large")
    with sites:
        st.markdown("**Named sites**")
        if not found.sites:
            st.markdown("Neither corruption names a site.")
        for site in found.sites:
            colour, icon = SITE_BADGES[site.label]
            with st.container(horizontal=True, gap="small", vertical_alignment="top"):
                with st.container(width=112):
                    st.badge(site.label.capitalize(), icon=icon, color=cast("Any", colour))
                with st.container(gap=None):
                    st.markdown(plain(_capitalised(site.where)))
    with claims:
        st.markdown("**Claims of Meng et al. 2022, by noise and by pairs**")
        for claim in found.claims:
            with st.container(gap=None):
                st.markdown(plain(claim.text))
                with st.container(horizontal=True, gap="small"):
                    for name, judged in (("Noise", claim.noise), ("Pairs", claim.pairs)):
                        label, colour, icon = CLAIM_BADGES[judged.verdict]
                        st.badge(
                            f"{name}: {label.lower()}",
                            icon=icon,
                            color=cast("Any", colour),
                            help=plain(judged.why),
                        )
    _panels(found, " ".join(said))


def _panels(found: TwoCorruptions, said: str) -> None:
    titles = found.noise.titles() | found.pairs.titles()
    ordered = token_roles.in_order(list(titles), found.noise.about["roles"])
    frame = found.cells
    titles = {role: titles[role] for role in ordered if (frame["role"] == role).any()}
    shown = {"Noise": found.frame_of("noise"), "Pairs": found.frame_of("pairs")}
    end = drawing.effect_end(*shown.values())
    with st.container(width=360):
        st.caption(UNIT)
        show_chart(scale_bar(end, UNIT, theme=theme()), key="average:corruptions:scale")
    for name, average in (("Noise", found.noise), ("Pairs", found.pairs)):
        st.markdown(f"**{name}** :gray[{plain(average.counted)}]")
        kind_panels(shown[name], titles, end, UNIT, f"average:corruptions:{name}")
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown("**Significant cells**", width="content")
        for label, (colour, icon) in SITE_BADGES.items():
            st.badge(label.capitalize(), icon=icon, color=cast("Any", colour))
    draw = partial(drawing.agreement, frame, titles=titles)
    kinds = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    for kind, column in zip(kinds, st.columns(len(kinds), gap="medium"), strict=True):
        show_chart(
            draw(kind, theme=theme(), title=KINDS[kind]),
            key=f"average:corruptions:agreement:{kind}",
            place=column,
        )
    caption = (
        f"{said} Noise: {drawing.caption_of(found.noise)} Pairs: {drawing.caption_of(found.pairs)}"
    )
    save_below(
        "corruptions",
        charts={
            name: partial(
                drawing.heatmap_figure,
                cells,
                titles=titles,
                unit=UNIT,
                end=end,
                title=name,
                caption=caption,
            )
            for name, cells in shown.items()
        },
        tables={
            "Cells": lambda: frame,
            "Sites": partial(_sites_frame, found),
            "Claims": partial(_claims_frame, found),
        },
        caption=caption,
        said="A cell counts as significant by the rule of the heatmaps above, in each average by "
        "itself (FDR 5% within a panel); a site is in both where the other corruption has a "
        "significant cell of its kind, role and layers that carries a tenth of its total effect.",
    )


def _sites_frame(found: TwoCorruptions) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "side": site.side,
            "kind": site.peak.kind,
            "role": site.peak.role,
            "first_layer": site.peak.layers[0],
            "last_layer": site.peak.layers[1],
            "found_by": site.label,
            "noise": site.noise,
            "pairs": site.pairs,
        }
        for site in found.sites
    ]
    return pd.DataFrame(rows)


def _claims_frame(found: TwoCorruptions) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "claim": claim.text,
            "noise": claim.noise.verdict,
            "pairs": claim.pairs.verdict,
            "noise_why": claim.noise.why,
            "pairs_why": claim.pairs.why,
        }
        for claim in found.claims
    ]
    return pd.DataFrame(rows)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
