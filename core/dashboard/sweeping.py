"""How is a sweep asked for, begun, watched and held?

A sweep runs in a process of its own (`core.sweeps.store.Store.start`), so that leaving the page,
reloading it or closing the browser changes nothing; what the page shows of it is asked of the disk.
Only its beginning (loading the model, training a probe if there is none, choosing the tweets) is
work of the server's queue.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import streamlit as st

from ..data.pairs import PAIRED
from ..errors import UserError
from ..models.registry import REGISTRY
from ..patching.sites import Kind
from ..prompts.token_roles import TWEET
from ..server.job_queue import Job, Step
from ..server.limits import limits
from ..sweeps import sweep
from ..sweeps.store import Status, Store, open_store, sweeps
from ..sweeps.sweep import Selection
from ..tracing.result import CORRUPTIONS, Direction, TraceSettings
from ..tracing.view import KINDS, ordinal
from . import loaded_for, plain, queue
from .data_choice import Data
from .door import Guarded, Request, Texts
from .probing import Reads, template_of, trained_for
from .tracing import EDITED

if TYPE_CHECKING:
    import pandas as pd

LOOK = 2.0  # seconds between looks at sweeps that run
SHOWN = 4  # sweeps of the list before the rest is folded away
DEFAULT_TWEETS = 150
CHARACTERS = 3.6  # of a token, about
PROMPT = 4  # tokens of the suffix and the beginning
MOST_BUSY = 25.0  # percent of all cores that others may use while the speed is measured
EFFICIENCY = 0.6  # of a plain matrix product's speed that a sweep reaches, about
Over = Literal["texts", "pairs"]
OVER: dict[Over, str] = {"texts": "Texts", "pairs": "Pairs"}
LABELS: dict[str, int | None] = {"Positive and negative": None, "Positive": 1, "Negative": 0}
DIRECTIONS: dict[Direction, str] = {
    "restore": "Denoising: restore clean activations in the corrupted run",
    "corrupt": "Noising: corrupt activations in the clean run",
}
BADGES: dict[str, tuple[str, Literal["blue", "gray", "green", "orange"], str]] = {
    "running": ("Running", "blue", ":material/play_arrow:"),
    "paused": ("Paused", "gray", ":material/pause:"),
    "stopped": ("Stopped", "orange", ":material/stop:"),
    "done": ("Done", "green", ":material/check:"),
}


@dataclass(frozen=True)
class Asked:
    """A sweep that a person asks for."""

    settings: TraceSettings
    selection: Selection
    roles: tuple[str, ...] | None
    most_tokens: int | None


# --- asking --------------------------------------------------------------------------------------


def sweep_choice(over: Over) -> Asked:
    """What is traced of which tweets or pairs; raises ValueError where that cannot be."""
    pairs = over == "pairs"
    first, second, third, fourth = st.columns(4, gap="medium")
    n = first.number_input(
        "Pairs" if pairs else "Tweets",
        1,
        1_000_000,
        DEFAULT_TWEETS,
        step=50,
        key="sweep:n",
        persist_state="session",
        help="Drawn at random; intervals shrink with the square root of their number.",
    )
    which = second.selectbox(
        "Of these",
        ["all", "correct"],
        format_func={"all": "All", "correct": "Predicted correctly by the probe"}.__getitem__,
        key="sweep:which",
        persist_state="session",
        help="The paper averages over facts that the model knows; a probe's own held-out "
        "predictions decide where there are some."
        + (" Of a pair both texts are asked." if pairs else ""),
    )
    label = third.selectbox(
        "Sentiment",
        list(LABELS),
        key="sweep:label",
        persist_state="session",
        help="With both, positive and negative tweets are compared afterwards.",
    )
    shortest, longest = fourth.slider(
        "Length, in tokens",
        1,
        100,
        (1, 100),
        key="sweep:length",
        persist_state="session",
        help="Of the tweet alone; 100 sets no limit. Time grows with the square of the length.",
    )
    settings: dict[str, Any] = {"samples": 1}
    if pairs:
        settings |= {"corruption": "counterfactual"}
        settings["edited"] = first.selectbox(
            "Edited span restored at",
            list(EDITED),
            format_func=EDITED.__getitem__,
            key="sweep:edited",
            persist_state="session",
            help="Of a pair whose texts have unequal lengths: all before and after the edit "
            "corresponds token by token; the edited span is one site, its last token or all of it.",
        )
    else:
        settings["samples"] = first.number_input(
            "Samples per tweet",
            1,
            50,
            1,
            key="sweep:samples",
            persist_state="session",
            help="Noise samples; tweets differ far more than samples of one tweet do, so take 1 or "
            "2 and more tweets.",
        )
    every = second.number_input(
        "Trace every n-th layer",
        1,
        16,
        2,
        key="sweep:every",
        persist_state="session",
        help="2 takes half the time and leaves gaps between layers.",
    )
    roles = third.multiselect(
        "Only these token roles",
        list(TWEET),
        format_func=TWEET.__getitem__,
        placeholder="all tokens",
        key="sweep:roles",
        persist_state="session",
        help="Other tokens are not traced, which saves their time; a tweet's peak is then looked "
        "for among these alone.",
    )
    most = fourth.number_input(
        "Max tokens per role",
        1,
        100,
        None,
        placeholder="all tokens",
        key="sweep:most",
        persist_state="session",
        help="Tokens of one role in one tweet, drawn at random; their mean stands for the role's.",
    )
    with st.expander("More settings"):
        first, second, third, fourth = st.columns(4, gap="medium")
        kinds = first.multiselect(
            "Kinds of site",
            list(KINDS),
            list(KINDS),
            format_func=KINDS.__getitem__,
            key="sweep:kinds",
            persist_state="session",
            help="Each takes about as long as another.",
        )
        if not pairs:
            settings["corruption"] = second.selectbox(
                "Corruption",
                [name for name in CORRUPTIONS if name != "counterfactual"],
                format_func=CORRUPTIONS.__getitem__,
                key="sweep:corruption",
                persist_state="session",
                help="What takes the place of the tweet's embeddings in the corrupted run.",
            )
            settings["noise_scale"] = third.number_input(
                "Noise, in standard deviations",
                0.5,
                10.0,
                3.0,
                0.5,
                key="sweep:noise",
                persist_state="session",
                help="Of the embeddings of the data set's tokens; the paper uses 3.",
            )
        seed = fourth.number_input(
            "Seed",
            0,
            2**31 - 1,
            0,
            key="sweep:seed",
            persist_state="session",
            help="Draws tweets and noise; a larger number of tweets with the same seed only adds "
            "some.",
        )
        direction = first.selectbox(
            "Direction",
            list(DIRECTIONS),
            format_func=DIRECTIONS.__getitem__,
            key="sweep:direction",
            persist_state="session",
            help="Denoising asks which sites are sufficient, noising which are necessary.",
        )
        containing = second.text_input(
            "Tweets containing",
            key="sweep:containing",
            max_chars=200,
            persist_state="session",
            placeholder="any text",
            help="Case is ignored.",
        )
    if not kinds:
        raise UserError("Choose at least one kind of site under More settings.")
    return Asked(
        settings=TraceSettings(
            kinds=tuple(cast("Kind", kind) for kind in KINDS if kind in kinds),
            seed=int(seed),
            every=int(every),
            direction=direction,
            **settings,
        ),
        selection=Selection(
            which=cast('Literal["all", "correct"]', which),
            label=LABELS[label],
            shortest=shortest,
            longest=None if longest == 100 else longest,
            containing=containing.strip(),
            n=int(n),
            seed=int(seed),
        ),
        roles=tuple(roles) or None,
        most_tokens=None if most is None else int(most),
    )


def beginning(name: str, reads: Reads, data: Data, asked: Asked) -> Guarded:
    """The work of beginning a sweep; its result is the store's name."""
    owner = owner_here()

    def work(job: Job) -> Iterator[Step]:
        loaded = loaded_for(job, name)
        probe = trained_for(job, loaded, reads)
        job.report(0.0, "Choosing the tweets")
        store = sweep.create(
            loaded,
            probe,
            data.frame,
            asked.settings,
            selection=asked.selection,
            roles=asked.roles,
            most_tokens=asked.most_tokens,
            data=data.name,
            owner=owner,
            progress=job.report,
        )
        if store.status().state not in ("running", "done"):
            if store.wanted in ("pause", "stop") and not _is_held_by(store, owner):
                raise UserError(
                    "Another visitor started this same sweep and has paused it; it is in the list "
                    "below. Choose another number of tweets or another seed for one of your own."
                )
            store.start()
        yield 1.0, store.id

    selection = asked.selection
    let_in = _let_in(data.frame, selection)
    asks = Request(
        models=(name,),
        prompts=(
            Texts(let_in["text"].tolist(), template_of(reads), longest=selection.longest),
            # Whatever its text's length.
            *(
                [Texts(let_in[PAIRED[0]].tolist(), template_of(reads))]
                if PAIRED[0] in let_in
                else []
            ),
        ),
        samples=asked.settings.draws,
        # A sweep keeps its texts, and all visitors see all sweeps.
        owner="A sweep over a file of one's own" if data.own else "",
    )
    return Guarded(asks, work)


def owner_here() -> str:
    """Who begins sweeps in this browser session: a person who has signed in, or the session.

    A digest, because it is written to the disk. Nobody can make another's: the name of a person is
    vouched for by whom he signed in with, and a session's secret never leaves the server. So a
    visitor who has not signed in may not hold his sweep after a reload; it ends by itself.
    """
    if limits().sign_in and (person := st.user.get("sub") or st.user.get("email")):
        secret = f"person {person}"
    else:
        secret = st.session_state.setdefault("sweep:owner", secrets.token_urlsafe())
    return hashlib.sha256(secret.encode()).hexdigest()


def _is_held_by(store: Store, owner: str) -> bool:
    return not limits().public or store.owner == owner


# --- how long it takes ---------------------------------------------------------------------------


def estimate(name: str, data: Data, asked: Asked) -> str:
    """How many tweets there are for a sweep, and about how long it takes, in one sentence."""
    lengths = _lengths(data.frame, asked.selection)
    if not len(lengths):
        return "No tweet of the data fits this selection."
    n = min(len(lengths), asked.selection.n or len(lengths))
    units = units_of(asked.settings)
    said = f"{n:,} {units}"
    if n < (asked.selection.n or 0):
        said = f"Only {n:,} {units} fit"
    layers = REGISTRY[name].layers
    work = n * sum(_work(length, layers, asked) for length in lengths) / len(lengths)
    speed = _speed_of_sweeps(name)
    known = "by the speed of earlier sweeps here"
    if speed is None:
        measured = machine_speed()
        if measured is None:
            return f"{said}; the time they take is not known while other work runs here."
        speed = EFFICIENCY * measured / (2 * 0.8 * REGISTRY[name].parameters / layers)
        known = "a guess from this machine's speed; once it runs, the list below knows better"
    return f"{said}, about {duration(work / speed)} of work ({known})."


def units_of(settings: TraceSettings) -> str:
    """What a sweep with such settings is over."""
    return "pairs" if settings.corruption == "counterfactual" else "tweets"


def duration(seconds: float) -> str:
    """A time that is known roughly."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def _lengths(frame: pd.DataFrame, selection: Selection) -> list[float]:
    """Tokens of the prompts of those tweets that the selection lets in, about."""
    tokens = (_let_in(frame, selection)["text"].str.len() / CHARACTERS).clip(lower=1)
    tokens = tokens[tokens.ge(selection.shortest) & tokens.le(selection.longest or float("inf"))]
    found: list[float] = (tokens + PROMPT).tolist()
    return found


def _let_in(frame: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """The rows that a selection lets in, whatever their length."""
    rows = frame
    if selection.label is not None:
        rows = rows[rows["label"] == selection.label]
    if selection.containing:
        rows = rows[
            rows["text"].str.lower().str.contains(selection.containing.lower(), regex=False)
        ]
    return rows


def _work(tokens: float, layers: int, asked: Asked) -> float:
    """Block passes of one token that a tweet takes: every cell recomputes what lies behind it."""
    share = 1.0
    if asked.roles is not None:
        share = min(1.0, (2 + len(asked.roles)) / tokens)
    elif asked.most_tokens is not None:
        share = min(1.0, (PROMPT + 5 * asked.most_tokens) / tokens)
    settings = asked.settings
    above = sum(layers - layer for layer in range(0, layers, settings.every))
    return settings.draws * len(settings.kinds) * above * share * tokens * (tokens + 1) / 2


def _speed_of_sweeps(name: str) -> float | None:
    """Work a second, of the latest sweep of this model that has traced something."""
    for store in sweeps():
        if store.manifest["origin"]["model"] == name and (done := tuple(store.finished())):
            return _speed(store.id, done[: len(done) // 8 * 8 or len(done)])
    return None


@st.cache_data(show_spinner=False, max_entries=16)
def _speed(id: str, parts: tuple[int, ...]) -> float | None:
    import pyarrow.parquet as pq

    store = open_store(id)
    task = store.task
    asked = Asked(task.settings, Selection(), task.roles, task.most_tokens)
    work = seconds = 0.0
    for part in parts[-16:]:
        columns = ["seconds", "layers", "token_id"]
        for row in pq.read_table(
            store.folder / "parts" / f"{part:06}.parquet", columns=columns
        ).to_pylist():
            seconds += row["seconds"]
            work += _work(len(row["token_id"]), row["layers"], asked)
    # What a process takes for a tweet grows with the others beside it.
    return store.fitting_processes(len(store.tweets)) * work / seconds if seconds > 0 else None


@st.cache_resource(show_spinner=False)
def _measured() -> list[float]:
    """The machine's speed, where it has been measured."""
    return []


def machine_speed() -> float | None:
    """Floating point operations a second, of a plain matrix product.

    Measured once, in a moment, and only while nothing else uses the cores: beside a trace it would
    come out at a quarter of what a sweep finds. None until then.
    """
    measured = _measured()
    if not measured and _is_idle():
        measured.append(_matrix_speed())
    return measured[0] if measured else None


def _is_idle() -> bool:
    import psutil

    if queue().look().running or any(store.status().state == "running" for store in stores()):
        return False
    return bool(psutil.cpu_percent(interval=0.1) < MOST_BUSY)


def _matrix_speed() -> float:
    import torch

    size = 768
    numbers = torch.ones(size, size)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        torch.mm(numbers, numbers)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


# --- watching and holding ------------------------------------------------------------------------


def stores() -> list[Store]:
    """Every sweep on this disk, the newest first; what was read of one is kept in memory."""
    found = []
    for store in sweeps():
        stamp = (store.folder / "manifest.json").stat().st_mtime_ns
        found.append(_held(str(store.folder), stamp))
    return found


@st.cache_resource(show_spinner=False, max_entries=32)
def _held(folder: str, stamp: int) -> Store:
    return Store(Path(folder))


def title_of(store: Store) -> str:
    """What a list calls a sweep."""
    origin = store.manifest["origin"]
    return f"{_model_name(store)} \u00b7 {origin['data'] or 'own texts'} \u00b7 {store.id[:6]}"


def describe(store: Store) -> str:
    """What a sweep traces, in one line."""
    determines, settings = store.manifest["determines"], store.task.settings
    selection = determines["selection"]
    said = []
    if settings.draws > 1 or settings.corruption in ("noise", "uniform"):
        said.append(f"{settings.draws} sample{'s' if settings.draws > 1 else ''}")
    if settings.corruption == "counterfactual":
        said.append("counterfactual pairs")
        if settings.edited == "all":
            said.append("edited spans as a whole")
    elif settings.corruption != "noise":
        said.append(CORRUPTIONS[settings.corruption])
    if settings.every > 1:
        said.append(f"every {ordinal(settings.every)} layer")
    if len(settings.kinds) < len(KINDS):
        said.append(", ".join(KINDS[kind] for kind in settings.kinds))
    if settings.direction == "corrupt":
        said.append("noising")
    if selection["which"] == "correct":
        said.append("predicted correctly")
    if selection["label"] is not None:
        said.append("positive" if selection["label"] else "negative")
    if selection["longest"] is not None or selection["shortest"] > 1:
        said.append(f"{selection['shortest']} to {selection['longest'] or 'any'} tokens")
    if selection["containing"]:
        said.append(f"with \u201c{selection['containing']}\u201d")
    if determines["roles"]:
        said.append(f"{len(determines['roles'])} roles only")
    if determines["most_tokens"]:
        said.append(f"at most {determines['most_tokens']} tokens of a role")
    said.append(f"seed {selection['seed']}")
    begun = datetime.fromisoformat(store.manifest["origin"]["created"]).astimezone()
    return f"{', '.join(said)}; begun {begun:%d %b %Y, %H:%M}"


def sweep_list(stores: list[Store]) -> None:
    """Every sweep on this disk, how far it is, and what can be done with it."""
    if not stores:
        return
    st.subheader("Sweeps", anchor=False)
    running = any(store.status().state == "running" for store in stores)

    def look() -> None:
        states = {store.id: store.status() for store in stores}
        before = st.session_state.get("sweep:states")
        now = {id: (status.state, _grown(status)) for id, status in states.items()}
        st.session_state["sweep:states"] = now
        if before is not None and before != now:
            st.rerun()  # a result below has more to show
        for store in stores[:SHOWN]:
            _item(store, states[store.id])
        if len(stores) > SHOWN:
            with st.expander(f"{len(stores) - SHOWN} earlier sweeps"):
                for store in stores[SHOWN:]:
                    _item(store, states[store.id])

    st.fragment(look, run_every=LOOK if running else None)()


def _grown(status: Status) -> int:
    """Grows when so many more tweets are traced that the average is worth making again."""
    return status.done if status.state != "running" else _step(status.done)


def _step(done: int) -> int:
    """The largest of 2, 4, 8, 16, 24, 36, ... that is not above it."""
    found, step = 0, 2
    while step <= done:
        found, step = step, max(step * 2, 2) if step < 16 else int(step * 1.5)
    return found


def shown_count(status: Status) -> int:
    """How many tweets the average that is shown of a sweep rests on, about."""
    return _grown(status)


def _item(store: Store, status: Status) -> None:
    label, colour, icon = BADGES[status.state]
    with (
        st.container(border=True, key=f"sweep:item:{store.id}"),
        st.container(horizontal=True, gap="medium", vertical_alignment="center"),
    ):
        with st.container(gap=None, width="stretch"):
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                st.markdown(f"**{plain(title_of(store))}**", width="content")
                st.badge(label, icon=icon, color=colour)
            st.caption(plain(describe(store)))
        with st.container(gap=None, width=300):
            st.progress(min(status.fraction, 1.0), text=_far(store, status))
        with st.container(horizontal=True, gap="small", width="content"):
            _buttons(store, status)
    if status.failed:
        _failures(store, status)


def _far(store: Store, status: Status) -> str:
    """How far a sweep is, in words."""
    said = f"{status.done:,} of {status.total:,} {units_of(store.task.settings)}"
    if status.state == "running":
        if status.seconds_left is not None:
            return f"{said}, about {duration(status.seconds_left)} left"
        return f"{said}, {'at work' if status.workers else 'starting'}"
    if status.state == "stopped" and store.wanted in ("run", "start"):
        return f"{said}; its process ended early"
    return said


def is_news(id: str) -> bool:
    """Whether this browser session hears for the first time that a sweep has begun."""
    begun: set[str] = st.session_state.setdefault("sweep:begun", set())
    news = id not in begun
    begun.add(id)
    return news


def _buttons(store: Store, status: Status) -> None:
    id = store.id
    if not _is_held_by(store, owner_here()):
        return
    if status.state == "running":
        st.button(
            "Pause",
            key=f"sweep:pause:{id}",
            on_click=store.pause,
            help="Ends after the current batch.",
        )
        st.button(
            "Cancel",
            key=f"sweep:cancel:{id}",
            on_click=store.stop,
            help="Ends at once; what is traced stays, and it can be resumed.",
        )
        return
    if status.state != "done":
        st.button("Resume", key=f"sweep:resume:{id}", on_click=_resume, args=(store,))
    with st.popover("Remove", key=f"sweep:removing:{id}"):
        st.markdown("The sweep and all its traces are deleted from the disk.")
        st.button(
            "Remove it", key=f"sweep:remove:{id}", on_click=_remove, args=(store,), type="primary"
        )


def _failures(store: Store, status: Status) -> None:
    units = units_of(store.task.settings)
    many = units if status.failed > 1 else units.removesuffix("s")
    with st.expander(f"{status.failed:,} {many} could not be traced"):
        found = store.failures()
        st.dataframe(found[["row", "reason"]].head(200), hide_index=True)
        if status.state != "running" and _is_held_by(store, owner_here()):
            st.button(
                "Try them again", key=f"sweep:retry:{store.id}", on_click=_retry, args=(store,)
            )


def _resume(store: Store) -> None:
    store.start()


def _retry(store: Store) -> None:
    store.retry_failed()
    store.start()


def _remove(store: Store) -> None:
    try:
        limits().check_owner("Removing a sweep")
        store.remove()
    except UserError as mistake:
        st.session_state["sweep:refused"] = str(mistake)


def _model_name(store: Store) -> str:
    return str(store.manifest["origin"]["model"]).rsplit("/", 1)[-1]


def refused() -> str:
    """Why the last removal was refused; said once."""
    said: Any = st.session_state.pop("sweep:refused", "")
    return str(said)
