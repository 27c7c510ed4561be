"""Which rows of a table are labelled texts, and why are the others not?

`read_labels` says how a column's values are read as positive, negative and neutral, or which
question a person must answer first; nothing is guessed where two readings are possible.
`label_rows` then makes the tidy frame, and lists every row that is left out with its number and
the reason.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .labels import (
    MAX_LABELS,
    Label,
    LabelReading,
    Question,
    canonical,
    checked_band,
    checked_mapping,
    count_values,
    excerpt,
    has_decimal_comma,
    is_number,
    listed,
    meaning_in_band,
    read_values,
    told_meaning,
    with_words_beside,
    word_label,
)
from .tables import (
    Refusal,
    Table,
    amount,
    are_texts,
    no_usable_row,
    reasons,
    refused_frame,
)

if TYPE_CHECKING:
    import pandas as pd

_SAMPLE_ROWS = 5_000
_AGREED = 0.9  # share of a number's rows that have words of one sentiment beside it
_TIMES = 3  # that each of two columns' values go together before one is taken to name the other

MAX_CHARACTERS = 10_000
"""Of a text: far beyond a tweet. What a model cannot read is left out by `core.data.readable`."""


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
    beside: str = ""  # the column whose words say what the labels mean

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
        return f"{said} {self.read_as()}"

    def read_as(self) -> str:
        """Say in one sentence from where texts and labels are, and what the labels mean."""
        meaning = told_meaning(self.meaning, self.neutral, "rating" in self.frame)
        beside = f" (as {excerpt(self.beside)!r} says)" if self.beside else ""
        return (
            f"Texts from {excerpt(self.text)!r}; labels from {excerpt(self.label)!r}: "
            f"{meaning}{beside}."
        )


def read_labels(table: Table, column: str) -> LabelReading:
    """Find out how the values of a column are read as positive, negative and neutral.

    Raises:
        ValueError: the table has no such column.
    """
    if column not in table.columns:
        raise UserError(no_column(table, column))
    counted = dict(table.frame[column].value_counts(dropna=False).items())
    comma = has_decimal_comma(counted, table.delimiter)
    values, missing = count_values(counted.items(), comma)
    reading = read_values(column, values, missing, comma)
    if not values and table.refused:
        # What looks like an empty column is a file that is read wrongly.
        others = f"{amount(len(table.refused), 'row')} cannot be used: {reasons(table.refused)}."
        return replace(reading, question=f"{reading.question} {others}")
    numbers = {value: count for value, count in values.items() if is_number(value)}
    if not numbers or len(numbers) > MAX_LABELS or 2 * sum(numbers.values()) < sum(values.values()):
        return reading
    for other in table.columns:
        if other in (column, table.text) or not (
            words := _words_beside(table, reading, numbers, other)
        ):
            continue
        found = with_words_beside(reading, other, words)
        # Ratings that the words do not turn round stay ratings.
        if not reading.graded or _turns_round(found, reading):
            return found
    return reading


def _turns_round(one: LabelReading, other: LabelReading) -> bool:
    """Return whether a value is positive in one reading and negative in the other."""
    return any({label, other.meaning.get(value)} == {0, 1} for value, label in one.meaning.items())


def _words_beside(
    table: Table, reading: LabelReading, numbers: Mapping[str, int], other: str
) -> dict[str, str]:
    """Return the word that a column has beside each number of the labels; {} if it has none.

    Words for sentiments may differ in a few rows: a person's labels have mistakes.
    """
    if table.frame[other].head(_SAMPLE_ROWS).nunique() > MAX_LABELS:
        return {}
    beside: dict[str, Counter[str]] = {number: Counter() for number in numbers}
    pairs = table.frame[[reading.column, other]].dropna()
    counted = Counter(zip(pairs[reading.column], pairs[other], strict=True))
    for (number, written), count in counted.items():
        value, word = canonical(number, comma=reading.comma), canonical(written)
        if value in beside and word:
            beside[value][word] += count
    if not all(beside.values()) or any(
        is_number(word) for words in beside.values() for word in words
    ):
        return {}
    words: dict[str, str] = {}
    agreed = 1.0
    for value, found in beside.items():
        meant: Counter[tuple[Label | None] | None] = Counter()
        for word, count in found.items():
            meant[word_label(word)] += count
        label, most = meant.most_common(1)[0]
        agreed = min(agreed, most / found.total())
        words[value] = next(word for word, _ in found.most_common() if word_label(word) == label)
    known = {word_label(word) for word in words.values()}
    if known >= {(0,), (1,)} and agreed >= _AGREED:
        return words
    # Names of other classes: each has its number, and often enough for this to be no chance.
    often = min(numbers.values()) >= _TIMES and all(len(each) == 1 for each in beside.values())
    return words if often and len(words) > 1 and len(set(words.values())) == len(words) else {}


def label_rows(
    table: Table,
    *,
    text: str | None = None,
    label: str | None = None,
    mapping: Mapping[str, Label | None] | None = None,
    neutral: tuple[float, float] | None = None,
    max_characters: int = MAX_CHARACTERS,
) -> LabelledTable:
    """Make the tidy frame of a table, and list the rows that cannot be used.

    Args:
        text: and `label`, the columns; those that `read_table` found if not given.
        mapping: label of each value: 1 positive, 0 negative, None neutral. Rows with a value that
            it does not name are refused.
        neutral: for numbers: at or below the first a text is negative, at or above the second
            positive, between them neutral; where both are the same, that number is neutral.
        max_characters: longer texts are refused.

    Raises:
        ValueError: a column or a label's meaning must be chosen first, or no row can be used.
    """
    import pandas as pd

    text, label = choose_columns(table, text, label)
    reading = _answered(read_labels(table, label), mapping, neutral)
    meaning, graded = reading.meaning, reading.graded
    codes, distinct = pd.factorize(table.frame[label])
    found = [canonical(str(value), comma=reading.comma) for value in distinct]
    texts = table.frame[text].fillna("").str.strip().tolist()
    kept_texts, kept_labels, kept_rows, kept_ratings = [], [], [], []
    refused = list(table.refused)
    left_out = 0
    for row, line, content, code in zip(
        table.frame.index.tolist(), table.lines.tolist(), texts, codes.tolist(), strict=True
    ):
        reason = _text_problem(content, max_characters)
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
        raise no_usable_row(table.name, refused, left_out)
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
        beside=reading.beside,
    )


def check_frame(frame: pd.DataFrame) -> None:
    """Refuse a frame that is not of labelled texts, one of each in every row.

    Raises:
        ValueError: a column is missing, or a row has no text or no label.
    """
    for column in ("text", "label"):
        if column not in frame:
            raise UserError(
                f"The frame has no column {column!r}, only {', '.join(map(str, frame.columns))}; "
                "name its columns text and label."
            )
    for row, text in enumerate(frame["text"]):
        if not isinstance(text, str):
            raise UserError(
                f"The text of row {row:,} is {text!r} ({type(text).__name__}), not text; leave out "
                "the rows that have none."
            )
    missing = np.flatnonzero(frame["label"].isna())
    if len(missing):
        raise UserError(
            f"Row {missing[0]:,} has no label; leave out the rows that have none, or label them."
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
) -> LabelReading:
    """Return the reading that a person wants; ValueError where a question stays open."""
    if mapping is not None and neutral is not None:
        raise UserError("Give either a mapping of the labels or a neutral band, not both.")
    if mapping is not None:
        meaning = checked_mapping(mapping, reading)
        return replace(reading, meaning=meaning, neutral=None, graded=False, question="", beside="")
    if neutral is not None:
        band = checked_band(neutral, reading)
        meaning = meaning_in_band(reading.values, band)
        graded = reading.graded or bool(reading.question)
        return replace(
            reading, meaning=meaning, neutral=band, graded=graded, question="", beside=""
        )
    if reading.question:
        raise Question(reading.question, "meaning", reading.values)
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
    roles: tuple[tuple[Literal["text", "label"], str | None], ...]
    roles = (("text", text), ("label", label))
    for role, column in roles:
        if column is None:
            if len(table.columns) == 1:
                raise UserError(
                    f"{table.name} has one column, {table.columns[0]!r}, so its texts have no "
                    "labels: give a file with both, or name the delimiter."
                )
            choices = listed(map(repr, table.columns))
            raise Question(
                f"No column of {table.name} is sure to hold texts: ids, dates, numbers, addresses "
                f"and names are none. Choose one of {choices}."
                if role == "text" and not any(are_texts(table.frame[c]) for c in table.columns)
                else f"It is not clear which column of {table.name} has the {role}s: choose one of "
                f"{choices}.",
                role,
                table.columns,
            )
        if column not in table.columns:
            raise UserError(no_column(table, column))
    if text == label:
        raise UserError(f"The column {text!r} cannot be both text and label: choose two columns.")
    return cast("tuple[str, str]", (text, label))


def no_column(table: Table, column: str) -> str:
    """Say that a table has no such column, and which it has."""
    columns = listed(map(repr, table.columns))
    return f"{table.name} has no column {column!r}: choose one of {columns}."


def _text_problem(text: str, max_characters: int) -> str:
    if not text:
        return "the text is empty"
    if len(text) > max_characters:
        return f"the text is longer than {max_characters:,} characters"
    return "the text has a NUL character" if "\0" in text else ""
