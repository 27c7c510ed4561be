"""Which rows of a table are labelled texts, and why are the others not?

`read_labels` says how a column's values are read as positive, negative and neutral, or which
question a person must answer first; nothing is guessed where two readings are possible.
`label_rows` then makes the tidy frame, and lists every row that is left out with its number and
the reason.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from core.labels import (
    Label,
    LabelReading,
    canonical,
    checked_band,
    checked_mapping,
    count_values,
    excerpt,
    listed,
    meaning_in_band,
    read_values,
)
from core.tables import Refusal, Table, amount, reasons, refused_frame

if TYPE_CHECKING:
    import pandas as pd

MAX_CHARACTERS = 10_000
"""Of a text: far beyond a tweet. For what a model can read, `label_rows` takes a check."""


@dataclass(frozen=True)
class LabelledTable:
    """Texts with labels, and what became of all other rows.

    ``frame`` has the columns text (no surrounding white space), label (1 positive, 0 negative),
    rating (only where the labels were made of ratings), row (of the source) and group: texts that
    are the same but for case and white space share one, so that folds can keep them together.
    """

    frame: pd.DataFrame
    refused: tuple[Refusal, ...]
    text: str
    label: str
    meaning: dict[str, Label | None]
    neutral: tuple[float, float] | None
    positive: int
    negative: int
    left_out: int  # neutral rows
    duplicates: int  # rows whose text stood before
    contradictions: int  # groups whose rows have both labels

    def refused_frame(self) -> pd.DataFrame:
        """Return the refused rows as a frame: row, line, reason, excerpt."""
        return refused_frame(self.refused)

    def describe(self) -> str:
        """Say in one or two sentences what is used and what is not."""
        parts = [f"{self.positive:,} positive and {self.negative:,} negative texts"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} of them repeated")
        if self.left_out:
            parts.append(f"{self.left_out:,} neutral left out")
        said = ", ".join(parts) + "."
        if self.refused:
            said += f" {amount(len(self.refused), 'row')} cannot be used: {reasons(self.refused)}."
        return said


def read_labels(table: Table, column: str) -> LabelReading:
    """Find out how the values of a column are read as positive, negative and neutral.

    Raises:
        ValueError: the table has no such column.
    """
    if column not in table.columns:
        raise ValueError(_no_column(table, column))
    counted = table.frame[column].value_counts(dropna=False).items()
    values, missing = count_values(counted, table.delimiter)
    return read_values(column, values, missing)


def label_rows(
    table: Table,
    *,
    text: str | None = None,
    label: str | None = None,
    mapping: Mapping[str, Label | None] | None = None,
    neutral: tuple[float, float] | None = None,
    max_characters: int = MAX_CHARACTERS,
    check: Callable[[str], str] | None = None,
) -> LabelledTable:
    """Make the tidy frame of a table, and list the rows that cannot be used.

    Args:
        text: and `label`, the columns; those that `read_table` found if not given.
        mapping: label of each value: 1 positive, 0 negative, None neutral. Rows with a value that
            it does not name are refused.
        neutral: for numbers: at or below the first a text is negative, at or above the second
            positive, between them neutral; where both are the same, that number is neutral.
        max_characters: longer texts are refused.
        check: says why a text cannot be used, "" if it can; for limits of a model.

    Raises:
        ValueError: a column or a label's meaning must be chosen first, or no row can be used.
    """
    import pandas as pd

    text, label = choose_columns(table, text, label)
    reading = _answered(read_labels(table, label), mapping, neutral, table.delimiter)
    meaning, graded = reading.meaning, reading.graded
    codes, distinct = pd.factorize(table.frame[label])
    found = [canonical(str(value), table.delimiter) for value in distinct]
    texts = table.frame[text].fillna("").str.strip().tolist()
    kept_texts, kept_labels, kept_rows, kept_ratings = [], [], [], []
    refused = list(table.refused)
    left_out = 0
    for row, line, content, code in zip(
        table.frame.index.tolist(), table.lines.tolist(), texts, codes.tolist(), strict=True
    ):
        reason = _text_problem(content, max_characters)
        if not reason and check is not None:
            reason = check(content)
        value = found[code] if code >= 0 else ""
        if not reason and value == "":
            reason = "the label is missing"
        if not reason and value not in meaning:
            reason = f"the label {excerpt(value)!r} is not known"
        if reason:
            refused.append(Refusal(row, line, reason, excerpt(content)))
            continue
        known = meaning[value]
        if known is None:
            left_out += 1
            continue
        kept_texts.append(content)
        kept_labels.append(known)
        kept_rows.append(row)
        if graded:
            kept_ratings.append(float(value))
    refused.sort(key=lambda refusal: (refusal.row, refusal.line))
    if not kept_texts:
        why = [reasons(refused)] if refused else []
        if left_out:
            why.append(f"neutral ({left_out:,})")
        raise ValueError(f"No row of {table.name} can be used: {', '.join(why)}.")
    frame = pd.DataFrame(
        {
            "text": pd.Series(kept_texts, dtype="str"),
            "label": np.array(kept_labels, dtype=np.int64),
            **({"rating": np.array(kept_ratings)} if graded else {}),
            "row": np.array(kept_rows, dtype=np.int64),
            "group": text_groups(kept_texts),
        }
    )
    positive = int(frame["label"].sum())
    groups = frame.groupby("group")["label"]
    return LabelledTable(
        frame=frame,
        refused=tuple(refused),
        text=text,
        label=label,
        meaning=meaning,
        neutral=reading.neutral,
        positive=positive,
        negative=len(frame) - positive,
        left_out=left_out,
        duplicates=len(frame) - groups.ngroups,
        contradictions=int((groups.nunique() > 1).sum()),
    )


def text_groups(texts: Iterable[str]) -> NDArray[np.int64]:
    """Number the texts so that those which differ only in case or white space share a number."""
    numbers: dict[str, int] = {}
    found = [
        numbers.setdefault(
            " ".join(unicodedata.normalize("NFKC", text).casefold().split()), len(numbers)
        )
        for text in texts
    ]
    return np.array(found, dtype=np.int64)


def _answered(
    reading: LabelReading,
    mapping: Mapping[str, Label | None] | None,
    neutral: tuple[float, float] | None,
    delimiter: str,
) -> LabelReading:
    """Return the reading that a person wants; ValueError where a question stays open."""
    if mapping is not None and neutral is not None:
        raise ValueError("Give either a mapping of the labels or a neutral band, not both.")
    if mapping is not None:
        meaning = checked_mapping(mapping, reading, delimiter)
        return replace(reading, meaning=meaning, neutral=None, graded=False, question="")
    if neutral is not None:
        band = checked_band(neutral, reading)
        meaning = meaning_in_band(reading.values, band)
        graded = reading.graded or bool(reading.question)
        return replace(reading, meaning=meaning, neutral=band, graded=graded, question="")
    if reading.question:
        raise ValueError(reading.question)
    return reading


def choose_columns(
    table: Table, text: str | None = None, label: str | None = None
) -> tuple[str, str]:
    """The columns of the texts and of the labels; those found in the table if not given.

    Raises:
        ValueError: it is not clear which they are, or there are no two columns.
    """
    text = table.text if text is None else text
    label = table.label if label is None else label
    for role, column in (("text", text), ("label", label)):
        if column is None:
            if len(table.columns) == 1:
                raise ValueError(
                    f"{table.name} has one column, {table.columns[0]!r}, so its texts have no "
                    "labels: give a file with both, or name the delimiter."
                )
            raise ValueError(
                f"It is not clear which column of {table.name} has the {role}s: choose one of "
                f"{listed(map(repr, table.columns))}."
            )
        if column not in table.columns:
            raise ValueError(_no_column(table, column))
    if text == label:
        raise ValueError(f"The column {text!r} cannot be both text and label: choose two columns.")
    return cast("tuple[str, str]", (text, label))


def _no_column(table: Table, column: str) -> str:
    columns = listed(map(repr, table.columns))
    return f"{table.name} has no column {column!r}: choose one of {columns}."


def _text_problem(text: str, max_characters: int) -> str:
    if not text:
        return "the text is empty"
    if len(text) > max_characters:
        return f"the text is longer than {max_characters:,} characters"
    return "the text has a NUL character" if "\0" in text else ""
