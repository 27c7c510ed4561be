"""How does a tweet become tokens, and where does each token lie in the text?

A prompt is a tweet with text around it (`core.prompts.template`): by default a suffix. Its token
ids are exactly those of the model's own tokenizer; what is added here is where they stand:
characters, words, and what a person sees of each.

Three rules say where a token belongs:

1. Characters. A token covers the characters that any of its bytes is part of, a leading space
   included, so that the tokens together cover the whole text. Tokens that share one character
   (byte-level vocabularies split an emoji in up to four) each cover all of it.
2. Head, tweet, closing or suffix. A token is of the tweet when any of its characters is, and is
   corrupted with it: also one that begins with a space ahead of the tweet, or that reaches into a
   suffix that does not begin with one. Of the others, one that has any of the suffix's characters
   is the suffix's, and the rest are of the part in which they begin.
3. Word. A token belongs to the word in which most of its characters lie, the earlier one when two
   hold as many; white space alone belongs to the word that follows. Only words of the token's own
   part are considered.

The words of the tweet come first and so have the same numbers whatever stands around it; those
after the tweet follow, then those ahead of it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped]

from ..errors import UserError
from .template import DEFAULT_SUFFIX, Template
from .token_labels import labels_of, quoted
from .tokenizer import ReadsText, cover, ids_of, is_one, is_unknown, piece_of
from .words import find_words, owner_of

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast


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

    @property
    def covers(self) -> tuple[int, int]:
        """Its first character, and the one after its last."""
        return self.start, self.end


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
    """A tweet and what stands around it, as one model reads them."""

    tweet: str  # without surrounding white space
    template: Template  # with a chat's opening and closing
    text: str  # head + tweet + closing + suffix
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    tweet_span: tuple[int, ...]  # positions of the tweet's tokens

    def __len__(self) -> int:
        """Count the tokens, special ones included."""
        return len(self.tokens)

    @property
    def suffix_start(self) -> int:
        """Position of the suffix's first token; the prompt's length where it has no suffix."""
        start = len(self.text) - len(self.template.answer)
        after = range(self.tweet_span[-1] + 1, len(self))
        return next((p for p in after if _reaches(self.tokens[p].covers, start)), len(self))

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


def build_prompt(model: ReadsText, tweet: str, template: Template | str = DEFAULT_SUFFIX) -> Prompt:
    """Tokenise a tweet with what stands around it, and find each token's place in the text.

    Args:
        template: a text without "{tweet}" is a suffix.

    Raises:
        Unreadable: the tweet is empty or shows nothing, holds a lone surrogate, makes more tokens
            than the model has positions, or one that the model does not embed.
        UserError: the template or the model's tokenizer cannot be used with any tweet.
    """
    template = Template.of(template).rendered(model.tokenizer, model.name)
    encoded = _encode(model, tweet, template)
    tweet = tweet.strip()
    text = template.around(tweet)
    ids: list[int] = encoded["input_ids"]
    special = [bool(flag) for flag in encoded["special_tokens_mask"]]
    if special[-1]:
        raise UserError(
            f"The tokenizer of {model.name} ends every text with the special token "
            f"{piece_of(model, ids[-1])!r}, so that the suffix is not what the model reads last; "
            "choose a model whose tokenizer adds nothing at the end."
        )
    covered = cover(model, text, ids, encoded["offset_mapping"], special)

    bounds = _bounds(template, tweet)
    spans = [span for start, end in bounds for span in find_words(text[start:end], start)]
    allowed = [
        range(len(spans))[sum(s < start for s, _ in spans) : sum(s < end for s, _ in spans)]
        for start, end in bounds
    ]
    order = [*allowed[1], *allowed[2], *allowed[3], *allowed[0]]
    number_of = {index: number for number, index in enumerate(order)} | {-1: -1}
    parts = [
        None if added else _part(covers, bounds)
        for covers, added in zip(covered, special, strict=True)
    ]
    word_of = [
        -1 if part is None else number_of[owner_of(text, covers, spans, allowed[part])]
        for covers, part in zip(covered, parts, strict=True)
    ]
    labels = labels_of(model, text, ids, covered, special)
    return Prompt(
        tweet=tweet,
        template=template,
        text=text,
        tokens=tuple(
            Token(id, label, start, end, word)
            for id, label, (start, end), word in zip(ids, labels, covered, word_of, strict=True)
        ),
        words=tuple(
            Word(
                text=text[slice(*spans[index])],
                start=spans[index][0],
                end=spans[index][1],
                tokens=tuple(p for p, owner in enumerate(word_of) if owner == number),
                in_tweet=index in allowed[1],
            )
            for number, index in enumerate(order)
        ),
        tweet_span=tuple(position for position, part in enumerate(parts) if part == 1),
    )


Bounds = list[tuple[int, int]]
"""Characters (start, end) of head, tweet, closing and suffix."""


def _bounds(template: Template, tweet: str) -> Bounds:
    bounds, start = [], 0
    for part in (template.head, tweet, template.closing, template.answer):
        bounds.append((start, start + len(part)))
        start += len(part)
    return bounds


def _part(covers: tuple[int, int], bounds: Bounds) -> int:
    """The part that a token is of, as an index into its bounds (rule 2)."""
    tweet_start, tweet_end = bounds[1]
    if tweet_start and covers[1] <= tweet_start:
        return 0
    if covers[0] < tweet_end:
        return 1
    return 3 if _reaches(covers, bounds[3][0]) else 2


def _reaches(covers: tuple[int, int], start: int) -> bool:
    """Whether a token has a character from `start` on, or stands there without any."""
    return max(covers[1], covers[0] + 1) > start


@dataclass(frozen=True)
class Count:
    """Tokens of a prompt, special ones and the suffix included, and of its tweet alone."""

    prompt: int
    tweet: int


def count_tokens(
    tokenizer: PreTrainedTokenizerFast,
    tweets: Sequence[str],
    template: Template | str = DEFAULT_SUFFIX,
) -> list[Count]:
    """How many tokens prompts have, without the model.

    What holds half a character makes no prompt and counts none: `build_prompt` says what is wrong.
    """
    template = Template.of(template).rendered(tokenizer)
    counts = [Count(0, 0)] * len(tweets)
    if _LONE.search(template.around("")):
        return counts
    readable = {
        number: tweet.strip() for number, tweet in enumerate(tweets) if not _LONE.search(tweet)
    }
    if not readable:
        return counts
    encoded = tokenizer(
        [template.around(tweet) for tweet in readable.values()],
        add_special_tokens=template.format == "raw",
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
        bounds = _bounds(template, tweet)
        inside = [
            not added and _part(covers, bounds) == 1
            for covers, added in zip(offsets, special, strict=True)
        ]
        counts[number] = Count(prompt=len(inside), tweet=sum(inside))
    return counts


def why_unreadable(
    model: ReadsText,
    tweet: str,
    template: Template | str = DEFAULT_SUFFIX,
    most: int | None = None,
) -> str:
    """Say of one text among many why `build_prompt` would refuse it; "" if it would not.

    Args:
        most: tokens that a prompt may have, where that is less than the model reads.
    """
    template = Template.of(template).rendered(model.tokenizer, model.name)
    try:
        count = len(_encode(model, tweet, template)["input_ids"])
    except Unreadable as error:
        return error.reason
    if most is not None and count > most:
        return f"the text and its suffix make more than {most:,} tokens"
    return ""


def _encode(model: ReadsText, tweet: str, template: Template) -> BatchEncoding:
    """What the tokenizer makes of a prompt; Unreadable where it is none."""
    _check_text(template.suffix, "suffix")
    _check_text(template.before, "text before the tweet")
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
        template.around(tweet.strip()),
        add_special_tokens=template.format == "raw",  # a chat template writes its own
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


def first_token(model: ReadsText, word: str) -> tuple[int, str, int]:
    """Of a word that may be several tokens: the first one's id and label, and how many there are.

    Raises:
        UserError: the word is empty, or begins with what the vocabulary lacks.
    """
    _check_text(word, "word")
    ids = ids_of(model, word) if word.strip() else []
    if not ids:
        raise UserError('The word to be read is empty; give one such as " good".')
    _check_embedded(model, ids)
    if is_unknown(model, ids[0], word):
        raise UserError(
            f"The word {quoted(word)} is not in the vocabulary of {model.name}; choose another."
        )
    return ids[0], _pieces(model, word)[0].replace("·", " ").strip() or "space", len(ids)


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
                f"The word {index} ({quoted(prompt.words[index].text)}) is not of the tweet, and "
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
