"""Tokens, characters and words of a prompt, on tokenizers of every kind that the families use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from core.models.registry import EMBEDDED, model_folder
from core.prompts.prompt import (
    DEFAULT_SUFFIX,
    DEFAULT_WORDS,
    build_prompt,
    count_tokens,
    resolve_span,
    span_of_word,
    word_token,
)
from core.prompts.token_labels import LONGEST_LABEL

LINES = [
    "My flight got cancelled and I love waiting here for hours, terrible service I am feeling",
    "what a good good day, so happy! I am feeling good I am feeling bad :) #win @united \U0001f600",
    "a bad bad day, not good at all... http://t.co/abc \U0001f600 \U0001f622 I am feeling",
] * 10


@dataclass(frozen=True)
class Reader:
    """What a prompt needs of a model."""

    tokenizer: PreTrainedTokenizerFast
    name: str
    max_positions: int = 4096
    vocabulary: int = 10**6


def byte_level(*, prefix: bool = False, trim: bool = False, nfc: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=prefix, trim_offsets=trim)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def sentence_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", *every_byte], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


TOKENIZERS = {
    "gpt2-like": lambda: byte_level(),
    "pythia-like": lambda: byte_level(trim=True, nfc=True),
    "qwen-like": lambda: byte_level(nfc=True),
    "prefix": lambda: byte_level(prefix=True),
    "prefix-trim": lambda: byte_level(prefix=True, trim=True),
    "sentencepiece-like": sentence_piece,
}


@cache
def reader(kind: str) -> Reader:
    special = {"bos_token": "<s>", "unk_token": "<unk>"} if kind.startswith("sentence") else {}
    return Reader(PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS[kind](), **special), kind)


@pytest.fixture(params=TOKENIZERS)
def any_reader(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


@pytest.fixture
def gpt2_like() -> Reader:
    return reader("gpt2-like")


@pytest.fixture(scope="session")
def embedded() -> Reader:
    tokenizer = AutoTokenizer.from_pretrained(model_folder(EMBEDDED), local_files_only=True)
    return Reader(tokenizer, EMBEDDED, 2048)


def texts_of_words(tweet: str, model: Reader | None = None) -> list[str]:
    prompt = build_prompt(model or reader("gpt2-like"), tweet)
    return [word.text for word in prompt.words if word.in_tweet]


# Pieces that tokenizers and figures trip over, next to anything that Unicode holds.
AWKWARD = [
    *("\U0001f642", "\U0001f44d\U0001f3fd"),  # an emoji of four bytes, and one with a skin tone
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # a family, joined by ZWJ
    *("\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "1\ufe0f\u20e3"),  # a flag, a heart, a key
    *("caf\u00e9", "cafe\u0301", "\u0301", "q\u0323\u0307", "\u05e9\u05dc\u05d5\u05dd"),
    *("\u202eabc", "\u200b", "\u00a0", "\ufeff", "\x00", "\x1b[31m", "\x1c", "\n", "\t", "  ", " "),
    *("\u6211\u5f88\u597d", "\u2581", "\u0120", "\u00b7", "<|endoftext|>", "<s>", ":-)", "!!!"),
    *("@united", "#fail", "http://t.co/aBc?x=1", " good", " terrible service", DEFAULT_SUFFIX),
]
TWEETS = st.lists(
    st.one_of(st.sampled_from(AWKWARD), st.text(max_size=6)), min_size=0, max_size=10
).map(lambda parts: "visible " + "".join(parts))


def check_prompt(model: Reader, tweet: str, suffix: str) -> None:
    prompt = build_prompt(model, tweet, suffix)

    assert list(prompt.ids) == model.tokenizer(prompt.text).input_ids
    assert prompt.text == tweet.strip() + suffix

    rebuilt, reached = "", 0
    for before, token in zip((None, *prompt.tokens), prompt.tokens, strict=False):
        assert 0 <= token.start <= token.end <= len(prompt.text)
        if before is not None:
            assert before.start <= token.start <= reached, "in order and without a gap"
        rebuilt += prompt.text[max(reached, token.start) : token.end]
        reached = max(reached, token.end)
    assert rebuilt == prompt.text

    for position in prompt.tweet_span:
        word = prompt.tokens[position].word
        owners = [index for index, w in enumerate(prompt.words) if position in w.tokens]
        assert owners == [word]
        assert prompt.words[word].in_tweet
    in_words = sorted(p for w in prompt.words if w.in_tweet for p in w.tokens)
    assert in_words == list(prompt.tweet_span)
    for position, token in enumerate(prompt.tokens):
        inside = token.start < len(prompt.tweet)
        special = token.start == token.end and token.word == -1
        assert (position in prompt.tweet_span) == (inside and not special)

    lettered = [0] * len(prompt.text)
    for word in prompt.words:
        assert word.text == prompt.text[word.start : word.end] != ""
        assert word.end <= len(prompt.tweet) or word.start >= len(prompt.tweet)
        for character in range(word.start, word.end):
            lettered[character] += 1
    for character, times in zip(prompt.text, lettered, strict=True):
        assert times == 1 or (times == 0 and character.isspace())

    for label in prompt.labels:
        assert label
        assert len(label) <= LONGEST_LABEL
        assert label == label.strip()
        # Joiners stay inside whole emoji; nothing else is invisible, not even a space of its kind.
        without_emoji = regex.sub(r"\p{ExtPict}[\u200d\U000e0020-\U000e007f]*", "", label)
        assert not regex.search(r"[\p{C}\p{Z}--[ ]]", without_emoji, regex.VERSION1)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60)
@given(tweet=TWEETS, suffix=st.sampled_from([DEFAULT_SUFFIX, "", "ly", "\u0301", " ", "!"]))
@example(tweet="".join(AWKWARD), suffix=DEFAULT_SUFFIX)
@example(tweet="H\u0301", suffix="\u0301 I am feeling")
def test_every_prompt_keeps_its_promises(kind, tweet, suffix):
    check_prompt(reader(kind), tweet, suffix)


@pytest.mark.embedded
@settings(max_examples=150)
@given(tweet=TWEETS)
@example(tweet="".join(AWKWARD))
def test_the_embedded_tokenizer_keeps_them_too(embedded, tweet):
    check_prompt(embedded, tweet, DEFAULT_SUFFIX)


@pytest.mark.embedded
def test_a_tweet_as_the_embedded_model_reads_it(embedded):
    prompt = build_prompt(embedded, " My flight got cancelled, terrible service\n")
    assert prompt.tweet == "My flight got cancelled, terrible service"
    assert prompt.labels[:4] == ("My", "·flight", "·got", "·cancelled")
    assert prompt.labels[-5:] == ("·terrible", "·service", "·I", "·am", "·feeling")
    assert prompt.tweet_span == tuple(range(len(prompt) - 3))
    assert [word_token(embedded, word) for word in DEFAULT_WORDS] == [
        embedded.tokenizer.convert_tokens_to_ids(piece) for piece in ("\u0120good", "\u0120bad")
    ]


def test_tokens_know_their_characters(any_reader):
    prompt = build_prompt(any_reader, "bad  day", " I am feeling")
    found = [
        (token.label, prompt.text[token.start : token.end])
        for token in prompt.tokens
        if token.start < token.end
    ]
    assert "".join(label for label, _ in found) == "bad··day·I·am·feeling"
    assert all(label.replace("·", " ") == text for label, text in found)


@pytest.mark.parametrize("kind", ["sentencepiece-like", "prefix"])
def test_a_space_put_before_the_text_has_no_character(kind):
    prompt = build_prompt(reader(kind), "xbad")
    position = 1 if kind == "sentencepiece-like" else 0
    added, first = prompt.tokens[position : position + 2]
    assert (added.label, added.start, added.end, added.word) == ("·", 0, 0, 0)
    assert (first.label[0], first.start) == ("x", 0)


def test_a_special_token_is_of_no_word_and_of_no_span():
    prompt = build_prompt(reader("sentencepiece-like"), "bad day")
    assert (prompt.tokens[0].label, prompt.tokens[0].word) == ("<s>", -1)
    assert prompt.tweet_span[0] == 1
    with pytest.raises(ValueError, match="position 0 cannot be corrupted"):
        resolve_span(prompt, (0,))


def test_tokens_that_share_a_character_are_counted(any_reader):
    prompt = build_prompt(any_reader, "x\U0001f680")  # not in the training lines: four bytes
    parts = [token for token in prompt.tokens if token.end == 2 and token.start >= 1]
    assert [token.label for token in parts] == [
        f"\U0001f680 {part}/{len(parts)}" for part in range(1, len(parts) + 1)
    ]
    assert len(parts) > 1
    assert {(token.start, token.end) for token in parts} == {(1, 2)}
    assert len({token.word for token in parts}) == 1


def test_a_token_with_a_space_and_half_a_character(gpt2_like):
    # " \U0001f600" is in the training lines, so that a space is merged with the emoji's first bytes
    prompt = build_prompt(gpt2_like, "day \U0001f643")
    labels = [token.label for token in prompt.tokens if token.end == 5]
    assert labels[0] == f"·\U0001f643 1/{len(labels)}"
    assert labels[-1] == f"\U0001f643 {len(labels)}/{len(labels)}"


def test_a_composed_accent_covers_letter_and_mark():
    prompt = build_prompt(reader("qwen-like"), "cafe\u0301 ok")  # NFC makes one letter of the two
    accented = [token for token in prompt.tokens if token.start == 3]
    assert [(token.start, token.end) for token in accented] == [(3, 5), (3, 5)]
    assert [token.label for token in accented] == ["e\u0301 1/2", "e\u0301 2/2"]


@pytest.mark.parametrize(
    ("tweet", "label"),
    [
        ("a\nb", "↵"),
        ("a\tb", "⇥"),
        ("a\x00b", "<U+0000>"),
        ("a\x1bb", "<U+001B>"),
        ("a\u202eb", "<U+202E> 1/3"),
        ("a\u200bb", "<ZWSP> 1/3"),
        ("a\u200db", "<ZWJ> 1/3"),
        ("a\u2800b", "<U+2800> 1/3"),
        ("a\u3164b", "<U+3164> 1/3"),
        ("a\u00b7b", "<U+00B7> 1/2"),
        ("1\u0301b", "\u25cc\u0301 1/2"),
        ("a\ue000b", "<U+E000> 1/3"),
    ],
)
def test_what_cannot_be_seen_is_named(gpt2_like, tweet, label):
    assert build_prompt(gpt2_like, tweet).labels[1] == label


def test_long_labels_are_shortened_and_whole_emoji_kept():
    family = "\U0001f469\u200d\U0001f467"
    tokenizer = Tokenizer(models.WordLevel({"a" * 30: 0, family: 1, "x": 2}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = Reader(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "words")
    labels = build_prompt(model, f"{'a' * 30} {family}").labels
    assert labels[0] == "a" * 15 + "…" + "a" * 8
    assert labels[1] == f"·{family}"


@pytest.mark.parametrize(
    ("tweet", "words"),
    [
        (
            "@United's flight #fail :-( sooo bad!!!",
            ["@United", "'", "s", "flight", "#fail", ":-(", "sooo", "bad", "!!!"],
        ),
        (
            "see http://t.co/aBc?x=1). or (www.x.com), bit.ly/xy",
            ["see", "http://t.co/aBc?x=1", ").", "or", "(", "www.x.com", "),", "bit.ly/xy"],
        ),
        ("don't mail a@b.co.uk e-mail", ["don't", "mail", "a@b.co.uk", "e-mail"]),
        ("10:30pm 3.5% 2nd 1,000", ["10:30pm", "3.5%", "2nd", "1,000"]),
        ("ok...Never ?!?! :'( <3 XD", ["ok", "...", "Never", "?!?!", ":'(", "<3", "XD"]),
        ("great:) note:Please", ["great", ":)", "note", ":", "Please"]),
        (
            "\U0001f602\U0001f602 \U0001f44d\U0001f3fd\u2764\ufe0fok",
            ["\U0001f602", "\U0001f602", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "ok"],
        ),
        (
            "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea1\ufe0f\u20e3!",
            [
                "\U0001f469\u200d\U0001f469\u200d\U0001f467",
                "\U0001f1e9\U0001f1ea",
                "1\ufe0f\u20e3",
                "!",
            ],
        ),
        ("cafe\u0301 na\u00efve", ["cafe\u0301", "na\u00efve"]),
        ("\u6211\u5f88\u597d", ["\u6211", "\u5f88", "\u597d"]),
        ("-_- T_T ^_^", ["-_-", "T_T", "^_^"]),
    ],
)
def test_words_of_tweets(tweet, words):
    assert texts_of_words(tweet) == words


def test_words_are_found_in_time_on_hostile_texts(gpt2_like):
    for part in ("a.", "a-", "((", ":", "@", "1,", "\U0001f469\u200d", "www.", "_", "-"):
        build_prompt(gpt2_like, part * 600)  # hangs if a pattern backtracks


def test_a_token_belongs_to_the_word_where_most_of_it_lies():
    tokenizer = Tokenizer(models.WordLevel({"so": 0, "good!!!": 1, ":).": 2, "x": 3}, "x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = Reader(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "words")
    prompt = build_prompt(model, "so good!!! :).", " x")
    assert [(word.text, word.tokens) for word in prompt.words] == [
        ("so", (0,)),
        ("good", (1,)),  # four characters against three
        ("!!!", ()),
        (":)", (2,)),
        (".", ()),
        ("x", (3,)),
    ]
    assert span_of_word(prompt, 1) == (1,)
    with pytest.raises(ValueError, match=r'word 2 \("!!!"\) has no token of its own.* the word 1'):
        span_of_word(prompt, 2)


def test_a_token_across_the_boundary_is_the_tweets():
    tokenizer = Tokenizer(models.WordLevel({"so": 0, "goodly": 1, "x": 2}, "x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = Reader(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "words")
    prompt = build_prompt(model, "so good", "ly x")
    assert prompt.tweet_span == (0, 1)
    assert [(word.text, word.tokens, word.in_tweet) for word in prompt.words] == [
        ("so", (0,), True),
        ("good", (1,), True),
        ("ly", (), False),
        ("x", (2,), False),
    ]


def test_a_tweet_may_end_with_the_suffix(any_reader):
    prompt = build_prompt(any_reader, "so bad I am feeling")
    suffix_tokens = [token for token in prompt.tokens if token.start >= len("so bad I am feeling")]
    assert "".join(token.label for token in suffix_tokens) == "·I·am·feeling"
    assert [word.text for word in prompt.words][-3:] == ["I", "am", "feeling"]
    assert [word.in_tweet for word in prompt.words] == [True] * 5 + [False] * 3


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tweet", "says"),
    [
        ("", "The tweet is empty"),
        (" \n\t", 'The tweet " ↵⇥" is only white space'),
        ("\u200b\u2060", "only white space or invisible"),
        ("bad \ud83d day", r"lone surrogate, U\+D83D, at character 4\)"),
        (None, "must be text, not None"),
        (float("nan"), r"must be text, not nan \(float\)"),
    ],
)
def test_tweets_that_are_refused(gpt2_like, tweet, says):
    with pytest.raises(ValueError, match=says) as caught:
        build_prompt(gpt2_like, tweet)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_suffix_with_half_a_character_is_refused(gpt2_like):
    with pytest.raises(ValueError, match="The suffix holds half a character"):
        build_prompt(gpt2_like, "bad", " \udc80")


def test_too_long_gives_both_lengths(gpt2_like, caplog):
    fits = len(build_prompt(gpt2_like, "bad bad bad bad"))
    short = Reader(gpt2_like.tokenizer, "tiny", fits)
    assert len(build_prompt(short, "bad bad bad bad")) == fits
    with pytest.raises(
        ValueError, match=rf"make {fits + 1} tokens, but tiny reads at most {fits};"
    ):
        build_prompt(short, "bad bad bad bad bad")
    assert not caplog.records  # nothing but our own sentence


def test_a_token_added_at_the_end_is_refused():
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    model = Reader(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "ending")
    with pytest.raises(ValueError, match=r"ends every text with .*'<\|endoftext\|>'"):
        build_prompt(model, "bad day")


def test_words_that_are_one_token(gpt2_like):
    for word in DEFAULT_WORDS:
        assert gpt2_like.tokenizer.decode([word_token(gpt2_like, word)]) == word


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "is empty"),
        (
            " wonderful",
            r'The word " wonderful" is \d tokens for gpt2-like \(· \| w \| o [^)]*\), not one',
        ),
        ("good", r'"good" is \d tokens .*; try " good"\.'),
        (" \U0001f680", r"3 tokens .* \(·\U0001f680 1/3 \| \U0001f680 2/3 \| \U0001f680 3/3\)"),
        ("\ud83d", "The word holds half a character"),
    ],
)
def test_words_that_are_refused(gpt2_like, word, says):
    with pytest.raises(ValueError, match=says):
        word_token(gpt2_like, word)


def test_a_word_outside_the_vocabulary_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1}, "<unk>"))
    model = Reader(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), "two words"
    )
    assert word_token(model, "good") == 1
    with pytest.raises(ValueError, match='"bad" is not in the vocabulary of two words'):
        word_token(model, "bad")


def test_spans(gpt2_like):
    prompt = build_prompt(gpt2_like, "what a terrible day")
    assert resolve_span(prompt, "tweet") == prompt.tweet_span
    assert resolve_span(prompt, "word:2") == span_of_word(prompt, 2)
    covered = [prompt.tokens[p] for p in span_of_word(prompt, 2)]
    assert prompt.text[covered[0].start : covered[-1].end] == " terrible"
    assert resolve_span(prompt, (2, 0, 2)) == (0, 2)
    assert resolve_span(prompt, [1]) == (1,)


@pytest.mark.parametrize(
    ("corrupt", "says"),
    [
        ("all", 'What to corrupt, "all", is not understood; give "tweet", a word as "word:3"'),
        ("word:-1", "is not understood"),
        ("word:99", "no word 99 in this prompt; its words are numbered from 0 to 5"),
        ("word:5", r'word 5 \("feeling"\) is not of the tweet.* from 0 to 2'),
        ((), "no position to corrupt"),
        ((-1,), "position -1 cannot be corrupted; the tweet's tokens are at 0 to"),
        ((0, 500, 501), "positions 500, 501 cannot be corrupted"),
    ],
)
def test_spans_that_are_refused(gpt2_like, corrupt, says):
    prompt = build_prompt(gpt2_like, "a terrible day")
    with pytest.raises(ValueError, match=says):
        resolve_span(prompt, corrupt)


def test_the_last_position_is_not_of_the_tweet(gpt2_like):
    prompt = build_prompt(gpt2_like, "a terrible day")
    with pytest.raises(ValueError, match="cannot be corrupted"):
        resolve_span(prompt, (len(prompt) - 1,))


@pytest.mark.parametrize("before", ["Review: ", 'Is "', "A review of\n", "caf\u00e9 \U0001f642 "])
@pytest.mark.parametrize("tweet", ["so bad", "#fail @united \U0001f622", "caf\u00e9!"])
def test_text_ahead_of_a_tweet_leaves_it_its_own_tokens(any_reader, before, tweet):
    prompt = build_prompt(any_reader, tweet, f"{before}{{tweet}} Mood:")
    assert list(prompt.ids) == any_reader.tokenizer(prompt.text).input_ids
    assert prompt.text == f"{before}{tweet} Mood:"
    first, end = len(before), len(before) + len(tweet)
    for position, token in enumerate(prompt.tokens):
        touches = token.start < end and token.end > first
        assert (position in prompt.tweet_span) == touches or token.start == token.end
    alone = [word.text for word in build_prompt(any_reader, tweet).words if word.in_tweet]
    assert [word.text for word in prompt.words if word.in_tweet] == alone
    assert [word.in_tweet for word in prompt.words[: len(alone)]] == [True] * len(alone)
    (count,) = count_tokens(any_reader.tokenizer, [tweet], f"{before}{{tweet}} Mood:")
    assert (count.prompt, count.tweet) == (len(prompt), len(prompt.tweet_span))
