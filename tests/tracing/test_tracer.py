"""From tweet to result: spans, noise, proxies, and what a partial result is."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_models import make_model
from tiny_probes import make_probe, make_probe_of_states

import core
from core.models.model import Model
from core.patching.batches import TOKENS_PER_PASS, Batches
from core.patching.clean_and_corrupted import run_base
from core.patching.restore import restore
from core.tracing import corruption, tracer
from core.tracing.corruption import default_window
from core.tracing.findings import findings, health_of
from core.tracing.result import PROXIES, TraceSettings, read_proxy

TWEET = "My flight got cancelled, terrible service"


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model("llama", layers=3)


@pytest.fixture(scope="module")
def result(model):
    return core.trace(model, make_probe(model), TWEET, TraceSettings(samples=3))


def test_each_partial_result_is_whole_and_the_last_is_the_trace(model, result):
    partials = list(
        core.trace_progressively(model, make_probe(model), TWEET, TraceSettings(samples=3))
    )
    assert [partial.samples_done for partial in partials] == [1, 2, 3]
    for partial in partials:
        for kind, values in partial.sample_effects.items():
            assert np.isfinite(values).all()
            # A probe's product rounds by where its numbers lie in memory.
            np.testing.assert_allclose(
                values, result.sample_effects[kind][: partial.samples_done], atol=1e-12
            )
    assert np.isnan(partials[0].standard_errors["mlp"]).all()
    assert (partials[2].standard_errors["mlp"][~result.trivial["mlp"]] > 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        TraceSettings(samples=4),
        TraceSettings(samples=4, corruption="uniform", direction="corrupt"),
        TraceSettings(corruption="mean"),
        TraceSettings(kinds=("hidden",), samples=4, severed="mlp", corrupt="word:4"),
        TraceSettings(corruption="counterfactual", counterfactual=TWEET.replace(",", ".")),
    ],
    ids=lambda settings: f"{settings.corruption}-{settings.direction}-{settings.severed}",
)
def test_the_verdict_comes_before_any_cell_and_is_that_of_the_whole_trace(
    model, settings, own_home
):
    def partials(keep=False):
        return core.trace_progressively(
            model, make_probe(model), TWEET, settings, keep=keep, stages=True
        )

    before = model.block_calls
    steps = partials(keep=True)
    verdict = next(steps)
    # One clean prompt and all corrupted ones in a call each.
    assert model.block_calls - before == 2 * model.layers
    assert not verdict.has_cells
    *_, whole = steps
    assert whole.has_cells
    assert whole.samples_done == verdict.samples_done == settings.draws
    for proxy in PROXIES:
        early, late = verdict.under(proxy), whole.under(proxy)
        assert early.high == pytest.approx(late.high, abs=1e-6)
        np.testing.assert_allclose(early.low_samples, late.low_samples, atol=1e-5)
    assert health_of(verdict).ok == health_of(whole).ok
    assert findings(verdict).early == ()
    # What was kept is whole at once, and needs no verdict.
    assert [result.has_cells for result in partials(keep=True)] == [True]


def test_a_stopped_trace_has_its_verdict_again_when_it_goes_on(model, own_home):
    def partials():
        return core.trace_progressively(
            model, make_probe(model), TWEET, TraceSettings(samples=3), keep=True, stages=True
        )

    steps = partials()
    assert [next(steps).has_cells for _ in range(2)] == [False, True]
    steps.close()
    assert [result.samples_done for result in partials()] == [3, 1, 2, 3]


def test_effects_are_means_of_paired_differences(result):
    for kind in ("hidden", "mlp", "attn"):
        restored = result.probe.log_odds(result.reads.restored[kind])
        expected = (restored - result.low_samples[:, None, None]).mean(axis=0)
        np.testing.assert_allclose(result.effects[kind], expected)
    assert result.total_effect == pytest.approx(result.high - result.low_samples.mean())


def test_trivial_cells_are_what_they_are_said_to_be(result):
    for kind, mask in result.trivial.items():
        fixed = result.effects[kind][mask]
        whole = np.isclose(fixed, result.total_effect, atol=1e-4)
        assert (whole | (fixed == 0)).all()
        assert whole.sum() == (kind == "hidden")
        # ... and no other cell of the span is exactly 0.
        assert (result.effects[kind][~mask] != 0).all()


def test_a_word_is_corrupted_alone_and_nothing_before_it_matters(model):
    whole = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=1))
    word = next(i for i, word in enumerate(whole.prompt.words) if word.text == "terrible")
    settings = TraceSettings(samples=1, corrupt=f"word:{word}")
    result = core.trace(model, make_probe(model), TWEET, settings)
    assert result.corrupted_span == whole.prompt.words[word].tokens
    first = min(result.corrupted_span)
    assert first > 0
    for effects in result.effects.values():
        assert (effects[:, :first] == 0).all()
        assert (effects[:, first] != 0).any()
    assert result.frame().query("corrupted").position.unique().tolist() == list(
        result.corrupted_span
    )


def test_the_seed_decides_the_noise_and_the_scale_its_size(model):
    def low(**options):
        settings = TraceSettings(kinds=("hidden",), samples=1, **options)
        return core.trace(model, make_probe(model), TWEET, settings)

    assert low(seed=1).low == low(seed=1).low
    assert low(seed=1).low != low(seed=2).low
    tiny = low(seed=1, noise_scale=1e-6)
    assert tiny.low == pytest.approx(tiny.high, abs=1e-3)
    assert tiny.noise == pytest.approx(1e-6 * tiny.probe.embedding_std)


@pytest.mark.parametrize("proxy", PROXIES)
def test_every_proxy_is_read_from_the_same_run(model, result, proxy):
    calls = model.block_calls
    other = result.under(proxy)
    good, bad = result.reads.clean
    odds = float(result.probe.log_odds(result.reads.clean))
    expected = {
        "log_odds": odds,
        "probability": 1 / (1 + np.exp(-odds)),
        "log_ratio": good - bad,
        "good": np.exp(good),
        "bad": np.exp(bad),
    }
    assert other.high == pytest.approx(expected[proxy])
    assert other.frame().effect.notna().all()
    assert model.block_calls == calls
    direct = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=3, proxy=proxy))
    np.testing.assert_allclose(direct.effects["attn"], other.effects["attn"])


def test_the_probability_does_not_overflow(model):
    probe = dataclasses.replace(make_probe(model), coefficients=(1e6, -1e6))
    read = read_proxy("probability", probe, np.array([[-1.0, -9.0], [-9.0, -1.0]]))
    assert read.tolist() == [1.0, 0.0]


def test_the_frame_has_a_row_per_cell(result):
    frame = result.frame()
    assert len(frame) == 3 * result.layers * len(result.tokens)
    cell = frame.query("kind == 'attn' and layer == 1 and position == 4").iloc[0]
    assert cell.effect == result.effects["attn"][1, 4]
    assert cell.token == result.tokens[4]
    assert cell.normalised == pytest.approx(cell.effect / result.total_effect)
    assert cell.samples == 3


def test_windows_scale_with_depth():
    assert [default_window(layers) for layers in (48, 30, 12, 6, 1)] == [10, 6, 2, 1, 1]


def test_progress_covers_all_samples(model):
    seen: list[float] = []
    core.trace(model, make_probe(model), TWEET, TraceSettings(samples=2), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert any(0.4 < share < 0.6 for share in seen)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ()}, "kinds"),
        ({"kinds": ("hidden", "neuron")}, "neuron"),
        ({"kinds": ("hidden", "hidden")}, "hidden"),
        ({"samples": 0}, "0"),
        ({"noise_scale": 0.0}, "0.0"),
        ({"noise_scale": float("nan")}, "nan"),
        ({"seed": -1}, "-1"),
        ({"window": 0}, "0"),
        ({"proxy": "score"}, "score"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TraceSettings(**options)


def test_a_probe_of_another_model_is_refused_except_for_the_untrained_twin(model):
    probe = make_probe(make_model("gpt2", layers=3))
    with pytest.raises(ValueError, match="tiny-gpt2"):
        core.trace_progressively(model, probe, TWEET)
    twin = make_model("llama", layers=3, seed=1)
    twin.untrained = True
    assert core.trace(twin, probe, TWEET, TraceSettings(samples=1)).total_effect != 0


def test_it_ends_when_the_time_is_up(model):
    settings = TraceSettings(samples=50, seconds=1e-9)
    assert core.trace(model, make_probe(model), TWEET, settings).samples_done == 1


@pytest.mark.parametrize("stable_for", [1, 3])
def test_it_ends_when_the_largest_cells_stay_where_they_are(model, stable_for):
    settings = TraceSettings(samples=50, stable_for=stable_for)
    pictures = list(core.trace_progressively(model, make_probe(model), TWEET, settings))
    tops = [picture.top_cells for picture in pictures]
    alike = stable_for + 1
    assert alike <= len(tops) < 50
    assert tops[-alike:] == [tops[-1]] * alike
    for end in range(alike, len(tops)):
        assert tops[end - alike : end] != [tops[end - 1]] * alike  # not before


def test_errors_and_intervals_are_those_of_scipy(result):
    low = result.low_samples
    assert result.low_error == pytest.approx(stats.sem(low))
    _, upper = stats.t.interval(0.95, len(low) - 1, low.mean(), stats.sem(low))
    assert result.low_reach == pytest.approx(upper - low.mean())
    effects = result.sample_effects["hidden"]
    np.testing.assert_allclose(result.standard_errors["hidden"], stats.sem(effects))


@pytest.mark.parametrize("proxy", ["log_odds", "good", "bad"])  # of either sign
def test_the_largest_cell_is_the_largest_share_of_the_total_effect(result, proxy):
    result = result.under(proxy)
    frame = result.frame()
    for kind, (layer, position) in result.top_cells.items():
        free = frame[(frame.kind == kind) & ~frame.trivial]
        largest = free.loc[free.normalised.idxmax()]
        assert (largest.layer, largest.position) == (layer, position)


def test_samples_share_passes_and_stay_the_same(model, monkeypatch):
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", 10**6)
    sizes: list[int] = []
    monkeypatch.setattr(
        tracer, "restore", lambda *a, **o: sizes.append(len(a[2].read)) or restore(*a, **o)
    )
    together = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=6))
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", 1)
    alone = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=6))
    assert sizes == [1, 5, 1, 1, 1, 1, 1, 1]
    for kind in alone.effects:
        np.testing.assert_allclose(
            together.sample_effects[kind], alone.sample_effects[kind], atol=1e-4
        )


def test_a_small_budget_makes_small_passes_and_calls(model):
    common = {"positions": 20, "samples": 10}
    large = Batches.within(model, budget=2**40, **common)
    small = Batches.within(model, budget=2**20, **common)
    assert small.samples < large.samples
    assert small.rows(model, 1, 20, 20) < large.rows(model, 1, 20, 20)
    tiny = Batches.within(model, budget=1, **common)
    assert (tiny.samples, tiny.rows(model, 1, 20, 20)) == (1, 1)


def test_a_device_that_is_too_small_says_so_and_one_that_is_small_halves_the_pass(
    model, monkeypatch
):
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", 10**6)
    expected = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=5))
    largest = 2

    def on_a_small_device(model, embeddings, *rest):
        if len(embeddings) > largest:
            raise torch.OutOfMemoryError("no more")
        return run_base(model, embeddings, *rest)

    monkeypatch.setattr(corruption, "run_base", on_a_small_device)
    found = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=5))
    np.testing.assert_allclose(found.effects["mlp"], expected.effects["mlp"], atol=1e-4)
    largest = 0
    with pytest.raises(ValueError, match="too little memory"):
        core.trace(model, make_probe(model), TWEET, TraceSettings(samples=5))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_probe_of_states_gives_its_log_odds_and_marks_what_is_trivial(model, layer):
    probe = make_probe_of_states(model, layer)
    result = core.trace(model, probe, TWEET, TraceSettings(samples=2))
    ids = result.prompt.ids
    states = model.enter(model.embed([ids]))
    for block in range(layer + 1):
        states = model.block(block, states).states
    expected = probe.log_odds_of_states(states[0, -1].double().numpy())
    assert result.high == pytest.approx(float(expected), rel=1e-4)
    for kind, mask in result.trivial.items():
        fixed = result.effects[kind][mask]
        whole = np.isclose(fixed, result.total_effect, atol=1e-3)
        assert (whole | np.isclose(fixed, 0, atol=1e-3)).all()
        assert (result.effects[kind][~mask] != 0).all()
        assert mask[layer + 1 :].sum() == mask[layer + 1 :].size or kind != "hidden"
    # The words were read as well.
    assert result.under("log_ratio").effects["hidden"][-1, -1] == pytest.approx(
        result.under("log_ratio").total_effect, rel=1e-3
    )


@pytest.mark.parametrize(("layer", "width", "words"), [(3, 32, "layer 3"), (0, 7, "7 numbers")])
def test_a_probe_of_states_that_the_model_does_not_have_is_refused(model, layer, width, words):
    probe = dataclasses.replace(
        make_probe(model),
        features=f"hidden:{layer}",
        layer=layer,
        mean=(0.0,) * width,
        scale=(1.0,) * width,
        coefficients=(1.0,) * width,
    )
    with pytest.raises(ValueError, match=words):
        core.trace_progressively(model, probe, TWEET)


def test_bad_input_is_refused_at_once_and_not_at_the_first_sample(model):
    with pytest.raises(ValueError, match="white space"):
        core.trace_progressively(model, make_probe(model), "   ")


# --- words as sites -------------------------------------------------------------------------------

LONG = "@united canceled my flight \U0001f621\U0001f621 see https://t.co/aBcD1234 #unacceptable"


def test_words_as_sites_restore_all_tokens_of_a_word_at_once(model):
    settings = TraceSettings(samples=2, rows="words")
    tokens = core.trace(model, make_probe(model), LONG, TraceSettings(samples=2))
    words = core.trace(model, make_probe(model), LONG, settings)
    assert not words.is_coarse
    np.testing.assert_allclose(words.reads.corrupted, tokens.reads.corrupted, atol=1e-5)
    # Where a word is one token, the cell is that token's.
    spans = words.spans
    assert [t for span in spans.values() for t in span] == list(range(len(words.prompt)))
    for kind in words.effects:
        there = np.flatnonzero(np.isfinite(words.effects[kind]).any(axis=0)).tolist()
        assert there == list(spans)
        ones = [t for t, span in spans.items() if len(span) == 1]
        others = [t for t, span in spans.items() if len(span) > 1]
        same, other = (
            np.abs(words.effects[kind][:-1, of] - tokens.effects[kind][:-1, of])
            for of in (ones, others)
        )
        assert same.max() < 1e-4
        assert other.max() > 1e-3
    # A long tweet has half as many rows.
    assert 2 * words.frame()["position"].nunique() <= tokens.frame()["position"].nunique()


def test_all_words_at_once_are_the_whole_tweet(model):
    """A tweet of one word: its hidden state after the embeddings' block carries nearly all."""
    settings = TraceSettings(samples=2, rows="words", kinds=("hidden",))
    result = core.trace(model, make_probe(model), "terriblegoodbadday", settings)
    (last,) = [t for t, span in result.spans.items() if len(span) > 3]
    assert result.corrupted_span == tuple(result.spans[last])
    # All corrupted states are restored; only block 0 of the suffix has read corrupted embeddings.
    np.testing.assert_allclose(result.effects["hidden"][0, last], result.total_effect, rtol=0.05)


def test_words_as_sites_are_kept_apart_and_refused_where_tokens_are_meant(model, own_home):
    settings = TraceSettings(samples=1, rows="words")
    core.trace(model, make_probe(model), TWEET, settings, keep=True)
    tokens = core.trace(
        model, make_probe(model), TWEET, replace(settings, rows="tokens"), keep=True
    )
    assert not tokens.is_coarse
    with pytest.raises(ValueError, match="token by token"):
        tracer.trace_together(model, make_probe(model), [TWEET], settings)
    with pytest.raises(ValueError, match="'tokens' or 'words', not 'lines'"):
        TraceSettings(rows="lines")


def test_words_as_sites_are_settled_too(model):
    deep = make_model("llama", layers=12)
    settings = TraceSettings(samples=3, rows="words", until="settled")
    settled = core.trace(deep, make_probe(deep), LONG, settings)
    whole = core.trace(deep, make_probe(deep), LONG, replace(settings, until="all"))
    for kind in settled.effects:
        there = settled.traced[kind]
        assert 0 < there.sum() < whole.traced[kind].sum()
        np.testing.assert_allclose(
            settled.effects[kind][there], whole.effects[kind][there], atol=2e-5
        )
