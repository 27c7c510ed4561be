"""How do tables leave the program? One frame, one file, by its ending."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import tables
from ..errors import UserError
from ..storage import cache
from . import embedded_settings

if TYPE_CHECKING:
    import pandas as pd

TABLE_MIME = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "json": "application/json",
}
"""Forms a table can take, and their media types."""


def table_bytes(frame: pd.DataFrame, form: str, *, recipe: str | None = None) -> bytes:
    """Write a table as one of `TABLE_MIME`.

    CSV has no cell that a spreadsheet would take for a formula (`core.data.tables.safe_csv`), and
    no place for a recipe. JSON is {"rows": [{column: value, ...}, ...], "recipe": {...}}, with null
    for what is not a number.

    Raises:
        ValueError: the form is not one of them.
    """
    if form not in TABLE_MIME:
        raise UserError(
            f"A table cannot be saved as {form!r}; choose one of {', '.join(TABLE_MIME)}."
        )
    if form == "csv":
        return tables.safe_csv(frame)
    if form == "json":
        content: dict[str, Any] = {"rows": _rows(frame)}
        if recipe is not None:
            content["recipe"] = json.loads(recipe)
        written = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        return written.encode("utf-8", "replace")
    return _parquet(frame, recipe)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary a row, every number as it is, None where there is none."""
    columns = {
        str(name): [
            None if isinstance(value, float) and not math.isfinite(value) else value
            for value in column.astype(object).where(column.notna(), None).tolist()
        ]
        for name, column in frame.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _parquet(frame: pd.DataFrame, recipe: str | None) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(frame, preserve_index=False)
    if recipe is not None:
        held = {**(table.schema.metadata or {}), embedded_settings.NAME.encode(): recipe.encode()}
        table = table.replace_schema_metadata(held)
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


def export_table(frame: pd.DataFrame, path: str | Path, *, recipe: str | None = None) -> Path:
    """Save a table in the form that the file's ending names; the file is whole or not there.

    Raises:
        ValueError: the ending is none of .csv, .parquet, .json.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in TABLE_MIME:
        raise UserError(
            f"The table {path.name!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{form}' for form in TABLE_MIME)}."
        )
    content = table_bytes(frame, form, recipe=recipe)
    with cache.write_beside(path) as beside:
        beside.write_bytes(content)
    return path
