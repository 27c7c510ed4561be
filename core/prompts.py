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
from typing import TYPE_CHECKING, Literal, Protocol

import regex  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DEFAULT_SUFFIX = " I am feeling"
DEFAULT_WORDS = (" good", " bad")
WordClass = Literal["link", "name", "tag", "emoji", "emoticon", "word", "punctuation"]
LONGEST_LABEL = 24
"""Longer labels are shortened in the middle: a label has to fit beside a figure's axis."""


class ReadsText(Protocol):
    """What of a model a prompt depends on."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast: ...  # noqa: D102

    @property
    def max_positions(self) -> int: ...  # noqa: D102


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


def build_prompt(model: ReadsText, tweet: str, suffix: str = DEFAULT_SUFFIX) -> Prompt:
    """Tokenise tweet + suffix for a model, and find each token's place in the text.

    Raises:
        ValueError: the tweet is empty or shows nothing, holds a lone surrogate, or makes more
            tokens than the model has positions.
    """
    _check_text(tweet, "tweet")
    _check_text(suffix, "suffix")
    if not tweet:
        raise ValueError("The tweet is empty; type a few words.")
    if _BLANK.fullmatch(tweet):
        raise ValueError(
            f"The tweet {_quoted(tweet)} is only white space or invisible characters; "
            "type a few words."
        )
    tweet = tweet.strip()
    text = tweet + suffix
    # verbose: a text that is too long is refused below, in our own words.
    encoded = model.tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    ids: list[int] = encoded["input_ids"]
    if len(ids) > model.max_positions:
        raise ValueError(
            f"The tweet and its suffix make {len(ids):,} tokens, but {model.name} reads at most "
            f"{model.max_positions:,}; shorten the tweet."
        )
    special = [bool(flag) for flag in encoded["special_tokens_mask"]]
    if special[-1]:
        raise ValueError(
            f"The tokenizer of {model.name} ends every text with the special token "
            f"{_piece(model, ids[-1])!r}, so that the suffix is not what the model reads last; "
            "choose a model whose tokenizer adds nothing at the end."
        )
    covered = _cover(model, text, ids, encoded["offset_mapping"], special)

    in_tweet = [
        not added and (start < len(tweet))
        for (start, _), added in zip(covered, special, strict=True)
    ]
    spans = _find_words(tweet, 0) + _find_words(suffix, len(tweet))
    tweet_words = range(sum(start < len(tweet) for start, _ in spans))
    suffix_words = range(len(tweet_words), len(spans))
    word_of = [
        -1 if added else _word_of(text, covers, spans, tweet_words if of_tweet else suffix_words)
        for covers, added, of_tweet in zip(covered, special, in_tweet, strict=True)
    ]
    labels = _labels(model, text, ids, covered, special)
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


def word_token(model: ReadsText, word: str) -> int:
    """Give the id of a verbaliser such as " good", which has to be one token.

    Raises:
        ValueError: the word is empty or is not one token; its pieces are shown.
    """
    _check_text(word, "word")
    if not word:
        raise ValueError('The word to be read is empty; give one such as " good".')
    ids = _ids_of(model, word)
    if len(ids) == 1 and not _is_unknown(model, ids[0], word):
        return ids[0]
    others = [word.strip(), f" {word.strip()}"]
    remedy = next(
        (f"try {_quoted(other)}" for other in others if other != word and _is_one(model, other)),
        'choose a word that is one token, such as " good"',
    )
    if len(ids) == 1:
        raise ValueError(
            f"The word {_quoted(word)} is not in the vocabulary of {model.name}; {remedy}."
        )
    raise ValueError(
        f"The word {_quoted(word)} is {len(ids)} tokens for {model.name} "
        f"({' | '.join(_pieces(model, word))}), not one; {remedy}."
    )


def span_of_word(prompt: Prompt, index: int) -> tuple[int, ...]:
    """Give the positions of one word's tokens.

    Raises:
        ValueError: there is no such word, or it has no token of its own.
    """
    if not 0 <= index < len(prompt.words):
        raise ValueError(
            f"There is no word {index} in this prompt; "
            f"its words are numbered from 0 to {len(prompt.words) - 1}."
        )
    word = prompt.words[index]
    if not word.tokens:
        sharing = next(t for t in prompt.tokens if t.start <= word.start < t.end)
        raise ValueError(
            f"The word {index} ({_quoted(word.text)}) has no token of its own, it is part of the "
            f"token {sharing.label}; choose the word {sharing.word}, which that token "
            "belongs to."
        )
    return word.tokens


def resolve_span(prompt: Prompt, corrupt: str | Sequence[int]) -> tuple[int, ...]:
    """Give the positions to be corrupted, sorted, each once, all inside the tweet.

    Args:
        corrupt: "tweet", one word of the tweet as "word:3", or token positions.

    Raises:
        ValueError: an unknown word, or positions outside the tweet.
    """
    if isinstance(corrupt, str):
        if corrupt == "tweet":
            return prompt.tweet_span
        found = regex.fullmatch(r"word:\s*([0-9]{1,9})", corrupt)
        if found is None:
            raise ValueError(
                f"What to corrupt, {_quoted(corrupt)}, is not understood; "
                'give "tweet", a word as "word:3", or token positions.'
            )
        index = int(found[1])
        span = span_of_word(prompt, index)
        if not prompt.words[index].in_tweet:
            raise ValueError(
                f"The word {index} ({_quoted(prompt.words[index].text)}) is in the suffix, and "
                "only the tweet can be corrupted; choose a word from 0 to "
                f"{sum(word.in_tweet for word in prompt.words) - 1}."
            )
        return span
    positions = sorted({operator.index(position) for position in corrupt})
    if not positions:
        raise ValueError("There is no position to corrupt; choose at least one token of the tweet.")
    allowed = set(prompt.tweet_span)
    outside = [position for position in positions if position not in allowed]
    if outside:
        raise ValueError(
            f"The position{'s' if len(outside) > 1 else ''} {', '.join(map(str, outside[:5]))}"
            f"{', ...' if len(outside) > 5 else ''} cannot be corrupted; "
            f"the tweet's tokens are at {prompt.tweet_span[0]} to {prompt.tweet_span[-1]}."
        )
    return tuple(positions)


# --- characters ----------------------------------------------------------------------------------

_SPACE_MARKS = "\u0120\u2581"  # how vocabularies write a space: GPT-2 and SentencePiece
_AS_SPACES = str.maketrans(_SPACE_MARKS, "  ")


def _cover(
    model: ReadsText,
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[bool],
) -> list[tuple[int, int]]:
    """Characters of each token, mended so that together they cover the text (rule 1).

    Tokenizers leave characters out: those that trim offsets give a leading space to nobody
    (Pythia), and those that compose accents (NFC: Pythia, Qwen2) forget the combining mark.
    Left-out white space is the next token's, anything else the previous one's. SentencePiece puts
    a space before the text and gives it the first letter's place; it has no character here.
    """
    covered: list[tuple[int, int]] = []
    reached = 0  # text[:reached] is covered
    spoken = False  # any token with characters yet?
    for id, (start, end), added in zip(ids, _in_order(offsets), special, strict=True):
        piece = _piece(model, id)
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


# --- words ---------------------------------------------------------------------------------------

_PICTURE = r"\p{ExtPict}(?:[\uFE0E\uFE0F]|\p{EMod})?"
_EMOJI = (
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
_MARKED = rf"(?:{_URL}|(?<!\w)@\w+|\#\w+|{_EMOJI}|{_EMOTICON})"
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
    ("emoji", regex.compile(_EMOJI, regex.VERSION1)),
    ("emoticon", regex.compile(_EMOTICON, regex.VERBOSE | regex.VERSION1)),
    ("word", regex.compile(r".*[\w\p{M}].*", regex.DOTALL | regex.VERSION1)),
)


def word_class(word: str) -> WordClass:
    """Say what a `Word`'s text is: a link, @name, #tag, emoji, emoticon, word or punctuation.

    Numbers are words; what is none of these, such as a currency sign, counts as punctuation.
    """
    return next((name for name, form in _CLASSES if form.fullmatch(word)), "punctuation")


def _find_words(part: str, offset: int) -> list[tuple[int, int]]:
    return [(found.start() + offset, found.end() + offset) for found in _WORD.finditer(part)]


def _word_of(
    text: str, covers: tuple[int, int], spans: Sequence[tuple[int, int]], allowed: range
) -> int:
    """Index of the word that a token belongs to (rule 3), -1 when `allowed` is empty."""
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


# --- labels --------------------------------------------------------------------------------------

_BLANK = regex.compile(r"[\s\p{Cc}\p{Cf}\p{DI}\u2800]+")
_INVISIBLE = regex.compile(r"[\s\p{C}\p{DI}\u2800]")  # or without a shape that fonts agree on
_MARK = regex.compile(r"\p{M}")
_CARRIES_MARK = regex.compile(r"[\p{L}\p{M}\p{N}]")
_SHOWN = regex.compile(_EMOJI, regex.VERSION1)
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


def _labels(
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
            piece = _piece(model, ids[position])
            labels.append(_shorten(_visible(piece.translate(_AS_SPACES))) or f"<{ids[position]}>")
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


def _quoted(text: str) -> str:
    return f'"{_shorten(_visible(text).replace("·", " "))}"'


# --- the tokenizer -------------------------------------------------------------------------------


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"The {what} must be text, not {text!r} ({type(text).__name__}).")
    lone = regex.search(r"\p{Cs}", text)
    if lone is not None:
        raise ValueError(
            f"The {what} holds half a character (a lone surrogate, U+{ord(lone[0]):04X}, at "
            f"character {lone.start()}); type that character again."
        )


def _piece(model: ReadsText, id: int) -> str:
    return str(model.tokenizer.convert_ids_to_tokens(id))


def _ids_of(model: ReadsText, word: str) -> list[int]:
    ids: list[int] = model.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _is_unknown(model: ReadsText, id: int, word: str) -> bool:
    return id == model.tokenizer.unk_token_id and _piece(model, id) != word


def _is_one(model: ReadsText, word: str) -> bool:
    ids = _ids_of(model, word) if word.strip() else []
    return len(ids) == 1 and not _is_unknown(model, ids[0], word)


def _pieces(model: ReadsText, word: str) -> list[str]:
    encoded = model.tokenizer(
        word, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids: list[int] = encoded["input_ids"]
    special = [False] * len(ids)
    covered = _cover(model, word, ids, encoded["offset_mapping"], special)
    return _labels(model, word, ids, covered, special)
