"""Which models are on this disk? A list of them, to remove, to go on with, and to fetch others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import streamlit as st

from ..errors import UserError
from ..models import installed
from ..models.registry import EMBEDDED, REGISTRY, is_on_disk
from ..server.job_queue import Job, Step
from . import follow, job, plain, start
from .door import Guarded, Request


def manager() -> None:
    """What is on this disk, what can be removed, gone on with, or fetched."""
    whole = installed.shelved()
    st.caption(
        f"{len(whole)} model{'s' if len(whole) != 1 else ''}, "
        f"{_size(sum(model.bytes for model in whole))}; {_size(installed.free_bytes())} free on "
        "this "
        "disk. Probes and traces of a model that is removed stay."
    )
    for model in whole:
        _shelved(model)
    for waiting in installed.unfinished():
        _unfinished(waiting)
    _fetch()


def describe(name: str) -> str:
    """A model in a list of choices: what it costs to use it."""
    if name in REGISTRY:
        entry = REGISTRY[name]
        if name == EMBEDDED:
            return f"{name} \u00b7 bundled"
        size = f"{entry.download_bytes / 1e6:,.0f} MB to download"
        return f"{name} \u00b7 {'on disk' if is_on_disk(name) else size}"
    if Path(name).is_dir():
        return f"{Path(name).name} \u00b7 local folder"
    return f"{name} \u00b7 {'on disk' if is_on_disk(name) else 'hub'}"


def _shelved(model: installed.Shelved) -> None:
    with st.container(border=True, key=f"shelf:{model.folder.name}"):
        said, does = st.columns([6, 1], vertical_alignment="center")
        layers = f", {model.layers} layers" if model.layers else ""
        known = "" if model.supported else " \u00b7 cannot be traced"
        said.markdown(f"**{plain(model.name)}** \u00b7 {_size(model.bytes)}")
        said.caption(
            plain(
                f"{model.family or 'unknown family'}{layers}{known} \u00b7 from {model.origin} "
                f"\u00b7 revision {model.revision[:12]}"
            )
        )
        if model.bundled:
            does.caption("bundled")
            return
        with does.popover("Remove", key=f"removing:{model.folder.name}"):
            st.markdown(f"It has to be fetched again to be used: {_size(model.bytes)}.")
            st.button(
                "Remove it",
                key=f"remove:{model.folder.name}",
                on_click=_told,
                args=(installed.remove, model.name),
            )


def _unfinished(waiting: installed.Unfinished) -> None:
    running = _fetching() == waiting.name
    with st.container(border=True, key=f"unfinished:{waiting.name}"):
        said, does = st.columns([4, 3], vertical_alignment="center")
        said.markdown(f"**{plain(waiting.name)}** \u00b7 {_size(waiting.bytes)} so far")
        said.caption("Downloading." if running else "Incomplete download")
        with does.container(horizontal=True, gap="small"):
            st.button(
                "Resume",
                key=f"resume:{waiting.name}",
                disabled=running,
                on_click=_begin,
                args=(waiting.name,),
            )
            st.button(
                "Discard",
                key=f"discard:{waiting.name}",
                disabled=running,
                on_click=_told,
                args=(installed.discard, waiting.name),
            )


def _fetch() -> None:
    """Fetch a model: which one, how far it is, how to cancel it, and what went wrong."""
    missing = [name for name in REGISTRY if name != EMBEDDED and not is_on_disk(name)]
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        name = st.selectbox(
            "Fetch from the Hugging Face hub",
            missing,
            index=None,
            format_func=_offered,
            accept_new_options=True,
            placeholder="Choose, or type a hub id such as EleutherAI/pythia-70m",
            key="fetch:name",
            width=420,
        )
        current = job("fetch")
        shown = current.progress() if current else None
        active = bool(shown and shown.active)
        st.button(
            "Fetch", key="fetch:go", disabled=not name or active, on_click=_begin, args=(name,)
        )
        if current is not None and active:
            st.button("Cancel", key="fetch:cancel", on_click=current.stop)
    if current is not None and shown is not None:
        follow(current, shown)
        if shown.error:
            st.error(plain(shown.error), icon=":material/error:")
        elif shown.state == "done":
            st.success(plain(f"{shown.partial} is on this disk."), icon=":material/check:")
        elif shown.state == "stopped":
            st.info("Cancelled; what arrived is kept, and Resume goes on with it.")
    if refused := st.session_state.pop("shelf:refused", ""):
        st.error(plain(refused), icon=":material/error:")


def _offered(name: str) -> str:
    """A model of the hub in a list: what its download costs."""
    if name not in REGISTRY:
        return name
    return f"{name} \u00b7 {REGISTRY[name].download_bytes / 1e6:,.0f} MB to download"


def _begin(name: str) -> None:
    st.session_state["fetch:what"] = name
    st.session_state["fetch:name"] = None  # the next one is chosen anew
    start("fetch", fetching(name), fetches=True)


def _fetching() -> str | None:
    """The model that is being fetched."""
    current = job("fetch")
    active = current is not None and current.progress().active
    return str(st.session_state.get("fetch:what")) if active else None


def fetching(name: str) -> Guarded:
    """The work of fetching a model."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, plain(f"Asking the hub for {name}"))

        def told(done: int, total: int) -> None:
            job.report(done / max(total, 1), plain(f"Fetching {name}, {_size(total)}"))

        installed.download(name.strip(), progress=told)
        yield 1.0, name

    asks = Request(models=(), prompts=(), samples=0, owner="Downloading a model")
    return Guarded(asks, work)


def _told(do: Callable[[str], None], name: str) -> None:
    try:
        do(name)
    except UserError as mistake:
        st.session_state["shelf:refused"] = str(mistake)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
