"""Two words of one's own: traced without a probe, without labelled texts."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import CHAT, make_model
from tiny_probes import make_probe

import core
from core import Template, TraceSettings
from core.errors import UserError
from core.exporting.recipe import Recipe
from core.models.registry import EMBEDDED
from core.probes.contrast import contrast, read_by_first
from core.probes.library import kept_probes
from core.probes.probe import Probe
from core.prompts.prompt import build_prompt, first_token
from core.tracing.result import proxies_of, units_of
from core.tracing.view import View

TWEET = "My flight got cancelled"
PROMPT = "hours, {tweet} day"
SETTINGS = TraceSettings(samples=3)

pytestmark = pytest.mark.usefixtures("own_home")


def log_probs_of(model, text: str) -> torch.Tensor:
    """Of the next token, by the model's own forward pass."""
    ids = torch.tensor([model.tokenizer(text).input_ids])
    with torch.inference_mode():
        return model.network(ids).logits[0, -1].double().log_softmax(-1)


@pytest.fixture(scope="module")
def model():
    return make_model("llama", layers=3)


def test_a_contrast_is_the_difference_of_two_log_probabilities(model):
    probe = contrast(model, " happy", " sad", PROMPT)
    result = core.trace(model, probe, TWEET, SETTINGS)
    log_probs = log_probs_of(model, "hours, My flight got cancelled day")
    happy, sad = (model.tokenizer(word).input_ids[0] for word in (" happy", " sad"))
    assert result.high == pytest.approx(float(log_probs[happy] - log_probs[sad]), abs=1e-5)
    assert result.under("good").high == pytest.approx(float(log_probs[happy].exp()), rel=1e-4)
    for kind, effects in result.effects.items():
        np.testing.assert_array_equal(effects, result.under("log_ratio").effects[kind])
    assert np.abs(result.effects["hidden"]).max() > 1e-3


def test_a_contrast_reads_what_a_probe_of_the_same_words_reads(model):
    fitted = make_probe(model)
    probe = replace(contrast(model), embedding_std=fitted.embedding_std)
    ours, theirs = (core.trace(model, each, TWEET, SETTINGS) for each in (probe, fitted))
    for kind, effects in theirs.under("log_ratio").effects.items():
        np.testing.assert_array_equal(ours.effects[kind], effects)


def test_a_word_of_several_tokens_is_read_by_its_first(model):
    word = " terrible service"
    ids = model.tokenizer(word).input_ids
    assert first_token(model, word)[0::2] == (ids[0], len(ids))
    with pytest.warns(UserWarning, match='"terrible service" is .* tokens and read by the first'):
        probe = contrast(model, word, " sad")
    assert probe.read_as == read_by_first(model, word, " sad")
    result = core.trace(model, probe, TWEET, SETTINGS)
    log_probs = log_probs_of(model, f"{TWEET} I am feeling")
    sad = model.tokenizer(" sad").input_ids[0]
    assert result.high == pytest.approx(float(log_probs[ids[0]] - log_probs[sad]), abs=1e-5)
    assert probe.read_as in View(result).caption


@pytest.mark.parametrize(
    ("target", "distractor", "says"),
    [
        (" happy", " happy", "begin with the same token"),
        ("", " sad", "is empty"),
        ("  ", " sad", "is empty"),
    ],
)
def test_words_that_cannot_be_compared_are_refused(model, target, distractor, says):
    with pytest.raises(UserError, match=says):
        contrast(model, target, distractor)


def test_a_contrast_says_what_it_reads(model):
    probe = contrast(model, " happy", " sad")
    result = core.trace(model, probe, TWEET, SETTINGS)
    view = View(result)
    assert probe.title == "log P(happy) - log P(sad)"
    assert view.unit == "log P(happy) - log P(sad) (nats)"
    assert view.headline.startswith(("\u201chappy\u201d above", "\u201csad\u201d above"))
    assert "a contrast of two words, no probe" in view.caption
    assert "positive" not in " ".join([view.headline, view.caption, *view.findings.sentences])
    assert "log_ratio" not in proxies_of(probe)
    assert units_of(probe)["good"] == "P(happy)"
    assert units_of(make_probe(model))["log_ratio"] == "log P(good) - log P(bad) (nats)"


def test_a_contrast_has_no_report_and_is_kept_nowhere(model):
    probe = contrast(model)
    with pytest.raises(UserError, match="without labelled texts"):
        _ = probe.judged
    assert kept_probes(model.identity) == []
    with pytest.raises(UserError, match="a report"):
        Probe.from_json(
            replace(make_probe(model)).to_json().replace(b'"logit_pair"', b'"contrast"')
        )


def test_a_contrast_and_its_prompt_come_back_from_a_settings_file(model):
    own = copy.copy(model)
    own.tokenizer = copy.copy(model.tokenizer)
    own.tokenizer.chat_template = CHAT
    for template in (Template.of(PROMPT), Template(" day", "hours, ", "chat")):
        probe = contrast(own, " happy", " sad", template)
        result = core.trace(own, probe, TWEET, SETTINGS)
        recipe = Recipe.from_json(Recipe.of(result).to_json())
        assert recipe.probe == probe
        again = recipe.run(model=own, keep=False)
        assert again.prompt == result.prompt
        assert again.high == result.high


def test_a_settings_file_of_before_has_no_prompt_of_its_own(model):
    result = core.trace(model, make_probe(model), TWEET, SETTINGS)
    held = json.loads(Recipe.of(result).to_json())
    for field in ("before", "prompt_format", "opening", "closing"):
        del held["probe"][field]
    assert Recipe.from_json(json.dumps(held)).probe == result.probe


@pytest.mark.embedded
def test_two_words_are_traced_on_the_embedded_model(embedded_model):
    probe = core.contrast(
        embedded_model, " France", " Italy", "The Eiffel Tower: {tweet} It is in the country of"
    )
    settings = TraceSettings(kinds=("hidden",), samples=3, every=6)
    result = core.trace(embedded_model, probe, "Everybody visits Paris once.", settings)
    assert embedded_model.name == EMBEDDED
    assert result.high > 1.0
    assert result.total_effect > 0
    assert build_prompt(embedded_model, TWEET, probe.template).text.startswith("The Eiffel Tower: ")
