"""What does a person see of a token?"""

from __future__ import annotations

from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

from .tokenizer import AS_SPACES, ReadsText, piece_of
from .words import EMOJI

LONGEST_LABEL = 24
"""Longer labels are shortened in the middle: a label has to fit beside a figure's axis."""

_INVISIBLE = regex.compile(r"[\s\p{C}\p{DI}\u2800]")  # or without a shape that fonts agree on
_MARK = regex.compile(r"\p{M}")
_CARRIES_MARK = regex.compile(r"[\p{L}\p{M}\p{N}]")
_SHOWN = regex.compile(EMOJI, regex.VERSION1)
_NAMES = {
    " ": "·",
    "\n": "↵",
    "\t": "⇥",
    "·": "<U+00B7>",  # so that a middle dot is not taken for a space
    "\u00a0": "<NBSP>",
    "\u200b": "<ZWSP>",
    "\u200c": "<ZWNJ>",
    "\u200d": "<ZWJ>",
    "\ufe0f": "<VS16>",
    "\ufeff": "<BOM>",
}


def token_label(model: ReadsText, id: int) -> str:
    """What a person sees of a token that stands in no text."""
    return _shorten(_visible(str(model.tokenizer.decode([id])))) or f"<{id}>"


def labels_of(
    model: ReadsText,
    text: str,
    ids: Sequence[int],
    covered: Sequence[tuple[int, int]],
    special: Sequence[bool],
) -> list[str]:
    """What a person sees of each token.

    A character that several tokens share is followed by which of them this is: "é 1/2".
    """
    owners: list[list[int]] = [[] for _ in text]
    for position, (start, end) in enumerate(covered):
        for character in range(start, end):
            owners[character].append(position)
    labels = []
    for position, ((start, end), added) in enumerate(zip(covered, special, strict=True)):
        if added or start == end:
            piece = piece_of(model, ids[position])
            labels.append(_shorten(_visible(piece.translate(AS_SPACES))) or f"<{ids[position]}>")
            continue
        label = ""
        run_start = start
        while run_start < end:
            sharing = owners[run_start]
            run_end = run_start + 1
            while run_end < end and owners[run_end] == sharing:
                run_end += 1
            run = _visible(text[run_start:run_end])
            if len(sharing) > 1:
                run = f"{run} {sharing.index(position) + 1}/{len(sharing)}"
                if run_end < end:
                    run += " "
            label += run
            run_start = run_end
        labels.append(_shorten(label))
    return labels


def _visible(text: str) -> str:
    """Text in which everything can be seen: no control, format or blank character, no bare mark.

    Whole emoji keep their joiners.
    """
    shown = []
    place = 0
    for emoji in _SHOWN.finditer(text):
        shown.append(_visible_plain(text[place : emoji.start()]))
        shown.append(emoji[0])
        place = emoji.end()
    shown.append(_visible_plain(text[place:]))
    return "".join(shown)


def _visible_plain(text: str) -> str:
    shown = ""
    for character in text:
        if character in _NAMES:
            shown += _NAMES[character]
        elif _INVISIBLE.match(character):
            shown += f"<U+{ord(character):04X}>"
        elif _MARK.match(character) and not _CARRIES_MARK.match(shown[-1:]):
            # A mark without its letter would settle on whatever stands before it.
            shown += "\u25cc" + character
        else:
            shown += character
    return shown


def _shorten(label: str) -> str:
    if len(label) <= LONGEST_LABEL:
        return label
    tail = LONGEST_LABEL // 3
    return f"{label[: LONGEST_LABEL - tail - 1]}…{label[-tail:]}"


def quoted(text: str) -> str:
    """A text in quotation marks, as a sentence for its writer shows it."""
    return f'"{_shorten(_visible(text).replace("·", " "))}"'
