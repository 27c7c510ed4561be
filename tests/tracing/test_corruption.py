"""What is run for a tweet: each corruption, and the effects that need no site to be restored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import make_model
from tiny_probes import make_probe

import core
from core.errors import UserError
from core.prompts.prompt import build_prompt
from core.tracing.corruption import case_of
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace_together
from core.tracing.verdict import total_effects, word_effects

TWEET = "My flight got cancelled, terrible service"


@pytest.fixture(scope="module")
def model():
    return make_model("llama", layers=3)


@pytest.fixture(scope="module")
def probe(model):
    return make_probe(model)


def case(model, probe, text=TWEET, **options):
    return case_of(model, probe, text, TraceSettings(**options))


def test_uniform_noise_has_the_deviation_of_gaussian_noise_and_bounds(model, probe):
    found = case(model, probe, corruption="uniform")
    span = list(found.blank.corrupted_span)
    added = torch.cat([(found.corrupted(s) - found.embeddings)[span] for s in range(40)])
    assert float(added.std()) == pytest.approx(found.blank.noise, rel=0.05)
    assert float(added.abs().max()) <= np.sqrt(3) * found.blank.noise * (1 + 1e-6)
    outside = [t for t in range(len(found.prompt)) if t not in span]
    assert torch.equal(found.corrupted(0)[outside], found.embeddings[outside])


def test_the_mean_embedding_stands_in_the_span_alone(model, probe):
    found = case(model, probe, corruption="mean", corrupt="word:2", samples=7)
    corrupted = found.corrupted(0)
    span = list(found.blank.corrupted_span)
    assert torch.allclose(corrupted[span], model.embedding_matrix.mean(0))
    outside = [t for t in range(len(found.prompt)) if t not in span]
    assert torch.equal(corrupted[outside], found.embeddings[outside])
    result = core.trace(model, probe, TWEET, found.blank.settings)
    assert result.samples_done == result.samples_wanted == 1
    assert result.distinguishable is None


def test_a_counterfactual_corrupts_what_differs(model, probe):
    other = TWEET.replace("terrible", "cancelled").replace("got cancelled", "got terrible")
    settings = TraceSettings(corruption="counterfactual", counterfactual=other)
    result = core.trace(model, probe, TWEET, settings)
    clean, corrupted = (build_prompt(model, text, probe.suffix).ids for text in (TWEET, other))
    differing = tuple(t for t in range(len(clean)) if clean[t] != corrupted[t])
    assert result.corrupted_span == differing
    swapped = core.trace(
        model, probe, other, TraceSettings(corruption="counterfactual", counterfactual=TWEET)
    )
    assert result.low == pytest.approx(swapped.high, abs=1e-5)
    assert result.total_effect == pytest.approx(-swapped.total_effect, abs=1e-5)


def test_the_corruption_by_a_counterfactual_needs_one(model, probe):
    with pytest.raises(UserError, match="go together; name the tweet"):
        case(model, probe, corruption="counterfactual")


def test_a_counterfactual_that_is_the_tweet_is_refused(model, probe):
    with pytest.raises(UserError, match="own tokens"):
        case(model, probe, corruption="counterfactual", counterfactual=TWEET)


def test_reverse_patching_of_everything_is_the_total_effect(model, probe):
    settings = TraceSettings(samples=2, direction="corrupt")
    result = core.trace(model, probe, TWEET, settings)
    forth = core.trace(model, probe, TWEET, TraceSettings(samples=2))
    assert result.total_effect == pytest.approx(forth.total_effect, abs=1e-5)
    np.testing.assert_allclose(result.low_samples, forth.low_samples, atol=1e-5)
    assert result.effects["hidden"][-1, -1] == pytest.approx(result.total_effect, abs=1e-4)
    for kind, mask in result.trivial.items():
        fixed = result.effects[kind][mask]
        whole = np.isclose(fixed, result.total_effect, atol=1e-4)
        assert (whole | (np.abs(fixed) < 1e-6)).all()
        assert (result.effects[kind][~mask] != 0).all()
    assert not np.allclose(result.effects["mlp"], forth.effects["mlp"], atol=1e-4)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("corruption", ["noise", "uniform", "mean"])
def test_tweets_traced_together_have_the_numbers_of_tweets_traced_alone(
    model, probe, corruption, direction
):
    texts = [TWEET, TWEET.replace("flight", "service"), "My service got terrible, cancelled flight"]
    lengths = {len(build_prompt(model, text, probe.suffix)) for text in texts}
    assert len(lengths) == 1
    settings = TraceSettings(samples=2, corruption=corruption, direction=direction)
    seen: list[float] = []
    together = trace_together(model, probe, texts, settings, progress=seen.append)
    assert seen[-1] == 1.0
    for text, found in zip(texts, together, strict=True):
        alone = core.trace(model, probe, text, settings)
        assert found.prompt == alone.prompt
        assert found.samples_done == alone.samples_done
        np.testing.assert_allclose(found.low_samples, alone.low_samples, atol=1e-5)
        for kind in settings.kinds:
            np.testing.assert_allclose(
                found.sample_effects[kind], alone.sample_effects[kind], atol=1e-4
            )


def test_tweets_traced_together_in_small_batches_and_at_their_own_positions(model, probe):
    texts = [TWEET, TWEET.replace("flight", "service")]
    settings = TraceSettings(samples=3, every=2)
    whole = trace_together(model, probe, texts, settings)
    some = trace_together(
        model, probe, texts, settings, positions=[(3, 5), (4, 5, 6)], memory=2**17
    )
    for found, full, wanted in zip(some, whole, ((3, 5), (4, 5, 6)), strict=True):
        assert found.samples_done == 3
        assert sorted(found.frame().position.unique()) == list(wanted)
        assert sorted(found.frame().layer.unique()) == [0, 2]
        for kind in settings.kinds:
            traced = ~np.isnan(found.effects[kind])
            np.testing.assert_allclose(
                found.effects[kind][traced], full.effects[kind][traced], atol=1e-4
            )


def test_tweets_of_unequal_length_are_not_traced_together(model, probe):
    with pytest.raises(ValueError, match="equally many tokens"):
        trace_together(model, probe, [TWEET, "terrible"])
    assert trace_together(model, probe, []) == []


def test_total_effects_at_several_strengths_are_those_of_traces(model, probe):
    settings = TraceSettings(samples=3, kinds=("hidden",))
    table = total_effects(model, probe, TWEET, settings, scales=(1, 3))
    assert table.scale.tolist() == [1.0, 3.0]
    traced = core.trace(model, probe, TWEET, settings)
    row = table.iloc[1]
    assert row.total_effect == pytest.approx(traced.total_effect, abs=1e-5)
    assert row.low_error == pytest.approx(traced.low_error, abs=1e-5)
    assert row.lower < row.total_effect < row.upper
    assert row.upper - row.total_effect == pytest.approx(traced.low_reach, abs=1e-4)
    weaker = core.trace(model, probe, TWEET, replace(settings, noise_scale=1.0))
    assert table.total_effect.iloc[0] == pytest.approx(weaker.total_effect, abs=1e-5)
    assert weaker.total_effect != pytest.approx(traced.total_effect, abs=1e-3)


def test_each_word_in_turn_is_a_trace_with_that_word_corrupted(model, probe):
    settings = TraceSettings(samples=2, kinds=("hidden",))
    seen: list[float] = []
    table = word_effects(model, probe, TWEET, settings, progress=seen.append)
    prompt = build_prompt(model, TWEET, probe.suffix)
    assert table.text.tolist() == [word.text for word in prompt.words if word.in_tweet]
    assert seen[-1] == 1.0
    for row in table.itertuples():
        assert prompt.text[row.start : row.end] == row.text
    word = int(table.word.iloc[4])
    alone = core.trace(
        model, probe, TWEET, TraceSettings(samples=2, kinds=("hidden",), corrupt=f"word:{word}")
    )
    assert table.total_effect.iloc[4] == pytest.approx(alone.total_effect, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"corruption": "salt"}, "salt"),
        ({"corruption": "counterfactual", "corrupt": "word:1"}, "leave"),
        ({"counterfactual": "a"}, "go together"),
        ({"corruption": "counterfactual", "counterfactual": "a", "corrupt": "word:1"}, "leave"),
        ({"direction": "back"}, "back"),
        ({"severed": "mlp"}, "hidden states alone"),
        ({"severed": "all", "kinds": ("hidden",)}, "all"),
        ({"every": 0}, "0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TraceSettings(**options)
