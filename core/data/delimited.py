"""Rows of delimited text as people have it: which delimiter, which quotes, is there a header?

The rows are split by Python's `csv`, strictly. Its `Sniffer` is not used, because it takes letters
for delimiters and does not say how sure it is, nor is clevercsv (`docs/architecture.md`); here the
first lines are read with each delimiter and quoting, and the reading under which most rows have the
same number of fields is taken.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

from ..errors import UserError
from .labels import (
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

Quoting = Literal["doubled", "spaced", "backslash", "none"]
"""How quotes are written: doubled within quotes, the same after a space, after a backslash; or as
characters like any other."""

MAX_LINES_IN_ROW = 10_000  # a quote that is open for longer was never closed
_DELIMITERS = ("\t", ",", ";", "|")
_SAMPLE_LINES = 1000
_SAMPLE_CHARACTERS = 1_000_000
SENTIMENT140 = ("target", "ids", "date", "flag", "user", "text")
"""The columns of Go et al. (2009), whose files have no header."""

_SENTIMENT140_DATE = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d [A-Z]+ 20\d\d")
_MARKS = re.compile(r'["\r\n]')
_ENCLOSED = re.compile(r'\s*".*"\s*', re.DOTALL)
_REPEATED = 3  # times that each value of a column is there, before it is one of classes
_MOSTLY = 0.9  # share of the lines that have such a value
_ROWS_BETWEEN = 0.75  # share of the lines between two quotes that are rows by themselves
_REGULAR = 0.7  # share of rows with one number of fields that makes a character the delimiter


class Row(NamedTuple):
    """The fields of a row, and where in the file it is."""

    line: int
    fields: list[str]
    lines: int = 1
    as_it_stands: bool = False  # its quotes are placed wrongly, and are read as characters
    balanced: bool = False  # by those of another row

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
    whole: Callable[[str], bool] | None = None  # whether a line is a row by itself


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
    whole: Callable[[str], bool] | None = None,
) -> Iterator[Row | BrokenRow]:
    """Split lines into rows; what goes wrong costs the line at which it began, and no other.

    A quote that is never closed would swallow all rows after it. So the quotes are read strictly,
    and where that fails the row's first line alone is given up, or taken as it stands when its
    quotes are even in number and it then has ``width`` fields; reading goes on with the next line.

    Args:
        whole: whether a line is a row by itself (`row_by_itself`). Where most lines of a row are,
            the quotes are no quotes: one row's runs into the next one's, and they are balanced by
            chance. These lines are rows as they stand.
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
    elif quoting == "spaced":
        options |= {"skipinitialspace": True}
    while True:
        try:
            for fields in csv.reader(feed(), **options):
                line, content = taken[0]
                if line <= doubtful_until and len(taken) == 1 and content.count('"') % 2:
                    yield BrokenRow(line, "a quote in the row is not closed", content)
                elif len(taken) > 1 and whole and _are_rows((text for _, text in taken), whole):
                    for line, content in taken:
                        plain = content.rstrip("\r\n").split(delimiter)
                        yield Row(line, plain, as_it_stands=True, balanced=True)
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
        raise UserError(f"{name} is empty: it has blank lines only.")
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
        raise UserError(
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
    whole = row_by_itself(sample, delimiter, quoting, width)
    return Dialect(delimiter, quoting, header, tuple(names), skipped, whole)


def _check_asked(delimiter: str | None, quoting: str | None) -> None:
    if delimiter is not None and (len(delimiter) > 1 or delimiter in tuple('"\n\r\\\0')):
        raise UserError(
            f"The delimiter {delimiter!r} cannot be used: give one character, or an empty one for "
            "one text a line."
        )
    if quoting not in (None, *get_args(Quoting)):
        raise UserError(
            f"The quoting {quoting!r} is not known: doubled, spaced, backslash or none."
        )


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
        spaced: list[Quoting] = (
            ["spaced"] if quoting is None and f'{candidate} "' in content else []
        )
        for quotes in (*quotings, *spaced) if candidate in content else ():
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


def row_by_itself(
    sample: Sequence[str], delimiter: str, quoting: Quoting, width: int
) -> Callable[[str], bool] | None:
    """Return what tells whether a line is a row by itself, its quotes being characters.

    It is one that has all fields, or more (delimiters in its text), and in every column of labels a
    label: what other lines have there, or a number or a sentiment where all of these are. A file
    may be sorted by its labels, so the first lines need not have all. None where there is no column
    of labels, or where quotes are quotes beyond doubt.
    """
    if quoting == "none" or delimiter == "" or width < 2:
        return None
    plain = [line.rstrip("\r\n").split(delimiter) for line in sample]
    plain = [fields for fields in plain if len(fields) == width]
    sound = [row for row in rows_of(sample, delimiter, quoting) if isinstance(row, Row)]
    # Where most rows of one line have their texts between quotes, these are quotes.
    alone = [sample[row.line - 1].rstrip("\r\n") for row in sound[1:] if row.lines == 1]
    enclosed = sum(any(map(_ENCLOSED.fullmatch, line.split(delimiter))) for line in alone)
    quoted = [row.fields for row in sound if len(row.fields) == width]
    if 2 * enclosed > len(alone) or not quoted:
        return None
    # A comma with a space after it is one of a sentence, unless the file is written so.
    spaced = quoting == "spaced" or 2 * sum(r[1].startswith(" ") for r in quoted) > len(quoted)
    prose = delimiter in (",", ";") and not spaced
    if prose:
        plain = [fields for fields in plain if not any(f.startswith(" ") for f in fields[1:])]
    columns = [
        (
            Counter(row[place].strip() for row in plain),
            Counter(row[place].strip() for row in quoted),
        )
        for place in range(width)
    ]
    # Without the first row, which may be a header.
    below = [
        (
            written - Counter([plain[0][place].strip()] if plain else []),
            rows - Counter([quoted[0][place].strip()]),
        )
        for place, (written, rows) in enumerate(columns)
    ]
    labels = {
        place: set(counted)
        for place in range(width)
        for counted in (below[place][0], columns[place][0])
        if are_labels(counted, delimiter)
    }
    others = [place for place in range(width) if place not in labels]
    if not others:
        return None
    text = max(others, key=lambda place: sum(len(row[place]) for row in quoted))
    labels |= {
        place: found for place in others if place != text and (found := _classes(*below[place]))
    }
    if not labels:
        return None
    numbers = {place for place in labels if all(map(is_number, labels[place]))}
    words = {place for place in labels if all(map(_is_sentiment, labels[place]))}

    def is_label(value: str, place: int) -> bool:
        return (
            value in labels[place]
            or (place in numbers and is_number(value))
            or (place in words and _is_sentiment(value))
        )

    def whole(line: str) -> bool:
        fields = line.rstrip("\r\n").split(delimiter)
        if len(fields) < width or (prose and _is_prose(fields, text, width)):
            return False
        # Columns behind the text are counted from the end.
        return all(
            is_label(fields[place if place < text else place - width].strip(), place)
            for place in labels
        )

    return whole


def _is_prose(fields: Sequence[str], text: int, width: int) -> bool:
    """Return whether a cell begins with a space: the first ones, or those behind the text."""
    behind = len(fields) - (width - 1 - text)
    return any(field.startswith(" ") for field in (*fields[1 : text + 1], *fields[behind:]))


def _is_sentiment(value: str) -> bool:
    return word_label(canonical(value)) is not None


def _classes(written: Counter[str], rows: Counter[str]) -> set[str]:
    """Return the few values that a column has again and again; none where it has others.

    Args:
        written: values of lines as they stand, the quotes being characters.
        rows: values of rows, the quotes being quotes.
    """
    often = Counter({value: count for value, count in written.items() if count >= _REPEATED})
    for counted, total in ((often, written.total()), (rows, rows.total())):
        if (
            0 < len(counted) <= MAX_LABELS
            and min(counted.values()) >= _REPEATED
            and counted.total() >= _MOSTLY * total
            and not any(_MARKS.search(value) for value in counted)
        ):
            return set(counted)
    return set()


def _are_rows(lines: Iterable[str], whole: Callable[[str], bool]) -> bool:
    """Return whether the lines between a quote and the next are rows, but for a few."""
    found = [whole(line) for line in lines if line.strip()]
    return len(found) > 1 and sum(found) >= _ROWS_BETWEEN * len(found)


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
    if _are_numbered(first, body):
        return True
    votes = 0
    for place, cell in enumerate(first):
        value = canonical(cell, comma=delimiter == ";")
        below = Counter(canonical(row[place], comma=delimiter == ";") for row in body)
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


def _are_numbered(first: list[str], body: list[list[str]]) -> bool:
    """Return whether the first row counts the columns, as pandas writes them without names.

    An index has no name before them. A number above texts alone is the sign.
    """
    start = 1 if first[0].strip() == "" else 0
    counted = sorted(cell.strip() for cell in first[start:])
    return counted in (
        sorted(str(number) for number in range(len(counted))),
        sorted(str(number) for number in range(1, len(counted) + 1)),
    ) and any(
        not any(is_number(row[place].strip()) for row in body) for place in range(start, len(first))
    )


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
