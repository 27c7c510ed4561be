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
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from ..errors import UserError

Label = Literal[0, 1]

FASTTEXT = "__label__"
"""Before each label in files of fastText."""

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
# whether they are ratings. `meaning_in_band` says how a band is read. 0, 1 and 2 are not there:
# negative, neutral, positive is published, and so is bearish, bullish, neutral.
_SCALES: tuple[tuple[set[float], set[float], tuple[float, float], bool], ...] = (
    (set(), {0, 1}, (0.5, 0.5), False),
    ({-1, 1}, {-1, 0, 1}, (0, 0), False),
    ({0, 4}, {0, 2, 4}, (2, 2), False),  # Sentiment140
    ({0, 4}, {0, 1, 2, 3, 4}, (2, 2), True),  # SST-5
    ({1, 5}, {1, 2, 3, 4, 5}, (3, 3), True),  # stars
)
UNLABELLED = "-1"
"""The class of rows without a label, as the hub's test splits have it."""

# Nothing is tried in two ways (++): a cell may hold a million digits.
_NUMBER = re.compile(r"[+-]?(\d++\.?\d*+|\.\d++)([eE][+-]?\d{1,3})?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"([+-]?)\d+,(\d+)", re.ASCII)
_DEGREE = re.compile(r"(very|extremely|strongly|somewhat|slightly|weakly|mostly)[ _-]+")


class Question(UserError):
    """What a person must say before a table can be used.

    Attributes:
        about: the column of the texts, that of the labels, what the labels mean, or which rows
            make a pair.
        choices: the columns or the values to choose from.
    """

    def __init__(
        self,
        sentence: str,
        about: Literal["text", "label", "meaning", "pair"],
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(sentence)
        self.about = about
        self.choices = tuple(choices)


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
    comma: bool = False  # the numbers are written with a decimal comma
    beside: str = ""  # the column whose words say what the numbers mean


def count_values(counted: Iterable[tuple[Any, int]], comma: bool) -> tuple[dict[str, int], int]:
    """Return rows by canonical value, the most frequent first, and the rows without a value."""
    values: Counter[str] = Counter()
    for value, count in counted:
        values[canonical(value, comma=comma) if isinstance(value, str) else ""] += int(count)
    missing = values.pop("", 0)
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered), missing


def has_decimal_comma(values: Iterable[Any], delimiter: str) -> bool:
    """Return whether the commas in a column of numbers are decimal ones.

    Between tabs "8,20" may be a list of two classes as well: there a sign or a zero after the comma
    has to show that it is not. "2,1" and "2,10" in one column are never decimals.
    """
    if delimiter not in (";", "\t", "|"):
        return False
    written = {value.strip() for value in values if isinstance(value, str) and "," in value}
    found = {value: match for value in written if (match := _DECIMAL_COMMA.fullmatch(value))}
    if not found or len({float(value.replace(",", ".")) for value in found}) < len(found):
        return False
    return delimiter == ";" or any(match[1] or match[2][0] == "0" for match in found.values())


def read_values(
    column: str, values: Mapping[str, int], missing: int, comma: bool = False
) -> LabelReading:
    """Find the one reading of a column's values; a question where there is none or more."""

    def reading(**found: Any) -> LabelReading:
        return LabelReading(column, dict(values), missing, comma=comma, **found)

    total = sum(values.values())
    if total == 0 or set(values) == {UNLABELLED}:
        alone = f" but {UNLABELLED}, which is no class" if total else ""
        return reading(
            question=f"No row has a label in the column {column!r}{alone}: choose another label "
            "column, or another split."
        )
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
    whole = all(number == round(number) for number in present)
    # Where -1 stands below classes that are counted from 0, it marks rows without a label.
    if not scales and lowest < 0 < highest and not (whole and lowest == -1):
        scales = [((0, 0), True)]
    if scales:
        band, graded = scales[0]
        meaning = meaning_in_band(numbers, band)
        return reading(meaning=meaning, neutral=band, graded=graded)
    if len(present) > MAX_LABELS or not whole:
        return reading(
            question=f"The column {column!r} has numbers from {lowest:g} to {highest:g}: say up to "
            "which a text is negative and from which it is positive."
        )
    all_values = reading().values
    if len(numbers) < len(all_values):
        return reading(
            question=f"The column {column!r} has the values {listed(all_values)}: say which are "
            "positive and which are negative."
        )
    shown = listed(_short(number) for number in sorted(present))
    return reading(
        question=f"The column {column!r} has the numbers {shown}, which can be read in more than "
        "one way: say which are positive and which are negative."
    )


def with_words_beside(reading: LabelReading, column: str, words: Mapping[str, str]) -> LabelReading:
    """Return a reading of numbers as the words of another column say.

    Args:
        column: of the words.
        words: the canonical word beside each number.
    """
    known = {number: word_label(word) for number, word in words.items()}
    meaning = {number: label[0] for number, label in known.items() if label is not None}
    if len(meaning) == len(words) and {0, 1} <= set(meaning.values()):
        return replace(reading, meaning=meaning, neutral=None, question="", beside=column)
    told = listed(f"{number} {word}" for number, word in sorted(words.items()))
    return replace(
        reading,
        meaning={},
        neutral=None,
        beside=column,
        question=f"The column {reading.column!r} has the numbers {told}, as {column!r} says: say "
        "which are positive and which are negative.",
    )


def are_labels(counted: Mapping[str, int], delimiter: str) -> bool:
    """Return whether values are labels by themselves, without a name that says so."""
    values, missing = count_values(counted.items(), has_decimal_comma(counted, delimiter))
    if len(values) < 2 or len(values) > MAX_LABELS or missing > sum(values.values()):
        return False
    if set(values) == {"0", "1", "2"}:  # labels for sure, whatever they mean
        return True
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
    mapping: Mapping[str, Label | None], reading: LabelReading
) -> dict[str, Label | None]:
    """Return a person's mapping by canonical values; ValueError where it cannot be right."""
    meaning: dict[str, Label | None] = {}
    for written, label in mapping.items():
        value = canonical(str(written), comma=reading.comma)
        if meaning.setdefault(value, label) != label:
            raise UserError(f"The label {value!r} is mapped twice, to different labels: to one.")
        if label not in (0, 1, None) or isinstance(label, bool):
            raise UserError(
                f"The label {value!r} is mapped to {label!r}: give 1 for positive, 0 for negative "
                "or None for neutral."
            )
        if value not in reading.values:
            raise UserError(
                f"The column {reading.column!r} has no value {value!r}: it has "
                f"{listed(reading.values)}."
            )
    if not {0, 1} <= set(meaning.values()):
        raise UserError("The mapping must name a positive (1) and a negative (0) value.")
    return meaning


def checked_band(band: tuple[float, float], reading: LabelReading) -> tuple[float, float]:
    """Return a person's neutral band as numbers; ValueError where it cannot be right."""
    low, high = (float(border) for border in band)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UserError(
            f"The neutral band {low:g} to {high:g} is none: give two numbers, the lower one first."
        )
    if not any(is_number(value) for value in reading.values):
        raise UserError(
            f"The column {reading.column!r} has no numbers, so it has no neutral band: map its "
            "values instead."
        )
    return low, high


def canonical(value: str, *, comma: bool = False) -> str:
    """Return a label in the one form by which it is compared: "1", "1.0" and " +1 " are the same.

    Args:
        comma: a number has a decimal comma, see `has_decimal_comma`.
    """
    value = value.strip().removeprefix(FASTTEXT)
    if len(value) > 40:
        return value
    number = value.replace(",", ".") if comma and value.count(",") == 1 else value
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
    by_name = columns_by_name(columns)
    text = next((by_name[name] for name in TEXT_NAMES if name in by_name), None)
    label = next((by_name[name] for name in LABEL_NAMES if name in by_name), None)
    return text, label


def columns_by_name(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns by their plain names; of two with the same one, the first."""
    return {plain_name(column): column for column in reversed(columns)}


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
    shown = [
        repr(excerpt(value)) if "," in value and not value.startswith("'") else excerpt(value)
        for value in islice(values, 7)
    ]
    return ", ".join(shown[:6]) + (" and others" if len(shown) > 6 else "")


def told_meaning(
    meaning: Mapping[str, Label | None], neutral: tuple[float, float] | None, graded: bool
) -> str:
    """Say how labels are read: "1 positive, 0 negative", or by the neutral band of ratings."""
    if graded and neutral is not None:
        low, high = neutral
        if low == high:
            return f"above {low:g} positive, below it negative"
        return f"from {high:g} positive, up to {low:g} negative"
    parts = []
    for label, said in ((1, "positive"), (0, "negative"), (None, "neutral")):
        values = [value for value, meant in meaning.items() if meant == label]
        if values:
            parts.append(said if values == [said] else f"{listed(values)} {said}")
    return ", ".join(parts)
