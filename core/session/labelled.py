"""Which labelled texts does a person choose: built in, his own file, or a data set of the hub?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from core.jobs import Job, Step, Work
from core.limits import limits
from core.session import follow, job, plain, remembered, start, tweets

if TYPE_CHECKING:
    import pandas as pd

    from core.labelling import LabelledTable
    from core.labels import Label, LabelReading
    from core.tables import Table

PREVIEW = 200  # rows
FILE_FORMS = ["csv", "tsv", "txt", "jsonl", "ndjson", "json", "parquet", "pq", "gz"]
SELF_DESCRIBING = (".jsonl", ".ndjson", ".json", ".parquet", ".pq")
OTHERWISE: dict[str, dict[str, Any]] = {
    "header": {"the first row": True, "none": False},
    "delimiter": {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "one text a line": ""},
    "encoding": {name: name for name in ("utf-8", "utf-16", "cp1252", "latin-1")},
}
"""How a file can be told to be read, by the names of `read_table`'s arguments."""


@dataclass(frozen=True)
class Data:
    """Labelled texts that a person has chosen.

    read: labels a table's rows anew, leaving out those that a check objects to; None for data that
    every model can read.
    """

    name: str
    frame: pd.DataFrame
    read: Callable[[Callable[[str], str]], LabelledTable] | None = None


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
        max_upload_size=limits().upload_megabytes,
        key="upload",
        on_change=lambda: st.session_state.update(uploads=st.session_state.upload),
        help="Or two files of one value a line, the texts and their labels (tweet_eval).",
    )
    files = st.session_state.get("uploads") or []
    if not files:
        st.caption("CSV, TSV, JSONL or Parquet, also packed by gzip. How it is written is found.")
        return None
    from core.readers import read_table
    from core.tables import pair

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
            start("data", fetching(name.strip(), split.strip()), fetches=True)
        current = job("data")
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


def _labels_choice(table: Table, origin: object) -> Data | None:
    """Which columns hold the texts and the labels, and what the labels mean."""
    from core.labelling import choose_columns, label_rows, read_labels

    st.caption(plain(table.describe()))
    left, right = st.columns(2)
    columns = list(table.columns)
    if len(columns) == 1:
        choose_columns(table)  # says that this is no table of texts and labels
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
            few = len(refused) <= 5
            st.dataframe(refused.head(PREVIEW), hide_index=True, height="content" if few else 220)
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
