"""Sweeps over pairs: each tweet corrupted by its own counterfactual, of any length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from linear_model import make_linear_model
from scipy import stats
from tiny_models import make_model
from tiny_probes import make_probe

from core.charts.average import caption_of
from core.data.pairs import PAIRED
from core.errors import UserError
from core.models.model import Model
from core.probes.probe import Probe
from core.sweeps import sweep
from core.sweeps.average import average
from core.sweeps.store import open_store
from core.sweeps.sweep import Selection
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace

PAIRS = pd.DataFrame(
    [
        ("good day", 1, "bad day", 0),
        ("great flight", 1, "awful flight", 0),
        ("not good waiting", 0, "good waiting", 1),
        ("I love this flight", 1, "I really do not love this flight", 0),
        ("terrible service", 0, "great service", 1),
        ("bad", 0, "not bad", 1),
    ],
    columns=["text", "label", "counterfactual", "counterfactual_label"],
)
SETTINGS = TraceSettings(corruption="counterfactual")


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model("gpt2", layers=3)


@pytest.fixture
def probe(model: Model) -> Probe:
    return make_probe(model)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("edited", ["last", "all"])
def test_a_record_is_the_trace_of_its_pair(own_home, model, probe, direction, edited) -> None:
    settings = TraceSettings(corruption="counterfactual", direction=direction, edited=edited)
    store = sweep.create(model, probe, PAIRS, settings, together=3)
    *_, last = sweep.run(model, store)
    assert (last.state, last.done, last.failed) == ("done", 6, 0)
    aligned = 0
    for record in open_store(store.id):
        other = PAIRS["counterfactual"][record.row]
        own = TraceSettings(
            corruption="counterfactual", counterfactual=other, direction=direction, edited=edited
        )
        alone = trace(model, probe, PAIRS["text"][record.row], own)
        stored = record.result
        assert stored.settings.counterfactual == other
        assert stored.settings.edited == edited
        assert (stored.alignment, stored.spans) == (alone.alignment, alone.spans)
        assert stored.corrupted_span == alone.corrupted_span
        aligned += stored.alignment is not None
        for kind in settings.kinds:
            np.testing.assert_allclose(stored.effects[kind], alone.effects[kind], atol=2e-5)
    assert 0 < aligned < 6  # both ways are tried


def test_other_counterfactuals_or_edited_spans_are_another_sweep(own_home, model, probe) -> None:
    first = sweep.create(model, probe, PAIRS, SETTINGS)
    assert sweep.create(model, probe, PAIRS, SETTINGS).id == first.id
    others = PAIRS.assign(counterfactual=PAIRS["counterfactual"] + " indeed")
    assert sweep.create(model, probe, others, SETTINGS).id != first.id
    whole = TraceSettings(corruption="counterfactual", edited="all")
    assert sweep.create(model, probe, PAIRS, whole).id != first.id


def test_of_a_noise_sweep_the_counterfactuals_change_nothing(own_home, model, probe) -> None:
    noise = sweep.create(model, probe, PAIRS)
    alone = sweep.create(model, probe, PAIRS[["text", "label"]])
    assert noise.id == alone.id
    assert "counterfactual" not in noise.tweets


def test_more_pairs_take_over_what_was_traced(own_home, model, probe) -> None:
    few = sweep.create(model, probe, PAIRS, SETTINGS, selection=Selection(n=3), together=1)
    list(sweep.run(model, few))
    more = sweep.create(model, probe, PAIRS, SETTINGS, together=1)
    assert len(more) == 3
    changed = PAIRS.assign(counterfactual=PAIRS["counterfactual"] + " indeed")
    assert len(sweep.create(model, probe, changed, SETTINGS, together=1)) == 0


def test_an_average_over_pairs_is_what_the_hand_works_out(own_home) -> None:
    """Of "day good I am feeling" and its edit the values differ by d at position 1 of 5. So the
    first layer's attention differs by d/2, d/3, d/4, d/5 from there on, the states after it by d
    more at position 1, and the last state by d (1/5 + (1 + 1/2 + 1/3 + 1/4 + 1/5) / 5)."""
    model = make_linear_model({" good": 1.0, " bad": -1.0, " awful": -2.0})
    probe = replace(
        make_probe(model), mean=(0.0, 0.0), scale=(1.0, 1.0), coefficients=(1.0, -1.0), intercept=0
    )
    pairs = pd.DataFrame(
        [
            ("day good", 1, "day bad", 0),  # d = 2
            ("day good", 1, "day awful", 0),  # d = 3, of the same text
            ("day awful", 0, "day good", 1),  # d = 3, and towards negative
        ],
        columns=["text", "label", *PAIRED],
    )
    share = {"total": 1 / 5 + (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5}
    share |= {("hidden", "sentiment_last"): (1 + 1 / 2) / 5, ("hidden", "last"): 1 / 5 + 1 / 25}
    share |= {("attn", "sentiment_last"): 1 / 10, ("mlp", "last"): 0.0}
    d = (2 + 3) / 2, 3  # of the two texts; the mean over three pairs would be another
    for direction in ("restore", "corrupt"):
        settings = TraceSettings(corruption="counterfactual", direction=direction, window=1)
        store = sweep.create(model, probe, pairs, settings, together=2)
        list(sweep.run(model, store))
        for interval in ("bootstrap", "normal"):
            found = average(store, interval=interval)
            assert (found.n, found.about["pairs"]) == (2, 3)
            assert found.counted == "3 pairs of 2 tweets"
            assert found.about["proxy"] == "log_ratio"
            assert found.total.mean == pytest.approx(4 * np.mean(d) * share["total"], rel=1e-5)
            cells = found.frame.set_index(["kind", "role", "layer"])["mean"]
            shares = average(store, interval=interval, normalised=True).frame
            shares = shares.set_index(["kind", "role", "layer"])
            for (kind, role), carried in list(share.items())[1:]:
                expected = 4 * np.mean(d) * carried
                assert cells[kind, role, 0] == pytest.approx(expected, rel=1e-5, abs=1e-5)
                ratio = shares.loc[(kind, role, 0)]
                for end in ("mean", "lower", "upper"):  # every pair has this same ratio
                    assert ratio[end] == pytest.approx(carried / share["total"], abs=1e-5)
        # A t interval over the two texts.
        reach = stats.t.ppf(0.975, 1) * stats.sem(d) * 4 * share["total"]
        assert found.total.upper - found.total.mean == pytest.approx(reach, rel=1e-4)


def test_pairs_of_one_text_are_one_unit_whatever_their_order(own_home, model, probe) -> None:
    edits = PAIRS.assign(text="good day", label=1)
    pairs = pd.concat([PAIRS, edits[1:5], edits[2:4].assign(text="so good")], ignore_index=True)
    store = sweep.create(model, probe, pairs, SETTINGS, together=1)
    list(sweep.run(model, store))
    records = list(store)
    assert {record.pairs for record in records} == {1, 2, 5}
    found = average(records, normalised=True)
    assert found.counted == "12 pairs of 7 tweets"
    assert found.frame["peak_share"].groupby(found.frame["kind"]).sum().tolist() == [1.0] * 3
    unknown = [replace(record, pairs=None) for record in reversed(records)]
    other = average(unknown, normalised=True)
    pd.testing.assert_frame_equal(found.frame, other.frame)
    assert found.total == pytest.approx(other.total)
    # By hand: the mean of each text's mean.
    texts = [record.result.prompt.tweet for record in records]
    effects = [
        record.result.under("log_ratio").total_effect * (1 if record.result.high >= 0 else -1)
        for record in records
    ]
    means = pd.Series(effects).groupby(texts).mean()
    assert found.total.mean == pytest.approx(means.mean())


def test_correct_pairs_are_those_of_which_both_texts_are_predicted(own_home, model, probe) -> None:
    def right(text: str, label: int) -> bool:
        found = trace(model, probe, text, TraceSettings(samples=1, kinds=("hidden",), every=3))
        return (found.high >= 0) == (label == 1)

    expected = {
        row
        for row, (text, label, other, other_label) in enumerate(PAIRS.itertuples(index=False))
        if right(text, label) and right(other, other_label)
    }
    both_ways = pd.concat(
        [
            PAIRS,
            PAIRS.assign(label=PAIRS["counterfactual_label"], counterfactual_label=PAIRS["label"]),
        ],
        ignore_index=True,
    )
    chosen = sweep.choose(model, probe, both_ways, Selection(which="correct"))
    assert {row for row in chosen["row"] if row < 6} == expected


def test_the_caption_of_an_average_over_pairs_names_no_noise(own_home, model, probe) -> None:
    store = sweep.create(model, probe, PAIRS, SETTINGS)
    list(sweep.run(model, store))
    said = caption_of(average(store))
    assert "noise" not in said
    assert "The tweet is corrupted with its counterfactual, a text of the other sentiment." in said


def test_single_texts_are_no_pairs(own_home, model, probe) -> None:
    with pytest.raises(UserError, match="needs the column 'counterfactual'"):
        sweep.create(model, probe, PAIRS[["text", "label"]], SETTINGS)
    named = TraceSettings(corruption="counterfactual", counterfactual="bad day")
    with pytest.raises(UserError, match="sweep over pairs, in which each tweet has its own"):
        sweep.create(model, probe, PAIRS, named)


def test_a_pair_that_cannot_be_read_fails_with_its_reason(own_home, model, probe) -> None:
    long = PAIRS.assign(counterfactual=["bad day " * 100, *PAIRS["counterfactual"][1:]])
    store = sweep.create(model, probe, long, SETTINGS)
    *_, last = sweep.run(model, store)
    assert (last.done, last.failed) == (5, 1)
    assert "tokens" in store.failures()["reason"].iloc[0]
