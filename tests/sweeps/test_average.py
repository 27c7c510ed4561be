"""Averages over tweets: known answers from results made by hand, intervals that hold, streaming."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tiny_models import make_model
from tiny_probes import make_probe

import core
from core.prompts.prompt import build_prompt
from core.prompts.token_roles import roles_of
from core.sweeps import average as averaging
from core.sweeps.average import average, average_by, difference
from core.sweeps.record import Record
from core.tracing.result import Reads, TraceResult, TraceSettings

MODEL = make_model("gpt2", layers=2)
PROBE = make_probe(MODEL)
LAYERS = 3


def in_words(log_odds: np.ndarray | float) -> np.ndarray:
    """Reads (..., 2) of which the probe makes these log-odds, by its first word alone."""
    good = (np.asarray(log_odds, float) - PROBE.intercept) / PROBE.coefficients[0]
    good = good * PROBE.scale[0] + PROBE.mean[0]
    return np.stack([good, np.full_like(good, PROBE.mean[1])], axis=-1)


def made(
    text: str,
    high: float,
    low: float,
    effect: Callable[[int, int], float] = lambda layer, position: 0.0,
    *,
    kinds=("hidden",),
    samples: int = 1,
    every: int = 1,
    blank: tuple[int, ...] = (),
    layers: int = LAYERS,
) -> TraceResult:
    """A trace with these numbers: effect(layer, position) in log-odds, NaN at `blank`."""
    prompt = build_prompt(MODEL, text)
    restored = np.full((samples, layers, len(prompt), 2), np.nan)
    for layer in range(0, layers, every):
        for position in range(len(prompt)):
            if position not in blank:
                restored[:, layer, position] = in_words(low + effect(layer, position))
    return TraceResult(
        prompt=prompt,
        probe=PROBE,
        settings=TraceSettings(kinds=kinds, samples=samples, every=every),
        model_name="made by hand",
        model_identity="made by hand",
        corrupted_span=prompt.tweet_span,
        window=1,
        noise=0.5,
        reads=Reads(
            in_words(high), in_words(np.full(samples, low)), dict.fromkeys(kinds, restored)
        ),
        seconds=0.0,
    )


def cell(found: averaging.Average, layer: int, role: str, kind: str = "hidden"):
    frame = found.frame
    rows = frame[(frame["kind"] == kind) & (frame["layer"] == layer) & (frame["role"] == role)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_known_answers():
    # "My flight": tweet_first, tweet_last; "great flight": sentiment_last, tweet_last.
    first = made("My flight", 2.0, 1.0, lambda layer, t: 0.1 * layer + 0.01 * t)
    second = made("great flight", 3.0, 0.0, lambda layer, t: 0.5 + 0.1 * layer)
    found = average([first, second])
    assert found.n == 2
    assert found.total.mean == pytest.approx((1.0 + 3.0) / 2)
    assert cell(found, 1, "tweet_first")["mean"] == pytest.approx(0.1)
    assert cell(found, 1, "tweet_first")["n"] == 1
    assert cell(found, 1, "sentiment_last")["mean"] == pytest.approx(0.6)
    assert cell(found, 1, "tweet_last")["mean"] == pytest.approx((0.11 + 0.6) / 2)
    assert cell(found, 1, "tweet_last")["n"] == 2
    assert np.isnan(cell(found, 1, "tweet_first")["lower"])  # one tweet has no interval
    assert found.roles[0] == "tweet_first"
    assert found.titles()["suffix:0"] == 'Prompt token "I"'


def test_several_tokens_of_a_role_weigh_as_one():
    # Two sentiment words in one tweet, one in the other: a mean of tweets, not of tokens.
    one = made("good bad flight", 1.0, 0.0, lambda layer, t: [0.0, 0.2, 0.4][min(t, 2)])
    roles = roles_of(one.prompt)
    places = [t for t, role in enumerate(roles) if role == "sentiment_last"]
    assert len(places) == 2
    numbers = dict(zip(places, (0.2, 0.6), strict=True))
    one = made("good bad flight", 1.0, 0.0, lambda layer, t: numbers.get(t, 0.0))
    other = made("great flight", 1.0, 0.0, lambda layer, t: 1.0)
    assert cell(average([one, other]), 0, "sentiment_last")["mean"] == pytest.approx(0.7)


def test_effects_count_towards_the_prediction():
    positive = made("great flight", 2.0, 0.5, lambda layer, t: 1.0)
    negative = made("My flight", -2.0, -0.5, lambda layer, t: -1.0)
    found = average([positive, negative])
    assert found.total.mean == pytest.approx(1.5)
    assert cell(found, 0, "last")["mean"] == pytest.approx(1.0)
    as_they_are = average([positive, negative], towards="positive")
    assert as_they_are.total.mean == pytest.approx(0.0)
    records = [Record(0, 0, 1, positive), Record(1, 1, 1, negative)]
    by_label = average(records, towards="label")
    assert by_label.total.mean == pytest.approx(0.0)
    bad = average([positive, negative], proxy="bad")
    assert np.isfinite(bad.total.mean)
    with pytest.raises(ValueError, match="a tweet has none"):
        average([positive], towards="label")


def test_peaks():
    def at(layer: int, position: int, size: float = 1.0) -> Callable[[int, int], float]:
        return lambda inner, t: size if (inner, t) == (layer, position) else 0.0

    first = made("My flight", 2.0, 1.0, at(1, 0))
    second = made("great flight", -3.0, -1.0, at(0, 1, -1.0))  # towards negative
    found = average([first, second])
    assert cell(found, 1, "tweet_first")["peak_share"] == 0.5
    assert cell(found, 0, "tweet_last")["peak_share"] == 0.5
    assert found.frame["peak_share"].sum() == pytest.approx(1.0)
    peaks = found.peaks.astype({"kind": str, "role": str}).to_dict("records")
    assert [(p["tweet"], p["kind"], p["layer"], p["role"], p["position"]) for p in peaks] == [
        (0, "hidden", 1, "tweet_first", 0),
        (1, "hidden", 0, "tweet_last", 1),
    ]
    assert [p["effect"] for p in peaks] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert [p["total_effect"] for p in peaks] == pytest.approx([1.0, 2.0], abs=1e-5)
    # At the last layer only the last position is read: nothing there is a finding.
    assert cell(found, LAYERS - 1, "tweet_first")["trivial"]
    assert cell(found, LAYERS - 1, "last")["trivial"]
    assert not cell(found, 0, "last")["trivial"]


def test_layers_and_tokens_that_were_left_out():
    result = made("My flight", 2.0, 1.0, lambda layer, t: 1.0, every=2, blank=(0,))
    found = average([result, result])
    assert set(found.frame["layer"]) == {0, 2}
    assert "tweet_first" not in set(found.frame["role"])
    # A role of two tokens, one of them left out: the mean of the other.
    partly = made("good bad flight", 1.0, 0.0, lambda layer, t: float(t), blank=(0, 1))
    roles = roles_of(partly.prompt)
    traced = [t for t, role in enumerate(roles) if role == "sentiment_last" and t > 1]
    assert cell(average([partly]), 0, "sentiment_last")["mean"] == pytest.approx(np.mean(traced))


def many(n: int, seed: int = 0, slope: float = 0.0) -> list[TraceResult]:
    draw = np.random.default_rng(seed)
    words = "My flight day service great love waiting here"
    found = []
    for number in range(n):
        text = " ".join(draw.choice(words.split(), 4)) + f" {number}"
        size, total = draw.normal(1.0, 0.5), draw.normal(2.0, 0.5)
        found.append(made(text, 3.0, 3.0 - total, lambda layer, t, s=size: s + slope * layer))
    return found


def effects_of(results: list[TraceResult], layer: int = 1) -> np.ndarray:
    return np.array([result.effects["hidden"][layer, -1] for result in results])


def test_the_online_bootstrap_agrees_with_scipys():
    results = many(60)
    found = cell(average(results, replicates=4000), 1, "last")
    values = effects_of(results)
    scipy = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=0)
    width = scipy.confidence_interval.high - scipy.confidence_interval.low
    assert found["mean"] == pytest.approx(values.mean())
    assert found["lower"] == pytest.approx(scipy.confidence_interval.low, abs=0.08 * width)
    assert found["upper"] == pytest.approx(scipy.confidence_interval.high, abs=0.08 * width)


def test_the_normal_interval_is_the_t_interval():
    results = many(25)
    found = cell(average(results, interval="normal"), 1, "last")
    values = effects_of(results)
    expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (found["lower"], found["upper"]) == pytest.approx(expected)
    totals = np.array([result.total_effect for result in results])
    expected = stats.t.interval(0.95, len(totals) - 1, totals.mean(), stats.sem(totals))
    total = average(results, interval="normal").total
    assert (total.lower, total.upper) == pytest.approx(expected)


@pytest.mark.parametrize("interval", ["bootstrap", "normal"])
def test_normalised_effects_are_ratios_of_means(interval):
    results = many(60)
    found = cell(average(results, normalised=True, interval=interval, replicates=4000), 1, "last")
    values, totals = effects_of(results), np.array([r.total_effect for r in results])
    assert found["mean"] == pytest.approx(values.mean() / totals.mean())
    scipy = stats.bootstrap(
        (values, totals),
        lambda v, t, axis: v.mean(axis) / t.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=0,
    )
    width = scipy.confidence_interval.high - scipy.confidence_interval.low
    assert found["lower"] == pytest.approx(scipy.confidence_interval.low, abs=0.15 * width)
    assert found["upper"] == pytest.approx(scipy.confidence_interval.high, abs=0.15 * width)


@pytest.mark.parametrize("interval", ["bootstrap", "normal"])
def test_intervals_cover_the_truth(interval):
    """95% of 95% intervals hold the true mean, 1; here of 400 data sets, one for each layer."""
    draw = np.random.default_rng(0)
    sets = 400
    base = made("My flight", 2.0, 1.0, layers=sets)
    sums = averaging._Sums("tweet", "log_odds", "prediction", 400, 0)
    sums._begin(base)
    sums._widen("last")
    sums.samples.add(1)
    for _ in range(40):
        values = draw.normal(1.0, 0.5, (1, sets))
        found = {"": (np.zeros((1, sets)), 2.0), "last": (values, 2.0)}
        sums._block.append((found, int(draw.integers(2**60))))
        sums.n, sums.records = sums.n + 1, sums.records + 1
    frame = sums.average(interval, False).frame
    held = ((frame["lower"] <= 1.0) & (frame["upper"] >= 1.0)).sum()
    # A percentile bootstrap of 40 holds a little less than 95%; 5 standard errors are 22.
    assert 0.93 * sets - 22 <= held <= 0.95 * sets + 22


@pytest.mark.parametrize("interval", ["bootstrap", "normal"])
def test_intervals_over_pairs_are_over_the_texts_that_were_edited(interval):
    draw = np.random.default_rng(0)
    texts, records = [], []
    for number in range(40):
        sizes = draw.normal(1.0, 0.5) + draw.normal(0.0, 0.2, 1 + number % 4)
        texts.append(sizes.mean())
        for size in sizes:
            result = made(f"My flight {number}", 3.0, 1.0, lambda layer, t, s=size: s)
            settings = replace(result.settings, corruption="counterfactual")
            records.append(Record(0, 0, 1, replace(result, settings=settings), len(sizes)))
    found = average(records, interval=interval, replicates=4000, proxy="log_odds")
    row, values = cell(found, 1, "last"), np.array(texts)
    assert (found.n, found.about["pairs"], row["n"]) == (40, 100, 40)
    assert row["mean"] == pytest.approx(values.mean())
    if interval == "normal":
        lower, upper = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    else:
        lower, upper = stats.bootstrap(
            (values,), np.mean, method="percentile", n_resamples=4000, rng=0
        ).confidence_interval
    within = 0.08 * (upper - lower) if interval == "bootstrap" else 1e-9
    assert (row["lower"], row["upper"]) == pytest.approx((lower, upper), abs=within)


BASE = made("My flight", 2.0, 1.0)


def test_order_and_blocks_do_not_matter():
    results = many(70)
    forwards, backwards = average(results), average(results[::-1])
    for column in ("mean", "lower", "upper", "n"):
        np.testing.assert_allclose(
            forwards.frame[column], backwards.frame[column], rtol=1e-9, atol=1e-12
        )


def test_difference_on_the_same_tweets_is_paired():
    first, second = many(40), many(40, slope=0.3)  # the same tweets, with a constant gain
    found = difference(average(second), average(first))
    row = found[(found["kind"] == "hidden") & (found["layer"] == 1) & (found["role"] == "last")]
    assert row["difference"].item() == pytest.approx(0.3)
    assert row["upper"].item() - row["lower"].item() < 1e-9
    other = difference(average(second), average(many(40, seed=1)))
    row = other[(other["kind"] == "hidden") & (other["layer"] == 1) & (other["role"] == "last")]
    both = [effects_of(second), effects_of(many(40, seed=1))]
    reach = 1.96 * np.sqrt(sum(values.var(ddof=1) / 40 for values in both))
    assert (row["upper"] - row["lower"]).item() == pytest.approx(2 * reach, rel=0.2)
    total = found[found["kind"] == "total"]
    assert total["difference"].item() == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="differ in proxy"):
        difference(average(first), average(first, proxy="bad"))


def test_the_interval_of_a_difference_of_shares_is_in_shares():
    first = average(many(40), normalised=True)
    second = average(many(40, slope=0.3), normalised=True)
    found = difference(second, first)
    found = found[(found["kind"] != "total") & found["lower"].notna()]
    assert (found["difference"].abs() > 1e-3).any()
    assert (found["lower"] <= found["difference"] + 1e-9).all()
    assert (found["difference"] <= found["upper"] + 1e-9).all()


def test_history_and_how_many_more():
    results = many(120)
    found = average(results)
    rows = found.history[(found.history["kind"] == "hidden") & (found.history["layer"] == 1)]
    rows = rows[rows["role"] == "last"]
    assert rows["n"].tolist()[0] == 8
    assert rows["n"].tolist()[-1] == 120
    values = effects_of(results)
    at = rows.set_index("n")["reach"]
    expected = stats.t.ppf(0.975, 7) * stats.sem(values[:8])
    assert at[8] == pytest.approx(expected)
    # Half the width takes four times the tweets.
    assert found.more_tweets(at[120] / 2, "hidden", 1, "last") == pytest.approx(360, abs=2)
    assert found.more_tweets(at[120] * 2, "hidden", 1, "last") == 0
    assert found.more_tweets(0.01) > 0
    with pytest.raises(ValueError, match="above 0"):
        found.more_tweets(0.0)
    with pytest.raises(ValueError, match="to estimate"):
        found.more_tweets(0.1, "hidden", 1, "negation")


def test_groups_in_one_pass():
    results = many(30)
    records = [Record(n, n, n % 2, result) for n, result in enumerate(results)]
    groups = average_by(records, lambda record: str(record.label) if record.number < 20 else None)
    assert {name: group.n for name, group in groups.items()} == {"0": 10, "1": 10}
    alone = average(records, where=lambda record: record.label == 1 and record.number < 20)
    np.testing.assert_array_equal(groups["1"].frame["mean"], alone.frame["mean"])


def test_the_papers_roles():
    found = average(many(10), roles="paper")
    assert found.roles == [
        *("subject_first", "subject_middle", "subject_last", "subsequent", "further", "last"),
    ]
    assert (found.frame["n"] == 10).all()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="no traced tweet"):
        average([])
    with pytest.raises(ValueError, match="interval 'exact'"):
        average([BASE], interval="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one model and one setting"):
        average([BASE, made("My flight", 2.0, 1.0, every=2)])


def test_public_face():
    frame = core.average_effects(many(5))
    wanted = ["kind", "layer", "role", "mean", "lower", "upper", "n", "peak_share"]
    assert list(frame.columns)[: len(wanted)] == wanted


def test_memory_does_not_grow_with_tweets():
    """Only peaks grow, by about a hundred bytes a tweet and kind."""

    def repeated(n: int) -> Iterator[Record]:
        for number in range(n):
            yield Record(number, number, None, BASE)

    average(repeated(200))  # what is made once

    def peak(n: int) -> int:
        tracemalloc.start()
        average(repeated(n))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(3000) - peak(100) < 2900 * 300
