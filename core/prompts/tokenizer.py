"""What does a model's own tokenizer make of a text, and which characters does each token cover?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ReadsText(Protocol):
    """What of a model a prompt depends on."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast: ...  # noqa: D102

    @property
    def max_positions(self) -> int: ...  # noqa: D102

    @property
    def vocabulary(self) -> int: ...  # noqa: D102


_SPACE_MARKS = "\u0120\u2581"  # how vocabularies write a space: GPT-2 and SentencePiece
AS_SPACES = str.maketrans(_SPACE_MARKS, "  ")


def cover(
    model: ReadsText,
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[bool],
) -> list[tuple[int, int]]:
    """Characters of each token, mended so that together they cover the text: rule 1 of `prompt`.

    Tokenizers leave characters out: those that trim offsets give a leading space to nobody
    (Pythia), and those that compose accents (NFC: Pythia, Qwen2) forget the combining mark.
    Left-out white space is the next token's, anything else the previous one's. SentencePiece puts
    a space before the text and gives it the first letter's place; it has no character here.
    """
    covered: list[tuple[int, int]] = []
    reached = 0  # text[:reached] is covered
    spoken = False  # any token with characters yet?
    for id, (start, end), added in zip(ids, _in_order(offsets), special, strict=True):
        piece = piece_of(model, id)
        if added:
            covered.append((reached, reached))
            continue
        if piece in tuple(_SPACE_MARKS) and not text.startswith((" ", piece), reached):
            covered.append((reached, reached))  # a space that the tokenizer put there
            continue
        if start > reached:  # characters that no token has
            split = reached + (_first_space(text[reached:start]) if spoken else 0)
            _stretch(covered, reached, split)
            start = split
        end = max(end, start)
        if end == start < len(text):
            end += _spaces_of(piece, text[start:]) if not piece.strip(_SPACE_MARKS) else 1
        covered.append((start, end))
        spoken = spoken or end > start
        reached = max(reached, end)
    _stretch(covered, reached, len(text))
    return covered


def _in_order(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets in which no token begins after the next one, as trimming can have it."""
    ordered: list[tuple[int, int]] = []
    for start, end in reversed(offsets):
        ordered.append((min(start, ordered[-1][0]) if ordered else start, end))
    return ordered[::-1]


def _stretch(covered: list[tuple[int, int]], reached: int, end: int) -> None:
    """Let the tokens that end at `reached`, all of which share its last character, end at `end`."""
    for position in reversed(range(len(covered))):
        start, stop = covered[position]
        if start == stop:
            continue
        if stop != reached:
            return
        covered[position] = (start, end)


def _spaces_of(piece: str, rest: str) -> int:
    """How many of the spaces that `rest` begins with belong to a token without offsets."""
    return min(len(piece), len(rest) - len(rest.lstrip(" ")))


def _first_space(text: str) -> int:
    return next((i for i, character in enumerate(text) if character.isspace()), len(text))


def piece_of(model: ReadsText, id: int) -> str:
    """A token as the vocabulary writes it."""
    return str(model.tokenizer.convert_ids_to_tokens(id))


def ids_of(model: ReadsText, word: str) -> list[int]:
    """Token ids of a word by itself, without special tokens."""
    ids: list[int] = model.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def is_unknown(model: ReadsText, id: int, word: str) -> bool:
    """Whether a token only says that the vocabulary lacks the word."""
    return id == model.tokenizer.unk_token_id and piece_of(model, id) != word


def is_one(model: ReadsText, word: str) -> bool:
    """Whether a word is one token of the vocabulary."""
    ids = ids_of(model, word) if word.strip() else []
    return len(ids) == 1 and not is_unknown(model, ids[0], word)
