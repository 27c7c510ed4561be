"""Each family beyond those of `VARIANTS`, in each kind of patched run, against plain passes."""

import numpy as np
import pytest
import torch
from patched_runs import IDS, READOUT, SPAN, WORD_SPANS, WORDS, embeddings, run
from reference import ablated, record, restored, restored_heads, severed
from tiny_models import MORE_VARIANTS, make_model

from core.errors import UserError
from core.models.families import FAMILIES, UnsupportedModel
from core.models.model import Change, Model
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.restore import restore, restore_heads
from core.patching.sites import KINDS, grid


def widest(variant: str) -> tuple[Model, float]:
    """In float64 where the family has it, and how far its numbers may be from plain passes."""
    if FAMILIES[variant.partition("-")[0]].attention_in_float32:
        return make_model(variant), 1e-4
    return make_model(variant, dtype="float64"), 1e-8


def test_every_family_is_tried():
    from tiny_models import VARIANTS

    assert {name.partition("-")[0] for name in (*VARIANTS, *MORE_VARIANTS)} == set(FAMILIES)


@pytest.mark.parametrize("dtype", ["float32", "widest"])
@pytest.mark.parametrize("variant", MORE_VARIANTS)
def test_every_cell_equals_one_full_forward_pass(variant, dtype):
    model, close = widest(variant) if dtype == "widest" else (make_model(variant), 1e-4)
    clean, corrupted = embeddings(model, 1)
    _, base, found = run(model, window=3, samples=1)
    for kind in KINDS:
        expected = restored(model, kind, clean, corrupted[0], WORDS, window=3)
        scale = np.abs(expected - base.read[0].double().numpy()).max()
        assert scale > 0.05
        error = np.abs(found.read[kind][0] - expected).max()
        assert error < close * scale, kind


@pytest.mark.parametrize("variant", MORE_VARIANTS)
def test_contributions_are_what_is_added_to_the_stream(variant):
    model, close = widest(variant)
    clean, _, _ = run(model, samples=1)
    states, log_probs = record(model, "hidden", embeddings(model, 1)[0], WORDS)
    torch.testing.assert_close(clean.read[0], log_probs, rtol=close, atol=close)
    added = clean.contributions["attn"] + clean.contributions["mlp"]
    torch.testing.assert_close(clean.states[1:], clean.states[:-1] + added)
    last = clean.states[-1, 0, -1]
    logits = model.logits(last, WORDS) - model.log_normaliser(last)
    torch.testing.assert_close(logits, log_probs, rtol=close, atol=close)
    torch.testing.assert_close(clean.states[1:, 0], torch.stack(states), rtol=close, atol=close)


def cells(model: Model) -> float:
    """Largest difference, in nats, of any cell of any kind from one full forward pass."""
    clean, corrupted = embeddings(model, 1)
    _, _, found = run(model, window=3, samples=1)
    return max(
        np.abs(
            found.read[kind][0] - restored(model, kind, clean, corrupted[0], WORDS, window=3)
        ).max()
        for kind in KINDS
    )


def noising(model: Model) -> float:
    """The same of all tokens of a word at once, corrupted in the clean run."""
    clean, corrupted = embeddings(model, 1)
    source = run_source(model, corrupted, READOUT)
    base = run_base(model, clean[None], READOUT, source)
    chosen = grid(KINDS, model.layers, len(IDS), positions=list(WORD_SPANS))
    found = restore(
        model, source, base, READOUT, cells=chosen, spans=WORD_SPANS, window=2, first=min(SPAN)
    )
    positions = list(WORD_SPANS)
    worst = 0.0
    for kind in KINDS:
        expected = restored(model, kind, corrupted[0], clean, WORDS, window=2, spans=WORD_SPANS)
        error = np.abs(found.read[kind][0] - expected)[:, positions]
        worst = max(worst, error.max())
    return worst


def frozen(model: Model) -> float:
    """The same of hidden states whose later MLP, or attention, stays corrupted."""
    clean, corrupted = embeddings(model, 1)
    source = run_source(model, clean[None], READOUT)
    worst = 0.0
    for path in ("mlp", "attn"):
        base = run_base(model, corrupted, READOUT, source, ("hidden",), path)
        found = restore(model, source, base, READOUT, kinds=("hidden",), first=min(SPAN))
        expected = severed(model, path, clean, corrupted[0], WORDS)
        worst = max(worst, np.abs(found.read["hidden"][0] - expected).max())
    return worst


def heads(model: Model) -> float:
    """The same of each attention head."""
    clean, corrupted = embeddings(model, 1)
    source, base, _ = run(model, kinds=(), samples=1)
    worst = 0.0
    for layer, span in ((1, range(2, 5)), (3, range(8, 9))):
        found = restore_heads(model, source, base, READOUT, layer, span)
        expected = restored_heads(model, clean, corrupted[0], WORDS, layer, span)
        worst = max(worst, np.abs(found[0] - expected).max())
    return worst


CHECKS = {"Cells": cells, "Noising": noising, "Frozen paths": frozen, "Heads": heads}


@pytest.mark.parametrize("check", [noising, frozen, heads])
@pytest.mark.parametrize("variant", MORE_VARIANTS)
def test_other_patched_runs_equal_full_forward_passes(variant, check):
    model, close = widest(variant)
    assert check(model) <= close


@pytest.mark.parametrize("variant", MORE_VARIANTS)
def test_a_changed_site_is_that_of_a_plain_pass(variant):
    model, close = widest(variant)
    embedded = model.embed(IDS)
    for kind in KINDS:
        with model.changed([Change(1, kind, torch.zeros_like, positions={3, 4})]):
            states = model.enter(embedded[None])
            for layer in range(model.layers):
                states = model.block(layer, states).states
        expected = ablated(model, kind, embedded, WORDS, layer=1, positions=[3, 4])
        found = model.log_probs(states[0, -1], WORDS)
        torch.testing.assert_close(found, expected, rtol=close, atol=close)


@pytest.mark.parametrize("variant", ["gpt_neo", "gptj"])
def test_attention_in_float32_is_not_taken_for_float64(variant):
    with pytest.raises(UnsupportedModel, match="load it in float32"):
        make_model(variant, dtype="float64")


@pytest.mark.parametrize("place", ["inner", "mlp_out"])
def test_no_single_expert_is_edited(place):
    model = make_model("mixtral")
    with (
        pytest.raises(UserError, match="made of experts"),
        model.changed([Change(0, place, torch.zeros_like)]),
    ):
        pass
    with pytest.raises(UserError, match="made of experts"):
        model.mlp_weight(0)


def main() -> None:
    """Write docs/families.md, with PYTHONPATH=.:tests/support."""
    from pathlib import Path

    from tiny_models import VARIANTS

    lines = [
        "# Families, compared with plain forward passes",
        "",
        "Tiny random models of every family, by `PYTHONPATH=.:tests/support python "
        "tests/patching/test_every_family.py`. A number is the largest difference in "
        "log-probability (nats) between the fast path and one full forward pass with the "
        "activation patched: of any cell (hidden states, MLP and attention windows), of words "
        "that are noised, of frozen paths, and of single heads.",
        "",
        f"| Family | Precision | {' | '.join(CHECKS)} |",
        f"| --- | --- | {' | '.join('---:' for _ in CHECKS)} |",
    ]
    for variant in (*VARIANTS, *MORE_VARIANTS):
        model, _ = widest(variant)
        found = [f"{check(model):.0e}" for check in CHECKS.values()]
        lines.append(f"| {variant} | {model.precision} | {' | '.join(found)} |")
    Path("docs/families.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
