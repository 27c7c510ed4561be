"""Does it matter when punctuation is ablated? The test that the Average page runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

import streamlit as st

from ..charts import average as drawing
from ..models.registry import REGISTRY
from ..server.job_queue import Job, Step
from ..sweeps import average_findings as words
from ..sweeps import sweep
from ..sweeps.store import Store
from ..sweeps.study import Study, keep_ablation, kept_ablation
from ..tracing.result import PROXIES
from . import follow, job, loaded_for, plain, start, theme
from .average_parts import save_below
from .averaging import show_claim
from .charts import show_chart
from .door import Guarded, Request, Texts

if TYPE_CHECKING:
    import pandas as pd

ABLATED = 300  # tweets of the punctuation test, at most


def punctuation_test(found: Study, store: Store | None) -> None:
    """What is left of the effect when punctuation, or other tokens, are ablated."""
    st.markdown(
        "Tigges et al. 2023: models summarise the sentiment of a phrase at its punctuation. "
        "The test: mean-ablate the hidden states at a tweet\u2019s inner commas and stops, from "
        "a layer on, and measure the loss; as many other tokens are the control."
    )
    frame = found.punctuation
    if store is not None:
        frame = _ablated(store)
    elif frame is None:
        st.info("The example has no such test.", icon=":material/info:")
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
        show_chart(draw(groups, theme=theme(), title="Loss"), key="average:punctuation")
    with right:
        show_chart(
            draw(apart, theme=theme(), title="Loss minus control"), key="average:punctuation:apart"
        )
    counts = frame.groupby("group")["n"].max()
    caption = (
        f"Loss of {unit}, towards the clean prediction, when a group's hidden states are "
        "mean-ablated after this layer and all later ones. "
        f"{counts['punctuation']:,} tweets have inner punctuation without a sentiment of its own "
        f"(not ! and ?), {counts['sentiment']:,} of them a sentiment word; bands are 95% bootstrap "
        "intervals over tweets."
    )
    save_below(
        "punctuation",
        charts={
            "Ablated tokens": lambda: draw(groups).chart(),
            "Loss minus control": lambda: draw(apart).chart(),
        },
        tables={"Ablated tokens": lambda: frame},
        caption=caption,
    )


def _ablated(store: Store) -> pd.DataFrame | None:
    """The test's numbers, or a button that makes them."""
    current = job("punctuation")
    progress = current.progress() if current is not None else None
    if progress is not None and progress.partial is not None and progress.partial[0] == store.id:
        return cast("pd.DataFrame", progress.partial[1])
    found = kept_ablation(store)
    if found is not None:
        return found
    name = str(store.manifest["origin"]["model"])
    if name not in REGISTRY:
        st.info("The test needs a model of the list; this one is a folder.", icon=":material/info:")
        return None
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        running = progress is not None and progress.active
        if st.button("Run the test", type="primary", key="punctuation:run", disabled=running):
            current = start("punctuation", ablating(store))
            progress = current.progress()
        st.caption(
            "Two forward passes a tweet, a few seconds each on a small model; the result is kept."
        )
    if current is not None and progress is not None:
        if progress.active:
            follow(current, progress)
            st.button("Stop", key="punctuation:stop", on_click=current.stop)
        if progress.error:
            st.error(plain(progress.error), icon=":material/error:")
    return None


def ablating(store: Store) -> Guarded:
    """The work of the ablation of punctuation, on a sweep's own tweets."""
    name = str(store.manifest["origin"]["model"])
    plan = store.tweets
    texts = plan.loc[plan["tokens"] > 0].sort_values("number")["text"].tolist()[:ABLATED]

    def work(job: Job) -> Iterator[Step]:
        from ..sweeps.punctuation import ablation

        loaded = loaded_for(job, name)
        sweep.check_model(loaded, store.model)
        job.report(0.0, "Ablating punctuation, and the control")
        found = ablation(loaded, store.probe, texts, progress=job.report)
        keep_ablation(store, found)
        yield 1.0, (store.id, found)

    asks = Request(models=(name,), prompts=(Texts(texts, store.probe.template),), samples=0)
    return Guarded(asks, work)
