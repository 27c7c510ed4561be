"""What part does each token of a tweet's prompt play?

Tweets differ in length and wording, so an average over them needs places that all of them have.
Meng et al. 2022 (section 2, figure 1 and appendix B) average over six roles of a fact's tokens:
first, middle and last subject token, first subsequent token, further tokens, last token. The scheme
"paper" is theirs; a tweet's subject is what is corrupted. The scheme "tweet" names what tweets are
made of. In both, a token plays one part at most, so that shares over the roles add up.

In the scheme "tweet" the first of these that holds decides:

1. the prompt's last token is `last`, the suffix's others are `suffix:0`, `suffix:1`, ... , and
   those that a chat template puts between tweet and suffix `template:0`, `template:1`, ... ;
2. tokens of a negation (the list of VADER, "no", and what ends in n't) are `negation`;
3. of a word that VADER's lexicon rates, the last token is `sentiment_last` (its only one too), the
   first `sentiment_first`, those between `middle`;
4. tokens of an emoji or emoticon are `emoji`; of an @name, #tag or link `name`;
5. the tweet's last token is `tweet_last`, its first `tweet_first`;
6. tokens of punctuation are `punctuation`;
7. any other token of the tweet is `middle`.

So a final full stop is `tweet_last`, and a tweet that ends in a sentiment word has no `tweet_last`.
What stands ahead of the tweet (BOS, the beginning of a chat template, a text of one's own) has no
role: nothing that is done to the tweet changes it.

The lexicon and the negations are those of Hutto & Gilbert (2014), "VADER: A Parsimonious Rule-based
Model for Sentiment Analysis of Social Media Text", ICWSM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from typing import Literal

from ..errors import UserError
from .prompt import Prompt, Word
from .words import word_class

Scheme = Literal["tweet", "paper"]

TWEET = {
    "tweet_first": "First tweet token",
    "middle": "Other tweet tokens",
    "sentiment_first": "Sentiment word, first token",
    "sentiment_last": "Sentiment word, last token",
    "negation": "Negation",
    "emoji": "Emoji or emoticon",
    "name": "@name, #tag or link",
    "punctuation": "Punctuation",
    "tweet_last": "Last tweet token",
    "template": "Template token",
    "suffix": "Prompt token",
    "last": "Last token",
}
"""Roles of the scheme "tweet" and what a figure calls them, in a figure's order; the suffix's
tokens are "suffix:0", "suffix:1", ..., and so are a chat template's."""

PAPER = {
    "subject_first": "First corrupted token",
    "subject_middle": "Middle corrupted tokens",
    "subject_last": "Last corrupted token",
    "subsequent": "First subsequent token",
    "further": "Further tokens",
    "last": "Last token",
}
SCHEMES: dict[Scheme, dict[str, str]] = {"tweet": TWEET, "paper": PAPER}


def roles_of(
    prompt: Prompt, scheme: Scheme = "tweet", *, corrupted: Collection[int] | None = None
) -> tuple[str | None, ...]:
    """Give the role of each of a prompt's tokens, None where it has none.

    Args:
        scheme: "tweet" or "paper", see the module.
        corrupted: positions of the corrupted span, the paper's subject; by default the tweet.

    Raises:
        UserError: the scheme is not known.
    """
    if scheme not in SCHEMES:
        raise UserError(f"The roles {scheme!r} are not known; choose 'tweet' or 'paper'.")
    if scheme == "paper":
        return _paper(prompt, sorted(corrupted or prompt.tweet_span))
    return tuple(_role(prompt, position) for position in range(len(prompt)))


def title_of(role: str, suffix: Collection[str] = (), template: Collection[str] = ()) -> str:
    """What a figure calls a role.

    Args:
        suffix, template: labels of the tokens of the suffix, and of a chat template before it,
            which then stand in the names of their roles.
    """
    name, _, number = role.partition(":")
    if number:
        labels = tuple(suffix if name == "suffix" else template)
        known = int(number) < len(labels)
        shown = f'"{labels[int(number)].strip("·")}"' if known else number
        return f"{TWEET[name]} {shown}"
    return (TWEET | PAPER)[name]


def in_order(roles: Iterable[str], scheme: Scheme = "tweet") -> list[str]:
    """Different roles in a figure's order: that of the scheme, suffix tokens as they follow."""
    names = list(SCHEMES[scheme])

    def place(role: str) -> tuple[int, int]:
        name, _, number = role.partition(":")
        return names.index(name), int(number or 0)

    return sorted(set(roles), key=place)


@cache
def negations() -> frozenset[str]:
    """Words that negate, in lower case: VADER's list, and "no", which its rules treat as one."""
    from vaderSentiment.vaderSentiment import NEGATE

    return frozenset((*NEGATE, "no"))


@cache
def lexicon() -> dict[str, float]:
    """VADER's ratings of words, emoticons and abbreviations in lower case, from -4 to 4."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    rated: dict[str, float] = SentimentIntensityAnalyzer().lexicon
    return rated


def _paper(prompt: Prompt, subject: list[int]) -> tuple[str | None, ...]:
    roles: list[str | None] = [None] * len(prompt)
    end = subject[-1]
    for position in range(end + 1, len(prompt)):
        roles[position] = "further"
    if end + 1 < len(prompt):
        roles[end + 1] = "subsequent"
        roles[-1] = "last"
    for position in subject:
        roles[position] = "subject_middle"
    roles[subject[0]] = "subject_first"
    roles[end] = "subject_last"
    return tuple(roles)


def _role(prompt: Prompt, position: int) -> str | None:
    token = prompt.tokens[position]
    if position not in prompt.tweet_span:
        if position == len(prompt) - 1:
            return "last"
        if position < prompt.tweet_span[0]:
            return None
        if position < prompt.suffix_start:
            return f"template:{position - prompt.tweet_span[-1] - 1}"
        return f"suffix:{position - prompt.suffix_start}"
    word = prompt.words[token.word] if token.word >= 0 else None
    content = None if word is None else _content(word, position)
    if content is not None:
        return content
    if position == prompt.tweet_span[-1]:
        return "tweet_last"
    if position == prompt.tweet_span[0]:
        return "tweet_first"
    if word is not None and word_class(word.text) == "punctuation":
        return "punctuation"
    return "middle"


def _content(word: Word, position: int) -> str | None:
    """The role that a token has by what its word says, wherever it stands."""
    kind = word_class(word.text)
    if kind in ("emoji", "emoticon"):
        return "emoji"
    if kind in ("name", "tag", "link"):
        return "name"
    written = word.text.lower().replace("\u2019", "'")
    if written in negations() or written.endswith("n't"):
        return "negation"
    if kind != "word" or written not in lexicon():
        return None
    if position == word.tokens[-1]:
        return "sentiment_last"
    return "sentiment_first" if position == word.tokens[0] else "middle"
