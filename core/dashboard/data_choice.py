"""Which labelled texts does a person choose: built in, his own file, or a data set of the hub?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from ..errors import UserError
from ..server.job_queue import Job, Step
from ..server.limits import limits
from . import follow, job, plain, remembered, start, tweets
from .door import NO_MODEL, Guarded

if TYPE_CHECKING:
    import pandas as pd
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from ..data.labels import Label, LabelReading
    from ..data.tables import Table

PREVIEW = 200  # rows
FILE_FORMS = ["csv", "tsv", "txt", "jsonl", "ndjson", "json", "parquet", "pq", "gz"]
SELF_DESCRIBING = (".jsonl", ".ndjson", ".json", ".parquet", ".pq")
ANOTHER = "another character"
OTHERWISE: dict[str, dict[str, Any]] = {
    "header": {"the first row": True, "none": False},
    "delimiter": {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "one text a line": ""}
    | {ANOTHER: ""},
    "encoding": {name: name for name in ("utf-8", "utf-16", "cp1252", "latin-1")},
}
"""How a file can be told to be read, by the names of `read_table`'s arguments."""


_SAID: dict[Label | None, str] = {1: "positive", 0: "negative", None: "neutral"}


@dataclass(frozen=True)
class Data:
    """Labelled texts that a person has chosen; his own, or of a built-in data set.

    read_as: from which columns, and what the labels mean; "" of built-in ones.
    """

    name: str
    frame: pd.DataFrame
    own: bool = False
    read_as: str = ""


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
    except UserError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


def _built_in_choice() -> Data:
    from ..data.datasets import BUILT_IN

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
        st.caption("CSV, TSV, JSONL or Parquet, also gzipped. The format is detected.")
        return None
    from ..data.read_file import read_table

    origin = tuple(file.file_id for file in files)
    with st.spinner("Reading the file"):
        together, said = remembered("pair", origin, lambda: _newest_pair(files))
    if said:
        st.info(plain(said), icon=":material/description:")
    if together is not None:
        return together, origin
    newest = files[-1]
    origin = (newest.file_id,)
    typed = newest.name.lower().removesuffix(".gz").endswith(SELF_DESCRIBING)
    otherwise = {} if typed else _read_otherwise(origin)
    key = (origin, tuple(otherwise.items()))
    with st.spinner("Reading the file"):
        table = remembered(
            "upload", key, lambda: read_table(newest.getvalue(), newest.name, **otherwise)
        )
    return table, key


def _newest_pair(files: Sequence[UploadedFile]) -> tuple[Table | None, str]:
    """The two newest files as texts and labels, where they clearly are; and what is not used."""
    from ..data.read_file import read_pair

    if len(files) == 1:
        return None, ""
    *older, newest = files
    try:
        first, second = ((file.getvalue(), file.name) for file in files[-2:])
        table = read_pair(first, second)
    except UserError as why:
        return None, (
            f"{newest.name} is used, the newest file. {_not_used(older, newest)} Only texts and "
            f"their labels, one of each a line, are read together: {why}"
        )
    unused = older[:-1]
    return table, f"{table.name} are used. {_not_used(unused, newest)}" if unused else ""


def _not_used(files: Sequence[UploadedFile], newest: UploadedFile) -> str:
    names = [
        f"the earlier {file.name}" if file.name == newest.name else file.name for file in files
    ]
    return f"Not used: {', '.join(names)}."


def _read_otherwise(origin: object) -> dict[str, Any]:
    """What a person overrules of how his file is found to be written."""
    with st.expander("Import options"):
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
        if said["delimiter"] == ANOTHER:
            character = st.text_input(
                "Delimiting character",
                key=f"otherwise:character:{origin}",
                max_chars=1,
                persist_state="session",
            )
    chosen = {
        role: OTHERWISE[role][choice] for role, choice in said.items() if choice in OTHERWISE[role]
    }
    if said["delimiter"] == ANOTHER:
        del chosen["delimiter"]
        if character:
            chosen["delimiter"] = character
    return chosen


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
        st.caption("Rows are sampled from the whole stream; no code of the data set is run.")
        return None
    shown = current.progress()
    follow(current, shown)
    if shown.error:
        raise UserError(shown.error)
    return None if shown.partial is None else (shown.partial, id(current))


def fetching(name: str, split: str) -> Guarded:
    """The work of reading a data set of the hub."""

    def work(job: Job) -> Iterator[Step]:
        from ..data.datasets import load_table

        job.report(0.0, f"Reading {name} from the hub")
        yield (
            1.0,
            load_table(
                name if name.startswith("hub:") else f"hub:{name}",
                split=split,
                progress=lambda done, total: job.report(done / total if total else 0.0),
            ),
        )

    return Guarded(NO_MODEL, work)


def _labels_choice(table: Table, origin: object) -> Data | None:
    """Which columns hold the texts and the labels, and what the labels mean."""
    from ..data.labelling import choose_columns, label_rows, read_labels
    from ..data.labels import Question

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
        try:
            choose_columns(table, text, label)
        except Question as question:
            st.info(plain(str(question)), icon=":material/table:")
        return None
    reading = remembered("reading", (origin, label), lambda: read_labels(table, label))
    mapping, neutral = meaning_choice(reading, f"{origin}:{label}")
    if reading.question and mapping is None and neutral is None:
        st.info(plain(reading.question), icon=":material/help:")
        return None

    found = remembered(
        "labelled",
        (origin, text, label, mapping, neutral),
        lambda: label_rows(table, text=text, label=label, mapping=mapping, neutral=neutral),
    )
    st.caption(plain(found.describe()))
    _preview(found.frame)
    if found.refused:
        from ..data.tables import safe_csv

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
    return Data(table.name, found.frame, own=True, read_as=found.read_as())


def meaning_choice(
    reading: LabelReading, origin: str
) -> tuple[dict[str, Label | None] | None, tuple[float, float] | None]:
    """What a person says the labels mean; (None, None) where he leaves them as they are read."""
    from ..data.labels import MAX_LABELS, is_number

    values = list(reading.values)
    many = len(values) > MAX_LABELS
    if many and not all(map(is_number, values)):
        return None, None
    with st.expander("What the labels mean", expanded=bool(reading.question)):
        if many or reading.graded or any(is_number(value) and "." in value for value in values):
            left, right = st.columns(2)
            low, high = reading.neutral or (None, None)
            band = tuple(
                place.number_input(label, value=value, key=f"{label}:{origin}")
                for place, label, value in (
                    (left, "Negative up to", low),
                    (right, "Positive from", high),
                )
            )
            st.caption("Ratings between, or in both, are neutral and left out.")
            if None in band or band == reading.neutral:
                return None, None
            return None, cast("tuple[float, float]", band)
        sides: dict[Label | None, str] = {1: "Positive", 0: "Negative", None: "Neutral, left out"}
        said: dict[Label | None, list[str]] = {}
        for place, (label, name) in zip(st.columns(3), sides.items(), strict=True):
            said[label] = place.multiselect(
                name,
                values,
                [value for value in values if reading.meaning.get(value, -1) == label],
                format_func=lambda value: f"{value} \u00b7 {reading.values[value]:,}",
                key=f"{name}:{origin}",
            )
    mapping: dict[str, Label | None] = {}
    for label, chosen in said.items():
        if twice := sorted(mapping.keys() & set(chosen)):
            raise UserError(
                f"The label {twice[0]!r} is said to be {_SAID[mapping[twice[0]]]} and "
                f"{_SAID[label]}; leave it in one."
            )
        mapping |= dict.fromkeys(chosen, label)
    if mapping == reading.meaning or not (said[1] and said[0]):
        return None, None
    return mapping, None


def _preview(frame: pd.DataFrame) -> None:
    with st.expander("Preview"):
        shown = ["text", "label", *(["rating"] if "rating" in frame else []), "row"]
        st.dataframe(frame[shown].head(PREVIEW), hide_index=True, height=260)
