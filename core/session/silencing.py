"""Does it matter when punctuation is silenced? The test that the Average page runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

import streamlit as st

from core import average_figures as drawing
from core import average_findings as words
from core import sweep
from core.jobs import Job, Step, Work
from core.registry import REGISTRY
from core.results import PROXIES
from core.session import follow, job, loaded_for, plain, start, theme
from core.session.average_parts import save_below
from core.session.averaging import show_claim
from core.session.charts import show_chart
from core.store import Store
from core.studies import Study, keep_ablation, kept_ablation

if TYPE_CHECKING:
    import pandas as pd

ABLATED = 300  # tweets of the punctuation test, at most


def punctuation_test(found: Study, store: Store | None) -> None:
    """What is left of the effect when punctuation, or other tokens, are silenced."""
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
        show_chart(draw(groups, theme=theme(), title="What is lost"), key="average:punctuation")
    with right:
        show_chart(
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
    save_below(
        "punctuation",
        charts={"Silenced tokens": draw(groups).chart, "Beyond the control": draw(apart).chart},
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
