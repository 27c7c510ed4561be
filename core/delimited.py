"""Rows of delimited text as people have it: which delimiter, which quotes, is there a header?

The rows are split by Python's `csv`, strictly. Its `Sniffer` is not used, because it takes letters
for delimiters and does not say how sure it is; here the first lines are read with each delimiter
and quoting, and the reading under which most rows have the same number of fields is taken.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from core.labels import (
    LABEL_NAMES,
    MAX_LABELS,
    TEXT_NAMES,
    are_labels,
    canonical,
    guess_by_name,
    is_number,
    plain_name,
    word_label,
)

Quoting = Literal["doubled", "backslash", "none"]
MAX_LINES_IN_ROW = 10_000  # a quote that is open for longer was never closed
_DELIMITERS = ("\t", ",", ";", "|")
_SAMPLE_LINES = 1000
_SAMPLE_CHARACTERS = 1_000_000
SENTIMENT140 = ("target", "ids", "date", "flag", "user", "text")
"""The columns of Go et al. (2009), whose files have no header."""

_SENTIMENT140_DATE = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d [A-Z]+ 20\d\d")
_ENCLOSED = re.compile(r'\s*".*"\s*', re.DOTALL)
_REGULAR = 0.7  # share of rows with one number of fields that makes a character the delimiter


class Row(NamedTuple):
    """The fields of a row, and where in the file it is."""

    line: int
    fields: list[str]
    lines: int = 1
    as_it_stands: bool = False  # its quotes are placed wrongly, and are read as characters

    def is_blank(self, delimiter: str) -> bool:
        """Return whether the row is an empty line; of one text a line, each line counts."""
        return delimiter != "" and len(self.fields) <= 1 and not "".join(self.fields).strip()


class BrokenRow(NamedTuple):
    """A line that cannot be read, and why."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Dialect:
    """How a file is written."""

    delimiter: str  # "" for one text a line
    quoting: Quoting
    header: bool
    names: tuple[str, ...]  # of the columns
    skipped: int  # lines before the first row


@dataclass(frozen=True)
class Survey:
    """What a delimiter and a quoting make of the first lines."""

    width: int  # the commonest number of fields
    rows: list[list[str]]
    share: float  # of rows that have this number, and whose quotes are placed well


def rows_of(
    lines: Iterable[str],
    delimiter: str,
    quoting: Quoting,
    width: int | None = None,
    *,
    first_line: int = 1,
) -> Iterator[Row | BrokenRow]:
    """Split lines into rows; what goes wrong costs the line at which it began, and no other.

    A quote that is never closed would swallow all rows after it. So the quotes are read strictly,
    and where that fails the row's first line alone is given up, or taken as it stands when its
    quotes are even in number and it then has ``width`` fields; reading goes on with the next line.
    """
    if delimiter == "":
        for number, text in enumerate(lines, first_line):
            yield Row(number, [text.rstrip("\r\n")])
        return
    source = enumerate(lines, first_line)
    waiting: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []
    doubtful_until = 0  # these lines were part of a row that went wrong

    def feed() -> Iterator[str]:
        while (item := waiting.popleft() if waiting else next(source, None)) is not None:
            taken.append(item)
            if len(taken) > MAX_LINES_IN_ROW:
                raise csv.Error("the row has too many lines")
            yield item[1]

    options: dict[str, Any] = {"delimiter": delimiter, "strict": True}
    if quoting == "none":
        options |= {"quoting": csv.QUOTE_NONE, "quotechar": None}
    elif quoting == "backslash":
        options |= {"doublequote": False, "escapechar": "\\"}
    while True:
        try:
            for fields in csv.reader(feed(), **options):
                line, content = taken[0]
                if line <= doubtful_until and len(taken) == 1 and content.count('"') % 2:
                    yield BrokenRow(line, "a quote in the row is not closed", content)
                else:
                    yield Row(line, fields, len(taken))
                taken.clear()
            return
        except csv.Error:
            (line, content), *rest = taken
            waiting.extendleft(reversed(rest))
            if rest:
                doubtful_until = max(doubtful_until, rest[-1][0])
            taken.clear()
            plain = content.rstrip("\r\n").split(delimiter)
            if content.count('"') % 2:
                yield BrokenRow(line, "a quote in the row is not closed", content)
            elif width is not None and len(plain) != width:
                yield BrokenRow(line, "the quotes in the row are placed wrongly", content)
            else:
                yield Row(line, plain, as_it_stands=True)


def find_dialect(
    lines: Iterable[str],
    name: str,
    *,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    header: bool | None = None,
) -> Dialect:
    """Find out from its first lines how the file ``name`` is written; what is given is kept.

    The delimiter is "" where no character divides the lines regularly: then a line is a text.
    Raises ValueError for an impossible delimiter or quoting, and where no line can be read.
    """
    _check_asked(delimiter, quoting)
    sample = _beginning(lines)
    if not "".join(sample).strip():
        raise ValueError(f"{name} is empty: it has blank lines only.")
    skipped = 0
    # Excel writes its delimiter into a first line of its own.
    told = re.fullmatch(r"sep=(.)[\r\n]*", sample[0])
    if told and delimiter in (None, told[1]):
        delimiter, sample, skipped = told[1], sample[1:], 1
    if delimiter == "":
        quoting = "none"
    if delimiter is None or quoting is None:
        delimiter, quoting = _most_regular(sample, delimiter, quoting)
    found = survey(sample, delimiter, quoting)
    if not found.rows:
        raise ValueError(
            f"{name} has no row that can be read with the delimiter {delimiter!r} and "
            f"{quoting!r} quotes: choose others."
        )
    first, width = found.rows[0], found.width
    if header is None:
        header = _has_header(found.rows, delimiter)
    if header:
        names = unique_names(first)
    elif width == len(SENTIMENT140) and _SENTIMENT140_DATE.match(first[2]):
        names = list(SENTIMENT140)
    else:
        names = [f"column {place}" for place in range(1, width + 1)]
    return Dialect(delimiter, quoting, header, tuple(names), skipped)


def _check_asked(delimiter: str | None, quoting: str | None) -> None:
    if delimiter is not None and (len(delimiter) > 1 or delimiter in ('"', "\n", "\r", "\\")):
        raise ValueError(
            f"The delimiter {delimiter!r} cannot be used: give one character, or an empty one for "
            "one text a line."
        )
    if quoting not in (None, "doubled", "backslash", "none"):
        raise ValueError(f"The quoting {quoting!r} is not known: doubled, backslash or none.")


def _beginning(lines: Iterable[str]) -> list[str]:
    sample: list[str] = []
    size = 0
    for line in islice(lines, _SAMPLE_LINES):
        sample.append(line)
        size += len(line)
        if size > _SAMPLE_CHARACTERS and len(sample) > 1:
            break
    return sample


def _most_regular(
    sample: list[str], delimiter: str | None, quoting: Quoting | None
) -> tuple[str, Quoting]:
    """Choose the delimiter and quoting under which most rows have the same number of fields."""
    content = "".join(sample)
    quotings: list[Quoting] = ["doubled"] if quoting is None else [quoting]
    if quoting is None and '"' in content:
        quotings += ["backslash", "none"] if '\\"' in content else ["none"]
    best = (False, 0.0)
    chosen: tuple[str, Quoting] | None = None
    for candidate in _DELIMITERS if delimiter is None else (delimiter,):
        for quotes in quotings if candidate in content else ():
            found = survey(sample, candidate, quotes)
            named = bool(found.rows) and None not in guess_by_name(found.rows[0])
            # A delimiter that was given needs no proof, nor one that divides the right names.
            regular = found.width > 1 and (found.share >= _REGULAR or delimiter is not None)
            if not (named or regular):
                continue
            score = (named or _has_labels(found, candidate), found.share)
            if score > best:
                best, chosen = score, (candidate, quotes)
    if chosen is None:
        chosen = ("" if delimiter is None else delimiter, quotings[0])
    return chosen if chosen[0] else ("", "none")


def survey(sample: list[str], delimiter: str, quoting: Quoting) -> Survey:
    """Read the first lines of a file with a delimiter and a quoting, and count the fields."""
    read = list(rows_of(sample, delimiter, quoting))
    sound = [row for row in read if isinstance(row, Row) and not row.is_blank(delimiter)]
    broken = sum(isinstance(row, BrokenRow) for row in read)
    widths = Counter(len(row.fields) for row in sound)
    width = widths.most_common(1)[0][0] if sound else 0
    regular = sum(
        len(row.fields) == width
        and not row.as_it_stands
        # Quotes around a whole field are no part of the text.
        and not (quoting == "none" and any(_ENCLOSED.fullmatch(cell) for cell in row.fields))
        for row in sound
    )
    share = regular / (len(sound) + broken) if sound else 0.0
    return Survey(width, [row.fields for row in sound], share)


def _has_labels(found: Survey, delimiter: str) -> bool:
    regular = [row for row in found.rows if len(row) == found.width]
    # With and without the first row, which may be a header.
    return any(
        are_labels(Counter(row[place] for row in rows), delimiter)
        for rows in (regular, regular[1:])
        for place in range(found.width)
    )


def _has_header(rows: list[list[str]], delimiter: str) -> bool:
    """Return whether the first row names the columns: its cells are not like those below."""
    first, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    names = {plain_name(cell) for cell in first}
    if names & set(TEXT_NAMES) or (len(first) > 1 and names & set(LABEL_NAMES)):
        return True
    if len(first) == 1 or not body:
        return False
    votes = 0
    for place, cell in enumerate(first):
        value = canonical(cell, delimiter)
        below = Counter(canonical(row[place], delimiter) for row in body)
        if is_number(value):
            return False
        # A word for a label names a column only above numbers (one column for each label).
        if word_label(value) is not None and any(word_label(o) is not None for o in below):
            return False
        if all(is_number(other) or word_label(other) is not None for other in below):
            votes += 1
        elif len(below) <= min(MAX_LABELS, len(body) / 2):
            votes += -1 if value in below else 1
    return votes > 0


def unique_names(cells: Sequence[str]) -> list[str]:
    """Return names of columns of which none is empty and no two are the same."""
    names: list[str] = []
    for position, cell in enumerate(cells):
        # Bytes that are not UTF-8 cannot be shown.
        plain = cell.strip().lstrip("\ufeff").encode("utf-8", "replace").decode()
        name = plain or f"column {position + 1}"
        number = 2
        while name in names:
            name, number = f"{plain} ({number})", number + 1
        names.append(name)
    return names
