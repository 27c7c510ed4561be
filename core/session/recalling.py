"""How does a saved trace come back? From its settings, or any file or address that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import streamlit as st

from core import metadata
from core.jobs import Job, Step, Work
from core.recipes import Recipe, open_recipes, read_recipes
from core.session import model, plain, start
from core.trace import trace_progressively

if TYPE_CHECKING:
    from core.models import Model

KINDS = ("json", "png", "svg", "pdf", "html", "parquet", "zip")


def opener(slot: str = "trace") -> None:
    """A popover that takes a file or an address and makes its trace again, as a job of the slot."""
    with st.popover("Open settings", icon=":material/folder_open:", key=f"open:{slot}"):
        st.caption("Any figure, table or settings file saved here makes its own trace again.")
        st.file_uploader(
            "A saved file",
            KINDS,
            key=f"open:{slot}:file",
            max_upload_size=metadata.MOST_BYTES // 2**20,
            on_change=_of_file,
            args=(slot,),
        )
        st.text_input(
            "or its address",
            key=f"open:{slot}:address",
            placeholder="https://",
            on_change=_of_address,
            args=(slot,),
        )
    if refused := st.session_state.pop("open:refused", ""):
        st.error(plain(refused), icon=":material/error:")


def repeating(recipe: Recipe) -> Work:
    """The work of making a recipe's trace again, sample by sample."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, "Loading the model")
        loaded = _loaded(recipe, job)
        recipe.check(loaded)
        job.report(0.0, "Tracing")
        for result in trace_progressively(
            loaded, recipe.probe, recipe.text, recipe.settings, keep=True, progress=job.report
        ):
            yield result.samples_done / result.samples_wanted, result

    return work


def _loaded(recipe: Recipe, job: Job) -> Model:
    def fetching(done: int, total: int) -> None:
        job.report(done / max(total, 1))

    if recipe.model.untrained or recipe.model.precision != "float32":
        return recipe.load(fetching=fetching)
    recipe.fetch(fetching=fetching)
    return model(recipe.model.name)


def _of_file(slot: str) -> None:
    file = st.session_state[f"open:{slot}:file"]
    if file is not None:
        _begin(slot, lambda: read_recipes(file.getvalue(), file.name))


def _of_address(slot: str) -> None:
    address = st.session_state[f"open:{slot}:address"].strip()
    if not address:
        return
    if not address.startswith(("http://", "https://")):
        # A path would let a visitor read files of the server.
        st.session_state["open:refused"] = f"The address {address!r} does not begin with https://."
        return
    _begin(slot, lambda: open_recipes(address))


def _begin(slot: str, read: Callable[[], tuple[Recipe, ...]]) -> None:
    """Read the recipe, put its text into the field, and begin; or say why not."""
    try:
        recipe, *others = read()
        if others:
            raise ValueError(
                f"The file holds {len(others) + 1} traces, and this page shows one; run it by "
                "`python -m core run`."
            )
    except ValueError as mistake:
        st.session_state["open:refused"] = str(mistake)
        return
    st.session_state.tweet = recipe.text
    st.session_state.pop("question", None)  # an address could not say all of it
    start(slot, repeating(recipe))
