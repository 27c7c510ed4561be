"""Which tweet says the opposite in as many tokens?

Zhang and Nanda 2024 ("Towards Best Practices of Activation Patching in Language Models", section 3)
recommend to corrupt a prompt by another prompt that differs in what is studied and in nothing else,
because noise can take the model out of what it was trained on. Here sentiment words are exchanged
for their opposites, from an editable list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped]

from core.prompts import Prompt, build_prompt

if TYPE_CHECKING:
    from core.models import Model

ASSETS = Path(__file__).parents[1] / "assets"
MOST_TRIED = 256
"""Tweets that are tried at most, where several words have several opposites."""


@dataclass(frozen=True)
class Proposal:
    """A tweet with some of its sentiment words exchanged."""

    text: str
    replaced: tuple[tuple[str, str], ...]  # (word, its opposite), in the tweet's order
    tokens: int  # of its prompt
    tokens_wanted: int  # of the tweet's prompt

    @property
    def same_length(self) -> bool:
        """Can it take the tweet's place token by token?"""
        return self.tokens == self.tokens_wanted


def antonyms() -> dict[str, list[str]]:
    """The list that comes with SentiTrace: words and their opposites, both ways."""
    pairs = json.loads((ASSETS / "antonyms.json").read_text(encoding="utf-8"))
    return both_ways(pairs)


def both_ways(pairs: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Opposites of each word of a list of pairs."""
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(first.lower(), []).append(second.lower())
        found.setdefault(second.lower(), []).append(first.lower())
    return found


def propose(
    model: Model, prompt: Prompt, opposites: Mapping[str, Sequence[str]] | None = None
) -> list[Proposal]:
    """Exchange a tweet's sentiment words for their opposites.

    Args:
        opposites: of each word in lower case; by default `antonyms()`.

    Returns:
        Tweets in which every listed word is exchanged, those with as many tokens as `prompt` first;
        where none has as many, tweets with one word exchanged follow. Empty if no word is listed.
    """
    opposites = antonyms() if opposites is None else opposites
    found = [
        match
        for match in regex.finditer(r"\p{L}+(?:['\u2019]\p{L}+)?", prompt.tweet)
        if match[0].lower() in opposites
    ]
    if not found:
        return []
    choices = [
        [_as_written(match[0], word) for word in opposites[match[0].lower()]] for match in found
    ]
    tried: list[Proposal] = []
    for number, chosen in enumerate(product(*choices)):
        if number == MOST_TRIED:
            break
        tried.append(_exchange(model, prompt, list(zip(found, chosen, strict=True))))
    if len(found) > 1 and not any(proposal.same_length for proposal in tried):
        for match, words in zip(found, choices, strict=True):
            tried += [_exchange(model, prompt, [(match, word)]) for word in words]
    tried.sort(key=lambda proposal: abs(proposal.tokens - proposal.tokens_wanted))
    return tried


def _exchange(
    model: Model, prompt: Prompt, exchanged: list[tuple[regex.Match[str], str]]
) -> Proposal:
    text = prompt.tweet
    for match, word in reversed(exchanged):
        text = text[: match.start()] + word + text[match.end() :]
    return Proposal(
        text=text,
        replaced=tuple((match[0], word) for match, word in exchanged),
        tokens=len(build_prompt(model, text, prompt.suffix)),
        tokens_wanted=len(prompt),
    )


def _as_written(word: str, opposite: str) -> str:
    """The opposite in the word's capitals."""
    if word.isupper() and len(word) > 1:
        return opposite.upper()
    return opposite.capitalize() if word[0].isupper() else opposite
