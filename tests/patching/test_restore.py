"""The engine against the plain reference, for every family; and the identities it must keep."""

import numpy as np
import pytest
import torch
from patched_runs import IDS, READOUT, SPAN, WORD_SPANS, WORDS, embeddings, run
from reference import record, restored, restored_heads, restored_states, severed
from tiny_models import VARIANTS, make_model

from core.patching.batches import Batches
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.readout import Readout
from core.patching.restore import EngineError, last_state, restore, restore_heads
from core.patching.sites import KINDS, grid

SCALE = {"float32": 1e-4, "float64": 1e-9}


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
            low = corrupted.read[sample].double().numpy()
            scale = np.abs(expected - low).max()
            assert scale > 0.05  # the effects are there, so that equality says something
            error = np.abs(found.read[kind][sample] - expected).max()
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
        np.testing.assert_allclose(found.read[kind][0], expected, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_models(layers):
    model = make_model("gpt2", layers=layers, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model, 1)
    _, _, found = run(model, window=2, samples=1)
    for kind in KINDS:
        expected = restored(model, kind, clean_embeddings, corrupted_embeddings[0], WORDS, window=2)
        np.testing.assert_allclose(found.read[kind][0], expected, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_clean_and_corrupted_runs_equal_the_networks_own(variant):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean, corrupted, _ = run(model)
    for kind in KINDS:
        states, log_probs = record(model, kind, clean_embeddings, WORDS)
        torch.testing.assert_close(clean.read[0], log_probs)
        own = clean.states[1:, 0] if kind == "hidden" else clean.contributions[kind][:, 0]
        torch.testing.assert_close(own, torch.stack(states))
    for sample in range(2):
        states, log_probs = record(model, "hidden", corrupted_embeddings[sample], WORDS)
        torch.testing.assert_close(corrupted.read[sample], log_probs)
        torch.testing.assert_close(corrupted.states[1:, sample], torch.stack(states))


@pytest.mark.parametrize("variant", VARIANTS)
def test_cells_that_are_fixed_by_construction(variant):
    model = make_model(variant)
    clean, corrupted, found = run(model)
    low = corrupted.read.double().numpy()[:, None, None]
    for kind in KINDS:
        log_probs = found.read[kind]
        assert (log_probs[:, :, : min(SPAN)] == low).all()
        assert (log_probs[:, -1, :-1] == low[:, 0]).all()
    last = found.read["hidden"][:, -1, -1]
    np.testing.assert_allclose(last, np.tile(clean.read.numpy(), (2, 1)), atol=1e-5)


def test_samples_in_one_batch_equal_samples_one_by_one():
    model = make_model("llama", dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model, 3)
    clean = run_source(model, clean_embeddings[None], READOUT)
    _, _, together = run(model, window=2, samples=3)
    for sample in range(3):
        alone = restore(
            model,
            clean,
            run_base(model, corrupted_embeddings[sample : sample + 1], READOUT, clean),
            READOUT,
            window=2,
        )
        for kind in KINDS:
            np.testing.assert_allclose(alone.read[kind][0], together.read[kind][sample], atol=1e-10)


def test_small_calls_give_the_same_numbers():
    model = make_model("gpt_neox", dtype="float64")
    _, _, whole = run(model, window=2)
    calls = model.block_calls
    _, _, parts = run(model, window=2, batches=Batches(2, tokens=8, bytes=2**40))
    assert model.block_calls - calls > 2 * calls
    for kind in KINDS:
        np.testing.assert_allclose(parts.read[kind], whole.read[kind], atol=1e-10)


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch):
    model = make_model("gpt2", dtype="float64")
    _, _, whole = run(model, window=2)
    block, sizes = model.block, []

    def block_of_a_small_device(layer, states, **options):
        sizes.append(len(states))
        if states.shape[0] > 6 and "start" in options:
            raise torch.OutOfMemoryError("no more")
        return block(layer, states, **options)

    monkeypatch.setattr(model, "block", block_of_a_small_device)
    _, _, parts = run(model, window=2)
    assert max(sizes) > 6
    for kind in KINDS:
        np.testing.assert_allclose(parts.read[kind], whole.read[kind], atol=1e-10)


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox"])
def test_a_probe_of_states_is_read_in_every_restored_run(variant, layer):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model, 1)
    weight = np.random.default_rng(0).standard_normal(model.width)
    readout = Readout(tuple(WORDS), layer=layer, weight=weight, bias=0.5)
    clean = run_source(model, clean_embeddings[None], readout)
    corrupted = run_base(model, corrupted_embeddings, readout, clean)
    found = restore(model, clean, corrupted, readout, window=2, first=min(SPAN))
    for kind in KINDS:
        log_probs, states = restored_states(
            model, kind, clean_embeddings, corrupted_embeddings[0], WORDS, window=2, layer=layer
        )
        np.testing.assert_allclose(found.read[kind][0, ..., :2], log_probs, atol=1e-9)
        np.testing.assert_allclose(found.read[kind][0, ..., 2], states @ weight + 0.5, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reverse_patching_equals_one_full_forward_pass_per_cell(variant):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    source = run_source(model, corrupted_embeddings, READOUT)
    base = run_base(model, clean_embeddings.repeat(2, 1, 1), READOUT, source)
    found = restore(model, source, base, READOUT, window=3, first=min(SPAN))
    for kind in KINDS:
        for sample in range(2):
            expected = restored(
                model, kind, corrupted_embeddings[sample], clean_embeddings, WORDS, window=3
            )
            np.testing.assert_allclose(found.read[kind][sample], expected, atol=1e-9)


@pytest.mark.parametrize("path", ["mlp", "attn"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_severed_paths_equal_one_full_forward_pass_per_cell(variant, path):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean = run_source(model, clean_embeddings[None], READOUT)
    base = run_base(model, corrupted_embeddings, READOUT, clean, ("hidden",), path)
    found = restore(model, clean, base, READOUT, kinds=("hidden",), first=min(SPAN))
    whole = run(model, kinds=("hidden",))[2]
    assert np.abs(found.read["hidden"] - whole.read["hidden"]).max() > 1e-3  # the cut does cut
    for sample in range(2):
        expected = severed(model, path, clean_embeddings, corrupted_embeddings[sample], WORDS)
        np.testing.assert_allclose(found.read["hidden"][sample], expected, atol=1e-9)


def test_severed_paths_are_those_of_hidden_states():
    model = make_model("gpt2")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean = run_source(model, clean_embeddings[None], READOUT)
    base = run_base(model, corrupted_embeddings, READOUT, clean, KINDS, "mlp")
    with pytest.raises(ValueError, match="Frozen paths"):
        restore(model, clean, base, READOUT)


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("span", [range(3, 4), range(7, 8), range(2, 5), range(7, len(IDS))])
@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_equal_one_full_forward_pass_per_head(variant, span, layer):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean, base, _ = run(model)
    found = restore_heads(model, clean, base, READOUT, layer, span)
    for sample in range(2):
        expected = restored_heads(
            model, clean_embeddings, corrupted_embeddings[sample], WORDS, layer, span
        )
        np.testing.assert_allclose(found[sample], expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "position"), [(0, 3), (2, 8), (3, 8), (3, 4)])
def test_the_last_state_of_a_cell_says_what_the_cell_was_read_as(kind, layer, position):
    model = make_model("qwen2", dtype="float64")
    clean, base, found = run(model, window=2)
    last = last_state(model, clean, base, kind, layer, range(position, position + 1), window=2)
    with torch.inference_mode():
        read = READOUT.read(model, last, None)
    np.testing.assert_allclose(read, found.read[kind][:, layer, position], atol=1e-9)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_several_positions_restored_at_once_equal_one_full_forward_pass(variant, window):
    model = make_model(variant, dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    cells = grid(KINDS, model.layers, len(IDS), positions=list(WORD_SPANS))
    _, _, found = run(model, window=window, cells=cells, spans=WORD_SPANS)
    for kind in KINDS:
        for sample in range(2):
            expected = restored(
                *(model, kind, clean_embeddings, corrupted_embeddings[sample], WORDS),
                window=window,
                spans=WORD_SPANS,
            )
            np.testing.assert_allclose(found.read[kind][sample], expected, atol=1e-9)


@pytest.mark.parametrize("path", ["mlp", "attn"])
def test_paths_are_frozen_at_all_positions_that_are_restored_at_once(path):
    model = make_model("llama", dtype="float64")
    clean_embeddings, corrupted_embeddings = embeddings(model)
    clean = run_source(model, clean_embeddings[None], READOUT)
    base = run_base(model, corrupted_embeddings, READOUT, clean, ("hidden",), path)
    cells = grid(("hidden",), model.layers, len(IDS), positions=list(WORD_SPANS))
    found = restore(model, clean, base, READOUT, cells=cells, spans=WORD_SPANS, first=min(SPAN))
    for sample in range(2):
        own = corrupted_embeddings[sample]
        expected = severed(model, path, clean_embeddings, own, WORDS, WORD_SPANS)
        np.testing.assert_allclose(found.read["hidden"][sample], expected, atol=1e-9)


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_any_cells_alone_have_the_numbers_of_all(seed, window):
    model = make_model("llama", layers=6, dtype="float64")
    _, _, whole = run(model, window=window)
    generator = np.random.default_rng(seed)
    cells = {kind: generator.random((6, len(IDS))) < 0.3 for kind in KINDS}
    _, _, some = run(model, window=window, cells=cells)
    for kind in KINDS:
        read = some.read[kind]
        assert (np.isfinite(read[..., 0]) == cells[kind]).all()
        expected = whole.read[kind][:, cells[kind]]
        np.testing.assert_allclose(read[:, cells[kind]], expected, atol=1e-9)


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
    clean = run_source(model, clean_embeddings[None], READOUT)
    corrupted = run_base(model, corrupted_embeddings, READOUT, clean)
    _, _, found = run(model)
    assert found.worst_check < 1e-4
    corrupted.keys[1] = corrupted.keys[1] + 1.0  # a prefix that is not the corrupted run's
    with pytest.raises(EngineError, match="self-check"):
        restore(model, clean, corrupted, READOUT, first=min(SPAN))
    with pytest.raises(EngineError, match="self-check"):
        restore(
            model,
            clean,
            corrupted,
            READOUT,
            first=min(SPAN),
            cells=grid(KINDS, 4, len(IDS), positions=[7]),
        )
