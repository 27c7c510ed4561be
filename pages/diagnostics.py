"""The Diagnostics page: what the server does, holds and runs on. It shows nobody's tweet."""

import pandas as pd
import streamlit as st

from core import dashboard
from core.server import diagnostics, logs
from core.server.limits import limits


def main() -> None:
    """Queue, cache, memory, disk, limits, versions."""
    dashboard.heading("Diagnostics", "What this server does, holds and runs on.")
    if limits().public:
        st.info("This page is for the owner of the server.", icon=":material/lock:")
        st.stop()
    st.fragment(show_now, run_every=5.0)()
    show_what_stays()


def show_now() -> None:
    """What changes: requests, caches, memory; looked at every five seconds."""
    look = dashboard.queue().look()
    ended = sum(look.ended.values())
    left, middle, right = st.columns(3, gap="medium")
    with left:
        st.subheader("Requests", anchor=False)
        table(diagnostics.requests(look))
        now = "".join(
            f"Now: {at.running}, for {at.seconds:.0f} s. "
            for at in (look, dashboard.downloads().look())
            if at.running
        )
        means = (
            f"Of {ended:,} that ended, the mean waited {look.waited / ended:.1f} s and ran "
            f"{look.ran / ended:.1f} s."
            if ended
            else "None has ended yet."
        )
        st.caption(dashboard.plain(now + means))
    with middle:
        st.subheader("Caches", anchor=False)
        counts = logs.counts()
        if counts:
            table(pd.DataFrame(counts.items(), columns=["what", "count"]))
        st.caption(
            "Counted since the server began. What is read back needs no model."
            if counts
            else "Nothing was asked of them since the server began."
        )
    with right:
        st.subheader("Memory", anchor=False)
        table(diagnostics.memory())


def show_what_stays() -> None:
    """The disk, the limits and the versions."""
    left, middle, right = st.columns(3, gap="medium")
    with left:
        st.subheader("Disk", anchor=False)
        table(diagnostics.disk())
        st.caption("In the cache folder, which SENTITRACE_HOME moves.")
    with middle:
        st.subheader("Limits", anchor=False)
        said = vars(limits())
        words = {None: "none", True: "yes", False: "no"}
        values = [
            words[value] if value is None or isinstance(value, bool) else str(value)
            for value in said.values()
        ]
        names = [name.replace("_", " ") for name in said]
        table(pd.DataFrame({"what": names, "limit": values}))
    with right:
        st.subheader("Versions", anchor=False)
        table(diagnostics.versions())


def table(frame: pd.DataFrame) -> None:
    """A table as high as its rows; bytes are said as such."""
    st.dataframe(
        frame,
        hide_index=True,
        height="content",
        column_config={"bytes": st.column_config.NumberColumn(format="bytes")},
    )


main()
