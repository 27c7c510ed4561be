"""How does a saved trace come back? From its settings, or any file or address that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from ..distribution import COMMAND
from ..errors import UserError
from ..exporting import embedded_settings
from ..exporting.recipe import Recipe, open_recipes, read_recipes
from ..server.job_queue import Job, Step
from ..server.limits import limits
from . import follow, job, load, model, plain, start
from .door import Guarded, Request
from .tracing import steps

if TYPE_CHECKING:
    from ..models.model import Model

ENDINGS = ("json", "png", "svg", "pdf", "html", "parquet", "zip")


def opener(slot: str = "trace") -> None:
    """A popover that takes a file or an address and makes its trace again, as a job of the slot."""
    with st.popover("Open settings", icon=":material/folder_open:", key=f"open:{slot}"):
        st.caption("Any figure, table or settings file saved here reproduces its trace.")
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
        _begin(slot, shown.partial)


def fetching(address: str) -> Guarded:
    """The work of reading the recipes behind an address."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, plain(f"Fetching {address}"))
        yield 1.0, open_recipes(address, progress=lambda done: job.report(0.0))

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

    asks = Request.of_trace([recipe.model.name], recipe.text, recipe.suffix, recipe.settings)
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
        recipes = read_recipes(file.getvalue(), file.name)
    except UserError as mistake:
        st.session_state["open:refused"] = str(mistake)
        return
    _begin(slot, recipes)


def _of_address(slot: str) -> None:
    address = st.session_state[f"open:{slot}:address"].strip()
    if not address:
        return
    if not address.startswith(("http://", "https://")):
        # A path would let a visitor read files of the server.
        st.session_state["open:refused"] = f"The address {address!r} does not begin with https://."
        return
    start(_slot_of_fetching(slot), fetching(address), fetches=True)


def _begin(slot: str, recipes: Sequence[Recipe]) -> None:
    """Put the recipe's text into the field, and begin; or say why not."""
    recipe, *others = recipes
    if others:
        st.session_state["open:refused"] = (
            f"The file holds {len(recipes)} traces, and this page shows one; run it by "
            f"`{COMMAND} run`."
        )
        return
    st.session_state.tweet = recipe.text
    st.session_state.pop("question", None)  # an address could not say all of it
    start(slot, repeating(recipe))
