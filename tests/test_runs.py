"""The engine against the plain reference, for every family; and the identities it must keep."""

import numpy as np
import pytest
import torch
from reference import record, restored
from tiny_models import VARIANTS, make_model

from core import runs
from core.models import Model
from core.runs import KINDS, EngineError

IDS = [5, 80, 41, 200, 7, 33, 120, 64, 9]
WORDS = [17, 290]
SPAN = [2, 3, 5]
SCALE = {"float32": 1e-4, "float64": 1e-9}


def embeddings(model: Model, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    clean = model.embed(IDS)
    noise = torch.randn(samples, len(SPAN), model.width, generator=torch.Generator().manual_seed(1))
    corrupted = clean.repeat(samples, 1, 1)
    corrupted[:, SPAN] += 0.5 * noise.to(clean)
    return clean, corrupted


def run(model: Model, *, kinds=KINDS, window=1, samples=2, **options):
    clean_embeddings, corrupted_embeddings = embeddings(model, samples)
    clean = runs.run_clean(model, clean_embeddings, WORDS)
    corrupted = runs.run_corrupted(model, corrupted_embeddings, WORDS, clean, kinds)
    found = runs.restore(
        model, clean, corrupted, WORDS, kinds=kinds, window=window, first=min(SPAN), **options
    )
    return clean, corrupted, found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_cell_equals_one_full_forward_pass(variant, dtype):
    model = make_model(variant, dtype=dtype)
    clean_embeddings, corrupted_embeddings = embeddings(model)
    _, corrupted, found = run(model, window=3)
    for kind in KINDS:
        for sample in range(2):
            expected = restored(
                model, kind, clean_embeddings, corrupted_embeddings[sample], WORDS, window=3
            )
            low = corrupted.log_probs[sample].double().numpy()
            scale = np.abs(expected - low).max()
            assert scale > 0.05  # the effects are there, so that equality says something
            error = np.abs(found.log_probs[kind][sample] - expected).max()
            assert error < SCALE[dtype] * scale, kind


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 9, 20])
def test_windows_of_every_width(window):
    model = make_model("llama", layers=5, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model, 1)
    _, _, found = run(model, kinds=("attn", "mlp"), window=window, samples=1)
    for kind in ("attn", "mlp"):
        expected = restored(
            model, kind, clean_embeddings, corrupted_embeddings[0], WORDS, window=window
        )
        np.testing.assert_allclose(found.log_probs[kind][0], expected, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_models(layers):
    model = make_model("gpt2", layers=layers, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model, 1)
    _, _, found = run(model, window=2, samples=1)
    for kind in KINDS:
        expected = restored(model, kind, clean_embeddings, corrupted_embeddings[0], WORDS, window=2)
        np.testing.assert_allclose(found.log_probs[kind][0], expected, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_clean_and_corrupted_runs_equal_the_networks_own(variant):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean, corrupted, _ = run(model)
    for kind in KINDS:
        states, log_probs = record(model, kind, clean_embeddings, WORDS)
        torch.testing.assert_close(clean.log_probs, log_probs)
        own = clean.states[1:] if kind == "hidden" else clean.contributions[kind]
        torch.testing.assert_close(own, torch.stack(states))
    for sample in range(2):
        states, log_probs = record(model, "hidden", corrupted_embeddings[sample], WORDS)
        torch.testing.assert_close(corrupted.log_probs[sample], log_probs)
        torch.testing.assert_close(corrupted.states[1:, sample], torch.stack(states))


@pytest.mark.parametrize("variant", VARIANTS)
def test_cells_that_are_fixed_by_construction(variant):
    model = make_model(variant)
    clean, corrupted, found = run(model)
    low = corrupted.log_probs.double().numpy()[:, None, None]
    for kind in KINDS:
        log_probs = found.log_probs[kind]
        assert (log_probs[:, :, : min(SPAN)] == low).all()
        assert (log_probs[:, -1, :-1] == low[:, 0]).all()
    last = found.log_probs["hidden"][:, -1, -1]
    np.testing.assert_allclose(last, np.tile(clean.log_probs.numpy(), (2, 1)), atol=1e-5)


def test_samples_in_one_batch_equal_samples_one_by_one():
    model = make_model("llama", dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model, 3)
    clean = runs.run_clean(model, clean_embeddings, WORDS)
    _, _, together = run(model, window=2, samples=3)
    for sample in range(3):
        alone = runs.restore(
            model,
            clean,
            runs.run_corrupted(model, corrupted_embeddings[sample : sample + 1], WORDS, clean),
            WORDS,
            window=2,
        )
        for kind in KINDS:
            np.testing.assert_allclose(
                alone.log_probs[kind][0], together.log_probs[kind][sample], atol=1e-10
            )


def test_small_calls_give_the_same_numbers(monkeypatch):
    model = make_model("gpt_neox", dtype="float64")
    _, _, whole = run(model, window=2)
    calls = model.block_calls
    monkeypatch.setattr(runs, "TOKENS_PER_CALL", 8)
    _, _, parts = run(model, window=2)
    assert model.block_calls - calls > calls
    for kind in KINDS:
        np.testing.assert_allclose(parts.log_probs[kind], whole.log_probs[kind], atol=1e-10)


def test_work_that_cannot_change_the_answer_is_not_done():
    model = make_model("gpt2", layers=3)
    run(model, kinds=("hidden",))
    # Clean and corrupted: 3 blocks each. The self-check alone needs block 0. Then 7 positions, from
    # the span's first on, climb the blocks 1 and 2.
    assert model.block_calls == 3 + 3 + 1 + 7 * 2


def test_progress_grows_to_one_and_can_end_the_work():
    model = make_model("gpt2")
    seen: list[float] = []
    run(model, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == len(IDS) - min(SPAN)
    assert seen[-1] == 1.0

    def stop(_share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, progress=stop)


def test_the_self_check_refuses_wrong_numbers():
    model = make_model("llama")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean = runs.run_clean(model, clean_embeddings, WORDS)
    corrupted = runs.run_corrupted(model, corrupted_embeddings, WORDS, clean)
    _, _, found = run(model)
    assert found.worst_check < 1e-4
    corrupted.keys[1] = corrupted.keys[1] + 1.0  # a prefix that is not the corrupted run's
    with pytest.raises(EngineError, match="self-check"):
        runs.restore(model, clean, corrupted, WORDS, first=min(SPAN))
