"""How does a saved result come back? From its settings, or any file, link or address with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import streamlit as st

from ..distribution import COMMAND
from ..errors import UserError
from ..exporting import embedded_settings
from ..exporting.recipe import Recipe, content_of
from ..exporting.settings_files import Settings, read_settings
from ..interventions.plan import Plan
from ..server.job_queue import Job, Step
from ..server.limits import limits
from . import follow, job, load, model, plain, sharing, start
from .door import Guarded, Request
from .tracing import steps

if TYPE_CHECKING:
    from ..models.model import Model

WHAT = {"trace": "trace", "compare": "comparison", "intervention": "intervention"}
"""What the pages show, by the slot of the job that makes it."""

ENDINGS = ("json", "png", "svg", "pdf", "html", "parquet", "zip")


def opener(slot: str = "trace") -> None:
    """A popover that takes a file or an address and makes its trace again, as a job of the slot."""
    with st.popover("Open settings", icon=":material/folder_open:", key=f"open:{slot}"):
        st.caption(f"Any figure, table or settings file saved here reproduces its {WHAT[slot]}.")
        st.file_uploader(
            "A saved file",
            ENDINGS,
            key=f"open:{slot}:file",
            max_upload_size=min(embedded_settings.MOST_BYTES // 2**20, limits().upload_megabytes),
            on_change=_of_file,
            args=(slot,),
        )
        if not limits().public:
            st.text_input(
                "or its address",
                key=f"open:{slot}:address",
                placeholder="https://",
                on_change=_of_address,
                args=(slot,),
            )
    fetched = job(_slot_of_fetching(slot))
    if fetched is not None:
        shown = fetched.progress()
        if not shown.active:
            st.rerun()  # it arrived while the page was drawn
        with st.container(width=420):
            follow(fetched, shown)
    if refused := st.session_state.pop("open:refused", ""):
        st.error(plain(refused), icon=":material/error:")


def take_fetched(slot: str = "trace") -> None:
    """Begin what an address has brought; to be called before the page's widgets are drawn."""
    fetched = job(_slot_of_fetching(slot))
    if fetched is None or (shown := fetched.progress()).active:
        return
    del st.session_state[f"job:{_slot_of_fetching(slot)}"]
    if shown.error:
        st.session_state["open:refused"] = shown.error
    elif shown.state == "done":
        try:
            _begin(slot, shown.partial)
        except UserError as mistake:
            st.session_state["open:refused"] = str(mistake)


def fetching(address: str) -> Guarded:
    """The work of reading the recipes behind an address."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, plain(f"Fetching {address}"))
        content = content_of(address, progress=lambda done: job.report(0.0))
        yield 1.0, read_settings(content, address)

    asks = Request(models=(), prompts=(), samples=0, owner="Opening an address")
    return Guarded(asks, work)


def repeating(recipe: Recipe) -> Guarded:
    """The work of making a recipe's trace again, sample by sample."""

    def fetch(job: Job) -> None:
        job.report(0.0, "Loading the model")
        recipe.model.fetch(fetching=lambda done, total: job.report(done / max(total, 1)))

    def work(job: Job) -> Iterator[Step]:
        loaded = _loaded(recipe)
        recipe.model.check(loaded)
        yield from steps(job, loaded, recipe.probe, recipe.text, recipe.settings)

    asks = Request.of_trace(
        [recipe.model.name], recipe.text, recipe.probe.template, recipe.settings
    )
    return Guarded(asks, work, fetch)


def _loaded(recipe: Recipe) -> Model:
    name, untrained, precision = (
        recipe.model.name,
        recipe.model.untrained,
        recipe.model.precision,
    )
    if untrained or precision != "float32":
        return load(name, untrained=untrained, dtype=precision)
    return model(name)


def _slot_of_fetching(slot: str) -> str:
    return f"open:{slot}"


def _of_file(slot: str) -> None:
    file = st.session_state[f"open:{slot}:file"]
    if file is None:
        return
    try:
        _begin(slot, read_settings(file.getvalue(), file.name))
    except UserError as mistake:
        st.session_state["open:refused"] = str(mistake)


def _of_address(slot: str) -> None:
    address = st.session_state[f"open:{slot}:address"].strip()
    if not address:
        return
    if not address.startswith(("http://", "https://")):
        # A path would let a visitor read files of the server.
        st.session_state["open:refused"] = f"The address {address!r} does not begin with https://."
        return
    start(_slot_of_fetching(slot), fetching(address), fetches=True)


def _begin(slot: str, settings: Settings) -> None:
    """Put the settings' text into the field, and begin; or say why not."""
    work = works()[slot](settings)
    if work is None:
        st.session_state["open:refused"] = (
            f"The file holds no {WHAT[slot]}; open it on the page that saved it, or run it by "
            f"`{COMMAND} run`."
        )
        return
    start(slot, work)


def works() -> Mapping[str, Callable[[Settings], Guarded | None]]:
    """What each page makes of settings: its work, or None where they are another page's."""
    from .comparing import comparing_again
    from .intervening import of_plan

    def trace(settings: Settings) -> Guarded | None:
        recipes = recipes_in(settings)
        if len(recipes) != 1:
            return None
        st.session_state.tweet = recipes[0].text
        st.session_state.pop("question", None)  # an address could not say all of it
        return repeating(recipes[0])

    def compare(settings: Settings) -> Guarded | None:
        recipes = recipes_in(settings)
        if len(recipes) < 2:
            return None
        work = comparing_again(recipes)
        st.session_state.tweet = recipes[0].text
        return work

    def intervention(settings: Settings) -> Guarded | None:
        return of_plan(settings) if isinstance(settings, Plan) else None

    return {"trace": trace, "compare": compare, "intervention": intervention}


def recipes_in(settings: Settings) -> list[Recipe]:
    """The recipes of traces among settings."""
    if isinstance(settings, Plan):
        return []
    return [each for each in settings if isinstance(each, Recipe)]


def linked(slot: str) -> Guarded | None:
    """The work of the settings that the address names; None where there is none, which is said."""
    try:
        found = sharing.linked_settings()
        if found is None:
            return None
        id, settings = found
        work = works()[slot](settings)
    except UserError as mistake:
        sharing.refuse(str(mistake))
        return None
    if work is None:
        sharing.refuse("The settings of this link are of another page.")
        return None
    st.session_state["kept:next"] = id
    return work


def begin(slot: str, work: Guarded) -> None:
    """Begin what an address asks for."""
    start(slot, work)
    if id := st.session_state.pop("kept:next", ""):
        sharing.note_kept(slot, id)
