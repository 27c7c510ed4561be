"""Estimates from gradients against exact cells, where both must agree."""

import numpy as np
import pytest
from patched_runs import IDS, READOUT, SPAN, WORD_SPANS, embeddings
from tiny_models import MORE_VARIANTS, VARIANTS, make_model

from core.models.families import FAMILIES
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.gradients import estimate
from core.patching.readout import Readout
from core.patching.restore import restore
from core.patching.sites import KINDS, window_layers

NEAR = 3e-3
"""So near are the two runs that their difference is linear, but for what follows; and so far from
each other that the norms of some families, which round to float32, do not hide it."""

LINEAR = 0.1  # of the largest effect; what is left of a bend


def near_runs(model, *, readout=READOUT, spans=None):
    """Source, base and line of two runs that lie near each other, and the exact cells."""
    clean, far = embeddings(model, 1)
    corrupted = clean + NEAR * (far[0] - clean)
    source, base = (run_source(model, one[None], readout) for one in (clean, corrupted))
    exact = restore(
        *(model, source, run_base(model, corrupted[None], readout, source), readout),
        first=min(SPAN),
        spans=spans,
    )
    return source, base, (corrupted, clean), exact.read


@pytest.mark.parametrize("variant", [*VARIANTS, *MORE_VARIANTS])
def test_where_all_is_linear_an_estimate_is_the_exact_cell(variant):
    in_float32 = FAMILIES[variant.partition("-")[0]].attention_in_float32
    model = make_model(variant, dtype="float32" if in_float32 else "float64")
    source, base, line, exact = near_runs(model)
    found = estimate(model, source, base, line, READOUT)
    low = base.read[0].numpy()
    for kind in KINDS:
        expected = exact[kind][0] - low
        size = np.abs(expected).max()
        assert size > 1e-5
        np.testing.assert_allclose(found[kind] - low, expected, atol=LINEAR * size)


def test_a_probe_of_states_is_read_where_it_stands():
    model = make_model("llama", layers=4, dtype="float64")
    weight = np.random.default_rng(0).standard_normal(model.width)
    readout = Readout(READOUT.words, layer=1, weight=weight, bias=0.5)
    source, base, line, exact = near_runs(model, readout=readout)
    found = estimate(model, source, base, line, readout)
    low = base.read[0].numpy()
    for kind in KINDS:
        expected = exact[kind][0] - low
        np.testing.assert_allclose(
            found[kind] - low, expected, atol=LINEAR * np.abs(expected).max()
        )
        assert (found[kind][2:, :, -1] == low[-1]).all()  # above the layer that is read


def test_words_are_the_sum_of_their_tokens_and_windows_of_their_layers():
    model = make_model("gpt2", layers=5, dtype="float64")
    source, base, line, exact = near_runs(model, spans=WORD_SPANS)
    alone = estimate(model, source, base, line, READOUT)
    found = estimate(model, source, base, line, READOUT, window=3, spans=WORD_SPANS)
    low = base.read[0].numpy()
    in_words = estimate(model, source, base, line, READOUT, spans=WORD_SPANS)
    for last in WORD_SPANS:
        expected = exact["hidden"][0][:, last] - low
        np.testing.assert_allclose(
            in_words["hidden"][:, last] - low, expected, atol=LINEAR * np.abs(expected).max()
        )
    for position in set(range(len(IDS))) - set(WORD_SPANS):
        assert np.isnan(found["mlp"][:, position]).all()
    for layer in range(5):
        covered = list(window_layers(layer, 3, 5))
        for last, span in WORD_SPANS.items():
            parts = alone["mlp"][covered][:, list(span)] - low
            np.testing.assert_allclose(found["mlp"][layer, last] - low, parts.sum(axis=(0, 1)))


def test_a_line_is_walked_in_as_many_groups_as_memory_asks_for():
    model = make_model("gpt_neox", dtype="float64")
    clean, corrupted = embeddings(model, 1)
    runs = [run_source(model, one[None], READOUT) for one in (clean, corrupted[0])]
    line = (corrupted[0], clean)
    whole = estimate(model, *runs, line, READOUT, kinds=["mlp"])
    calls = model.block_calls
    parts = estimate(model, *runs, line, READOUT, kinds=["mlp"], memory=1)
    assert model.block_calls - calls == 5 * model.layers
    np.testing.assert_allclose(parts["mlp"], whole["mlp"])
    assert set(parts) == {"mlp"}
