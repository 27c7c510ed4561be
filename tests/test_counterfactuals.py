"""Tweets that say the opposite: whole words, capitals kept, lengths told."""

import pytest
from tiny_models import make_model

from core.counterfactuals import antonyms, both_ways, propose
from core.prompts import build_prompt


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
