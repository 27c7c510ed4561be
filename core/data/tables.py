"""A table as it was found, wherever it is from: its cells, how it was written, its unusable rows.

Rows are numbered from 0, the header and blank lines not counted, in every form; the line of the
file at which a row begins (from 1) stands beside, where the form has lines. `core.data.read_file`
reads files into tables, `core.data.labelling` makes labelled texts of them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .columns import Cells
from .delimited import Quoting
from .labels import MAX_LABELS, UNLABELLED, are_labels, excerpt, guess_by_name

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["delimited", "lines", "fasttext", "jsonl", "json", "parquet", "hub"]
MAX_ROWS = 10_000_000
_SAMPLE_ROWS = 5_000
_FEW_TEXTS = 0.2  # of a column's cells: some tweets are one word, but not most
_LONGEST_DATE = 200  # characters; what is longer is a text, whatever it is made of
_DATE_PARTS = (
    r"(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*",
    r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*",
    r"\d[\d:.+/-]*(?:st|nd|rd|th)?",
    r"(?i:[ap]m)|UTC|GMT|CES?T|[A-Z]{1,2}[SD]T|T|Z",
)
# Nothing is tried in two ways (++), since a person's cell could make that take for ever.
_NO_TEXT = re.compile(
    r"[\W_]*+\d[\W\d_]*+"  # numbers, ids of digits
    r"|(?:https?://|www\.)\S++"
    r"|@\w++|[\w.+-]++@[\w-]++\.[\w.-]++"
    rf"|(?=.*\d)(?:(?>{'|'.join(_DATE_PARTS)})[\s,.+-]*+)++"
)
_WORDY = re.compile(
    r"[^\W\d_][^\w\s]*+\s[\W_]*+[^\W\d_]"
    r"|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{4}"
)
REFUSED_COLUMNS = ("row", "line", "reason", "excerpt")


@dataclass(frozen=True)
class Refusal:
    """A row that cannot be used."""

    row: int
    line: int  # 0 where the form has no lines
    reason: str
    excerpt: str


@dataclass(frozen=True)
class Table:
    """A file as it was found: how it is written, and its cells as they are.

    ``frame`` has a row for every row that could be read, text or missing in every cell, and the
    source row as its index; ``lines`` are the lines at which these begin. ``text`` and ``label``
    are the columns that look like it, None where that is not clear.
    """

    name: str
    form: Form
    frame: pd.DataFrame
    lines: NDArray[np.int64]  # one a row of `frame`; 0 where the form has no lines
    refused: tuple[Refusal, ...]
    text: str | None
    label: str | None
    encoding: str = ""
    delimiter: str = ""
    quoting: Quoting = "none"
    header: bool = True
    packed: bool = False  # by gzip
    multiline: int = 0  # rows whose quoted text runs over several lines
    balanced: int = 0  # rows whose quotes another row's close, which are read as characters

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the file."""
        return tuple(self.frame.columns)

    def describe(self) -> str:
        """Say in one sentence how the file is written."""
        if self.form == "parquet":
            written = "Parquet"
        elif self.form == "hub":
            written = "a data set of the hub"
        elif self.form == "jsonl":
            written = f"JSON lines in {self.encoding}"
        elif self.form == "json":
            written = f"JSON in {self.encoding}"
        elif self.form == "fasttext":
            written = f"labels of fastText before the texts, {self.encoding}"
        elif self.form == "lines":
            written = f"one text a line in {self.encoding}"
        else:
            delimiter = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}.get(
                self.delimiter, repr(self.delimiter)
            )
            quoting = {
                "doubled": "quoted, quotes doubled",
                "spaced": "quoted after spaces, quotes doubled",
                "backslash": "quoted, quotes after a backslash",
                "none": "quotes taken as they are",
            }[self.quoting]
            header = "with a header" if self.header else "without a header"
            written = f"{delimiter} between the fields, {quoting}, {self.encoding}, {header}"
        rows = amount(len(self.frame) + len(self.refused), "row")
        if self.multiline:
            rows += f" ({self.multiline:,} over several lines)"
        if self.balanced:
            rows += f" ({self.balanced:,} with a quote that another row closes, read as it stands)"
        return f"{self.name}: {'gzip, ' if self.packed else ''}{written}, {rows}."


def pair(texts: Table, labels: Table, *, class_names: Sequence[str] = ()) -> Table:
    """Put two files of one value a line together: the texts, and the label of each (tweet_eval).

    Args:
        class_names: the names of the labels that are 0, 1 and so on.

    Raises:
        ValueError: a file has several columns, or they do not have the same number of lines.
    """
    for table in (texts, labels):
        if len(table.columns) != 1:
            raise UserError(
                f"{table.name} has {len(table.columns)} columns; give two files of one value a "
                "line, or one file with a text and a label column."
            )
    sizes = [len(table.frame) + len(table.refused) for table in (texts, labels)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{texts.name} has {amount(sizes[0], 'row')} and {labels.name} has {sizes[1]:,}: they "
            "do not belong together line by line."
        )
    frame = texts.frame.set_axis(["text"], axis=1)
    frame["label"] = labels.frame.iloc[:, 0].reindex(frame.index)
    if class_names:
        frame = name_classes(frame, {"label": class_names})
    return Table(
        name=f"{texts.name} with {labels.name}",
        form="lines",
        frame=frame,
        lines=texts.lines,
        refused=texts.refused,
        text="text",
        label="label",
        encoding=texts.encoding,
        header=False,
    )


def from_records(
    records: Iterable[Mapping[str, Any]],
    name: str,
    *,
    class_names: Mapping[str, Sequence[str]] | None = None,
    rows: Sequence[int] | None = None,
) -> Table:
    """Make a table of records, such as a data set of the hub streams.

    Args:
        class_names: columns of class numbers, with the name of each class.
        rows: source row of each record; counted from 0 if not given.

    Raises:
        ValueError: there are no records.
    """
    cells = Cells()
    refused: list[Refusal] = []
    for index, record in enumerate(records):
        row = index if rows is None else rows[index]
        reason = cells.add_record(record, row, 0)
        if reason:
            refused.append(Refusal(row, 0, reason, excerpt(str(dict(record)))))
    frame, lines = cells.finish()
    frame = name_classes(frame, class_names or {})
    return make_table(name, "hub", frame, lines, refused)


def refused_frame(refused: Iterable[Refusal]) -> pd.DataFrame:
    """Return refused rows as a frame: row, line (missing where the form has none), reason, ..."""
    import pandas as pd

    frame = pd.DataFrame(
        [(r.row, r.line or None, r.reason, r.excerpt) for r in refused],
        columns=list(REFUSED_COLUMNS),
    )
    return frame.astype({"row": "int64", "line": "Int64", "reason": "str", "excerpt": "str"})


def reasons(refused: Iterable[Refusal]) -> str:
    """Say why rows were refused, the most frequent reason first: "the text is empty (3), ..."."""
    counted = Counter(refusal.reason for refusal in refused).most_common()
    told = [f"{reason} ({count:,})" for reason, count in counted[:3]]
    others = sum(count for _, count in counted[3:])
    return ", ".join([*told, f"other reasons ({others:,})"] if others else told)


def no_usable_row(name: str, refused: Iterable[Refusal], neutral: int = 0) -> UserError:
    """Return the error that says why a table has no row that can be used."""
    why = reasons(refused)
    if neutral:
        why += f"{', ' if why else ''}neutral ({neutral:,})"
    return UserError(f"No row of {name} can be used: {why}.")


def safe_csv(frame: pd.DataFrame) -> bytes:
    """Write a frame as CSV that no spreadsheet takes for formulas: UTF-8 with a BOM.

    Text that begins, after white space, with = + - @ (or their full-width forms), a tab or a line
    end gets an apostrophe before it, as OWASP advises ("CSV Injection"); every text is quoted, so
    that another list separator makes no new cell. Numbers stay numbers.
    """
    import pandas as pd

    safe = frame.copy()
    for position, dtype in enumerate(safe.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            column = safe.iloc[:, position].astype("object")
            safe.isetitem(position, column.map(_defuse, na_action="ignore").to_list())
    safe.columns = [_defuse(column) for column in safe.columns]
    content: str = safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    return content.encode("utf-8-sig", "replace")


def name_classes(frame: pd.DataFrame, class_names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Put the names of classes for their numbers; -1 is that of a row without a label."""
    for column, names in class_names.items():
        if column in frame.columns:
            by_number: dict[str, str | None] = {
                str(number): name for number, name in enumerate(names)
            }
            by_number[UNLABELLED] = None
            frame[column] = (
                frame[column]
                .map(lambda value, names=by_number: names.get(value, value), na_action="ignore")
                .astype("str")
            )
    return frame


def make_table(
    name: str,
    form: Form,
    frame: pd.DataFrame,
    lines: NDArray[np.int64],
    refused: Sequence[Refusal],
    **written: Any,
) -> Table:
    """A table, with the columns found that look like texts and labels.

    Args:
        written: how the file is written, by the names of `Table`'s fields.

    Raises:
        ValueError: there are no rows, or none that can be used.
    """
    if refused and not len(frame):
        raise no_usable_row(name, refused)
    if frame.shape[1] == 0:
        raise UserError(f"{name} has no rows.")
    text, label = _guess_columns(frame, written.get("delimiter", ""))
    return Table(name, form, frame, lines, tuple(refused), text, label, **written)


def _guess_columns(frame: pd.DataFrame, delimiter: str) -> tuple[str | None, str | None]:
    """Find the text and the label column by their names, else by what is in them."""
    columns = [str(column) for column in frame.columns]
    sample = frame.head(_SAMPLE_ROWS)
    text, label = guess_by_name(columns)
    if text is not None and are_no_texts(sample[text]):
        text, _ = guess_by_name([column for column in columns if not are_no_texts(sample[column])])
    if label is None and len(frame):
        candidates = [
            column
            for column in columns
            if column != text
            and len(sample[column].unique()) <= MAX_LABELS
            and are_labels(Counter(frame[column].dropna()), delimiter)
        ]
        label = candidates[0] if len(candidates) == 1 else None
    if text is None and len(columns) > 1 and len(frame):
        lengths = {
            column: float(sample[column].str.len().fillna(0).mean())
            for column in columns
            if column != label and are_texts(sample[column])
        }
        longest = sorted(lengths, key=lambda column: -lengths[column])
        # Twice as long as any other: texts, and not one of two columns of names.
        if longest and (len(longest) == 1 or lengths[longest[0]] >= 2 * lengths[longest[1]]):
            text = longest[0]
    return text, label


def are_no_texts(column: pd.Series[str]) -> bool:
    """Return whether every cell is a number, an id of digits, a date, an address or a @name."""
    cells = [cell for cell in column.dropna().str.strip() if cell]
    return bool(cells) and all(map(_is_no_text, cells))


def are_texts(column: pd.Series[str]) -> bool:
    """Return whether a column without a name that says so may hold texts: some have two words.

    User names, ids and hashes have one. Where words are written without spaces between them, four
    letters are enough.
    """
    cells = [cell for cell in column.dropna().str.strip() if cell]
    wordy = sum(_WORDY.search(cell) is not None and not _is_no_text(cell) for cell in cells)
    return wordy > 0 and wordy >= _FEW_TEXTS * len(cells)


def _is_no_text(cell: str) -> bool:
    is_short = len(cell) <= _LONGEST_DATE or cell.startswith(("http://", "https://"))
    return is_short and _NO_TEXT.fullmatch(cell) is not None


def _defuse(value: object) -> object:
    if not isinstance(value, str):
        return value
    start = value.lstrip(" \u00a0\u200b\ufeff")[:1]
    dangerous = start in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") and start != ""
    return f"'{value}" if dangerous else value


def undefused(frame: pd.DataFrame) -> pd.DataFrame:
    """The texts of a table that `safe_csv` wrote, without its apostrophes."""
    return frame.map(
        lambda cell: cell[1:] if cell[:1] == "'" and _defuse(cell[1:]) == cell else cell,
        na_action="ignore",
    )


def amount(count: int, what: str) -> str:
    """Say a number of things: "1 row", "2,000 rows"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
