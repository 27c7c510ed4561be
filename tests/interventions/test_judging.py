"""What is held out, what counts as success, and how sure it is: known answers."""

import json

import numpy as np
import pytest
import torch
from paths import ASSETS
from tiny_held import NEUTRAL, make_held, make_tweets
from tiny_models import make_model
from tiny_probes import make_probe

from core.interventions.forward import Surprise
from core.interventions.judging import (
    Estimate,
    Judge,
    JudgedBy,
    correlation,
    estimate,
    flipped,
    has_word,
    hold_out,
    judged_frame,
    log_odds_under,
    mean_of,
    moved,
    paraphrases,
    perplexity_ratio,
    pooled,
    read_under,
    share_of,
)
from core.interventions.steering import Direction, Site, SiteAblation, Steering
from core.probes.training import groups_of, regression
from core.prompts.prompt import build_prompt, word_token

TWEET = "My flight got cancelled, terrible service"


@pytest.fixture(autouse=True)
def home(own_home):
    return own_home


@pytest.fixture
def model():
    return make_model("llama")


# --- intervals -----------------------------------------------------------------------------------


def test_a_share_has_wilsons_interval():
    found = share_of(np.array([True] * 8 + [False] * 2))
    # Wilson 1927, for 8 of 10.
    assert (found.value, found.n) == (0.8, 10)
    assert found.lower == pytest.approx(0.4902, abs=1e-4)
    assert found.upper == pytest.approx(0.9433, abs=1e-4)
    assert share_of(np.array([], dtype=bool)).n == 0


def test_a_means_interval_is_about_that_of_the_normal_distribution():
    values = np.random.default_rng(0).standard_normal(400)
    found = mean_of(values)
    reach = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.lower == pytest.approx(values.mean() - reach, abs=0.02)
    assert found.upper == pytest.approx(values.mean() + reach, abs=0.02)
    alone = mean_of(np.array([3.0]))
    assert alone.value == 3.0
    assert np.isnan(alone.lower)


def test_ranks_that_agree_correlate_and_equal_values_do_not():
    x = np.arange(20.0)
    assert correlation(x, x**3).value == pytest.approx(1)
    assert correlation(x, -x).upper <= -0.99
    assert np.isnan(correlation(x, np.ones(20)).value)
    assert estimate(lambda rows: 1.0, 0).n == 0


def test_perplexity_is_compared_text_by_text():
    before = Surprise(np.array([10.0, 20.0]), np.array([5, 10]))
    after = Surprise(before.nats + np.log(2) * before.tokens, before.tokens)
    found = perplexity_ratio(before, after)
    assert (found.value, found.lower, found.upper) == pytest.approx((2, 2, 2))
    assert before.perplexity == pytest.approx(np.exp(2))


# --- what counts ---------------------------------------------------------------------------------


def test_moves_and_flips_are_towards_the_wanted_side():
    before, after = np.array([-1.0, -1.0, 2.0]), np.array([1.0, -0.5, 3.0])
    assert moved(before, after, "positive").tolist() == [2, 0.5, 1]
    assert moved(before, after, "negative").tolist() == [-2, -0.5, -1]
    assert moved(before, after, "either").tolist() == [2, 0.5, -1]
    assert flipped(before, after, "positive").tolist() == [True, False]
    assert flipped(before, after, "negative").tolist() == [False]
    assert flipped(before, after, "either").tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "word", "held"),
    [
        ("So GOOD!", "good", True),
        ("goodness", "good", False),
        ("no-good", "good", True),
        ("100% :)", ":)", True),
        ("anything", "", False),
        ("a.b", "a", True),
        ("axb", "a.b", False),
    ],
)
def test_a_word_is_found_whole_whatever_its_case(text, word, held):
    assert has_word(text, word) is held


def test_paraphrases_keep_the_word_and_say_something_else():
    entries = json.loads((ASSETS / "paraphrases.json").read_text(encoding="utf-8"))
    assert len(entries) == len(paraphrases()) >= 20
    for entry in entries:
        assert has_word(entry["tweet"], entry["word"])
        assert len(entry["paraphrases"]) >= 3
        for text in entry["paraphrases"]:
            assert has_word(text, entry["word"]), text
            assert text != entry["tweet"]


def test_controls_are_pooled_into_their_mean_and_range():
    key = ("moves", "tweet")
    arms = [{key: Estimate(value, 0.0, 0.0, 1)} for value in (1.0, 2.0, 6.0)]
    assert pooled(arms)[key] == Estimate(3.0, 1.0, 6.0, 3)
    assert pooled([{key: Estimate(float("nan"), 0, 0, 0)}]) == {}
    frame = judged_frame({"located": arms[0], "random": pooled(arms)})
    assert frame["arm"].tolist() == ["located", "random"]
    assert frame["value"].tolist() == [1.0, 3.0]


# --- held out ------------------------------------------------------------------------------------


def test_nothing_judged_was_learned_from(model):
    held = make_held(model)
    assert set(held.train) | set(held.test) == set(range(len(held.texts)))
    assert not set(held.train) & set(held.test)
    groups = groups_of(make_tweets())
    assert not set(groups[held.train]) & set(groups[held.test])
    texts = held.judged_by(TWEET, "terrible", count=50)
    for sort in (texts.same_word, texts.others):
        assert not set(sort) & set(held.training_texts)
    assert all(has_word(text, "terrible") for text in texts.same_word)
    assert not any(has_word(text, "terrible") for text in texts.others)
    assert texts.neutral == NEUTRAL
    assert held.probe.report.n == len(held.test)


def test_the_probe_is_fitted_on_the_training_part_alone(model):
    held = make_held(model)
    words = [word_token(model, word) for word in (" good", " bad")]
    log_probs = held.encoding.log_probs(model, words)
    fitted = regression(1.0).fit(log_probs[held.train], held.labels[held.train])
    np.testing.assert_allclose(held.probe.coefficients, fitted.named_steps["regress"].coef_[0])
    log_odds = fitted.decision_function(log_probs[held.test])
    np.testing.assert_allclose(held.probe.report.log_odds, log_odds, atol=1e-5)


def test_directions_come_from_the_training_states_alone(model):
    held = make_held(model)
    states = held.encoding.states(1)[held.train].astype(float)
    labels = held.labels[held.train]
    apart = states[labels == 1].mean(0) - states[labels == 0].mean(0)
    direction = held.direction(model, "means", 1)
    np.testing.assert_allclose(direction.vector, apart / np.linalg.norm(apart))
    weight = held.direction(model, "probe", 1)
    log_odds = states @ weight.vector
    assert ((log_odds > np.median(log_odds)) == (labels == 1)).mean() > 0.6
    with pytest.raises(ValueError, match="layers 0 to 3"):
        held.direction(model, "means", 7)


def test_a_probe_of_other_weights_is_refused(model):
    with pytest.raises(ValueError, match="was trained on"):
        hold_out(model, make_tweets(), make_probe(make_model("gpt2")))


def test_a_changed_model_is_not_encoded_for_good(model):
    with (
        Steering(a_direction(model), 1.0).applied(model),
        pytest.raises(ValueError, match="is changed"),
    ):
        make_held(model)


# --- judging -------------------------------------------------------------------------------------


def a_direction(model, gap: float = 8.0) -> Direction:
    vector = np.random.default_rng(0).standard_normal(model.width)
    return Direction("means", 1, vector / np.linalg.norm(vector), gap, 0.0)


def test_texts_read_together_are_those_read_alone(model):
    probe = make_probe(model)
    texts = [TWEET, "great day", "bad day", "happy happy happy"]
    steering = Steering(a_direction(model), 1.0, "last")
    together = read_under(model, probe, texts, steering)
    for text, row in zip(texts, together, strict=True):
        with steering.applied(model, len(build_prompt(model, text))):
            alone = read_under(model, probe, [text])[0]
        np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-4)
    assert not np.allclose(together, read_under(model, probe, texts))
    for intervention in (steering, None):
        with pytest.raises(ValueError, match="no texts to read: give at least one"):
            read_under(model, probe, [], intervention)
    assert log_odds_under(model, probe, []).shape == (0,)


def test_doing_nothing_is_judged_as_nothing(model):
    held = make_held(model)
    texts = held.judged_by(TWEET, "terrible", count=6)
    judge = Judge(model, held.probe, texts, "positive")
    found = judge.judge(Steering(a_direction(model), 0.0))
    assert found["moves", "tweet"].value == 0
    assert found["keeps", "others"].value == 1
    assert found["perplexity", "neutral"].value == 1
    assert found["entropy", "continuations"].value == 0
    assert ("moves", "paraphrases") not in found  # none are written for this tweet


def test_an_intervention_moves_what_it_should_and_is_charged_for_it(model):
    held = make_held(model)
    texts = held.judged_by(TWEET, "terrible", count=6)
    shares: list[float] = []
    judge = Judge(model, held.probe, texts, "positive")
    found = judge.judge(Steering(a_direction(model), 3.0), progress=shares.append)
    before = log_odds_under(model, held.probe, [TWEET])
    after = log_odds_under(model, held.probe, [TWEET], Steering(a_direction(model), 3.0))
    assert found["moves", "tweet"].value == pytest.approx(float(after[0] - before[0]), abs=1e-4)
    assert found["perplexity", "neutral"].value != 1
    assert found["keeps", "others"].n == len(texts.others)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_what_belongs_to_one_tweets_tokens_is_judged_by_that_tweet(model):
    held = make_held(model)
    judge = Judge(model, held.probe, held.judged_by(TWEET, "", count=6), "positive")
    found = judge.judge(SiteAblation((Site("hidden", 1, 3),)))
    assert {texts for _, texts in found} == {"tweet", "continuations"}


def test_the_unchanged_model_is_read_once(model):
    texts = JudgedBy(TWEET, others=("great day", "bad day"))
    judge = Judge(model, make_probe(model), texts, "positive", continued=0)
    judge.judge(Steering(a_direction(model), 1.0))
    before = model.block_calls
    judge.judge(Steering(a_direction(model), 1.0))
    # The tweet, and two texts of one length, once each.
    assert model.block_calls - before <= 3 * (model.layers + 1)
    assert not torch.is_grad_enabled() or not model.is_changed
