"""How do the columns of a person's table say what is positive? Names, values and their readings.

A column of labels can be written in many ways: 0 and 1, -1 and 1, words, classes with a neutral
one, stars, ratings. Each is read only where no other reading of the same values is possible; else
there is a question, which a person answers by a mapping of the values or a neutral band of numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

Label = Literal[0, 1]

MAX_LABELS = 50  # a column of more different values is no column of labels
EXCERPT = 80  # characters

# In the order in which they are preferred when several stand in one header.
TEXT_NAMES = (
    *("text", "tweet", "tweet_text", "full_text", "sentence", "content", "review", "review_text"),
    *("reviewtext", "review_body", "comment", "message", "body", "post", "document", "phrase"),
    *("snippet", "headline", "texts", "tweets", "sentences", "reviews", "comments"),
)
LABEL_NAMES = (
    *("label", "sentiment", "airline_sentiment", "sentiment_label", "target", "polarity", "class"),
    *("labels", "rating", "stars", "star_rating", "overall", "score", "y"),
)
RATING_NAMES = ("rating", "stars", "star_rating", "overall", "score")

POSITIVE_WORDS = {"positive", "pos", "+", "good", "true"}
NEGATIVE_WORDS = {"negative", "neg", "-", "bad", "false"}
NEUTRAL_WORDS = {"neutral", "neu"}

# Readings of a column of numbers: what must be among them, what may be, the neutral band, and
# whether they are ratings. `meaning_in_band` says how a band is read.
_SCALES: tuple[tuple[set[float], set[float], tuple[float, float], bool], ...] = (
    (set(), {0, 1}, (0.5, 0.5), False),
    ({-1}, {-1, 0, 1}, (0, 0), False),
    ({0, 1, 2}, {0, 1, 2}, (1, 1), False),  # tweet_eval
    ({0, 4}, {0, 2, 4}, (2, 2), False),  # Sentiment140
    ({0, 4}, {0, 1, 2, 3, 4}, (2, 2), True),  # SST-5
    ({1, 5}, {1, 2, 3, 4, 5}, (3, 3), True),  # stars
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_DEGREE = re.compile(r"(very|extremely|strongly|somewhat|slightly|weakly|mostly)[ _-]+")


@dataclass(frozen=True)
class LabelReading:
    """How the values of a column are read as labels, or what a person must say first.

    Where ``question`` is not empty the reading is open, and `label_rows` asks for ``mapping`` or
    ``neutral``. ``meaning`` gives the label of every value that has one: 1, 0, or None for neutral.
    """

    column: str
    values: dict[str, int]  # value -> rows, the most frequent first
    missing: int  # rows without a value
    meaning: dict[str, Label | None] = field(default_factory=dict)
    neutral: tuple[float, float] | None = None  # the band of a column of numbers
    graded: bool = False  # the numbers are ratings, not names of classes
    question: str = ""


def count_values(counted: Iterable[tuple[Any, int]], delimiter: str) -> tuple[dict[str, int], int]:
    """Return rows by canonical value, the most frequent first, and the rows without a value."""
    values: Counter[str] = Counter()
    for value, count in counted:
        values[canonical(value, delimiter) if isinstance(value, str) else ""] += int(count)
    missing = values.pop("", 0)
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered), missing


def read_values(column: str, values: Mapping[str, int], missing: int) -> LabelReading:
    """Find the one reading of a column's values; a question where there is none or more."""

    def reading(**found: Any) -> LabelReading:
        return LabelReading(column, dict(values), missing, **found)

    total = sum(values.values())
    if total == 0:
        return reading(question=f"The column {column!r} is empty: choose another label column.")
    words: dict[str, Label | None] = {
        value: known[0] for value in values if (known := word_label(value)) is not None
    }
    numbers = {value: float(value) for value in values if is_number(value)}
    if 2 * sum(values[value] for value in words) >= total:
        return reading(meaning=words)
    if 2 * sum(values[value] for value in numbers) >= total:
        return _read_numbers(column, numbers, reading)
    if len(values) > MAX_LABELS:
        return reading(
            question=f"The column {column!r} has {len(values):,} different values, so these are no "
            "labels: choose another label column."
        )
    return reading(
        question=f"The column {column!r} has the values {listed(values)}: say which are positive "
        "and which are negative."
    )


def _read_numbers(
    column: str, numbers: Mapping[str, float], reading: Callable[..., LabelReading]
) -> LabelReading:
    present = set(numbers.values())
    lowest, highest = min(present), max(present)
    # 0, 1 and 2 stars may be the lowest of five.
    named_rating = plain_name(column) in RATING_NAMES
    scales = [
        (band, graded)
        for needed, allowed, band, graded in _SCALES
        if needed <= present <= allowed and (graded or not named_rating)
    ]
    if not scales and lowest < 0 < highest:
        scales = [((0, 0), True)]
    if scales:
        band, graded = scales[0]
        meaning = meaning_in_band(numbers, band)
        return reading(meaning=meaning, neutral=band, graded=graded)
    if len(present) > MAX_LABELS or any(number != round(number) for number in present):
        return reading(
            question=f"The column {column!r} has numbers from {lowest:g} to {highest:g}: say up to "
            "which a text is negative and from which it is positive."
        )
    shown = listed(_short(number) for number in sorted(present))
    return reading(
        question=f"The column {column!r} has the numbers {shown}, which can be read in more than "
        "one way: say which are positive and which are negative."
    )


def are_labels(counted: Mapping[str, int], delimiter: str) -> bool:
    """Return whether values are labels by themselves, without a name that says so."""
    values, missing = count_values(counted.items(), delimiter)
    if len(values) < 2 or len(values) > MAX_LABELS or missing > sum(values.values()):
        return False
    reading = read_values("", values, missing)
    return (
        not reading.question
        and set(reading.meaning) == set(values)
        and {0, 1} <= set(reading.meaning.values())
    )


def meaning_in_band(values: Iterable[str], band: tuple[float, float]) -> dict[str, Label | None]:
    """Return the label of each value that is a number.

    At or below the band's first number a text is negative, at or above its second positive, between
    them neutral; where both are the same, that number itself is neutral.
    """
    low, high = band
    meaning: dict[str, Label | None] = {}
    for value in values:
        if is_number(value):
            number = float(value)
            if low == high == number or low < number < high:
                meaning[value] = None
            else:
                meaning[value] = 1 if number >= high else 0
    return meaning


def checked_mapping(
    mapping: Mapping[str, Label | None], reading: LabelReading, delimiter: str
) -> dict[str, Label | None]:
    """Return a person's mapping by canonical values; ValueError where it cannot be right."""
    meaning = {canonical(str(value), delimiter): label for value, label in mapping.items()}
    for value, label in meaning.items():
        if label not in (0, 1, None) or isinstance(label, bool):
            raise ValueError(
                f"The label {value!r} is mapped to {label!r}: give 1 for positive, 0 for negative "
                "or None for neutral."
            )
        if value not in reading.values:
            raise ValueError(
                f"The column {reading.column!r} has no value {value!r}: it has "
                f"{listed(reading.values)}."
            )
    if not {0, 1} <= set(meaning.values()):
        raise ValueError("The mapping must name a positive (1) and a negative (0) value.")
    return meaning


def checked_band(band: tuple[float, float], reading: LabelReading) -> tuple[float, float]:
    """Return a person's neutral band as numbers; ValueError where it cannot be right."""
    low, high = (float(border) for border in band)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(
            f"The neutral band {low:g} to {high:g} is none: give two numbers, the lower one first."
        )
    if not any(is_number(value) for value in reading.values):
        raise ValueError(
            f"The column {reading.column!r} has no numbers, so it has no neutral band: map its "
            "values instead."
        )
    return low, high


def canonical(value: str, delimiter: str) -> str:
    """Return a label in the one form by which it is compared: "1", "1.0" and " +1 " are the same.

    A decimal comma is read where the comma is not the delimiter.
    """
    value = value.strip()
    if len(value) > 40:
        return value
    number = value
    if delimiter in (";", "\t", "|") and value.count(",") == 1:
        number = value.replace(",", ".")
    if is_number(number):
        return _short(float(number))
    folded = value.casefold()
    return "" if folded in ("nan", "null", "n/a", "na") else folded


def is_number(value: str) -> bool:
    """Return whether a value is a finite number, written with a decimal point."""
    return _NUMBER.fullmatch(value) is not None and math.isfinite(float(value))


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


def word_label(value: str) -> tuple[Label | None] | None:
    """Return the label that a canonical word means, as the one element of a tuple; else None."""
    word = _DEGREE.sub("", value)
    if word in POSITIVE_WORDS:
        return (1,)
    if word in NEGATIVE_WORDS:
        return (0,)
    return (None,) if word in NEUTRAL_WORDS else None


def guess_by_name(columns: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the column of texts and that of labels whose names say so; None where none does."""
    by_name = {plain_name(column): column for column in reversed(columns)}
    text = next((by_name[name] for name in TEXT_NAMES if name in by_name), None)
    label = next((by_name[name] for name in LABEL_NAMES if name in by_name), None)
    return text, label


def plain_name(name: str) -> str:
    """Return a column's name as it is compared: "Review Text" and "review_text" are the same."""
    return re.sub(r"[\s.-]+", "_", name.strip().lstrip("\ufeff").casefold())


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line, fit to be shown: no control characters."""
    short = text[: EXCERPT + 1]
    shown = "".join(
        character if character.isprintable() else _visible(character) for character in short
    )
    return shown if len(text) <= EXCERPT else shown[:EXCERPT] + "\u2026"


def _visible(character: str) -> str:
    return " " if character.isspace() else f"\\x{ord(character):02x}"


def listed(values: Iterable[str]) -> str:
    """Return the first six values, as a sentence lists them."""
    shown = [excerpt(value) for value in islice(values, 7)]
    return ", ".join(shown[:6]) + (" and others" if len(shown) > 6 else "")
