"""Tweets that say the opposite: whole words, capitals kept, lengths told."""

import pytest
from tiny_models import make_model

from core.prompts.counterfactuals import EDITS, antonyms, both_ways, edits_of, propose
from core.prompts.prompt import build_prompt


@pytest.fixture(scope="module")
def model():
    return make_model("llama")


def test_all_listed_words_are_exchanged_with_their_capitals(model):
    prompt = build_prompt(model, "Terrible service, I HATE waiting. Goodness!")
    found = propose(model, prompt, {"terrible": ["great"], "hate": ["love"], "good": ["bad"]})
    assert found[0].text == "Great service, I LOVE waiting. Goodness!"
    assert found[0].replaced == (("Terrible", "Great"), ("HATE", "LOVE"))
    assert found[0].tokens == len(build_prompt(model, found[0].text))
    assert found[0].tokens_wanted == len(prompt)


def test_equal_lengths_come_first(model):
    prompt = build_prompt(model, "a terrible day")
    pieces = {word: len(build_prompt(model, f"a {word} day")) for word in ("service", "zzzzqqqq")}
    assert pieces["service"] != pieces["zzzzqqqq"]
    same = "service" if pieces["service"] == len(prompt) else "zzzzqqqq"
    found = propose(model, prompt, {"terrible": ["zzzzqqqq", "service"]})
    assert [proposal.same_length for proposal in found][0] == (pieces[same] == len(prompt))
    assert sorted(p.text for p in found) == ["a service day", "a zzzzqqqq day"]


def test_single_words_are_tried_where_no_exchange_of_all_fits(model):
    prompt = build_prompt(model, "good and bad")
    found = propose(model, prompt, {"good": ["zzzzqqqqxxxx"], "bad": ["good"]})
    assert "good and good" in [proposal.text for proposal in found]


def test_no_listed_word_gives_no_proposal(model):
    assert propose(model, build_prompt(model, "I am going to the store")) == []


def test_the_list_that_comes_along_goes_both_ways():
    found = antonyms()
    assert "bad" in found["good"]
    assert "good" in found["bad"]
    assert all(word == word.lower() and other for word, other in found.items())
    assert both_ways([["Up", "down"]]) == {"up": ["down"], "down": ["up"]}


@pytest.mark.parametrize(
    ("tweet", "kind", "expected"),
    [
        ("A good AND happy day", "antonym", ["A bad AND sad day", "A bad AND angry day"]),
        ("I love this", "negated", ["I don't love this"]),
        ("She LOVED it", "negated", ["She didn't love it"]),
        ("he hates me", "negated", ["he doesn't hate me"]),
        ("I\u2019m so happy", "negated", ["I\u2019m not so happy"]),
        ("This is such a great day", "negated", ["This is not such a great day"]),
        ("This is a table of wood", "negated", []),
        ("Thesis great", "negated", []),
        ("It isn't bad, don't go", "affirmed", ["It is bad, don't go", "It isn't bad, do go"]),
        (
            "Can't stay, won\u2019t go",
            "affirmed",
            ["Can stay, won\u2019t go", "Can't stay, will go"],
        ),
        ("Not good", "affirmed", ["good"]),
        ("we NEVER laugh", "affirmed", ["we ALWAYS laugh"]),
        ("dont like knots", "affirmed", ["do like knots"]),
        ("nothing, another knot", "affirmed", []),
    ],
)
def test_edits_that_may_turn_a_tweet(tweet, kind, expected):
    opposites = {"good": ["bad"], "happy": ["sad", "angry"]}
    assert kind in EDITS
    found = [edit.text for edit in edits_of(tweet, opposites) if edit.kind == kind]
    assert found == expected


def test_an_edit_says_what_it_exchanged():
    edit = next(edits_of("I am glad, not sorry", {"glad": ["sad"], "sorry": ["pleased"]}))
    assert edit.replaced == (("glad", "sad"), ("sorry", "pleased"))
