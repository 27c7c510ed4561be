"""What the clean and corrupted runs say alone: equal to whole traces, for every probe at once."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import VARIANTS, make_model
from tiny_probes import make_probe

import core
from core.models.model import Model
from core.probes.probe import Probe
from core.tracing.corruption import case_of
from core.tracing.findings import Health, health_of
from core.tracing.result import TraceSettings
from core.tracing.verdict import (
    MORE_SAMPLES,
    SCALES,
    Alternative,
    alternatives,
    best_first,
    verdicts,
)

TWEET = "good day, bad hours"
SETTINGS = TraceSettings(samples=3, kinds=("hidden",))


def probes_of(model: Model) -> list[Probe]:
    """One of words, one of states, and one whose texts had larger embeddings."""
    random = np.random.default_rng(1)
    words = make_probe(model)
    states = replace(
        words,
        features="hidden:0",
        layer=0,
        mean=tuple(random.standard_normal(model.width)),
        scale=tuple(random.uniform(0.5, 2.0, model.width)),
        coefficients=tuple(random.standard_normal(model.width)),
    )
    return [words, states, replace(words, embedding_std=0.6, intercept=-2.0)]


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model("gpt2", layers=2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_alternative_is_the_verdict_of_its_own_trace(variant):
    model = make_model(variant, layers=2)
    found = list(alternatives(model, probes_of(model), TWEET, SETTINGS, most_samples=4))
    assert len(found) > 20
    for alternative in found:
        traced = core.trace(model, alternative.probe, TWEET, alternative.settings)
        assert alternative.result.high == pytest.approx(traced.high, abs=1e-5)
        np.testing.assert_allclose(
            alternative.result.low_samples, traced.low_samples, rtol=1e-4, atol=1e-4
        )
        assert alternative.result.corrupted_span == traced.corrupted_span
        assert not alternative.result.has_cells


def test_probes_are_read_from_the_same_runs(model):
    probes = probes_of(model)[:2]
    before = model.block_calls
    alone = [verdicts(model, [case_of(model, probe, TWEET, SETTINGS)])[0] for probe in probes]
    calls = model.block_calls - before
    before = model.block_calls
    together = verdicts(model, [case_of(model, probe, TWEET, SETTINGS) for probe in probes])
    assert 2 * (model.block_calls - before) == calls
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.reads.corrupted, other.reads.corrupted)
        np.testing.assert_array_equal(one.reads.clean, other.reads.clean)


def test_all_ways_are_tried_once_by_each_probe(model):
    first, *others = probes_of(model)
    seen: list[float] = []
    found = list(alternatives(model, [first, *others], TWEET, SETTINGS, progress=seen.append))
    asked = [(a.settings, a.probe.intercept, a.probe.features) for a in found]
    assert len(set(asked)) == len(asked)
    assert (SETTINGS, first.intercept, first.features) not in asked
    assert {probe.intercept for probe in others} == {
        a.probe.intercept for a in found if a.settings == SETTINGS
    }
    own = [a.settings for a in found if a.probe == first]
    assert {s.corruption for s in own} == {"mean", "counterfactual", "noise"}
    assert {s.noise_scale for s in own if s.corruption == "noise"} == set(SCALES)
    assert max(s.samples for s in own) == MORE_SAMPLES
    assert "good day, good hours" in {s.counterfactual for s in own}
    assert seen[-1] == 1.0
    few = alternatives(model, [first], TWEET, SETTINGS, most_samples=3)
    assert {a.settings.samples for a in few} == {3}


def test_the_best_takes_away_most_for_certain_and_can_be_read(model):
    probe = make_probe(model)
    blank = verdicts(model, [case_of(model, probe, TWEET, SETTINGS)])[0]

    def alternative(low: list[float], ok: bool, scale: float) -> Alternative:
        """Clean log-odds of 2, and corrupted ones as given."""
        settings = replace(SETTINGS, noise_scale=scale)
        plain = replace(probe, coefficients=(1.0, 0.0), mean=(0, 0), scale=(1, 1), intercept=0.0)
        reads = replace(
            blank.reads,
            clean=np.array([2.0, 0.0]),
            corrupted=np.array([[value, 0.0] for value in low]),
        )
        result = replace(blank, probe=plain, settings=settings, reads=reads)
        return Alternative(result, Health(ok, ""))

    sure = alternative([0.0, 0.1, -0.1], True, 1)
    wide = alternative([-1.5, 0.1, 1.4], True, 2)
    ill = alternative([-2.0, -2.0, -2.0], False, 3)
    same = alternative([0.01, 0.1, -0.1], True, 4)
    assert best_first([wide, ill, sure, same]) == [sure, same, wide]
    assert sure.removed == pytest.approx(0.876, abs=0.001)
    assert wide.removed < sure.removed
    assert alternative([-5.0, -5.0, -5.0], True, 1).removed == 1.0


def test_what_is_done_otherwise_is_said(model):
    probes = probes_of(model)
    asked = verdicts(model, [case_of(model, probes[0], TWEET, SETTINGS)])[0]
    said = {a.how(asked) for a in alternatives(model, probes[:2], TWEET, SETTINGS)}
    assert {
        "With the mean embedding",
        "With noise of 1 standard deviation",
        "With noise of 5 standard deviations",
        f"With {MORE_SAMPLES} noise samples",
        "With the tweet \u201cgood day, good hours\u201d",
        f"As asked, read by the probe \u201c{probes[1].title}\u201d",
        f"With the mean embedding, read by the probe \u201c{probes[1].title}\u201d",
    } <= said


def test_the_health_of_an_alternative_is_that_of_its_verdict(model):
    for alternative in alternatives(model, probes_of(model), TWEET, SETTINGS, most_samples=3):
        assert alternative.health == health_of(alternative.result)


# --- more samples of the total effect ------------------------------------------------------------


@pytest.mark.parametrize("until", ["all", "settled"])
def test_the_total_effect_may_rest_on_more_samples_than_the_cells(own_home, until):
    model = make_model("llama", layers=12)
    probe = make_probe(model)
    few, many = (core.trace(model, probe, TWEET, TraceSettings(samples=n)) for n in (3, 8))
    settings = TraceSettings(samples=3, total_samples=8, until=until)
    quick, verdict, *cells = core.trace_progressively(
        model, probe, TWEET, settings, keep=True, stages=True
    )
    assert (quick.total_samples_done, verdict.total_samples_done) == (3, 8)
    for result in (verdict, *cells):
        assert result.total_effect == pytest.approx(many.total_effect, abs=1e-5)
        assert result.low_reach == pytest.approx(many.low_reach, abs=1e-5)
        assert health_of(result) == health_of(many)
    result = cells[-1]
    assert result.samples_done == 3
    # Cells, and their shares, are of their own samples.
    there = result.traced["mlp"]
    np.testing.assert_allclose(result.effects["mlp"][there], few.effects["mlp"][there], atol=2e-5)
    assert result.paired_total_effect == pytest.approx(few.total_effect, abs=1e-5)
    shares = [
        one.frame().set_index(["kind", "layer", "position"])["normalised"] for one in (result, few)
    ]
    np.testing.assert_allclose(shares[0], shares[1].loc[shares[0].index], atol=1e-4)
    # All is found again without the model, and the same samples serve a larger trace.
    model.block_calls = 0
    again = core.trace(model, probe, TWEET, settings, keep=True)
    assert model.block_calls == 0
    assert again.total_effect == result.total_effect
    larger = core.trace(model, probe, TWEET, replace(settings, samples=4, until="all"), keep=True)
    assert (larger.samples_done, larger.total_samples_done) == (4, 8)
    assert larger.total_effect == pytest.approx(many.total_effect, abs=1e-5)


def test_what_draws_nothing_has_one_sample_of_the_total_effect(own_home):
    model = make_model("gpt2", layers=2)
    settings = TraceSettings(corruption="mean", total_samples=40)
    result = core.trace(model, make_probe(model), TWEET, settings)
    assert (settings.total_draws, result.total_samples_done) == (1, 1)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        TraceSettings(total_samples=0)


@pytest.mark.parametrize("until", ["settled", "all"])
def test_a_kept_trace_gets_more_samples_of_its_total_effect_and_keeps_them(own_home, until):
    model = make_model("llama", layers=12)
    probe = make_probe(model)
    settings = TraceSettings(samples=4, until=until)
    before = core.trace(model, probe, TWEET, settings, keep=True)
    more = replace(settings, total_samples=8)
    after = core.trace(model, probe, TWEET, more, keep=True)
    assert (after.samples_done, after.total_samples_done) == (4, 8)
    np.testing.assert_array_equal(after.effects["mlp"], before.effects["mlp"])
    model.block_calls = 0
    assert core.trace(model, probe, TWEET, more, keep=True).total_effect == after.total_effect
    assert model.block_calls == 0
    # Whoever asks for fewer cells and as many samples of the total finds all of them there still.
    core.trace(model, probe, TWEET, replace(more, samples=2), keep=True)
    assert core.trace(model, probe, TWEET, more, keep=True).samples_done == 4
    assert model.block_calls == 0
