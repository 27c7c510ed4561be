"""What the pages share: cached loaders, the queue of background work, and widgets.

The only module of `core` that knows Streamlit.
"""

from __future__ import annotations

import atexit
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
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
    forget,
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

    from core.labels import Label, LabelReading
    from core.tables import LabelledTable, Table

T = TypeVar("T")
ASSETS = Path(__file__).parents[1] / "assets"
TWEETS = "vader-tweets"
POLL = 0.4  # seconds between looks at a job that is under way
GRACE = 20.0  # seconds that a lost connection may take to come back before its work is stopped
MODELS_IN_MEMORY = 2
PREVIEW = 200  # rows
SELF_DESCRIBING = (".jsonl", ".ndjson", ".json", ".parquet", ".pq")
OTHERWISE: dict[str, dict[str, Any]] = {
    "header": {"the first row": True, "none": False},
    "delimiter": {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "one text a line": ""},
    "encoding": {name: name for name in ("utf-8", "utf-16", "cp1252", "latin-1")},
}
"""How a file can be told to be read, by the names of `read_table`'s arguments."""

PROBE_MEGABYTES = 50  # of a file that is imported
FILE_FORMS = ["csv", "tsv", "txt", "jsonl", "ndjson", "json", "parquet", "pq", "gz"]


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
    kept = st.session_state.get(f"made:{place}")
    if kept is None or kept[0] != key:
        kept = st.session_state[f"made:{place}"] = (key, make())
    return cast("T", kept[1])


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
        def encoded_then(note: str) -> Callable[[int, int], None]:
            """Report an encoding, and name what follows it, of which no share is known."""

            def encoded(done: int, total: int) -> None:
                if done < total:
                    job.report(done / total)
                else:
                    job.report(0.0, note)

            return encoded

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
            progress=encoded_then("Fitting, and judging on held-out texts"),
        )
        if not settings.controls or key_of(probe) not in probes_of(name):
            keep(probe)  # one that has its controls stays until there is another that has them
        yield 1.0, Trained(probe, frame, said)
        if not settings.controls:
            return
        from core.controls import with_controls

        job.report(0.0, "Comparing with controls")
        twin = load_model(name, untrained=True) if settings.twin else None
        if twin is not None:
            job.report(0.0, f"Encoding {len(frame):,} texts by the untrained twin")
        encoded = encoded_then("Judging the controls")
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


def open_trace(key: str, probe: Probe, text: str) -> None:
    """Go to the Trace page and trace a text there, read by a kept probe of the chosen model."""
    st.session_state.tweet = text
    st.session_state.features = _of_tweets(probe) or key
    st.session_state.asked = True
    st.switch_page("pages/trace.py")


def asked_elsewhere() -> bool:
    """Whether another page has just asked for a trace."""
    return bool(st.session_state.pop("asked", False))


def accuracy_line(probe: Probe) -> str:
    """How good a probe is, in one sentence."""
    report = probe.report
    texts = "tweets" if probe.dataset == TWEETS else "texts"
    return (
        f"Trained on {report.n:,} {texts}: {report.accuracy:.1%} right "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}), "
        f"majority {report.majority:.1%}."
    )


def data_choice() -> Data | None:
    """Labelled texts: built in, a person's own file, or of the hub; None until there are some."""
    source = st.segmented_control(
        "Labelled texts",
        ["Built in", "Your file", "Hugging Face hub"],
        default="Built in",
        required=True,
        key="source",
        persist_state="session",
    )
    try:
        if source == "Built in":
            return _built_in_choice()
        found = _file_choice() if source == "Your file" else _hub_choice()
        return None if found is None else _labels_choice(*found)
    except ValueError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


def _built_in_choice() -> Data:
    from core.datasets import BUILT_IN

    key = st.selectbox(
        "Data set",
        list(BUILT_IN),
        format_func=lambda key: f"{BUILT_IN[key].title} \u00b7 {BUILT_IN[key].citation}",
        key="dataset",
        persist_state="session",
        help="Each text was rated by twenty people; near-neutral ones are left out.",
    )
    frame = tweets(key)
    positive = int(frame["label"].sum())
    st.caption(f"{positive:,} positive and {len(frame) - positive:,} negative texts.")
    _preview(frame)
    return Data(key, frame)


def _file_choice() -> tuple[Table, object] | None:
    """The table of what was uploaded, and what stands for it; kept when the page is left."""
    st.file_uploader(
        "A table with a text and a label column",
        FILE_FORMS,
        accept_multiple_files=True,
        key="upload",
        on_change=lambda: st.session_state.update(uploads=st.session_state.upload),
        help="Or two files of one value a line, the texts and their labels (tweet_eval).",
    )
    files = st.session_state.get("uploads") or []
    if not files:
        st.caption("CSV, TSV, JSONL or Parquet, also packed by gzip. How it is written is found.")
        return None
    from core.tables import pair, read_table

    def read(otherwise: dict[str, Any]) -> Table:
        for file in files:
            file.seek(0)
        if len(files) == 1:
            return read_table(files[0], files[0].name, **otherwise)
        if len(files) > 2:
            raise ValueError(
                f"{len(files)} files were given: give one, or the texts and their labels as two."
            )
        texts, labels = sorted(files, key=lambda file: "label" in file.name.lower())
        return pair(*(read_table(f, f.name, delimiter="", header=False) for f in (texts, labels)))

    origin = tuple(file.file_id for file in files)
    typed = files[0].name.lower().removesuffix(".gz").endswith(SELF_DESCRIBING)
    otherwise = {} if typed or len(files) > 1 else _read_otherwise(origin)
    key = (origin, tuple(otherwise.items()))
    with st.spinner("Reading the file"):
        return remembered("upload", key, lambda: read(otherwise)), key


def _read_otherwise(origin: object) -> dict[str, Any]:
    """What a person overrules of how his file is found to be written."""
    with st.expander("Read the file otherwise"):
        places = st.columns(3)
        said = {
            role: place.selectbox(
                role.capitalize(),
                ["as found", *choices],
                key=f"otherwise:{role}:{origin}",
                persist_state="session",
            )
            for place, (role, choices) in zip(places, OTHERWISE.items(), strict=True)
        }
    return {role: OTHERWISE[role][choice] for role, choice in said.items() if choice != "as found"}


def _hub_choice() -> tuple[Table, object] | None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        name = st.text_input(
            "Data set",
            "cardiffnlp/tweet_eval/sentiment",
            key="hub",
            persist_state="session",
            help="owner/name, and /config where there are several.",
        )
        split = st.text_input("Split", "train", key="split", persist_state="session", width=110)
        if st.button("Fetch", key="fetch"):
            start("fetch", fetching(name.strip(), split.strip()))
        current = job("fetch")
        if (
            current is not None
            and current.progress().active
            and st.button("Stop", key="stop:fetch")
        ):
            current.stop()
    if current is None:
        st.caption("Rows are drawn from all of it while it streams; nothing of it is run.")
        return None
    shown = current.progress()
    follow(current, shown)
    if shown.error:
        raise ValueError(shown.error)
    return None if shown.partial is None else (shown.partial, id(current))


def _labels_choice(table: Table, origin: object) -> Data | None:
    """Which columns hold the texts and the labels, and what the labels mean."""
    from core.tables import label_rows, read_labels

    st.caption(plain(table.describe()))
    left, right = st.columns(2)
    columns = list(table.columns)
    text, label = (
        place.selectbox(
            f"Column of the {role}s",
            columns,
            index=columns.index(guess) if guess in columns else None,
            placeholder="Choose a column",
            key=f"column:{role}:{origin}",
            persist_state="session",
        )
        for place, role, guess in ((left, "text", table.text), (right, "label", table.label))
    )
    if text is None or label is None:
        st.info("Choose the columns with the texts and their labels.", icon=":material/table:")
        return None
    reading = remembered("reading", (origin, label), lambda: read_labels(table, label))
    mapping, neutral = _meaning_choice(reading, f"{origin}:{label}")
    if reading.question and mapping is None and neutral is None:
        st.info(plain(reading.question), icon=":material/help:")
        return None

    def read(check: Callable[[str], str] | None = None) -> LabelledTable:
        return label_rows(
            table, text=text, label=label, mapping=mapping, neutral=neutral, check=check
        )

    found = remembered("labelled", (origin, text, label, mapping, neutral), lambda: read())
    st.caption(plain(found.describe()))
    _preview(found.frame)
    if found.refused:
        from core.tables import safe_csv

        refused = found.refused_frame()
        with st.expander(f"{len(refused):,} rows that cannot be used"):
            st.dataframe(refused.head(PREVIEW), hide_index=True, height=220)
            st.download_button(
                "Save all as CSV",
                lambda: safe_csv(refused),
                file_name="refused.csv",
                mime="text/csv",
                key="save:refused",
                on_click="ignore",
            )
    return Data(table.name, found.frame, read)


def _meaning_choice(
    reading: LabelReading, origin: str
) -> tuple[dict[str, Label | None] | None, tuple[float, float] | None]:
    """What a person says the labels mean; (None, None) where he leaves them as they are read."""
    from core.labels import MAX_LABELS, is_number

    values = list(reading.values)
    many = len(values) > MAX_LABELS
    if many and not all(map(is_number, values)):
        return None, None
    with st.expander("What the labels mean", expanded=bool(reading.question)):
        left, right = st.columns(2)
        if many or reading.graded or any("." in value for value in values):
            low, high = reading.neutral or (None, None)
            band = tuple(
                place.number_input(label, value=value, key=f"{label}:{origin}")
                for place, label, value in (
                    (left, "Negative up to", low),
                    (right, "Positive from", high),
                )
            )
            st.caption("What is between, or is both, is neutral and left out.")
            if None in band or band == reading.neutral:
                return None, None
            return None, cast("tuple[float, float]", band)
        said = [
            place.multiselect(
                name,
                values,
                [value for value in values if reading.meaning.get(value, -1) == label],
                format_func=lambda value: f"{value} \u00b7 {reading.values[value]:,}",
                key=f"{name}:{origin}",
            )
            for place, name, label in ((left, "Positive", 1), (right, "Negative", 0))
        ]
    if both := set(said[0]) & set(said[1]):
        raise ValueError(
            f"The label {sorted(both)[0]!r} is said to be positive and negative; leave it in one."
        )
    mapping: dict[str, Label | None] = {
        value: None for value, label in reading.meaning.items() if label is None
    }
    for side, label in ((said[0], 1), (said[1], 0)):
        mapping |= dict.fromkeys(side, cast("Label", label))
    if mapping == reading.meaning or not all(said):
        return None, None
    return mapping, None


def _preview(frame: pd.DataFrame) -> None:
    with st.expander("Preview"):
        shown = ["text", "label", *(["rating"] if "rating" in frame else []), "row"]
        st.dataframe(frame[shown].head(PREVIEW), hide_index=True, height=260)


def kept_choice(name: str, trained: Trained | None) -> tuple[str, Probe] | None:
    """The kept probe that is shown, the one trained last at first; and what can be done with it."""
    probes = probes_of(name)
    names = probe_names(probes)
    if trained is not None and st.session_state.get("seen") is not trained:
        st.session_state.seen = trained
        if (latest := key_of(trained.probe)) in probes:
            st.session_state.shown = latest
    if st.session_state.get("shown") not in probes:
        st.session_state.pop("shown", None)
    chosen = None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        if probes:
            chosen = st.selectbox(
                "Kept probes of this model", list(probes), format_func=names.__getitem__,
                key="shown", persist_state="session", width=420,
            )  # fmt: skip
            probe = probes[chosen]
            # Another name makes it another popover, which is closed.
            with st.popover("Rename", key=f"renaming:{chosen}:{probe.name}"):
                field = f"rename:{chosen}"
                st.text_input("Name", probe.name[:80], max_chars=80, key=field)
                st.button("Keep this name", on_click=_rename, args=(probe, field), key="rename")
            st.download_button(
                "Export",
                probe.to_json,
                file_name=f"probe-{chosen[:8]}.json",
                mime="application/json",
                key="export",
                on_click="ignore",
            )
            with st.popover("Delete"):
                st.markdown("Traces made with it stay; the probe has to be trained again.")
                st.button("Delete it", on_click=forget, args=(probe,), key="delete")
        with st.popover("Import" if probes else "Import a probe"):
            st.file_uploader(
                "A probe that was exported",
                "json",
                key="import",
                max_upload_size=PROBE_MEGABYTES,
                on_change=_import_probe,
                args=(name,),
            )
    if refused := st.session_state.pop("import:refused", ""):
        st.error(plain(refused), icon=":material/error:")
    if said := st.session_state.pop("import:said", ""):
        st.info(plain(said), icon=":material/check:")
    return None if chosen is None else (chosen, probes[chosen])


def _rename(probe: Probe, field: str) -> None:
    keep(replace(probe, name=st.session_state[field].strip()))
    st.session_state.shown = key_of(probe)  # the browser then takes the new name over


def _import_probe(name: str) -> None:
    """Keep an uploaded probe, or say in one sentence why it cannot be one."""
    file = st.session_state["import"]
    if file is None:
        return
    try:
        probe = Probe.from_json(file.getvalue(), file.name)
    except ValueError as mistake:
        st.session_state["import:refused"] = str(mistake)
        return
    keep(probe)
    key = key_of(probe)
    if key in probes_of(name):
        st.session_state.shown = key
        st.session_state["import:said"] = f"Imported {probe.title}."
    else:
        st.session_state["import:said"] = (
            f"Imported {probe.title}. It was trained on other weights, of {probe.model_name}, and "
            "is offered where those are chosen."
        )


def texts_of(probe: Probe, trained: Trained | None, data: Data | None) -> dict[int, str]:
    """The texts of a probe's report by source row, where what it was trained on is at hand."""
    from core.datasets import BUILT_IN, fingerprint

    frames = [trained.frame] if trained is not None else []
    frames += [data.frame] if data is not None else []
    if probe.dataset in BUILT_IN:
        frames.append(tweets(probe.dataset))
    for frame in frames:
        if len(frame) == probe.report.n and fingerprint(frame) == probe.dataset_hash:
            return dict(zip(frame["row"].tolist(), frame["text"].tolist(), strict=True))
    return {}


def origin_line(probe: Probe) -> str:
    """What a probe is and how it was judged, in a few sentences."""
    reads = f"the state after block {probe.layer}"
    if probe.reads == "words":
        sides = (probe.words_positive, probe.words_negative)
        reads = " against ".join(", ".join(word.strip() for word in side) for side in sides)
    revision = f" at revision {probe.model_revision[:8]}" if probe.model_revision else ""
    return (
        f"{probe.features} of {probe.model_name}{revision}, reading {reads} after "
        f"\u201c{probe.suffix.strip()}\u201d, on {probe.report.n:,} texts of "
        f"{probe.dataset or 'a data set without a name'}. Scores are of held-out texts in "
        f"{probe.report.folds} folds (seed {probe.seed}); in brackets are 95% bootstrap intervals."
    )


def mistake_line(row: int, label: int, log_odds: float) -> str:
    """What a probe made of one text, and what its label is."""
    from core.scores import probability_of

    said = float(probability_of(np.array(log_odds)))
    return f"Row {row:,}: P(positive) {said:.2f}, labelled {'positive' if label else 'negative'}"


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
            span = _word_choice(name, text) if corrupt == "One word" else _every_word()
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


def _every_word() -> str:
    st.selectbox("Word", [], placeholder="all of them", disabled=True, key="every word")
    return "tweet"


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
