"""What the pages share: cached loaders, the queue of background work, and widgets.

The only module of `core` that knows Streamlit.
"""

from __future__ import annotations

import atexit
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import streamlit as st

from core import figures, hub
from core.jobs import Job, Progress, Queue, Step, Work
from core.models import REGISTRY, Model, availability, default_model, load_model, model_folder
from core.probes import (
    FEATURES,
    FOLDS,
    Features,
    Probe,
    Words,
    keep,
    kept_folder,
    kept_probes,
    key_of,
    probe_for,
    train_probe,
)
from core.prompts import DEFAULT_SUFFIX, DEFAULT_WORDS, build_prompt
from core.results import TraceResult, TraceSettings
from core.trace import trace_progressively

if TYPE_CHECKING:
    import pandas as pd

    from core.tables import LabelledTable

T = TypeVar("T")
ASSETS = Path(__file__).parents[1] / "assets"
TWEETS = "vader-tweets"
POLL = 0.4  # seconds between looks at a job that is under way
GRACE = 20.0  # seconds that a lost connection may take to come back before its work is stopped
MODELS_IN_MEMORY = 2


# --- one copy per server -------------------------------------------------------------------------


@st.cache_resource(show_spinner=False)
def queue() -> Queue:
    """The server's one queue: all users' background work stands in it."""
    jobs = Queue()
    # A thread that still computes while Python takes itself apart brings the process down.
    atexit.register(jobs.close, patience=5.0)
    return jobs


@st.cache_resource(show_spinner=False, max_entries=MODELS_IN_MEMORY)
def model(name: str, _progress: Callable[[int, int], None] | None = None) -> Model:
    """A model, loaded once for all users; the one used least recently makes room."""
    return load_model(name, progress=_progress)


@st.cache_resource(show_spinner=False, max_entries=4)
def tweets(name: str = TWEETS) -> pd.DataFrame:
    """A labelled data set, shared by all users; not to be changed."""
    from core.datasets import load_dataset

    return load_dataset(name)


@st.cache_data(show_spinner=False)
def example_tweets() -> dict[str, str]:
    """Tweets to begin with, by the names on their buttons."""
    return cast(
        "dict[str, str]", json.loads((ASSETS / "example_tweets.json").read_text(encoding="utf-8"))
    )


def drawing(name: str) -> str:
    """An SVG of the assets in the colour of the page's text."""
    ink = "#e6e8eb" if theme() == "dark" else "#1c2128"
    return (ASSETS / f"{name}.svg").read_text(encoding="utf-8").replace("currentColor", ink)


def remembered(place: str, key: object, make: Callable[[], T]) -> T:
    """What was made for this key in this user's session; made anew when the key has changed."""
    if st.session_state.get(f"key:{place}") != key:
        st.session_state.pop(f"made:{place}", None)
        st.session_state[f"made:{place}"] = make()
        st.session_state[f"key:{place}"] = key
    return cast("T", st.session_state[f"made:{place}"])


# --- background work -----------------------------------------------------------------------------


def start(slot: str, work: Work) -> Job:
    """Begin a user's work; his earlier work of the same slot is given up.

    The job is kept for the session, so that its result is there when he comes back to the page.
    """
    earlier = job(slot)
    if earlier is not None:
        earlier.stop()
    session = _session_id()
    begun = queue().submit(session, work, slot=slot, wanted=_open_tab(session))
    st.session_state[f"job:{slot}"] = begun
    return begun


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


def tracing(name: str, reads: Features | Probe, text: str, settings: TraceSettings) -> Work:
    """The work of one trace: load the model, train its probe if there is none, trace."""

    def work(job: Job) -> Iterator[Step]:
        job.report(0.0, "Loading the model")
        loaded = model(name, _progress=lambda done, total: job.report(done / max(total, 1)))
        build_prompt(loaded, text)  # a tweet that cannot be read is refused before any training
        if isinstance(reads, Probe):
            probe = reads
        else:
            job.report(0.0, "Training the probe, once for this model")
            probe = probe_for(
                loaded,
                tweets(),
                features=reads,
                dataset=TWEETS,
                progress=lambda done, total: job.report(done / total),
            )
        job.report(0.0, "Tracing")
        for result in trace_progressively(
            loaded, probe, text, settings, keep=True, progress=job.report
        ):
            yield result.samples_done / result.samples_wanted, result

    return work


@dataclass(frozen=True)
class Data:
    """Labelled texts that a person has chosen.

    read: labels a table's rows anew, leaving out those that a check objects to; None for data that
    every model can read.
    """

    name: str
    frame: pd.DataFrame
    read: Callable[[Callable[[str], str]], LabelledTable] | None = None


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is to be trained."""

    features: Features = "logit_pair"
    words: Words | None = None
    suffix: str = DEFAULT_SUFFIX
    folds: int = FOLDS
    seed: int = 0
    controls: bool = True
    twin: bool = True  # of the controls, the one that costs an encoding
    name: str = ""


@dataclass(frozen=True)
class Trained:
    """A probe, and the texts that it was trained on."""

    probe: Probe
    frame: pd.DataFrame
    said: str = ""  # of rows that this model cannot read


def training(name: str, data: Data, settings: ProbeSettings) -> Work:
    """The work of training a probe: load the model, encode, fit and judge, keep; then controls."""

    def work(job: Job) -> Iterator[Step]:
        def encoded(done: int, total: int) -> None:
            job.report(done / total)

        job.report(0.0, "Loading the model")
        loaded = model(name, _progress=lambda done, total: job.report(done / max(total, 1)))
        frame, said = data.frame, ""
        if data.read is not None:
            job.report(0.0, "Reading the texts as the model does")
            found = data.read(lambda text: _why_unreadable(loaded, text, settings.suffix))
            frame = found.frame
            if len(frame) < len(data.frame):
                said = f"For this model: {found.describe()}"
        job.report(0.0, f"Encoding {len(frame):,} texts")
        probe = train_probe(
            loaded,
            frame,
            features=settings.features,
            words=settings.words,
            suffix=settings.suffix,
            folds=settings.folds,
            seed=settings.seed,
            dataset=data.name,
            name=settings.name,
            progress=encoded,
        )
        keep(probe)
        yield 1.0, Trained(probe, frame, said)
        if not settings.controls:
            return
        from core.controls import with_controls

        job.report(0.0, "Comparing with controls")
        twin = load_model(name, untrained=True) if settings.twin else None
        if twin is not None:
            job.report(0.0, f"Encoding {len(frame):,} texts by the untrained twin")
        probe = with_controls(probe, loaded, frame, twin=twin, progress=encoded)
        keep(probe)
        yield 1.0, Trained(probe, frame, said)

    return work


def fetching(name: str, split: str) -> Work:
    """The work of reading a data set of the hub."""

    def work(job: Job) -> Iterator[Step]:
        from core.datasets import load_table

        job.report(0.0, f"Reading {name} from the hub")
        yield (
            1.0,
            load_table(
                name if name.startswith("hub:") else f"hub:{name}",
                split=split,
                progress=lambda done, total: job.report(done / total if total else 0.0),
            ),
        )

    return work


def _why_unreadable(loaded: Model, text: str, suffix: str) -> str:
    try:
        build_prompt(loaded, text, suffix)
    except ValueError as mistake:
        return str(mistake)
    return ""


# --- widgets -------------------------------------------------------------------------------------


def heading(title: str, sentence: str) -> None:
    """Open a page."""
    st.title(title, anchor=False)
    st.markdown(f":gray[{sentence}]")


def coming() -> None:
    """Say that a page is not built yet."""
    st.caption("This page is not built yet.")


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


def probe_choice(name: str) -> Features | Probe:
    """Which probe reads the sentiment, and how good it is.

    Every kept probe of the model can be chosen. Those of the tweets that read one word of each
    sentiment can be chosen before there are any, by their features: a run then trains them.
    """
    trainable: list[Features] = ["logit_pair", "probabilities"]
    kept = {key: probe for key, probe in probes_of(name).items() if _of_tweets(probe) is None}
    names = {features: FEATURES[features] for features in trainable} | probe_names(kept)
    chosen = st.selectbox(
        "Probe reads",
        list(names),
        format_func=names.__getitem__,
        key="features",
        persist_state="session",
        help="The probe turns the model's next-word probabilities, or its state, into a sentiment. "
        "Train others on the Probes page.",
    )
    probe = kept.get(chosen) or kept_probe(name, chosen)
    if probe is None:
        st.caption("Not trained yet for this model: the first run takes a few minutes more.")
    else:
        st.caption(accuracy_line(probe))
    return kept.get(chosen, chosen)


def accuracy_line(probe: Probe) -> str:
    """How good a probe is, in one sentence."""
    report = probe.report
    texts = "tweets" if probe.dataset == TWEETS else "texts"
    return (
        f"Trained on {report.n:,} {texts}: {report.accuracy:.1%} right "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}), "
        f"majority {report.majority:.1%}."
    )


def settings_choice(name: str, text: str) -> TraceSettings:
    """What a trace does, folded away behind the paper's defaults."""
    with st.expander("Settings", key="settings"):
        first, second = st.columns(2)
        corrupt = first.selectbox(
            "Corrupt",
            ["The whole tweet", "One word"],
            key="corrupt",
            persist_state="session",
            help="Noise is added here, and the trace looks for the states that undo it.",
        )
        with second:
            span = _word_choice(name, text) if corrupt == "One word" else "tweet"
        noise_scale = first.slider(
            "Noise, in standard deviations",
            0.5,
            6.0,
            3.0,
            0.5,
            format="%.1f",
            key="noise",
            persist_state="session",
            help="Of the embeddings of the data set's tokens; the paper uses 3.",
        )
        samples = second.slider(
            "Noise samples",
            1,
            50,
            10,
            key="samples",
            persist_state="session",
            help="More samples give a sharper picture and take longer; Stop keeps what is there.",
        )
        window = first.number_input(
            "Window, in layers",
            1,
            48,
            None,
            key="window",
            persist_state="session",
            placeholder="scaled with the model's depth",
            help="MLP and attention are restored over this many layers; the paper uses 10 of 48.",
        )
        seed = second.number_input(
            "Seed",
            0,
            2**31 - 1,
            0,
            key="seed",
            persist_state="session",
            help="The same seed draws the same noise.",
        )
    return TraceSettings(
        samples=samples, noise_scale=noise_scale, seed=seed, window=window, corrupt=span
    )


def _word_choice(name: str, text: str) -> str:
    """Which word to corrupt; the model has to be there to say what its words are."""
    try:
        with st.spinner("Reading the tweet as the model does"):
            words = build_prompt(model(name), text).words
    except ValueError as mistake:
        st.caption(plain(str(mistake)))
        return "tweet"
    chosen = st.selectbox(
        "Word",
        [index for index, word in enumerate(words) if word.in_tweet and word.tokens],
        format_func=lambda index: words[index].text,
        key=f"word:{text}",
        help="All tokens of this word are corrupted, and no others.",
    )
    return f"word:{chosen}"


def heatmaps(result: TraceResult, frame: pd.DataFrame, end: float) -> None:
    """A panel for each kind of site, side by side; one below the other on a narrow screen."""
    kinds = result.settings.kinds
    # The leftmost panel has the token labels beside it, and room for them: where the page is
    # 1440 pixels wide, a panel is about 375.
    widths = [1 + figures.label_width(frame) / 375] + [1.0] * (len(kinds) - 1)
    for i, (kind, column) in enumerate(zip(kinds, st.columns(widths), strict=True)):
        chart = figures.heatmap(
            frame,
            kind,
            end=end,
            unit=figures.unit_of(result),
            labels="narrow" if i else "always",
            theme=theme(),
            title=figures.KINDS[kind],
        )
        column.altair_chart(chart, key=f"heatmap:{kind}")


def kept_probe(name: str, features: Features) -> Probe | None:
    """The probe that a run would use, if it is trained already; the model is not loaded."""
    return next(
        (probe for probe in probes_of(name).values() if _of_tweets(probe) == features), None
    )


def probes_of(name: str) -> dict[str, Probe]:
    """Every kept probe of a model by its key, the best first; the model is not loaded."""
    description = hub.describe_folder(model_folder(name))
    if description is None:
        return {}
    files = sorted((path.name, path.stat().st_mtime_ns) for path in kept_folder().glob("*.json"))
    return _probes_of(description["sha256"], tuple(files))


@st.cache_resource(show_spinner=False, max_entries=8)
def _probes_of(identity: str, files: tuple[tuple[str, int], ...]) -> dict[str, Probe]:
    """Read again only when a file has changed: a report is long."""
    return {key_of(probe): probe for probe in kept_probes(identity)}


def probe_names(probes: dict[str, Probe]) -> dict[str, str]:
    """What a list calls probes, by their keys; no two the same."""
    names: dict[str, str] = {}
    for key, probe in probes.items():
        name = f"{probe.title} \u00b7 {probe.report.accuracy:.1%}"
        names[key] = f"{name} \u00b7 {key[:6]}" if name in names.values() else name
    return names


def _of_tweets(probe: Probe) -> Features | None:
    """The features of a probe that a run of the Trace page would train by itself."""
    default = (DEFAULT_SUFFIX, *((word,) for word in DEFAULT_WORDS))
    by_itself = (
        probe.dataset == TWEETS
        and probe.features in ("logit_pair", "probabilities")
        and (probe.suffix, probe.words_positive, probe.words_negative) == default
    )
    return probe.features if by_itself else None


def theme() -> figures.Theme:
    """Light or dark, as the page is drawn."""
    return "dark" if st.context.theme.type == "dark" else "light"


def plain(text: str) -> str:
    """Text that somebody typed, for places that read Markdown: nothing in it is markup.

    Whatever could begin markup, a link, a formula or an icon's name gets a backslash.
    """
    return "".join(f"\\{mark}" if mark in _MARKUP else mark for mark in " ".join(text.split()))


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
        f"licence {entry.licence}."
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def _session_id() -> str:
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context = get_script_run_ctx()
    return context.session_id if context is not None else "no session"


def _open_tab(session: str) -> Callable[[], bool]:
    """Whether a user's browser tab is open, or was a moment ago."""
    last_seen = time.monotonic()

    def is_open() -> bool:
        nonlocal last_seen
        if not st.runtime.exists() or st.runtime.get_instance().is_active_session(session):
            last_seen = time.monotonic()
        return time.monotonic() - last_seen < GRACE

    return is_open
