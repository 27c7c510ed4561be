"""How does a tweet become tokens, and where does each token lie in the text?

A prompt is tweet + suffix. Its token ids are exactly those of the model's own tokenizer; what is
added here is where they stand: characters, words, and what a person sees of each.

Three rules say where a token belongs:

1. Characters. A token covers the characters that any of its bytes is part of, a leading space
   included, so that the tokens together cover the whole text. Tokens that share one character
   (byte-level vocabularies split an emoji in up to four) each cover all of it.
2. Tweet or suffix. A token is of the tweet when its first character is. A token that begins in the
   tweet and reaches into the suffix (possible only when the suffix does not begin with a space)
   counts as the tweet's, and is corrupted with it.
3. Word. A token belongs to the word in which most of its characters lie, the earlier one when two
   hold as many; white space alone belongs to the word that follows. Only words on the token's own
   side, tweet or suffix, are considered.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped]

from ..errors import UserError
from .token_labels import labels_of, quoted
from .tokenizer import ReadsText, cover, ids_of, is_one, is_unknown, piece_of
from .words import find_words, owner_of

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast


DEFAULT_SUFFIX = " I am feeling"
DEFAULT_WORDS = (" good", " bad")
_LONE = regex.compile(r"\p{Cs}")


class Unreadable(UserError):
    """A text that a model cannot read; the sentence is for who typed it.

    Attributes:
        reason: the same of one row among many, so that rows can be counted by it.
    """

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Token:
    """One token of a prompt. A special token that the tokenizer adds (BOS) has no characters."""

    id: int
    label: str  # what a person sees: "·terrible", "↵", "<U+200D>", "<emoji> 2/4"; never empty
    start: int  # characters text[start:end]
    end: int
    word: int  # index into Prompt.words; -1 for special tokens and for white space without a word


@dataclass(frozen=True)
class Word:
    """A word, URL, @name, #tag, emoji, emoticon or run of punctuation, without white space."""

    text: str
    start: int  # characters text[start:end] of the prompt
    end: int
    tokens: tuple[int, ...]  # positions; empty when its characters are part of neighbours' tokens
    in_tweet: bool


@dataclass(frozen=True)
class Prompt:
    """A tweet and its suffix as one model reads them."""

    tweet: str  # without surrounding white space
    suffix: str
    text: str  # tweet + suffix
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    tweet_span: tuple[int, ...]  # positions of the tweet's tokens

    def __len__(self) -> int:
        """Count the tokens, special ones included."""
        return len(self.tokens)

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids, as the model's tokenizer gives them for `text`."""
        return tuple(token.id for token in self.tokens)

    @property
    def labels(self) -> tuple[str, ...]:
        """What a person sees of each token."""
        return tuple(token.label for token in self.tokens)

    @cached_property
    def words_by_last_token(self) -> dict[int, range]:
        """Of each word's last token, and each token without a word, the positions of the whole."""
        found: dict[int, range] = {}
        start = 0
        for position, token in enumerate(self.tokens):
            following = self.tokens[position + 1].word if position + 1 < len(self) else -1
            if token.word < 0 or token.word != following:
                found[position] = range(start, position + 1)
                start = position + 1
        return found


def build_prompt(model: ReadsText, tweet: str, suffix: str = DEFAULT_SUFFIX) -> Prompt:
    """Tokenise tweet + suffix for a model, and find each token's place in the text.

    Raises:
        Unreadable: the tweet is empty or shows nothing, holds a lone surrogate, makes more tokens
            than the model has positions, or one that the model does not embed.
        UserError: the suffix or the model's tokenizer cannot be used with any tweet.
    """
    encoded = _encode(model, tweet, suffix)
    tweet = tweet.strip()
    text = tweet + suffix
    ids: list[int] = encoded["input_ids"]
    special = [bool(flag) for flag in encoded["special_tokens_mask"]]
    if special[-1]:
        raise UserError(
            f"The tokenizer of {model.name} ends every text with the special token "
            f"{piece_of(model, ids[-1])!r}, so that the suffix is not what the model reads last; "
            "choose a model whose tokenizer adds nothing at the end."
        )
    covered = cover(model, text, ids, encoded["offset_mapping"], special)

    in_tweet = [
        not added and (start < len(tweet))
        for (start, _), added in zip(covered, special, strict=True)
    ]
    spans = find_words(tweet, 0) + find_words(suffix, len(tweet))
    tweet_words = range(sum(start < len(tweet) for start, _ in spans))
    suffix_words = range(len(tweet_words), len(spans))
    word_of = [
        -1 if added else owner_of(text, covers, spans, tweet_words if of_tweet else suffix_words)
        for covers, added, of_tweet in zip(covered, special, in_tweet, strict=True)
    ]
    labels = labels_of(model, text, ids, covered, special)
    return Prompt(
        tweet=tweet,
        suffix=suffix,
        text=text,
        tokens=tuple(
            Token(id, label, start, end, word)
            for id, label, (start, end), word in zip(ids, labels, covered, word_of, strict=True)
        ),
        words=tuple(
            Word(
                text=text[start:end],
                start=start,
                end=end,
                tokens=tuple(p for p, owner in enumerate(word_of) if owner == index),
                in_tweet=index in tweet_words,
            )
            for index, (start, end) in enumerate(spans)
        ),
        tweet_span=tuple(position for position, inside in enumerate(in_tweet) if inside),
    )


@dataclass(frozen=True)
class Count:
    """Tokens of a prompt, special ones and the suffix included, and of its tweet alone."""

    prompt: int
    tweet: int


def count_tokens(
    tokenizer: PreTrainedTokenizerFast, tweets: Sequence[str], suffix: str
) -> list[Count]:
    """How many tokens prompts have, without the model.

    What holds half a character makes no prompt and counts none: `build_prompt` says what is wrong.
    """
    counts = [Count(0, 0)] * len(tweets)
    readable = {
        number: tweet.strip()
        for number, tweet in enumerate(tweets)
        if not _LONE.search(tweet) and not _LONE.search(suffix)
    }
    if not readable:
        return counts
    encoded = tokenizer(
        [tweet + suffix for tweet in readable.values()],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    for (number, tweet), offsets, special in zip(
        readable.items(),
        encoded["offset_mapping"],
        encoded["special_tokens_mask"],
        strict=True,
    ):
        inside = [
            not added and start < len(tweet)
            for (start, _), added in zip(offsets, special, strict=True)
        ]
        counts[number] = Count(prompt=len(inside), tweet=sum(inside))
    return counts


def why_unreadable(
    model: ReadsText, tweet: str, suffix: str = DEFAULT_SUFFIX, most: int | None = None
) -> str:
    """Say of one text among many why `build_prompt` would refuse it; "" if it would not.

    Args:
        most: tokens that a prompt may have, where that is less than the model reads.
    """
    try:
        count = len(_encode(model, tweet, suffix)["input_ids"])
    except Unreadable as error:
        return error.reason
    if most is not None and count > most:
        return f"the text and its suffix make more than {most:,} tokens"
    return ""


def _encode(model: ReadsText, tweet: str, suffix: str) -> BatchEncoding:
    """What the tokenizer makes of the stripped tweet + suffix; Unreadable where it is no prompt."""
    _check_text(suffix, "suffix")
    try:
        _check_text(tweet, "tweet")
    except UserError as error:
        whole = isinstance(tweet, str)
        reason = "the text holds half a character" if whole else "there is no text"
        raise Unreadable(str(error), reason) from error
    if not tweet:
        raise Unreadable("The tweet is empty; type a few words.", "the text is empty")
    if _BLANK.fullmatch(tweet):
        raise Unreadable(
            f"The tweet {quoted(tweet)} is only white space or invisible characters; "
            "type a few words.",
            "the text is only white space or invisible characters",
        )
    # verbose: a text that is too long is refused below, in our own words.
    encoded: BatchEncoding = model.tokenizer(
        tweet.strip() + suffix,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    count = len(encoded["input_ids"])
    if count > model.max_positions:
        raise Unreadable(
            f"The tweet and its suffix make {count:,} tokens, but {model.name} reads at most "
            f"{model.max_positions:,}; shorten the tweet.",
            f"the text and its suffix make more than {model.max_positions:,} tokens",
        )
    try:
        _check_embedded(model, encoded["input_ids"])
    except UserError as error:
        raise Unreadable(str(error), "the text holds a token that is not embedded") from error
    return encoded


def word_token(model: ReadsText, word: str) -> int:
    """Give the id of a verbaliser such as " good", which has to be one token.

    Raises:
        UserError: the word is empty or is not one token; its pieces are shown.
    """
    _check_text(word, "word")
    if not word:
        raise UserError('The word to be read is empty; give one such as " good".')
    ids = ids_of(model, word)
    _check_embedded(model, ids)
    if len(ids) == 1 and not is_unknown(model, ids[0], word):
        return ids[0]
    others = [word.strip(), f" {word.strip()}"]
    remedy = next(
        (f"try {quoted(other)}" for other in others if other != word and is_one(model, other)),
        'choose a word that is one token, such as " good"',
    )
    if len(ids) == 1:
        raise UserError(
            f"The word {quoted(word)} is not in the vocabulary of {model.name}; {remedy}."
        )
    raise UserError(
        f"The word {quoted(word)} is {len(ids)} tokens for {model.name} "
        f"({' | '.join(_pieces(model, word))}), not one; {remedy}."
    )


def span_of_word(prompt: Prompt, index: int) -> tuple[int, ...]:
    """Give the positions of one word's tokens.

    Raises:
        UserError: there is no such word, or it has no token of its own.
    """
    if not 0 <= index < len(prompt.words):
        raise UserError(
            f"There is no word {index} in this prompt; "
            f"its words are numbered from 0 to {len(prompt.words) - 1}."
        )
    word = prompt.words[index]
    if not word.tokens:
        sharing = next(t for t in prompt.tokens if t.start <= word.start < t.end)
        raise UserError(
            f"The word {index} ({quoted(word.text)}) has no token of its own, it is part of the "
            f"token {sharing.label}; choose the word {sharing.word}, which that token "
            "belongs to."
        )
    return word.tokens


def resolve_span(prompt: Prompt, corrupt: str | Sequence[int]) -> tuple[int, ...]:
    """Give the positions to be corrupted, sorted, each once, all inside the tweet.

    Args:
        corrupt: "tweet", one word of the tweet as "word:3", or token positions.

    Raises:
        UserError: an unknown word, or positions outside the tweet.
    """
    if isinstance(corrupt, str):
        if corrupt == "tweet":
            return prompt.tweet_span
        found = regex.fullmatch(r"word:\s*([0-9]{1,9})", corrupt)
        if found is None:
            raise UserError(
                f"What to corrupt, {quoted(corrupt)}, is not understood; "
                'give "tweet", a word as "word:3", or token positions.'
            )
        index = int(found[1])
        span = span_of_word(prompt, index)
        if not prompt.words[index].in_tweet:
            raise UserError(
                f"The word {index} ({quoted(prompt.words[index].text)}) is in the suffix, and "
                "only the tweet can be corrupted; choose a word from 0 to "
                f"{sum(word.in_tweet for word in prompt.words) - 1}."
            )
        return span
    positions = sorted({operator.index(position) for position in corrupt})
    if not positions:
        raise UserError("There is no position to corrupt; choose at least one token of the tweet.")
    allowed = set(prompt.tweet_span)
    outside = [position for position in positions if position not in allowed]
    if outside:
        raise UserError(
            f"The position{'s' if len(outside) > 1 else ''} {', '.join(map(str, outside[:5]))}"
            f"{', ...' if len(outside) > 5 else ''} cannot be corrupted; "
            f"the tweet's tokens are at {prompt.tweet_span[0]} to {prompt.tweet_span[-1]}."
        )
    return tuple(positions)


_BLANK = regex.compile(r"[\s\p{Cc}\p{Cf}\p{DI}\u2800]+")


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"The {what} must be text, not {text!r} ({type(text).__name__}).")
    lone = _LONE.search(text)
    if lone is not None:
        raise UserError(
            f"The {what} holds half a character (a lone surrogate, U+{ord(lone[0]):04X}, at "
            f"character {lone.start()}); type that character again."
        )


def _check_embedded(model: ReadsText, ids: Sequence[int]) -> None:
    beyond = next((id for id in ids if id >= model.vocabulary), None)
    if beyond is not None:
        raise UserError(
            f"The text holds the token {piece_of(model, beyond)!r}, number {beyond:,} of the "
            f"tokenizer, but {model.name} embeds only {model.vocabulary:,}; leave that text out, "
            "or give the model its own tokenizer."
        )


def _pieces(model: ReadsText, word: str) -> list[str]:
    encoded = model.tokenizer(
        word, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids: list[int] = encoded["input_ids"]
    special = [False] * len(ids)
    covered = cover(model, word, ids, encoded["offset_mapping"], special)
    return labels_of(model, word, ids, covered, special)
