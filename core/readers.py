"""How is a person's own file of texts written, and what is in it?

`read_table` finds out packing, form, encoding, delimiter, quotes and header, which is shown and can
be overruled; every row that cannot be read is listed with the reason.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.columns import CHUNK_ROWS, MAX_COLUMNS, Cells, series
from core.delimited import BrokenRow, Quoting, find_dialect, rows_of, unique_names
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
from core.labels import excerpt
from core.tables import MAX_ROWS, Refusal, Table, amount, make_table, name_classes, reasons

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
        return _read_json_lines(raw, name, encoding, errors, packed)
    asked = {"delimiter": delimiter, "quoting": quoting, "header": header}
    return _read_text(raw, name, encoding, errors, packed, asked)


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
    cells = Cells(dialect.names)
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
            reason = f"the row has {amount(len(fields), 'field')} instead of {width}"
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
    cells = Cells()
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
    return make_table(name, "jsonl", frame, lines, refused, encoding=encoding, packed=packed)


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
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
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
