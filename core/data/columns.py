"""How are the cells of a table kept? As columns of Arrow text, a chunk of rows at a time.

As Python strings, Sentiment140 would take four times as much memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MAX_COLUMNS = 1_000
MAX_CELLS = 100_000_000
CHUNK_ROWS = 20_000
_SURROGATE = re.compile("[\ud800-\udfff]")


class Cells:
    """Collects rows and turns them, a chunk at a time, into columns of Arrow text."""

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
        if len(self.waiting) >= CHUNK_ROWS:
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
            name: series(pa.chunked_array(chunks, text))
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
            raise UserError(
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


def series(column: Any) -> pd.Series[str]:
    """A chunked Arrow array of text as a column of pandas."""
    import pandas as pd

    return cast("pd.Series[str]", pd.Series(pd.array(column, dtype="str")))
