"""A person's own file of labelled texts: what is in it, which rows can be used, and why not others.

`read_table` finds out how a file is written (packing, form, encoding, delimiter, quotes, header),
which is shown and can be overruled. `read_labels` says how a column's values are read as positive,
negative and neutral, or which question a person must answer first; nothing is guessed where two
readings are possible. `label_rows` then makes the tidy frame, and lists every row that is left out
with its number and the reason.

Rows are numbered from 0, the header and blank lines not counted, in every form; the line of the
file at which a row begins (from 1) stands beside, where the form has lines.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from core.delimited import (
    BrokenRow,
    Quoting,
    find_dialect,
    rows_of,
    unique_names,
)
from core.encoding import (
    MAX_BYTES,
    NOT_UTF8,
    check_content,
    find_encoding,
    open_lines,
    read_source,
    too_large,
    unpack_gzip,
)
from core.labels import (
    MAX_LABELS,
    Label,
    LabelReading,
    are_labels,
    canonical,
    checked_band,
    checked_mapping,
    count_values,
    excerpt,
    guess_by_name,
    listed,
    meaning_in_band,
    read_values,
    word_label,
)

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["delimited", "lines", "jsonl", "parquet", "hub"]
MAX_CHARACTERS = 10_000
"""Of a text: far beyond a tweet. For what a model can read, `label_rows` takes a check."""

MAX_COLUMNS = 1_000
MAX_ROWS = 10_000_000
MAX_CELLS = 100_000_000
MAX_UNREADABLE = 100_000
"""Rows of which it is told why they cannot be read; where there are more, the reading is wrong."""

_CHUNK_ROWS = 20_000
_SAMPLE_ROWS = 5_000
_SURROGATE = re.compile("[\ud800-\udfff]")
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
        elif self.form == "lines":
            written = f"one text a line in {self.encoding}"
        else:
            delimiter = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}.get(
                self.delimiter, repr(self.delimiter)
            )
            quoting = {
                "doubled": "quoted, quotes doubled",
                "backslash": "quoted, quotes after a backslash",
                "none": "quotes taken as they are",
            }[self.quoting]
            header = "with a header" if self.header else "without a header"
            written = f"{delimiter} between the fields, {quoting}, {self.encoding}, {header}"
        rows = _count(len(self.frame) + len(self.refused), "row")
        if self.multiline:
            rows += f" ({self.multiline:,} over several lines)"
        return f"{self.name}: {'gzip, ' if self.packed else ''}{written}, {rows}."


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
            said += f" {_count(len(self.refused), 'row')} cannot be used: {reasons(self.refused)}."
        return said


# --- a file --------------------------------------------------------------------------------------


def read_table(
    source: Path | bytes | BinaryIO,
    name: str = "",
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    header: bool | None = None,
) -> Table:
    """Read a CSV, TSV, JSONL or Parquet file or one text a line, packed by gzip or not.

    Args:
        name: of the file; its ending helps to tell the form. A path brings its own.
        encoding: and `delimiter` ("" for one text a line), `quoting`, `header` overrule what is
            found; they have no meaning for Parquet.

    Raises:
        ValueError: the file is too large, damaged, empty, or not a table at all.
    """
    if isinstance(source, Path):
        name = name or source.name
    name = name or "The file"
    raw = read_source(source, name)
    packed = raw.startswith(b"\x1f\x8b")
    if packed:
        raw = unpack_gzip(raw, name)
    if raw.startswith(b"PAR1"):
        return _read_parquet(raw, name, packed)
    endings = [ending.lower() for ending in Path(name).suffixes if ending.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    check_content(raw, name, ending)
    encoding, errors = find_encoding(raw, name, encoding)
    if ending in (".jsonl", ".ndjson", ".json") or (delimiter is None and _looks_like_json(raw)):
        return _read_json_lines(raw, name, encoding, errors, packed)
    asked = {"delimiter": delimiter, "quoting": quoting, "header": header}
    return _read_text(raw, name, encoding, errors, packed, asked)


def pair(texts: Table, labels: Table) -> Table:
    """Put two files of one value a line together: the texts, and the label of each (tweet_eval).

    Raises:
        ValueError: a file has several columns, or they do not have the same number of lines.
    """
    for table in (texts, labels):
        if len(table.columns) != 1:
            raise ValueError(
                f"{table.name} has {len(table.columns)} columns; give two files of one value a "
                "line, or one file with a text and a label column."
            )
    sizes = [len(table.frame) + len(table.refused) for table in (texts, labels)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{texts.name} has {_count(sizes[0], 'row')} and {labels.name} has {sizes[1]:,}: they "
            "do not belong together line by line."
        )
    frame = texts.frame.set_axis(["text"], axis=1)
    frame["label"] = labels.frame.iloc[:, 0].reindex(frame.index)
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
    cells = _Cells()
    refused: list[Refusal] = []
    for index, record in enumerate(records):
        row = index if rows is None else rows[index]
        reason = cells.add_record(record, row, 0)
        if reason:
            refused.append(Refusal(row, 0, reason, excerpt(str(dict(record)))))
    frame, lines = cells.finish()
    frame = _name_classes(frame, class_names or {})
    return _table(name, "hub", frame, lines, refused)


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


# --- labels --------------------------------------------------------------------------------------


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

    text, label = _choose_columns(table, text, label)
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


def _choose_columns(table: Table, text: str | None, label: str | None) -> tuple[str, str]:
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


# --- delimited text ------------------------------------------------------------------------------


def _read_text(
    raw: bytes, name: str, encoding: str, errors: str, packed: bool, asked: dict[str, Any]
) -> Table:
    # The limit is the library's own, for the whole process; ours is that of the file.
    csv.field_size_limit(MAX_BYTES)
    dialect = find_dialect(open_lines(raw, encoding, errors), name, **asked)
    width = len(dialect.names)
    if width > MAX_COLUMNS:
        raise ValueError(
            f"{name} has {width:,} columns, more than {MAX_COLUMNS:,}: choose another delimiter."
        )
    lines = islice(open_lines(raw, encoding, errors), dialect.skipped, None)
    cells = _Cells(dialect.names)
    refused: list[Refusal] = []
    multiline = row = 0
    waits_for_header = dialect.header
    for found in rows_of(
        lines, dialect.delimiter, dialect.quoting, width, first_line=1 + dialect.skipped
    ):
        if isinstance(found, BrokenRow):
            refused.append(Refusal(row, found.line, found.reason, excerpt(found.text)))
            row += 1
            _check_size(name, row, refused)
            continue
        if found.is_blank(dialect.delimiter):
            continue
        if waits_for_header:
            waits_for_header = False
            continue
        fields = found.fields
        if len(fields) > width and not "".join(fields[width:]).strip():
            fields = fields[:width]
        reason = ""
        if len(fields) != width:
            reason = f"the row has {_count(len(fields), 'field')} instead of {width}"
        elif errors != "strict" and NOT_UTF8.search("".join(fields)):
            reason = "the row has bytes that are not UTF-8"
        if reason:
            content = dialect.delimiter.join(fields)
            refused.append(Refusal(row, found.line, reason, excerpt(content)))
        else:
            multiline += found.lines > 1
            cells.add(fields, row, found.line)
        row += 1
        _check_size(name, row, refused)
    if row == 0:
        raise ValueError(f"{name} has a header but no rows.")
    frame, starts = cells.finish()
    return _table(
        name,
        "delimited" if dialect.delimiter else "lines",
        frame,
        starts,
        refused,
        encoding=encoding,
        delimiter=dialect.delimiter,
        quoting=dialect.quoting,
        header=dialect.header,
        packed=packed,
        multiline=multiline,
    )


def _check_size(name: str, rows: int, refused: list[Refusal]) -> None:
    if rows > MAX_ROWS:
        raise ValueError(f"{name} has more than {MAX_ROWS:,} rows: give a part of it.")
    if len(refused) > MAX_UNREADABLE:
        raise ValueError(
            f"{name} has more than {MAX_UNREADABLE:,} rows that cannot be read: {reasons(refused)}."
        )


# --- JSON lines and Parquet ----------------------------------------------------------------------


def _looks_like_json(raw: bytes) -> bool:
    return re.match(rb'(\xef\xbb\xbf)?\s*\{\s*"', raw) is not None


def _read_json_lines(raw: bytes, name: str, encoding: str, errors: str, packed: bool) -> Table:
    cells = _Cells()
    refused: list[Refusal] = []
    row = 0
    for line, content in enumerate(open_lines(raw, encoding, errors), start=1):
        if not content.strip():
            continue
        if row == 0 and content.lstrip("\ufeff \t").startswith("["):
            raise ValueError(f"{name} is one JSON list: write one object a line (JSONL).")
        reason = ""
        record: Any = None
        if errors != "strict" and NOT_UTF8.search(content):
            reason = "the row has bytes that are not UTF-8"
        else:
            try:
                record = json.loads(content)
            except (ValueError, RecursionError):
                reason = "the line is not JSON"
        if not reason and not isinstance(record, dict):
            reason = "the line is not a JSON object"
        if not reason:
            reason = cells.add_record(record, row, line)
        if reason:
            refused.append(Refusal(row, line, reason, excerpt(content.strip())))
        row += 1
        _check_size(name, row, refused)
    if row == 0:
        raise ValueError(f"{name} is empty: it has blank lines only.")
    if len(refused) == row:
        raise ValueError(f"No row of {name} can be used: {reasons(refused)}.")
    frame, lines = cells.finish()
    return _table(name, "jsonl", frame, lines, refused, encoding=encoding, packed=packed)


def _read_parquet(raw: bytes, name: str, packed: bool) -> Table:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        names = unique_names(file.schema_arrow.names)
        if len(names) > MAX_COLUMNS or file.metadata.num_rows > MAX_ROWS:
            raise ValueError(
                f"{name} has {file.metadata.num_rows:,} rows and {len(names):,} columns, more than "
                f"the {MAX_ROWS:,} and {MAX_COLUMNS:,} that are read: give a part of it."
            )
        size = 0
        batches: list[list[Any]] = []
        for batch in file.iter_batches(batch_size=_CHUNK_ROWS):
            columns = [_as_text(column) for column in batch.columns]
            size += sum(column.nbytes for column in columns)
            if size > 2 * MAX_BYTES:  # offsets and validity come on top of the text
                raise ValueError(too_large(f"{name} unpacks to"))
            batches.append(columns)
        class_names = _class_names(file.schema_arrow)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{name} is a damaged Parquet file: fetch or write it again.") from error
    if not batches or not names:
        raise ValueError(f"{name} has no rows.")
    frame = pd.DataFrame(
        {
            column: _series(pa.chunked_array([batch[i] for batch in batches], pa.large_string()))
            for i, column in enumerate(names)
        }
    )
    frame.index.name = "row"
    frame = _name_classes(frame, class_names)
    return _table(name, "parquet", frame, np.zeros(len(frame), np.int64), [], packed=packed)


def _as_text(column: Any) -> Any:
    """Return an Arrow array as text; what has no text form (lists, pictures) is missing."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        text = column.cast(pa.large_string())
        text.validate(full=True)  # a damaged file can hold what is no UTF-8
        return text
    return pa.nulls(len(column), pa.large_string())


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of classes that the library `datasets` wrote into a Parquet file."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"].items()
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in features
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _name_classes(frame: pd.DataFrame, class_names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Put the names of classes for their numbers, where the names are words for sentiments."""
    for column, names in class_names.items():
        known = [word_label(name.casefold()) for name in names]
        if column in frame.columns and (1,) in known and (0,) in known:
            by_number = {str(number): name for number, name in enumerate(names)}
            frame[column] = frame[column].map(
                lambda value, by_number=by_number: by_number.get(value, value), na_action="ignore"
            )
    return frame


# --- cells ---------------------------------------------------------------------------------------


class _Cells:
    """Collects rows and turns them, a chunk at a time, into columns of Arrow text.

    As Python strings, Sentiment140 would take four times as much memory.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.places = {name: place for place, name in enumerate(self.names)}
        self.rows: list[int] = []
        self.lines: list[int] = []
        self.waiting: list[Sequence[str | None]] = []
        self.columns: list[list[Any]] = [[] for _ in self.names]
        self.stored = 0

    def add(self, fields: Sequence[str | None], row: int, line: int) -> None:
        """Add a row of as many fields as there are columns, or of fewer."""
        self.waiting.append(fields)
        self.rows.append(row)
        self.lines.append(line)
        if len(self.waiting) >= _CHUNK_ROWS:
            self._store()

    def add_record(self, record: Mapping[str, Any], row: int, line: int) -> str:
        """Add a row by the names of its fields, or say why it cannot be."""
        fields: list[str | None] = [None] * len(self.names)
        new: list[tuple[str, str | None]] = []
        for name, value in record.items():
            cell = _cell(value)
            if _SURROGATE.search(str(name)) or (cell is not None and _SURROGATE.search(cell)):
                return "the row has half a character"
            place = self.places.get(name)
            if place is None:
                new.append((str(name), cell))
            else:
                fields[place] = cell
        if len(self.names) + len(new) > MAX_COLUMNS:
            return f"the row has fields beyond {MAX_COLUMNS:,} columns"
        for name, cell in new:
            self.places[name] = len(self.names)
            self.names.append(name)
            self.columns.append([])
            fields.append(cell)
        self.add(fields, row, line)
        return ""

    def finish(self) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """Return the frame, its index being the source rows, and the lines."""
        import pandas as pd
        import pyarrow as pa

        self._store()
        text = pa.large_string()
        columns = {
            name: _series(pa.chunked_array(chunks, text))
            for name, chunks in zip(self.names, self.columns, strict=True)
        }
        index = pd.Index(np.array(self.rows, dtype=np.int64), name="row")
        frame = pd.DataFrame(columns).set_axis(index, axis=0)
        return frame, np.array(self.lines, dtype=np.int64)

    def _store(self) -> None:
        import pyarrow as pa

        size = len(self.waiting)
        for place, chunks in enumerate(self.columns):
            cells = [fields[place] if place < len(fields) else None for fields in self.waiting]
            if not chunks and self.stored:  # the column was met only now
                chunks.append(pa.nulls(self.stored, pa.large_string()))
            chunks.append(pa.array(cells, pa.large_string()))
        self.stored += size
        self.waiting.clear()
        if self.stored * len(self.names) > MAX_CELLS:
            raise ValueError(
                f"The table has more than {MAX_CELLS:,} cells: give a part of its rows or columns."
            )


def _cell(value: object) -> str | None:
    """Return a JSON value as text: None for what has none, as lists and objects."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return repr(value) if isinstance(value, int | float) else None


def _series(column: Any) -> pd.Series[str]:
    import pandas as pd

    return cast("pd.Series[str]", pd.Series(pd.array(column, dtype="str")))


def _table(
    name: str,
    form: Form,
    frame: pd.DataFrame,
    lines: NDArray[np.int64],
    refused: Sequence[Refusal],
    **written: Any,
) -> Table:
    if frame.shape[1] == 0 and not refused:
        raise ValueError(f"{name} has no rows.")
    text, label = _guess_columns(frame, written.get("delimiter", ""))
    return Table(name, form, frame, lines, tuple(refused), text, label, **written)


def _guess_columns(frame: pd.DataFrame, delimiter: str) -> tuple[str | None, str | None]:
    """Find the text and the label column by their names, else by what is in them."""
    columns = [str(column) for column in frame.columns]
    text, label = guess_by_name(columns)
    sample = frame.head(_SAMPLE_ROWS)
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
            if column != label
        }
        longest = sorted(lengths, key=lambda column: -lengths[column])
        # Twice as long as any other: texts, and not one of two columns of names.
        if len(longest) == 1 or lengths[longest[0]] >= 2 * lengths[longest[1]]:
            text = longest[0]
    return text, label


def _defuse(value: object) -> object:
    if not isinstance(value, str):
        return value
    start = value.lstrip(" \u00a0\u200b\ufeff")[:1]
    dangerous = start in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") and start != ""
    return f"'{value}" if dangerous else value


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
