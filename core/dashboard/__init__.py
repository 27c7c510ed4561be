"""What all pages share: cached loaders, the queue of background work, and small widgets.

The only part of `core` that knows Streamlit. `labelled`, `probing` and `tracing` hold the widgets
of their subjects.
"""

from __future__ import annotations

import atexit
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import streamlit as st

from ..charts.style import INK, Theme
from ..distribution import ASSETS
from ..errors import UserError
from ..models.loading import load_model
from ..models.model import Model
from ..models.registry import REGISTRY, availability, default_model, is_on_disk
from ..server import logs
from ..server.job_queue import Job, Progress, Queue, Step, Work
from ..server.limits import limits
from . import visitor
from .door import Guarded

if TYPE_CHECKING:
    import pandas as pd
    from streamlit.navigation.page import Page

T = TypeVar("T")
TWEETS = "vader-tweets"
POLL = 0.4  # seconds between looks at a job that is under way
MODELS_IN_MEMORY = 2
SWEEP = "sweep"  # the slot of work on many tweets
PAGES = ("trace", "probes", "average", "compare", "interventions", "method", "diagnostics")
"""Of the folder `pages`, in the order of the navigation; the first is the front page."""

FOR_OWNERS = ("diagnostics",)
"""Pages that a public server does not show."""


# --- one copy per server -------------------------------------------------------------------------


@st.cache_resource(show_spinner=False)
def queue() -> Queue:
    """The server's queue: what all users have computed stands in it.

    Its first work, on a server, is to load the model that a visitor finds chosen: he types
    meanwhile.
    """
    jobs = _begun()
    name, _ = default_model()
    if visitor.on_server() and is_on_disk(name):
        jobs.submit("the server", lambda job: _warming(job, name), slot="warming up")
    return jobs


def _warming(job: Job, name: str) -> Iterator[Step]:
    yield 1.0, loaded_for(job, name).name


@st.cache_resource(show_spinner=False)
def downloads() -> Queue:
    """The queue of downloads, which need no core: nobody who computes waits for them."""
    return _begun()


def _begun() -> Queue:
    logs.set_up()
    jobs = Queue()
    # A thread that still computes while Python takes itself apart brings the process down.
    atexit.register(jobs.close, patience=5.0)
    return jobs


@st.cache_resource(show_spinner=False, max_entries=MODELS_IN_MEMORY)
def model(name: str, _progress: Callable[[int, int], None] | None = None) -> Model:
    """A model, loaded once for all users; the one used least recently makes room.

    Raises:
        ValueError: it cannot be loaded, or a visitor may not have it loaded.
    """
    return load(name, progress=_progress)


def load(
    name: str,
    *,
    untrained: bool = False,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """A model of the caller's own; nothing else here loads one.

    Args:
        name, untrained, dtype, progress: as for `core.models.loading.load_model`.

    Raises:
        ValueError: it cannot be loaded, or a visitor may not have it loaded.
    """
    limits().check_model(name, on_disk=is_on_disk(name))
    return load_model(name, untrained=untrained, dtype=dtype, progress=progress)


@st.cache_resource(show_spinner=False, max_entries=4)
def tweets(name: str = TWEETS) -> pd.DataFrame:
    """A labelled data set, shared by all users; not to be changed."""
    from ..data.datasets import load_dataset

    return load_dataset(name)


@st.cache_data(show_spinner=False)
def example_tweets() -> dict[str, str]:
    """Tweets to begin with, by the names on their buttons."""
    return cast(
        "dict[str, str]", json.loads((ASSETS / "example_tweets.json").read_text(encoding="utf-8"))
    )


def drawing(name: str) -> str:
    """An SVG of the assets in the colour of the page's text."""
    svg = (ASSETS / f"{name}.svg").read_text(encoding="utf-8")
    return svg.replace("currentColor", INK[theme()])


def remembered(place: str, key: object, make: Callable[[], T]) -> T:
    """What was made for this key in this user's session; made anew when the key has changed."""
    made = st.session_state.get(f"made:{place}")
    if made is None or made[0] != key:
        made = st.session_state[f"made:{place}"] = (key, make())
    return cast("T", made[1])


# --- background work -----------------------------------------------------------------------------


GIVE_WAY = ("trace", "compare", "probe", SWEEP)
"""Slots of long works that leave their models as they are: verdicts go before their cells."""


def start(slot: str, work: Guarded, *, fetches: bool = False) -> Job:
    """Begin a user's work; his earlier work of the same slot is given up.

    The one way from a page to a queue: work that does not say what it asks does not pass.

    The job is kept for the session, so that its result is there when he comes back to the page.

    Args:
        slot: of his works of one slot only the latest counts; those of `SWEEP` may be limited.
        fetches: it waits for the network and computes nothing.
    """
    earlier = job(slot)
    if earlier is not None:
        earlier.stop()
    counted = _counted(work) if slot == SWEEP else work
    session = visitor.session_id()
    line = downloads() if fetches else queue()
    begun = line.submit(
        session,
        counted,
        slot=slot,
        wanted=visitor.open_tab(session),
        prompt=slot == "trace",
        gives_way=slot in GIVE_WAY,
    )
    st.session_state[f"job:{slot}"] = begun
    return begun


def _counted(sweep: Work) -> Work:
    """The sweep, or the sentence that this visitor has had as many as he may."""
    begun = st.session_state.get("sweeps", 0)
    try:
        limits().check_sweeps(begun)
    except UserError as mistake:
        sentence = str(mistake)

        def refused(_: Job) -> Iterator[Step]:
            raise UserError(sentence)

        return refused
    st.session_state.sweeps = begun + 1
    return sweep


def job(slot: str) -> Job | None:
    """The user's latest job of a slot."""
    return cast("Job | None", st.session_state.get(f"job:{slot}"))


def follow(current: Job, shown: Progress) -> None:
    """Draw how far a job is, and run the page again when there is more to show than is shown.

    Only this line is drawn at every look; results are redrawn when there is a newer one.
    """

    def look() -> None:
        now = current.progress()
        if (now.version, now.active) != (shown.version, shown.active):
            st.rerun()
        if now.active:
            st.progress(now.fraction, text=status_line(now))
        elif line := status_line(now):
            st.caption(line)

    st.fragment(look, run_every=POLL if shown.active else None)()


def status_line(progress: Progress) -> str:
    """How far a job is, in words."""
    if progress.state == "waiting":
        ahead = progress.place - 1
        if ahead > 0:
            return f"In the queue behind {ahead} other{'s' if ahead > 1 else ''}"
        return "Next in the queue"
    if progress.state == "running":
        if progress.stopping:
            return "Stopping"
        left = progress.seconds_left
        until = "" if left is None else f", about {_duration(left)} left"
        return f"{progress.note or 'Starting'}{until}"
    took = _duration(progress.seconds)
    return {"done": f"Done in {took}", "stopped": f"Stopped after {took}", "failed": ""}[
        progress.state
    ]


def loaded_for(current: Job, name: str) -> Model:
    """A model, while the job says that it is being loaded."""
    current.report(0.0, "Loading the model")
    return model(name, _progress=lambda done, total: current.report(done / max(total, 1)))


# --- widgets -------------------------------------------------------------------------------------


def frame() -> Page:
    """What stands around every page: configuration, style, logo and navigation.

    Returns:
        The page that is asked for; `app.py` runs it.
    """
    st.session_state.framed = True
    st.set_page_config("SentiTrace", page_icon=str(ASSETS / "icon.svg"), layout="wide")
    st.html(ASSETS / "style.css")
    st.logo(str(ASSETS / "logo.svg"))
    if visitor.on_server():
        queue()  # on a server that has just started, its first work begins now
    known = _is_known()
    pages = [
        st.Page(f"pages/{name}.py", title=name.capitalize(), default=name == PAGES[0])
        for name in PAGES
        if not (limits().public and name in FOR_OWNERS)
    ]
    chosen = st.navigation(pages, position="top" if known else "hidden")
    if not known:
        _ask_to_sign_in()
    return chosen


def _is_known() -> bool:
    """Whether this visitor may see more than the way in."""
    return not limits().sign_in or bool(st.user.get("is_logged_in", False))


def _ask_to_sign_in() -> None:
    """Show nothing but the way in, to a visitor who is not known."""
    st.title("SentiTrace", anchor=False)
    st.markdown("This server is for people who sign in.")
    st.button("Sign in", type="primary", on_click=st.login, key="sign in")
    st.stop()


def heading(title: str, sentence: str) -> None:
    """Open a page."""
    _frame_here()
    st.title(title, anchor=False)
    st.markdown(f":gray[{sentence}]")


def tweet_choice(example_key: str, *, height: int = 92, help: str | None = None) -> str:
    """The tweet, the same on every page, typed or taken from the examples."""

    def take_example() -> None:
        if chosen := st.session_state[example_key]:
            st.session_state.tweet = example_tweets()[chosen]

    text = st.text_area(
        "Tweet",
        key="tweet",
        height=height,
        placeholder="Type or paste a tweet",
        persist_state="session",
        help=help,
    )
    st.pills(
        "Or take an example",
        list(example_tweets()),
        key=example_key,
        on_change=take_example,
        label_visibility="collapsed",
        wrap=False,
        help="Fills the field above with one of ten tweets.",
    )
    return text


def switch(
    label: str,
    options: Mapping[T, str],
    key: str,
    *,
    default: T | None = None,
    help: str | None = None,
    within: Any = st,
) -> T:
    """One of a few options side by side, of which one is always chosen; kept for the session.

    Args:
        options: and what a person calls each; the first is chosen where there is no default.
        within: the column that it stands in.
    """
    names = list(options)
    chosen: T = within.segmented_control(
        label,
        names,
        default=names[0] if default is None else default,
        format_func=options.__getitem__,
        required=True,
        key=key,
        persist_state="session",
        help=help,
    )
    return chosen


def model_choice() -> str:
    """The model dropdown; says what each model costs, and why the first one was taken."""
    default, reason = default_model()
    names = list(REGISTRY)
    chosen = st.selectbox(
        "Model",
        names,
        index=names.index(default),
        format_func=_describe_model,
        key="model",
        persist_state="session",
        help="A model that is not on this disk is downloaded from the Hugging Face hub first.",
    )
    st.caption(reason if chosen == default else _describe_cost(chosen))
    return chosen


def theme() -> Theme:
    """Light or dark, as the page is drawn."""
    return "dark" if st.context.theme.type == "dark" else "light"


def plain(text: str) -> str:
    """Text that somebody typed, for places that read Markdown: nothing in it is markup.

    Whatever could begin markup, a link, a formula or an icon's name gets a backslash. Half a
    character, which no page can be sent, becomes a replacement character.
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(f"\\{mark}" if mark in _MARKUP else mark for mark in " ".join(whole.split()))


_MARKUP = frozenset("\\`*_{}[]()<>#+-.!|~$:&^=@/\"'")


def _describe_model(name: str) -> str:
    entry = REGISTRY[name]
    cost = availability(name)
    if cost == "to be downloaded":
        cost = f"{_bytes(entry.download_bytes)} to download"
    return f"{name} \u00b7 {entry.layers} layers \u00b7 {cost}"


def _describe_cost(name: str) -> str:
    entry = REGISTRY[name]
    return (
        f"{entry.parameters / 1e6:,.0f} million parameters in {entry.layers} layers; "
        f"licence {entry.licence}. {entry.access}"
    ).strip()


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def _frame_here() -> None:
    """Draw a page again, by `app.py`, where Streamlit has passed that by.

    A server whose first visitor comes by the address of a page takes the folder `pages` for the
    older kind of app, in which `app.py` is a page among others; it learns otherwise from
    `st.navigation`, which the frame calls. That is so in the first run of a session alone, in
    which nothing was pressed yet. Whichever way a page is run, a stranger sees none.
    """
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if script.name == "app.py" and "framed" not in st.session_state:
        frame()
        st.rerun()
    if not _is_known():
        _ask_to_sign_in()
