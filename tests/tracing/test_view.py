"""What is shown of a trace: cells, unit, scale, sentences and caption, each made once."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from hand_made import TOTAL, make_frame
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from tiny_models import make_model
from tiny_probes import make_probe

from core.tracing import findings
from core.tracing.result import PROXIES, TraceSettings
from core.tracing.tracer import trace
from core.tracing.view import (
    SHARE_UNIT,
    SMALLEST_SCALE,
    View,
    as_shares,
    headline,
    ordinal,
    scale_end,
    with_interval,
)


@pytest.fixture(scope="module")
def result():
    model = make_model("gpt2")
    return trace(model, make_probe(model), "good day, bad day", TraceSettings(samples=3))


def test_a_view_shows_the_cells_that_are_chosen_and_makes_them_once(result, monkeypatch):
    made = []
    monkeypatch.setattr("core.tracing.view.cells_of", lambda of: made.append(of) or cells(of))
    cells = findings.cells
    view = View(result, share=True, words=True, kind="mlp")
    whole = as_shares(findings.by_words(cells(result), result))
    expected = whole[whole["kind"] == "mlp"]
    pd.testing.assert_frame_equal(view.frame, expected)
    assert view.end == scale_end(expected)
    assert (view.unit, View(result).unit) == (SHARE_UNIT, PROXIES["log_odds"])
    assert view.frame is view.frame
    assert made == [result]


def test_a_view_is_judged_by_its_verdict(result):
    sure = replace(result, reads=replace(result.reads, corrupted=result.reads.corrupted - 9.0))
    view = View(result, sure)
    assert view.findings == findings.findings(result, sure)
    assert view.effect_line == View(sure).effect_line != View(result).effect_line
    assert view.grey == (findings.health_of(sure).ok is False)


def test_effects_can_be_shares_of_the_total_effect():
    frame = make_frame()
    shares = as_shares(frame)
    assert shares["effect"].tolist() == pytest.approx((100 * frame["effect"] / TOTAL).tolist())
    assert shares["standard_error"].tolist() == pytest.approx([100 * 0.1 / abs(TOTAL)] * len(frame))


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=20),
)
def test_the_scale_ends_on_a_round_number_that_holds_every_effect(effects):
    end = scale_end(pd.DataFrame({"effect": effects}))
    largest = max(map(abs, effects))
    assert end > 0
    if largest >= SMALLEST_SCALE:
        assert largest <= end * (1 + 1e-6)
        assert end <= 1.7 * largest


@pytest.mark.parametrize(
    ("largest", "end"), [(4.6, 5), (0.61, 0.8), (1.0, 1), (0, 1), (float("nan"), 1), (9.1, 10)]
)
def test_where_the_scale_ends(largest, end):
    assert scale_end(pd.DataFrame({"effect": [0.0, -largest]})) == pytest.approx(end)


def test_a_partial_result_says_how_many_samples_it_rests_on(result):
    wanted = replace(result, settings=replace(result.settings, samples=10))
    assert "3 noise samples of 10" in View(wanted).caption


def test_the_words_on_top(result):
    view = View(result)
    line = view.effect_line
    assert view.headline.startswith(("Positive, P(positive) ", "Negative, P(positive) "))
    assert line.startswith(f"In {PROXIES['log_odds']}: ")
    assert line.count(" to ") == 2


@pytest.mark.parametrize(
    ("mean", "reach", "shown"),
    [
        (-4.7312, 0.218, "\u22124.73 (\u22124.95 to \u22124.51)"),
        (0.19911, 0.0163, "0.199 (0.183 to 0.215)"),
        (12.3, 2.5, "12.3 (9.8 to 14.8)"),
        (0.1, 31.0, "0 (\u221231 to 31)"),
        (0.19911, float("nan"), "0.199"),
        (0.5, 0.0, "0.5"),
    ],
)
def test_a_mean_is_given_to_the_second_digit_of_its_interval(mean, reach, shown):
    assert with_interval(mean, reach) == shown


@pytest.mark.parametrize(
    ("ending", "numbers"),
    [
        ("st", (1, 21, 31, 101, 121)),
        ("nd", (2, 22, 32, 102, 122)),
        ("rd", (3, 23, 33, 103, 123)),
        ("th", (4, 9, 10, 11, 12, 13, 14, 20, 24, 30, 100, 111, 112, 113, 211, 1012)),
    ],
)
def test_a_place_in_an_order_ends_as_it_is_spoken(ending, numbers):
    assert [ordinal(number) for number in numbers] == [f"{n}{ending}" for n in numbers]


def test_no_other_place_makes_ordinals():
    places = [
        path
        for path in [*ROOT.glob("core/**/*.py"), *ROOT.glob("pages/*.py")]
        if re.search(r"\}(st|nd|rd|th)\b", path.read_text(encoding="utf-8"))
    ]
    assert len(places) <= 1  # where `ordinal` itself is


def settled(result, **settings):
    return replace(result, settings=replace(result.settings, **settings))


def test_a_caption_says_what_was_asked(result):
    for settings, said in [
        ({"corruption": "uniform"}, "uniform noise of 3 standard deviations"),
        ({"corruption": "mean"}, "the mean embedding of the vocabulary"),
        ({"corruption": "mean"}, "exact: the corruption is deterministic"),
        (
            {"corruption": "counterfactual", "counterfactual": "bad day"},
            "the tokens of \u201cbad day\u201d",
        ),
        ({"direction": "corrupt"}, "loss in"),
        ({"kinds": ("hidden",), "severed": "mlp"}, "later MLP path is frozen"),
    ]:
        assert said in View(settled(result, **settings)).caption
    assert "in percent" in View(result, share=True).caption
    assert "last token" in View(result, words=True).caption
    assert "Benjamini and Hochberg" in View(result).caption


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (0.001, "Negative, P(positive) < 0.01"),
        (0.3, "Negative, P(positive) = 0.30"),
        (0.5, "Positive, P(positive) = 0.50"),
        (0.999, "Positive, P(positive) > 0.99"),
    ],
)
def test_the_headline_never_says_zero_or_one(probability, shown):
    class Result:
        clean_probability = probability
        probe = make_probe(make_model("gpt2", layers=2))

    assert headline(Result()) == shown


def test_rows_ahead_of_the_tweet_are_folded_and_change_nothing():
    model = make_model("gpt2", layers=2)
    probe = replace(make_probe(model), before="My hours: ")
    result = trace(model, probe, "terrible service", TraceSettings(samples=2))
    first = result.prompt.tweet_span[0]
    assert first > 0
    after, every = View(result), View(result, around="all")
    assert set(after.frame["position"]) == set(range(first, len(result.prompt)))
    assert set(every.frame["position"]) == set(range(len(result.prompt)))
    assert (every.frame[every.frame["position"] < first]["effect"] == 0).all()
    assert after.end == every.end
    assert f"Rows of {first} tokens ahead of the tweet are left out." in after.caption
    assert "left out" not in every.caption
    assert set(View(result, around="none").frame["position"]) == set(after.frame["position"])
