"""Where are the words of a text, and what is each: a link, an emoji, a word, punctuation?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import regex  # type: ignore[import-untyped]

WordClass = Literal["link", "name", "tag", "emoji", "emoticon", "word", "punctuation"]
_PICTURE = r"\p{ExtPict}(?:[\uFE0E\uFE0F]|\p{EMod})?"
EMOJI = (
    r"\U0001F3F4[\U000E0020-\U000E007F]{1,7}|\p{RI}\p{RI}|[0-9#*]\uFE0F?\u20E3|\p{EMod}|"
    rf"{_PICTURE}(?:\u200D{_PICTURE})*+"
)

_EMOTICON = r"""
      >?[:;=]['\u2019]?[-^o]?(?:\)+|\(+|\]+|\[+|\|+|\*+|[/\\](?!/)|(?:[DdPp]+|[oOsSxX])(?!\w))
    | :-?3(?!\w)
    | (?<!\w)(?:[8xX]-[)(D]|[xX]D+)(?!\w)
    | [(\[]-?'?[:;=](?![-\w)(/])
    | </?3+(?!\d)
    | (?<!\w)(?:\^_*\^|-_+-|>_+<|[oO][_.][oO]|[tT]_+[tT]|\\[oO]/|¯\\_\(ツ\)_/¯)(?!\w)
"""

_URL = r"""
      (?:[hH][tT][tT][pP][sS]?://|[wW][wW][wW]\.)\S*[\w/]
    | (?<!\w)[\w.+-]{1,64}+@[\w-]+(?:\.[\w-]+)+
    | (?<![\w@\#])(?:[a-z0-9-]{1,63}\.)+(?:[a-z]{2,6}/(?:\S*[\w/])?|(?:com|org|net|edu|gov)(?!\w))
"""

# The parts that a run of punctuation must not swallow.
_MARKED = rf"(?:{_URL}|(?<!\w)@\w+|\#\w+|{EMOJI}|{_EMOTICON})"
_LETTER = r"[\w\p{M}--[\p{Han}\p{Hiragana}]]"
_WORD = regex.compile(
    rf"""
      {_MARKED}
    | \d++(?:[.,:/-]\d++)*+(?:%|{_LETTER}++)?
    | [\p{{Han}}\p{{Hiragana}}]\p{{M}}*+
    | {_LETTER}++(?:['\u2019-]{_LETTER}++)*+
    | (?:(?!{_MARKED})[^\w\s\p{{M}}])+
    | \S
    """,
    regex.VERBOSE | regex.VERSION1,
)
"""Chinese characters and Hiragana are words one by one, as Unicode's word boundaries have it."""


_CLASSES: tuple[tuple[WordClass, regex.Pattern[str]], ...] = (
    ("link", regex.compile(_URL, regex.VERBOSE | regex.VERSION1)),
    ("name", regex.compile(r"@\w+")),
    ("tag", regex.compile(r"\#\w+")),
    ("emoji", regex.compile(EMOJI, regex.VERSION1)),
    ("emoticon", regex.compile(_EMOTICON, regex.VERBOSE | regex.VERSION1)),
    ("word", regex.compile(r".*[\w\p{M}].*", regex.DOTALL | regex.VERSION1)),
)


def word_class(word: str) -> WordClass:
    """Say what a `Word`'s text is: a link, @name, #tag, emoji, emoticon, word or punctuation.

    Numbers are words; what is none of these, such as a currency sign, counts as punctuation.
    """
    return next((name for name, pattern in _CLASSES if pattern.fullmatch(word)), "punctuation")


def find_words(part: str, offset: int) -> list[tuple[int, int]]:
    """Characters (start, end) of every word of a text that begins at character `offset`."""
    return [(found.start() + offset, found.end() + offset) for found in _WORD.finditer(part)]


def owner_of(
    text: str, covers: tuple[int, int], spans: Sequence[tuple[int, int]], allowed: range
) -> int:
    """Index of the word of a token (rule 3 of `prompt`), -1 where `allowed` is empty."""
    start, end = covers
    shared = {
        index: min(end, spans[index][1]) - max(start, spans[index][0])
        for index in allowed
        if spans[index][0] < end and start < spans[index][1]
    }
    if shared:
        return max(shared, key=lambda index: (shared[index], -index))
    following = (index for index in allowed if spans[index][1] > start)
    return next(following, allowed[-1] if allowed else -1)
