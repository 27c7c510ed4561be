"""Which tweet says the opposite, but for one edit?

Zhang and Nanda 2024 ("Towards Best Practices of Activation Patching in Language Models", section 3)
recommend to corrupt a prompt by another prompt that differs in what is studied and in nothing else,
because noise can take the model out of what it was trained on. Here sentiment words are exchanged
for their opposites, from an editable list (`propose`, in as many tokens where that can be), or a
negation is put in or taken out (`edits_of`). Whether the sentiment turned is for a probe and a
lexicon to say (`core.probes.turned_pairs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped]

from ..distribution import ASSETS
from .prompt import Prompt, build_prompt
from .token_roles import lexicon

if TYPE_CHECKING:
    from ..models.model import Model

MOST_TRIED = 256
"""Tweets that are tried at most, where several words have several opposites."""

EDITS = {
    "antonym": "sentiment words exchanged for their opposites",
    "negated": "a negation put in",
    "affirmed": "a negation taken out",
}
"""How `edits_of` makes a tweet say the opposite."""

_WORD = regex.compile(r"\p{L}+(?:['\u2019]\p{L}+)?")
_AUXILIARY = (
    r"(?:(?<!\w)(?:is|are|was|were|am|be|been|will|would|can|could|should|must|has|have|had)"
    r"|(?<=\w)['\u2019](?:s|m|re))"
)
# Between it and the word that is negated stand two other words at most: "is such a great day".
_BEFORE_RATED = regex.compile(
    rf"(?P<auxiliary>{_AUXILIARY})"
    r"(?=(?P<next>(?:\s+[\p{L}'\u2019]+){1,3}))",
    regex.IGNORECASE,
)
_VERBS = ("love", "like", "enjoy", "hate", "want", "dislike", "miss", "trust", "respect", "support")
_VERB = regex.compile(
    rf"\b(?P<who>I|you|we|they|he|she|it)\s+(?P<verb>{'|'.join(_VERBS)})(?P<ending>s|e?d)?\b",
    regex.IGNORECASE,
)
_NEGATION = regex.compile(
    r"\b(?:(?P<stem>is|are|was|were|do|does|did|have|has|had|would|could|should|must|ca|wo|can)"
    r"(?:n['\u2019]?t|not)\b|(?P<never>never)\b|(?P<whole>not)\s+(?=\p{L}))",
    regex.IGNORECASE,
)
_STEMS = {"ca": "can", "wo": "will"}


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


@dataclass(frozen=True)
class Edit:
    """A tweet after one edit that may turn its sentiment."""

    kind: str  # a key of `EDITS`
    text: str
    replaced: tuple[tuple[str, str], ...]  # (before, after), in the tweet's order


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
    found = _listed(prompt.tweet, opposites)
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


def edits_of(tweet: str, opposites: Mapping[str, Sequence[str]] | None = None) -> Iterator[Edit]:
    """Yield edits of a tweet that may turn its sentiment, each kind's likeliest first.

    Every listed word exchanged for its first opposite, then for its second, and so on; "not" after
    an auxiliary that a word of VADER's lexicon follows, or "don't" before a verb of sentiment; one
    negation taken out.

    Args:
        opposites: of each word in lower case; by default `antonyms()`.
    """
    opposites = antonyms() if opposites is None else opposites
    found = _listed(tweet, opposites)
    most = max((len(opposites[match[0].lower()]) for match in found), default=0)
    for number in range(most):
        others = [opposites[match[0].lower()] for match in found]
        exchanged = [
            (match, _as_written(match[0], words[min(number, len(words) - 1)]))
            for match, words in zip(found, others, strict=True)
        ]
        yield _edit("antonym", tweet, exchanged)
    for match in _VERB.finditer(tweet):
        who, verb, ending = match["who"], match["verb"], (match["ending"] or "").lower()
        auxiliary = "didn't" if ending.endswith("d") else "doesn't" if ending else "don't"
        yield _edit("negated", tweet, [(match, f"{who} {auxiliary} {verb.lower()}")])
    for match in _BEFORE_RATED.finditer(tweet):
        if any(word in lexicon() for word in match["next"].lower().split()):
            yield _edit("negated", tweet, [(match, f"{match['auxiliary']} not")])
    for match in _NEGATION.finditer(tweet):
        if match["never"]:
            after = _as_written(match["never"], "always")
        elif match["whole"]:
            after = ""
        else:
            after = _as_written(match["stem"], _STEMS.get(match["stem"].lower(), match["stem"]))
        yield _edit("affirmed", tweet, [(match, after)])


def _listed(tweet: str, opposites: Mapping[str, Sequence[str]]) -> list[regex.Match[str]]:
    """The words of a tweet that have opposites."""
    return [match for match in _WORD.finditer(tweet) if match[0].lower() in opposites]


def _edit(kind: str, tweet: str, exchanged: Sequence[tuple[regex.Match[str], str]]) -> Edit:
    replaced = tuple((match[0].strip(), word) for match, word in exchanged)
    return Edit(kind, _exchanged(tweet, exchanged), replaced)


def _exchanged(tweet: str, exchanged: Sequence[tuple[regex.Match[str], str]]) -> str:
    for match, word in reversed(exchanged):
        tweet = tweet[: match.start()] + word + tweet[match.end() :]
    return tweet


def _exchange(
    model: Model, prompt: Prompt, exchanged: list[tuple[regex.Match[str], str]]
) -> Proposal:
    text = _exchanged(prompt.tweet, exchanged)
    return Proposal(
        text=text,
        replaced=tuple((match[0], word) for match, word in exchanged),
        tokens=len(build_prompt(model, text, prompt.template)),
        tokens_wanted=len(prompt),
    )


def _as_written(word: str, opposite: str) -> str:
    """The opposite in the word's capitals."""
    if word.isupper() and len(word) > 1:
        return opposite.upper()
    return opposite.capitalize() if word[0].isupper() else opposite
