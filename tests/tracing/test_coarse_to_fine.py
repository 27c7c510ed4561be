"""The order of a trace's cells: what each step shows, and that its cells are those of any order."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import VARIANTS, make_model
from tiny_probes import make_probe, make_probe_of_states

import core
from core.patching.sites import KINDS
from core.tracing import sample_cache
from core.tracing.coarse_to_fine import (
    STEP,
    cells_to_settle,
    coarse_layers,
    groups_of,
    is_enough,
)
from core.tracing.findings import findings, layers_stood_for
from core.tracing.result import TraceSettings

LAYERS = 2 * STEP
COARSE = [0, 4, 8, LAYERS - 1]
TWEET = "good day, terrible service"
ALL = TraceSettings(samples=4)
SETTLED = replace(ALL, until="settled")


@pytest.fixture(scope="module")
def model():
    return make_model("llama", layers=LAYERS)


@pytest.fixture(scope="module")
def whole(model):
    """The trace sample by sample, whose cells are held against the plain reference elsewhere."""
    return core.trace(model, make_probe(model), TWEET, ALL)


def steps(model, settings=ALL, **options):
    return core.trace_progressively(model, make_probe(model), TWEET, settings, **options)


def cells_of(result):
    return sum(int(traced.sum()) for traced in result.traced.values())


def assert_same_cells(some, whole):
    """All cells that are there are those of the whole trace; sums were added in another order."""
    for kind in KINDS:
        found = some.reads.restored[kind]
        there = np.isfinite(found)
        assert there.any()
        expected = whole.reads.restored[kind][: some.samples_done]
        np.testing.assert_allclose(found[there], expected[there], atol=2e-5)


@pytest.mark.parametrize(
    ("layers", "every", "expected"),
    [
        (30, 1, [0, 6, 12, 18, 24, 29]),
        (48, 1, [0, 6, 12, 18, 24, 30, 36, 42, 47]),
        (12, 1, [0, 4, 8, 11]),
        (30, 2, [0, 10, 20, 28]),
        (11, 1, list(range(11))),
        (30, 3, list(range(0, 30, 3))),
    ],
)
def test_coarse_layers_have_the_first_and_the_last(layers, every, expected):
    assert coarse_layers(layers, TraceSettings(every=every)) == expected


def test_coarse_samples_come_one_then_three_then_all():
    assert groups_of(range(10)) == [[0], [1, 2], [3, 4, 5, 6, 7, 8, 9]]
    assert groups_of(range(2)) == [[0], [1]]
    assert groups_of([7]) == [[7]]
    assert groups_of([]) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_shows_more_and_its_cells_are_those_of_the_whole_trace(variant):
    model = make_model(variant, layers=LAYERS)
    verdict, *pictures = steps(model, stages=True)
    whole = core.trace(model, make_probe(model), TWEET, ALL)
    assert not verdict.has_cells
    first, third, coarse, settled, *rest = pictures
    assert [picture.samples_done for picture in pictures] == [1, 3, 4, 4, *[4] * len(rest)]
    for picture in (first, third, coarse):
        for traced in picture.traced.values():
            assert np.flatnonzero(traced.all(axis=1)).tolist() == COARSE
        assert set(picture.frame()["layer"]) == set(COARSE)
    needed = cells_to_settle(coarse)
    for kind, traced in settled.traced.items():
        assert (traced == coarse.traced[kind] | needed[kind]).all()
    shown = [cells_of(picture) for picture in pictures[2:]]
    assert shown == sorted(set(shown))
    assert not pictures[-1].is_coarse
    assert findings(first, verdict).early == ()
    for picture in pictures:
        assert_same_cells(picture, whole)


def test_settled_is_where_a_trace_may_end_and_all_cells_go_on_from_there(model, whole, own_home):
    *_, settled = steps(model, SETTLED, keep=True)
    assert settled.is_coarse
    assert is_enough(settled)
    assert not is_enough(replace(settled, settings=ALL))
    assert_same_cells(settled, whole)
    before = model.block_calls
    assert [result.is_coarse for result in steps(model, SETTLED, keep=True, stages=True)] == [True]
    assert model.block_calls == before
    _, kept, *later, done = steps(model, ALL, keep=True, stages=True)
    assert cells_of(kept) == cells_of(settled)
    assert all(cells_of(picture) > cells_of(settled) for picture in later)
    assert not done.is_coarse
    assert_same_cells(done, whole)
    # Whole, it is enough for whoever asks for less.
    assert len(list(steps(model, SETTLED, keep=True, stages=True))) == 1


def test_only_what_is_asked_for_is_returned_without_stages(model, whole, own_home):
    (settled,) = steps(model, SETTLED, keep=True)
    assert settled.is_coarse
    (done,) = steps(model, ALL, keep=True)
    assert not done.is_coarse
    assert_same_cells(done, whole)


@pytest.mark.parametrize("stop", range(1, 9))
def test_wherever_it_was_stopped_it_goes_on_and_computes_nothing_twice(
    model, whole, own_home, stop
):
    begun = steps(model, keep=True, stages=True)
    for _ in range(stop):
        next(begun)
    begun.close()
    before = model.block_calls
    *_, result = steps(model, keep=True, stages=True)
    after = model.block_calls - before
    assert not result.is_coarse
    assert_same_cells(result, whole)
    if stop > 2:
        list(steps(model, stages=True))
        assert after < model.block_calls - before - after


def test_a_coarse_cell_counts_as_the_layers_it_stands_for(model, whole):
    *_, settled = steps(model, SETTLED)
    for kind in KINDS:
        assert (layers_stood_for(whole, kind) == ~whole.trivial[kind]).all()
        counts = layers_stood_for(settled, kind)
        assert (counts.sum(axis=0) == (~settled.trivial[kind]).sum(axis=0)).all()
        assert (counts[~settled.traced[kind]] == 0).all()


def test_cells_that_are_zero_by_construction_are_no_part_of_a_wider_cell(model):
    """Above the layer that a probe of states reads nothing is read, traced or not."""
    probe = make_probe_of_states(model, layer=5)
    (settled,) = core.trace_progressively(model, probe, TWEET, SETTLED)
    (*_, whole) = core.trace_progressively(model, probe, TWEET, ALL)
    columns = ["kind", "layer", "position"]
    shown, all_cells = (one.frame().set_index(columns) for one in (settled, whole))
    left_out = [at for at in shown.index if not settled.traced[at[0]][at[1], at[2]]]
    assert {layer for kind, layer, _ in left_out if kind == "hidden"} >= {6, 7, 9, 10}
    assert shown.loc[left_out, "trivial"].all()
    assert (shown.loc[left_out, "effect"] == 0).all()
    assert (all_cells.loc[left_out, "effect"].abs() < 1e-6).all()


def test_more_samples_of_a_settled_trace_begin_coarse(model, whole, own_home):
    *_, settled = steps(model, replace(SETTLED, samples=2), keep=True)
    pictures = list(steps(model, SETTLED, keep=True, stages=True))
    assert [picture.samples_done for picture in pictures] == [4, 2, 3, 4, 4]
    assert is_enough(pictures[-1])
    assert_same_cells(pictures[-1], whole)


def test_more_samples_of_a_whole_trace_are_whole(model, whole, own_home):
    core.trace(model, make_probe(model), TWEET, replace(ALL, samples=2), keep=True)
    _, *pictures = steps(model, keep=True, stages=True)
    assert [picture.samples_done for picture in pictures] == [2, 3, 4]
    assert not any(picture.is_coarse for picture in pictures)


def test_less_is_never_kept_over_more(model, whole, own_home):
    core.trace(model, make_probe(model), TWEET, ALL, keep=True)
    (path,) = (own_home / "traces").glob("*.safetensors")
    key, held = path.stem, path.read_bytes()
    sample_cache.save(key, whole.reads.at([0]))
    assert path.read_bytes() == held


def test_progress_never_falls_and_ends_whole(model, own_home):
    for settings in (SETTLED, ALL):
        shares = []
        list(steps(model, settings, progress=shares.append))
        assert shares[-1] == pytest.approx(1)
        assert shares == sorted(shares)


def test_it_ends_when_the_time_is_up(model):
    (first,) = steps(model, replace(SETTLED, seconds=1e-9))
    assert first.samples_done == 1


@pytest.mark.parametrize(
    "options",
    [{"corruption": "mean"}, {"direction": "corrupt"}, {"kinds": ("hidden",), "severed": "mlp"}],
)
def test_any_trace_can_be_settled(model, options):
    settings = replace(SETTLED, **options)
    (settled,) = steps(model, settings)
    (whole,) = list(steps(model, replace(settings, until="all")))[-1:]
    for kind in settings.kinds:
        there = np.isfinite(settled.effects[kind])
        assert 0 < there.mean() < 1
        np.testing.assert_allclose(
            settled.effects[kind][there], whole.effects[kind][there], atol=2e-5
        )


@pytest.mark.parametrize("settings", [{"every": 2}, {"stable_for": 9}])
def test_few_layers_or_stable_samples_have_no_coarse_heatmap(model, settings):
    stages = steps(model, replace(ALL, **settings), stages=True)
    assert not any(result.is_coarse for result in stages if result.has_cells)


def test_an_end_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="'settled' or 'all', not 'soon'"):
        TraceSettings(until="soon")
