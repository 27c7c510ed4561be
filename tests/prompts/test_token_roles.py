"""Roles of tokens, on tweets that were marked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model

from core.prompts import token_roles
from core.prompts.prompt import build_prompt
from core.prompts.token_roles import TWEET, in_order, roles_of, title_of
from core.prompts.words import word_class

MODEL = make_model("gpt2", layers=2)
SUFFIX = "·I suffix:0|·am suffix:1|·feeling last"
# Each token, as this vocabulary cuts the tweet, and its role.
MARKED = {
    "My flight got cancelled, terrible service": (
        "My tweet_first|·flight middle|·got middle|·cancelled sentiment_last|, punctuation|"
        "·terrible sentiment_last|·service tweet_last"
    ),
    # The last token is a full stop: what ends the tweet is one role, whatever it is.
    "not good, not bad.": (
        "not negation|·good sentiment_last|, punctuation|·not negation|·bad sentiment_last|"
        ". tweet_last"
    ),
    # A word of several tokens; n't with either apostrophe; a tweet that ends in an emoticon.
    "I don't love it :(": (
        "I tweet_first|· negation|d negation|o negation|n negation|' negation|t negation|"
        "·love sentiment_last|· middle|i middle|t middle|· emoji|: emoji|( emoji"
    ),
    "good! can\u2019t": (
        "go sentiment_first|od sentiment_last|! punctuation|·can negation|\u2019 1/3 negation|"
        "\u2019 2/3 negation|\u2019 3/3 negation|t negation"
    ),
    # Emoji of four tokens; a sentiment word that is the whole start.
    "great day \U0001f621": (
        "great sentiment_last|·day middle|· emoji|\U0001f621 1/4 emoji|\U0001f621 2/4 emoji|"
        "\U0001f621 3/4 emoji|\U0001f621 4/4 emoji"
    ),
    "day @name #tag https://example.org": (
        "day tweet_first|·@ name|name name|·# name|tag name|·https name|:// name|"
        "example name|. name|org name"
    ),
    # One token is first and last: it counts as the last one.
    "My": "My tweet_last",
    "NO love": "N negation|O negation|·love sentiment_last",
}


def marked(tweet: str, scheme: str = "tweet", **options) -> str:
    prompt = build_prompt(MODEL, tweet)
    pairs = zip(prompt.labels, roles_of(prompt, scheme, **options), strict=True)
    return "|".join(f"{label} {role}" for label, role in pairs)


@pytest.mark.parametrize("tweet", MARKED)
def test_tweets_marked_by_hand(tweet):
    assert marked(tweet) == f"{MARKED[tweet]}|{SUFFIX}"


def test_the_papers_six_roles():
    after = "·I subsequent|·am further|·feeling last"
    assert marked("My flight got cancelled", "paper") == (
        "My subject_first|·flight subject_middle|·got subject_middle|·cancelled subject_last|"
        f"{after}"
    )
    assert marked("My flight", "paper") == f"My subject_first|·flight subject_last|{after}"
    assert marked("My", "paper") == f"My subject_last|{after}"


def test_the_papers_subject_is_what_is_corrupted():
    assert marked("My flight got cancelled", "paper", corrupted=(1, 2)) == (
        "My None|·flight subject_first|·got subject_last|·cancelled subsequent|·I further|"
        "·am further|·feeling last"
    )


def test_a_token_that_the_tokenizer_adds_has_no_role():
    from tokenizers import processors

    model = make_model("llama", layers=2)
    tokenizer = model.tokenizer
    before = tokenizer.backend_tokenizer.post_processor
    try:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
        prompt = build_prompt(model, "My flight")
    finally:
        tokenizer.backend_tokenizer.post_processor = before
    expected = (None, "tweet_first", "tweet_last", "suffix:0", "suffix:1", "last")
    assert roles_of(prompt) == expected
    assert roles_of(prompt, "paper")[0] is None


@given(st.text(max_size=40))
def test_every_token_of_any_tweet_has_one_known_role(tweet):
    try:
        prompt = build_prompt(MODEL, tweet)
    except ValueError:
        return
    found = roles_of(prompt)
    assert None not in found
    assert {role.partition(":")[0] for role in found if role} <= set(TWEET)
    assert found[-1] == "last"
    assert found.count("tweet_last") <= 1
    assert found.count("tweet_first") <= 1
    paper = roles_of(prompt, "paper")
    assert None not in paper
    assert paper.count("subject_last") == paper.count("last") == 1


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("@united", "name"),
        ("#fail", "tag"),
        ("http://t.co/abc", "link"),
        ("t.co/xy", "link"),
        ("bob@x.org", "link"),
        ("\u2665", "emoji"),
        ("\U0001f1e9\U0001f1ea", "emoji"),
        ("<3", "emoticon"),
        (":-)", "emoticon"),
        ("XD", "emoticon"),
        ("don't", "word"),
        ("5pm", "word"),
        ("!!!", "punctuation"),
        ("$", "punctuation"),
    ],
)
def test_classes_of_words(word, expected):
    assert word_class(word) == expected


def test_lists_are_vaders():
    assert {"not", "never", "isn't", "without", "no"} <= token_roles.negations()
    assert token_roles.lexicon()["terrible"] < 0 < token_roles.lexicon()["love"]


def test_order_and_titles():
    mixed = ["last", "suffix:10", "middle", "suffix:2", "tweet_first"]
    assert in_order(mixed) == ["tweet_first", "middle", "suffix:2", "suffix:10", "last"]
    assert in_order(["last", "subject_first"], "paper") == ["subject_first", "last"]
    assert title_of("suffix:1", ["·I", "·am"]) == 'Prompt token "am"'
    assert title_of("suffix:7", ["·I"]) == "Prompt token 7"
    assert title_of("subject_last") == "Last corrupted token"


def test_an_unknown_scheme_is_told():
    with pytest.raises(ValueError, match="'tweet' or 'paper'"):
        roles_of(build_prompt(MODEL, "My"), "words")  # type: ignore[arg-type]
