"""Sweeps over pairs: each tweet corrupted by its own counterfactual, of any length."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_models import make_model
from tiny_probes import make_probe
from tiny_sweeps import assert_equal, make_tweets, times_of

from core.charts.average import caption_of
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


def test_interrupted_ten_times_it_equals_the_undisturbed_one(
    tmp_path, monkeypatch, model, probe
) -> None:
    texts = make_tweets(12)
    pairs = texts.assign(
        counterfactual="so " + texts["text"], counterfactual_label=1 - texts["label"]
    )
    stores = []
    for name in ("whole", "broken"):
        monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path / name))
        stores.append(sweep.create(model, probe, pairs, SETTINGS, together=1))
    monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path / "whole"))
    list(sweep.run(model, stores[0]))
    monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path / "broken"))
    for _ in range(10):
        calls = 0

        def break_off(_share: float) -> None:
            nonlocal calls
            calls += 1
            if calls > 12:
                raise KeyboardInterrupt

        before = times_of(stores[1])
        with pytest.raises(KeyboardInterrupt):
            list(sweep.run(model, stores[1], progress=break_off))
        assert before.items() <= times_of(stores[1]).items()  # what is done stays
    assert 0 < len(times_of(stores[1])) < 12  # broken off between and within batches
    list(sweep.run(model, stores[1]))
    assert stores[1].status().state == "done"
    assert_equal(*stores)


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
