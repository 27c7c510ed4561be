"""How is a person's own file of texts written, and what is in it?

`read_table` finds out packing, form, encoding, delimiter, quotes and header, which is shown and can
be overruled; every row that cannot be read is listed with the reason.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UserError
from .columns import CHUNK_ROWS, MAX_COLUMNS, Cells, series
from .delimited import BrokenRow, Quoting, find_dialect, rows_of, unique_names
from .labels import FASTTEXT, MAX_LABELS, excerpt, guess_by_name, listed
from .tables import (
    MAX_ROWS,
    Refusal,
    Table,
    amount,
    make_table,
    name_classes,
    pair,
    reasons,
)
from .text_encoding import (
    MAX_BYTES,
    NOT_UTF8,
    check_content,
    find_encoding,
    open_lines,
    read_source,
    too_large,
    unpack_gzip,
)

# A label that a comma follows at once is a field of delimited text.
_FASTTEXT_LINE = re.compile(rf"\ufeff?\s*({FASTTEXT}[^\s,;|]+(\s+,\s+|,\s+|\s+|$))+")
_BETWEEN = re.compile(r"[\s,]*")
_KEYS_OF_SPLIT = {"columns", "data"}

MAX_UNREADABLE = 100_000
"""Rows of which it is told why they cannot be read; where there are more, the reading is wrong."""


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
        return _read_json(raw, name, encoding, errors, packed)
    if delimiter is None and _is_fasttext(raw, encoding, errors):
        return _read_fasttext(raw, name, encoding, errors, packed)
    asked = {"delimiter": delimiter, "quoting": quoting, "header": header}
    return _read_text(raw, name, encoding, errors, packed, asked)


def read_pair(first: tuple[bytes, str], second: tuple[bytes, str]) -> Table:
    """Read two files, content and name, that are clearly texts and their labels: one a line each.

    That is so where both have one column and equally many lines, and one of them few different
    values; of files that are named as those of tweet_eval, only the lines have to be as many.

    Raises:
        ValueError: they are not; the sentence says why.
    """
    files = (first, second)
    if not any(are_named_as_pair(a[1], b[1]) for a, b in (files, files[::-1])):
        for content, name in files:
            columns = len(read_table(content, name).columns)
            if columns != 1:
                raise UserError(f"{name} has {columns} columns.")
    read = [read_table(content, name, delimiter="", header=False) for content, name in files]
    lines = [len(table.frame) + len(table.refused) for table in read]
    if lines[0] != lines[1]:
        raise UserError(
            f"{read[0].name} has {amount(lines[0], 'line')} and {read[1].name} has {lines[1]:,}."
        )
    for texts, labels in (read, read[::-1]):
        if are_named_as_pair(texts.name, labels.name):
            return pair(texts, labels)
    values = [table.frame.iloc[:, 0].nunique() for table in read]
    few, many = sorted((0, 1), key=values.__getitem__)
    if values[few] > MAX_LABELS or values[few] in (values[many], lines[few]):
        raise UserError(f"it is not clear which of {first[1]} and {second[1]} has the labels.")
    return pair(read[many], read[few])


def are_named_as_pair(texts: str, labels: str) -> bool:
    """Whether two files are named as tweet_eval's are: ..._text.txt and ..._labels.txt."""
    ending = "_text.txt"
    return texts.endswith(ending) and labels == f"{texts.removesuffix(ending)}_labels.txt"


# --- delimited text ------------------------------------------------------------------------------


def _read_text(
    raw: bytes, name: str, encoding: str, errors: str, packed: bool, asked: dict[str, Any]
) -> Table:
    # The limit is the library's own, for the whole process; ours is that of the file.
    csv.field_size_limit(MAX_BYTES)
    dialect = find_dialect(open_lines(raw, encoding, errors), name, **asked)
    width = len(dialect.names)
    if width > MAX_COLUMNS:
        raise UserError(
            f"{name} has {width:,} columns, more than {MAX_COLUMNS:,}: choose another delimiter."
        )
    lines = islice(open_lines(raw, encoding, errors), dialect.skipped, None)
    cells = Cells(dialect.names)
    refused: list[Refusal] = []
    multiline = balanced = row = 0
    waits_for_header = dialect.header
    for found in rows_of(
        lines,
        dialect.delimiter,
        dialect.quoting,
        width,
        first_line=1 + dialect.skipped,
        whole=dialect.whole,
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
            reason = f"the row has {amount(len(fields), 'field')} instead of {width}"
        elif errors != "strict" and NOT_UTF8.search("".join(fields)):
            reason = "the row has bytes that are not UTF-8"
        if reason:
            content = dialect.delimiter.join(fields)
            refused.append(Refusal(row, found.line, reason, excerpt(content)))
        else:
            multiline += found.lines > 1
            balanced += found.balanced
            cells.add(fields, row, found.line)
        row += 1
        _check_size(name, row, refused)
    if row == 0:
        raise UserError(f"{name} has a header but no rows.")
    if len(refused) == row:
        raise UserError(f"No row of {name} can be used: {reasons(refused)}.")
    frame, starts = cells.finish()
    return make_table(
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
        balanced=balanced,
    )


def _is_fasttext(raw: bytes, encoding: str, errors: str) -> bool:
    """Return whether most of the first lines begin with a label of fastText."""
    lines = [line for line in islice(open_lines(raw, encoding, errors), 100) if line.strip()]
    return 2 * sum(_FASTTEXT_LINE.match(line) is not None for line in lines) > len(lines)


def _read_fasttext(raw: bytes, name: str, encoding: str, errors: str, packed: bool) -> Table:
    """Read lines of labels, each after its mark, and a text; several labels make one."""
    cells = Cells(("label", "text"))
    refused: list[Refusal] = []
    row = 0
    for line, content in enumerate(open_lines(raw, encoding, errors), start=1):
        if not content.strip():
            continue
        found = _FASTTEXT_LINE.match(content)
        reason = ""
        if errors != "strict" and NOT_UTF8.search(content):
            reason = "the row has bytes that are not UTF-8"
        elif found is None:
            reason = f"the row does not begin with {FASTTEXT}"
        if found is None or reason:
            refused.append(Refusal(row, line, reason, excerpt(content.strip())))
        else:
            labels = [label.removeprefix(FASTTEXT).strip(" ,") for label in found[0].split()]
            text = content[found.end() :].strip()
            cells.add((",".join(filter(None, labels)), text), row, line)
        row += 1
        _check_size(name, row, refused)
    frame, lines = cells.finish()
    return make_table(name, "fasttext", frame, lines, refused, encoding=encoding, packed=packed)


def _check_size(name: str, rows: int, refused: list[Refusal]) -> None:
    if rows > MAX_ROWS:
        raise UserError(f"{name} has more than {MAX_ROWS:,} rows: give a part of it.")
    if len(refused) > MAX_UNREADABLE:
        raise UserError(
            f"{name} has more than {MAX_UNREADABLE:,} rows that cannot be read: {reasons(refused)}."
        )


# --- JSON lines and Parquet ----------------------------------------------------------------------


def _looks_like_json(raw: bytes) -> bool:
    return re.match(rb'(\xef\xbb\xbf)?\s*(\{|\[\s*\{|\[\s*\[)\s*"', raw) is not None


def _read_json(raw: bytes, name: str, encoding: str, errors: str, packed: bool) -> Table:
    """Read one object a line; or a list of objects, objects over several lines, or pandas' forms.

    Those of `DataFrame.to_json` are columns, index, records, values, split and table.
    """
    lines = open_lines(raw, encoding, errors)
    first = next((line for line in lines if line.strip()), "").lstrip("\ufeff")
    if _value_of(first) is _NONE or _is_document(_value_of(first)):
        content = "".join(open_lines(raw, encoding, errors)).lstrip("\ufeff")
        records = _records(content, name)
        if records is not None:
            return _table_of_records(records, name, encoding, packed)
    return _read_json_lines(raw, name, encoding, errors, packed)


_NONE = object()


def _value_of(content: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return _NONE


def _is_document(value: Any) -> bool:
    """Return whether a value holds a whole table, and not one row of it."""
    if isinstance(value, dict):
        return bool(value) and (
            all(isinstance(part, dict | list) for part in value.values())
            or (isinstance(value.get("data"), list) and isinstance(value.get("schema"), dict))
            or bool(_rows_within(value))
        )
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict | list)


def _rows_within(value: dict[str, Any]) -> list[str]:
    """Return the names of lists of objects, which are rows where what is around them is no row."""
    if guess_by_name(list(value))[0] is not None:
        return []
    return [
        key
        for key, part in value.items()
        if isinstance(part, list) and part and all(isinstance(row, dict) for row in part)
    ]


def _records(content: str, name: str) -> Iterator[tuple[int, Any]] | None:
    """Return the rows of JSON that is not one object a line, and their lines; None for no JSON."""
    if content.lstrip().startswith("["):
        rows = _values(content, content.index("[") + 1)
    else:
        value = _value_of(content)
        if isinstance(value, dict) and len(within := _rows_within(value)) > 1:
            raise UserError(
                f"{name} holds {len(within):,} tables, {listed(map(repr, within))}: give one of "
                "them as a file."
            )
        if _is_document(value):
            return ((0, record) for record in _records_of_pandas(value))
        rows = _values(content, 0)
    first = next(rows, None)
    if first is None or first[1] is _NONE:
        return None
    found = chain([first], rows)
    if isinstance(first[1], list):
        return ((line, _by_position(row)) for line, row in found)
    return found


def _values(content: str, start: int) -> Iterator[tuple[int, Any]]:
    """Yield the values that stand one after another, and their lines; `_NONE` where it breaks."""
    decoder = json.JSONDecoder()
    line, counted, place = 1, 0, start
    while True:
        place = _BETWEEN.match(content, place).end()  # type: ignore[union-attr]
        if place == len(content) or (content[place] == "]" and not content[place + 1 :].strip()):
            return
        line += content.count("\n", counted, place)
        counted = place
        try:
            value, place = decoder.raw_decode(content, place)
        except (ValueError, RecursionError):
            yield line, _NONE
            return
        yield line, value


def _records_of_pandas(value: dict[str, Any]) -> Iterator[Any]:
    """Yield the rows of a whole table: of pandas' split, table, columns or index, or of lists."""
    data = value.get("data")
    if within := _rows_within(value):
        yield from value[within[0]]
    elif isinstance(data, list) and (value.keys() >= _KEYS_OF_SPLIT or len(value) <= 2):
        names = value.get("columns")
        for row in data:
            if isinstance(row, list):
                yield dict(zip(map(str, names), row, strict=False)) if names else _by_position(row)
            else:
                yield row
    elif all(isinstance(part, list) for part in value.values()):
        for row in zip_longest(*value.values()):
            yield dict(zip(value, row, strict=True))
    elif _rows_are_keys(value):
        yield from value.values()
    else:
        places = dict.fromkeys(place for part in value.values() for place in part)
        for place in places:
            yield {
                column: part.get(place) if isinstance(part, dict) else None
                for column, part in value.items()
            }


def _rows_are_keys(value: dict[str, Any]) -> bool:
    """Return whether the outer keys are the rows (pandas' index), and not the columns."""
    inner = {key for part in value.values() if isinstance(part, dict) for key in part}
    outer = set(value)
    named = [
        sum(found is not None for found in guess_by_name(list(keys))) for keys in (inner, outer)
    ]
    if named[0] != named[1]:
        return named[0] > named[1]
    numbered = [all(key.isdecimal() for key in keys) for keys in (outer, inner)]
    if numbered[0] != numbered[1]:
        return numbered[0]
    return len(inner) < len(outer)


def _by_position(row: Any) -> Any:
    if not isinstance(row, list):
        return row
    return {f"column {place}": cell for place, cell in enumerate(row, start=1)}


def _table_of_records(
    records: Iterable[tuple[int, Any]], name: str, encoding: str, packed: bool
) -> Table:
    cells = Cells()
    refused: list[Refusal] = []
    row = 0
    for line, record in records:
        reason = "the row is not a JSON object"
        if isinstance(record, dict):
            reason = cells.add_record(record, row, line)
        if record is _NONE:
            refused.append(Refusal(row, line, "what follows is not JSON", ""))
        elif reason:
            refused.append(Refusal(row, line, reason, excerpt(json.dumps(record))))
        row += 1
        _check_size(name, row, refused)
    if row == 0:
        raise UserError(f"{name} has no rows.")
    if len(refused) == row:
        raise UserError(f"No row of {name} can be used: {reasons(refused)}.")
    frame, lines = cells.finish()
    return make_table(name, "json", frame, lines, refused, encoding=encoding, packed=packed)


def _read_json_lines(raw: bytes, name: str, encoding: str, errors: str, packed: bool) -> Table:
    cells = Cells()
    refused: list[Refusal] = []
    row = 0
    for line, content in enumerate(open_lines(raw, encoding, errors), start=1):
        if not content.strip():
            continue
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
        raise UserError(f"{name} is empty: it has blank lines only.")
    frame, lines = cells.finish()
    return make_table(name, "jsonl", frame, lines, refused, encoding=encoding, packed=packed)


def _read_parquet(raw: bytes, name: str, packed: bool) -> Table:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        names = unique_names(file.schema_arrow.names)
        if len(names) > MAX_COLUMNS or file.metadata.num_rows > MAX_ROWS:
            raise UserError(
                f"{name} has {file.metadata.num_rows:,} rows and {len(names):,} columns, more than "
                f"the {MAX_ROWS:,} and {MAX_COLUMNS:,} that are read: give a part of it."
            )
        size = 0
        batches: list[list[Any]] = []
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            columns = [_as_text(column) for column in batch.columns]
            size += sum(column.nbytes for column in columns)
            if size > 2 * MAX_BYTES:  # offsets and validity come on top of the text
                raise UserError(too_large(f"{name} unpacks to"))
            batches.append(columns)
        class_names = _class_names(file.schema_arrow)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UserError(f"{name} is a damaged Parquet file: fetch or write it again.") from error
    if not batches or not names:
        raise UserError(f"{name} has no rows.")
    frame = pd.DataFrame(
        {
            column: series(pa.chunked_array([batch[i] for batch in batches], pa.large_string()))
            for i, column in enumerate(names)
        }
    )
    frame.index.name = "row"
    frame = name_classes(frame, class_names)
    return make_table(name, "parquet", frame, np.zeros(len(frame), np.int64), [], packed=packed)


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
