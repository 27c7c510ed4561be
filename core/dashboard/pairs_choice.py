"""Which pairs does a person choose: made of the tweets or his own file; and what does he change?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from ..data.pairs import (
    OWN,
    PAIRED,
    Laid,
    are_named_as_contrast,
    edited_pairs,
    lay_out,
    read_paired,
)
from ..errors import UserError
from ..probes.library import key_of
from ..probes.probe import Features, Probe
from ..prompts.counterfactuals import EDITS
from ..server.job_queue import Job, Step
from ..server.limits import limits
from . import TWEETS, follow, job, loaded_for, plain, remembered, start, switch, tweets
from .data_choice import FILE_FORMS, Data, meaning_choice
from .door import Guarded, Request
from .probing import trained_for

if TYPE_CHECKING:
    import pandas as pd
    from streamlit.delta_generator import DeltaGenerator

    from ..data.pairs import Pairs
    from ..data.tables import Table
    from ..probes.turned_pairs import TurnedPairs

SOURCES = {"made": "Made of the tweets", "file": "Your file"}
SIDES = ("negative", "positive")  # by label
COLUMNS = {
    "text": "Texts",
    "counterfactual": "Counterfactuals",
    "label": "Labels",
    "counterfactual_label": "Their labels",
    "pair": "Shared id",
}
"""Columns that a person may name, by `lay_out`'s arguments."""

Chosen = tuple["pd.DataFrame", str, tuple[object, ...]]
"""Pairs, what they are called, and what stands for them."""

_FOUND = "as found"


def pairs_choice(name: str, reads: Features | Probe, below: DeltaGenerator) -> Data | None:
    """Pairs of texts that say the opposite; None until there are some.

    Args:
        name, reads: model and probe that say which edits of the tweets turn the sentiment.
        below: where the table of the pairs stands.
    """
    source = switch("Pairs", SOURCES, "pairs:source")
    try:
        found = _made_choice(name, reads) if source == "made" else _file_choice()
        if found is None:
            return None
        before, title, origin = found
        with below:
            return _edited(before, origin, title, own=source == "file")
    except UserError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


# --- made of the tweets --------------------------------------------------------------------------


def making(name: str, reads: Features | Probe) -> Guarded:
    """The work of editing the built-in tweets and asking lexicon and probe; a `TurnedPairs`."""

    def work(job: Job) -> Iterator[Step]:
        from ..probes.turned_pairs import make_pairs

        loaded = loaded_for(job, name)
        probe = trained_for(job, loaded, reads)
        job.report(0.0, "Reading the edited tweets")
        yield (
            1.0,
            make_pairs(
                loaded,
                probe,
                tweets(),
                progress=lambda done, total: job.report(done / max(total, 1)),
            ),
        )

    return Guarded(Request(models=(name,), prompts=(), samples=0), work)


def _made_choice(name: str, reads: Features | Probe) -> Chosen | None:
    of = (name, reads if isinstance(reads, str) else key_of(reads))
    current = job("pairs") if st.session_state.get("pairs:of") == of else None
    if current is None:
        st.caption(
            f"Antonyms and negations are put into the {len(tweets()):,} tweets; a pair is kept "
            "where VADER's lexicon and the probe both say that the sentiment turned."
        )
        if not st.button("Make pairs", key="pairs:make"):
            return None
        st.session_state["pairs:of"] = of
        current = start("pairs", making(name, reads))
    shown = current.progress()
    follow(current, shown)
    if shown.error:
        raise UserError(shown.error)
    if shown.partial is None:
        return None
    made: TurnedPairs = shown.partial
    st.markdown(plain(made.describe()))
    _counts(made)
    return made.frame, f"{TWEETS}, pairs", (id(current),)


def _counts(made: TurnedPairs) -> None:
    """How many tweets have a pair, by edit."""
    named = made.counts["edit"].map({**EDITS, "any": "any of these"})
    columns = {
        "edit": st.column_config.TextColumn("Edit", width="large"),
        "texts": st.column_config.NumberColumn("Tweets", help="That can be edited so."),
        "lexicon": st.column_config.NumberColumn(
            "Lexicon turned", help="Of these, by VADER's compound score."
        ),
        "kept": st.column_config.NumberColumn(
            "Probe turned too", help="Of these: the pairs that are kept."
        ),
        "same_length": st.column_config.NumberColumn(
            "As many tokens", help="Of these; others are aligned by their edit."
        ),
    }
    st.dataframe(made.counts.assign(edit=named), hide_index=True, column_config=columns)


# --- a person's own file -------------------------------------------------------------------------


def _file_choice() -> Chosen | None:
    """The pairs of what was uploaded, and what stands for them; kept when the page is left."""
    st.file_uploader(
        "A table of pairs",
        FILE_FORMS,
        accept_multiple_files=True,
        max_upload_size=limits().upload_megabytes,
        key="pairs:upload",
        on_change=lambda: st.session_state.update(
            {"pairs:uploads": st.session_state["pairs:upload"]}
        ),
        help="Two texts a row, or rows that share an id (augmented IMDB, CEBaB, SST-2 pairs); or "
        "two files, ..._original and ..._contrast (contrast sets).",
    )
    files = st.session_state.get("pairs:uploads") or []
    if not files:
        st.caption("CSV, TSV, JSONL or Parquet, also gzipped. Columns and labels are detected.")
        return None
    newest = files[-1]
    together = [newest]
    for file in files[:-1]:
        if are_named_as_contrast(newest.name, file.name):
            together = [newest, file]
        elif are_named_as_contrast(file.name, newest.name):
            together = [file, newest]
    if len(together) < len(files):
        used = " and ".join(file.name for file in together)
        st.info(plain(f"Used: {used}, the newest."), icon=":material/description:")
    origin = tuple(file.file_id for file in together)
    with st.spinner("Reading the file"):
        tables = remembered(
            "pairs:tables",
            origin,
            lambda: [_table(file.getvalue(), file.name) for file in together],
        )
    st.caption(plain(" ".join(table.describe() for table in tables)))
    laid, key = _laid(tables, origin)
    found = None if laid is None else _by_meaning(laid, key)
    if found is None:
        return None
    pairs, key = found
    return pairs.frame, " and ".join(file.name for file in together), key


def _table(content: bytes, name: str) -> Table:
    from ..data.read_file import read_table

    return read_paired(partial(read_table, content, name), {})


def _laid(
    tables: list[Table], origin: tuple[object, ...]
) -> tuple[Laid | None, tuple[object, ...]]:
    """Which rows make pairs, as it is found or as a person says."""
    from ..data.labels import Question

    first, contrast = tables[0], tables[1] if len(tables) > 1 else None
    question = ""
    try:
        lay_out(first, contrast)
    except Question as asked:
        question = str(asked)
    with st.expander("Columns", expanded=bool(question), key=f"pairs:columns:{origin}"):
        places = st.columns(len(COLUMNS))
        said = {
            role: place.selectbox(
                title,
                [_FOUND, *first.columns],
                key=f"pairs:{role}:{origin}",
                persist_state="session",
            )
            for place, (role, title) in zip(places, COLUMNS.items(), strict=True)
        }
    chosen = {role: column for role, column in said.items() if column != _FOUND}
    try:
        return lay_out(first, contrast, **chosen), (*origin, tuple(chosen.items()))
    except Question as asked:
        st.info(plain(str(asked)), icon=":material/table:")
        return None, origin


def _by_meaning(laid: Laid, origin: tuple[object, ...]) -> tuple[Pairs, tuple[object, ...]] | None:
    """The pairs, once it is clear what their labels mean."""
    from ..data.labelling import read_labels

    reading = remembered(
        "pairs:reading", origin, lambda: read_labels(laid.table, laid.chosen["label"] or "")
    )
    mapping, neutral = meaning_choice(reading, f"pairs:{origin}")
    if reading.question and mapping is None and neutral is None:
        st.info(plain(reading.question), icon=":material/help:")
        return None
    key = (*origin, None if mapping is None else tuple(mapping.items()), neutral)
    found = remembered("pairs:found", key, lambda: laid.pairs_by(mapping, neutral))
    st.caption(plain(found.describe()))
    return found, key


# --- edited --------------------------------------------------------------------------------------


def _edited(
    before: pd.DataFrame, origin: tuple[object, ...], name: str, *, own: bool
) -> Data | None:
    """The pairs after a person has edited, added and dropped some in a table.

    The table's changes are gone when its page is left; so it then begins with what it held.
    """
    from ..data.tables import amount, safe_csv

    key = f"pairs:editor:{origin}"
    kept: dict[str, Any] = st.session_state.setdefault("pairs:kept", {})
    if kept.get("origin") != origin:
        kept.clear()
        kept |= {"origin": origin, "begun": _in_words(before)}
    elif key not in st.session_state:
        kept["begun"] = kept["now"].reset_index(drop=True)
    with st.expander(f"{amount(len(before), 'pair')}: edit, add or drop", key="pairs:table"):
        now = st.data_editor(
            kept["begun"],
            key=key,
            num_rows="dynamic",
            hide_index=True,
            height=320,
            column_config={
                "text": st.column_config.TextColumn("Text", width="large", required=True),
                "counterfactual": st.column_config.TextColumn(
                    "Counterfactual", width="large", required=True
                ),
                "label": st.column_config.SelectboxColumn("Label", options=SIDES, required=True),
                PAIRED[1]: st.column_config.SelectboxColumn(
                    "Its label", options=SIDES, required=True
                ),
            },
        )
    kept["now"] = now
    found = edited_pairs(now, before)
    frame = found.frame
    unchanged = set(zip(before["text"], before[PAIRED[0]], strict=True)) == set(
        zip(frame["text"], frame[PAIRED[0]], strict=True)
    )
    with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
        st.caption(plain(_how_many(found)), width="stretch")
        st.download_button(
            "Save pairs as CSV",
            lambda: safe_csv(frame),
            file_name="pairs.csv",
            mime="text/csv",
            key="pairs:save",
            on_click="ignore",
            help="To be uploaded again here, or traced by `sweep --pairs`.",
        )
    return Data(
        name if unchanged else f"{name}, edited", frame, own=own or not unchanged, read_as=""
    )


def _in_words(pairs: pd.DataFrame) -> pd.DataFrame:
    """What a person edits of pairs."""
    shown = pairs[["text", "label", *PAIRED]].reset_index(drop=True)
    for column in ("label", PAIRED[1]):
        shown[column] = shown[column].map(dict(enumerate(SIDES)))
    return shown.astype("str")


def _how_many(found: Pairs) -> str:
    """How many pairs there are, by their edit, and what cannot be used."""
    from ..data.tables import amount, reasons

    frame = found.frame
    kinds = frame["edit"].value_counts()
    named = {**EDITS, OWN: "of your own"}
    said = f"{amount(len(frame), 'pair')} of {amount(frame['text'].nunique(), 'text')}"
    if set(kinds.index) != {OWN}:
        said += ": " + ", ".join(f"{count:,} {named[str(kind)]}" for kind, count in kinds.items())
    said += "."
    if found.same_label:
        said += f" {amount(found.same_label, 'pair')} left out whose two texts have the same label."
    if found.refused:
        said += f" {amount(len(found.refused), 'row')} cannot be used: {reasons(found.refused)}."
    return said
