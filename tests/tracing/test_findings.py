"""What is said of a trace: results with effects that were put in, and what must come out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from paths import ASSETS
from scipy import stats
from tiny_models import make_model
from tiny_probes import make_probe

import core
from core.probes.library import probe_for
from core.prompts.prompt import build_prompt
from core.tracing import findings
from core.tracing.findings import by_words, cells, overlap, p_values
from core.tracing.findings import findings as findings_of
from core.tracing.result import Reads, TraceResult, TraceSettings

TWEET = "terrible service today"
LAYERS, SAMPLES = 9, 10


def make_result(effects, *, high=-4.0, low=None, samples=SAMPLES, kinds=("hidden",), **settings):
    """A result whose effects (layer, position -> mean) have a spread of 0.1 over the samples.

    The probe reads states, so that the last column read is the log-odds themselves.
    """
    model = make_model("gpt2")
    prompt = build_prompt(model, TWEET)
    probe = replace(make_probe(model), features="hidden:8", layer=LAYERS - 1)
    low = np.zeros(samples) if low is None else np.broadcast_to(low, (samples,))
    rng = np.random.default_rng(0)
    restored = {}
    for kind in kinds:
        odds = np.repeat(low[:, None, None], LAYERS, 1).repeat(len(prompt), 2).copy()
        odds += 0.1 * rng.standard_normal(odds.shape)
        for (layer, position), mean in effects.items():
            noise = 0.1 * rng.standard_normal(samples)
            odds[:, layer, position] = low + mean + noise - noise.mean()
        restored[kind] = columns(odds)
    return TraceResult(
        prompt=prompt,
        probe=probe,
        settings=TraceSettings(samples=samples, kinds=kinds, **settings),
        model_name="made by hand",
        model_identity="0",
        corrupted_span=prompt.tweet_span,
        window=1,
        noise=0.3,
        reads=Reads(columns(np.array(high)), columns(low), restored),
        seconds=1.0,
    )


def columns(odds):
    filler = np.full((*np.shape(odds), 2), -3.0)
    return np.concatenate([filler, np.asarray(odds)[..., None]], axis=-1)


def place(word):
    """Position of a word's last token, and how many tokens there are."""
    prompt = build_prompt(make_model("gpt2"), TWEET)
    return next(w.tokens[-1] for w in prompt.words if w.text == word), len(prompt)


EARLY, COUNT = place("terrible")
LATE = COUNT - 1


def with_sites(**options):
    effects = {(layer, EARLY): -2.0 for layer in (1, 2, 3)} | {(2, EARLY): -2.4}
    effects |= {(layer, LATE): -3.6 for layer in (6, 7)}
    return make_result(effects, **options)


# --- cells ---------------------------------------------------------------------------------------


def test_p_values_are_those_of_scipys_paired_tests_held_by_benjamini_and_hochberg():
    result = with_sites()
    tested = ~result.trivial["hidden"]
    effects = result.sample_effects["hidden"][:, tested]
    plain = stats.ttest_1samp(effects, 0.0).pvalue
    expected = stats.false_discovery_control(plain)
    found = p_values(result)["hidden"]
    np.testing.assert_allclose(found[tested], expected, rtol=1e-9)
    assert np.isnan(found[~tested]).all()


def test_cells_put_in_are_told_from_zero_and_hardly_any_others():
    result = with_sites()
    told = findings.significant_cells(result)["hidden"]
    put_in = {(1, EARLY), (2, EARLY), (3, EARLY), (6, LATE), (7, LATE)}
    found = set(zip(*map(list, np.nonzero(told)), strict=True))
    assert put_in <= found
    assert len(found - put_in) <= 1


def test_without_correction_more_cells_would_be_called_real():
    """Noise alone: at 5% per cell some pass, with the correction none does."""
    result = make_result({})
    tested = ~result.trivial["hidden"]
    plain = stats.ttest_1samp(result.sample_effects["hidden"][:, tested], 0.0).pvalue
    assert (plain < 0.05).any()
    assert not findings.significant_cells(result)["hidden"].any()


def test_one_sample_tells_nothing_and_fades_nothing():
    result = with_sites(samples=1)
    assert np.isnan(p_values(result)["hidden"]).all()
    assert not findings.significant_cells(result)["hidden"].any()
    assert not cells(result)["faded"].any()


def test_an_effect_that_is_only_rounding_is_nothing():
    result = make_result({(3, EARLY): -1e-11, (2, EARLY): -2.0})
    result.reads.restored["hidden"][:, 3, EARLY, -1] = 1e-11  # no spread at all
    assert not findings.significant_cells(result)["hidden"][3, EARLY]


def test_the_frame_says_which_cells_are_faded_and_which_one_is_the_largest():
    frame = cells(with_sites()).set_index(["layer", "position"])
    (largest,) = frame.index[frame["largest"]]
    assert largest in ((6, LATE), (7, LATE))
    assert not frame.loc[(2, EARLY), "faded"]
    assert frame["faded"].mean() > 0.5
    assert not frame.loc[frame["trivial"], "faded"].any()


def test_a_word_has_the_cells_of_its_last_token():
    result = with_sites()
    whole = cells(result)
    words = by_words(whole, result)
    shown = words.drop_duplicates("position")
    assert [token for token in shown["token"] if token in TWEET] == TWEET.split()
    assert shown.loc[shown["token"] == "terrible", "position"].item() == EARLY
    row = words[(words["token"] == "terrible") & (words["layer"] == 2)]
    assert row["effect"].item() == pytest.approx(-2.4)
    assert shown.loc[shown["token"].isin(TWEET.split()), "corrupted"].all()


# --- sites ---------------------------------------------------------------------------------------


def test_sites_that_were_put_in_are_found_with_their_layers_and_shares():
    found = findings_of(with_sites())
    assert found.health.ok
    (early,), (late,) = found.early, found.late
    assert (early.token, early.layer, early.layers) == ("terrible", 2, (1, 3))
    assert early.share == pytest.approx(0.6)
    assert early.lower < 0.6 < early.upper
    assert early.upper - early.lower < 0.1
    assert (late.token, late.layers) == ("feeling", (6, 7))
    assert late.share == pytest.approx(0.9)
    assert found.sentence.startswith(
        "Early site at \u201cterrible\u201d: hidden state layers 1\u20133 up to 60% ("
    )
    assert "Late site at \u201cfeeling\u201d: hidden state layers 6\u20137 up to 90%" in (
        found.sentence
    )


def test_a_late_layer_of_a_corrupted_token_is_no_early_site():
    assert findings_of(make_result({(6, EARLY): -3.0})).early == ()


def test_an_effect_against_the_total_is_no_site():
    assert findings_of(make_result({(2, EARLY): +2.0})).early == ()


def test_a_small_effect_is_no_site_however_sure_it_is():
    found = findings_of(make_result({(2, EARLY): -0.3, (6, LATE): -0.3}))
    assert found.sentence == "No site is significant."


def test_an_unsure_effect_is_no_site_however_large_it_is():
    result = make_result({})
    spread = np.where(np.arange(SAMPLES) % 2, 9.0, -11.0)
    result.reads.restored["hidden"][:, 2, EARLY, -1] = spread  # mean -1, standard error 3.3
    assert findings_of(result).early == ()


def test_only_one_stage_is_said_to_stand_out():
    sentence = findings_of(make_result({(2, EARLY): -2.4})).sentence
    assert sentence.startswith("Early site at")
    assert sentence.endswith("No late site stands out.")


def test_the_interval_of_a_share_is_that_of_a_ratio():
    """Where every sample loses the same share, the share is sure, however the samples differ."""
    low = np.linspace(-1.0, 1.0, SAMPLES)
    result = make_result({}, low=low)
    result.reads.restored["hidden"][:, 2, EARLY, -1] = low + 0.5 * (-4.0 - low)
    share, reach = findings.share_of_total(result, "hidden")
    assert share[2, EARLY] == pytest.approx(0.5)
    assert reach[2, EARLY] == pytest.approx(0.0, abs=1e-12)
    assert reach[2, LATE] > 0.01


def test_a_corruption_that_draws_nothing_gives_sites_without_intervals():
    result = with_sites(samples=1, corruption="mean")
    found = findings_of(result)
    assert found.health.ok
    assert np.isnan(found.early[0].lower)
    assert "up to 6" in found.sentence
    assert "(" not in found.sentence


# --- health --------------------------------------------------------------------------------------


def test_one_noise_sample_has_no_interval_yet():
    found = findings_of(with_sites(samples=1))
    assert found.health.ok is None
    assert "too few for intervals" in found.sentence
    assert found.early == found.late == ()


def test_a_total_effect_that_may_be_zero_trips_the_gate():
    low = -4.0 + np.where(np.arange(SAMPLES) % 2, 3.0, -3.0)
    found = findings_of(with_sites(low=low))
    assert found.health.ok is False
    assert "is not significant" in found.sentence
    assert found.early == found.late == ()


def test_a_tweet_without_a_side_trips_the_gate():
    found = findings_of(with_sites(high=-1.03, low=1.6))
    assert found.health.ok is False
    assert "is undecided" in found.sentence


@pytest.mark.parametrize(
    ("high", "low", "ok"),
    [(-4.0, -2.5, False), (-4.0, -1.5, True), (-4.0, 1.0, True), (4.0, 3.0, False)]
    + [(4.0, 6.0, False), (4.0, -1.0, True)],
)
def test_a_corruption_that_leaves_most_in_place_trips_the_gate(high, low, ok):
    spread = 0.05 * (np.arange(SAMPLES) - 4.5)
    found = findings_of(make_result({}, high=high, low=low + spread))
    assert found.health.ok is ok
    if not ok:
        side = "positive" if high > 0 else "negative"
        assert f"is still {side}" in found.sentence


def test_a_corruption_that_may_leave_most_in_place_trips_the_gate():
    low = -1.5 + 2.4 * (np.arange(SAMPLES) - 4.5) / 4.5  # 95% interval from -2.6
    found = findings_of(make_result({}, low=low))
    assert found.health.ok is False
    assert "may be left" in found.sentence


def test_two_noise_samples_are_too_few_to_judge_by():
    assert findings_of(with_sites(samples=2)).health.ok is None


def test_the_gate_is_the_same_for_every_proxy():
    result = with_sites(low=-3.0 + 0.01 * np.arange(SAMPLES))
    for proxy in ("log_odds", "probability"):
        assert findings_of(result.under(proxy)).health.ok is False


# --- two traces ----------------------------------------------------------------------------------


def test_the_largest_cells_of_two_traces_are_told_apart():
    first = make_result({(2, EARLY): -2.4, (6, LATE): -3.6})
    second = make_result({(2, EARLY): -2.0, (4, EARLY): -3.0})
    frame = overlap(first, second, top=2).set_index(["layer", "position"])
    assert frame["where"].to_dict() == {
        (2, EARLY): "both",
        (6, LATE): "first",
        (4, EARLY): "second",
    }
    assert frame.loc[(2, EARLY), "first"] == pytest.approx(0.6)
    assert frame.loc[(2, EARLY), "second"] == pytest.approx(0.5)


def test_a_peak_is_in_both_or_of_one_alone():
    first = make_result({(2, EARLY): -2.4})
    again = make_result({(3, EARLY): -2.4})
    elsewhere = {(layer, EARLY + 1): -3.0 for layer in range(8)}
    other = make_result(elsewhere | {(layer, LATE): -2.5 for layer in range(8)})
    near = findings.peak_lines(first, again, "noise")["hidden"]
    assert near == "Hidden state: largest at \u201cterrible\u201d, layer 2: in both."
    assert findings.peak_lines(first, other, "noise")["hidden"].endswith("noise only.")


def test_traces_of_other_tweets_are_not_compared():
    model = make_model("gpt2")
    probe = make_probe(model)
    settings = TraceSettings(kinds=("hidden",), samples=1)
    traces = [core.trace(model, probe, text, settings) for text in ("good day", "bad hours")]
    with pytest.raises(ValueError, match="one tweet by one model.*'good day'"):
        overlap(*traces)


# --- the real model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded_probe(embedded_model, tweets):
    return probe_for(embedded_model, tweets, dataset="vader-tweets")


@pytest.mark.embedded
class TestOnTheEmbeddedModel:
    def test_a_neutral_tweet_gets_no_site(self, embedded_model, embedded_probe):
        settings = TraceSettings(kinds=("hidden",), samples=4, every=6)
        result = core.trace(embedded_model, embedded_probe, "I am going to the store", settings)
        found = findings_of(result)
        assert found.early == found.late == ()

    def test_the_untrained_twin_never_gets_a_site(self, embedded_model, embedded_probe):
        twin = core.load_model(embedded_model.name, untrained=True)
        texts = json.loads((ASSETS / "example_tweets.json").read_text(encoding="utf-8"))
        assert len(texts) == 10
        settings = TraceSettings(kinds=("hidden",), samples=4)
        for text in texts.values():
            # The gate needs no restored cell, and what it refuses gets no site whatever they say.
            verdict = next(
                core.trace_progressively(twin, embedded_probe, text, settings, stages=True)
            )
            assert findings_of(verdict).health.ok is False, text
