"""One cell looked at closely: its tokens, its lens, its heads."""

import numpy as np
import pytest
import torch
from reference import record, restored_heads
from tiny_models import make_model
from tiny_probes import make_probe

import core
from core.tracing.cell_details import TOKENS, inspect
from core.tracing.corruption import case_of
from core.tracing.result import TraceSettings

TWEET = "My flight got cancelled, terrible service"


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox"])
def model(request):
    return make_model(request.param, layers=3)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_the_tables_of_a_cell(model, direction):
    probe = make_probe(model)
    settings = TraceSettings(samples=2, window=1, direction=direction)
    result = core.trace(model, probe, TWEET, settings)
    seen: list[float] = []
    found = inspect(model, probe, TWEET, settings, "attn", 1, 4, progress=seen.append)
    assert seen == sorted(seen)
    assert found.samples == 2
    for table, runs in (
        (found.next_tokens, ["clean", "corrupted", "restored"]),
        (found.lens, ["clean", "corrupted"]),
    ):
        assert table.run.unique().tolist() == runs
        for _, own in table.groupby("run"):
            assert own["rank"].tolist() == list(range(1, TOKENS + 1))
            assert own.probability.is_monotonic_decreasing
            assert 0 < own.probability.sum() <= 1.0001
            assert own.token.str.len().min() > 0
    assert len(found.heads) == model.heads
    assert (found.heads.standard_error > 0).any()
    assert np.isfinite(result.effects["attn"][1, 4])


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_heads_have_the_effects_of_the_plain_reference(model, direction):
    probe = make_probe(model)
    settings = TraceSettings(samples=1, direction=direction)
    case = case_of(model, probe, TWEET, settings)
    clean, corrupted = case.embeddings, case.corrupted(0)
    from_, into = (clean, corrupted) if direction == "restore" else (corrupted, clean)
    words = case.readout.words
    expected = probe.log_odds(restored_heads(model, from_, into, words, 1, range(5, 6)))
    without = probe.log_odds(record(model, "hidden", into, words)[1].double().numpy())
    found = inspect(model, probe, TWEET, settings, "attn", 1, 5)
    sign = 1 if direction == "restore" else -1
    np.testing.assert_allclose(found.heads.effect, sign * (expected - without), atol=1e-4)


def test_the_clean_runs_next_tokens_are_the_networks_own(model):
    probe = make_probe(model)
    found = inspect(model, probe, TWEET, TraceSettings(samples=1), "hidden", 0, 3)
    ids = model.tokenizer(TWEET + probe.suffix, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.network(ids).logits[0, -1].softmax(-1).topk(TOKENS).values
    clean = found.next_tokens.query("run == 'clean'").probability
    np.testing.assert_allclose(clean, expected, rtol=1e-3)
    # The lens at the last cell is the model's own answer.
    last = inspect(model, probe, TWEET, TraceSettings(samples=1), "hidden", 2, ids.shape[1] - 1)
    np.testing.assert_allclose(last.lens.query("run == 'clean'").probability, expected, rtol=1e-3)
    # ... and restoring it gives the clean run's tokens.
    restored = last.next_tokens.query("run == 'restored'")
    np.testing.assert_allclose(restored.probability, expected, rtol=1e-3)
    assert found.heads is None


def test_a_cell_that_is_not_there_is_refused(model):
    with pytest.raises(ValueError, match="layer 3"):
        inspect(model, make_probe(model), TWEET, TraceSettings(), "mlp", 3, 0)
