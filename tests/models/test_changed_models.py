"""A model that is changed for one thread and for a while: as if its weights had been written."""

import itertools
import threading

import pytest
import torch
from tiny_models import MORE_VARIANTS, VARIANTS, make_model, make_network

from core.models.families import FAMILIES
from core.models.model import Change

IDS = [3, 50, 99, 7, 21]


def said(model) -> torch.Tensor:
    """log P of every next token after the last position."""
    states = model.enter(model.embed([IDS]))
    for layer in range(model.layers):
        states = model.block(layer, states).states
    return model.log_probs(states[0, -1], range(300))


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        *itertools.product(VARIANTS, ["float32", "float64"]),
        *(
            (variant, "float32")
            for variant in MORE_VARIANTS
            if FAMILIES[variant.partition("-")[0]].mlp_out
        ),
    ],
)
def test_another_mlp_weight_is_that_of_a_network_written_anew(variant, dtype):
    model = make_model(variant, dtype=dtype)
    before, said_before = model.mlp_weight(1), said(model)
    other = before + 0.2 * torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    network = make_network(variant).to(model.dtype)
    family = FAMILIES[model.family]
    projection = network.get_submodule(f"{family.blocks}.1.{family.mlp_out}")
    projection.weight.data = (other if variant == "gpt2" else other.t()).contiguous()
    written = network(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)[:300]
    with model.with_mlp_weight(1, other):
        assert model.is_changed
        assert torch.equal(model.mlp_weight(1), other.to(model.dtype))
        torch.testing.assert_close(said(model), written, rtol=1e-4, atol=1e-4)
        elsewhere: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: elsewhere.append(said(model)))
        thread.start()
        thread.join()
    assert torch.equal(elsewhere[0], said_before)
    assert not model.is_changed
    assert torch.equal(model.mlp_weight(1), before)
    assert torch.equal(said(model), said_before)


def test_an_error_within_puts_the_weight_back():
    model = make_model("gpt2")
    before = said(model)
    with pytest.raises(RuntimeError), model.with_mlp_weight(0, model.mlp_weight(0) * 2):
        raise RuntimeError
    assert torch.equal(said(model), before)


def test_edits_of_several_layers_and_of_one_again_undo_in_turn():
    model = make_model("llama")
    plain = said(model)
    with model.with_mlp_weight(0, model.mlp_weight(0) * 2):
        once = said(model)
        with (
            model.with_mlp_weight(2, model.mlp_weight(2) * 2),
            model.with_mlp_weight(0, model.mlp_weight(0) / 2),
        ):
            assert not torch.equal(said(model), once)
        assert torch.equal(said(model), once)
    assert torch.equal(said(model), plain)


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
@pytest.mark.parametrize("place", ["hidden", "attn", "mlp", "heads", "inner"])
def test_a_change_is_made_at_its_layer_and_positions_alone(variant, place):
    model = make_model(variant)
    seen: list[torch.Tensor] = []

    def add(values: torch.Tensor) -> torch.Tensor:
        seen.append(values)
        return values + 1

    states = model.enter(model.embed([IDS]))
    plain = model.block(0, states).states
    with model.changed([Change(0, place, add, positions=range(2, 4))]):
        changed = model.block(0, states).states
        later = model.block(1, plain).states
        part = model.block(0, states[:, 3:], start=3, **keys(model, states, 3)).states
    moved = (changed - plain)[0].abs().amax(-1) > 1e-4
    assert moved.tolist() == [False, False, True, True, False]
    assert seen[0].shape[1] == 2
    assert torch.equal(later, model.block(1, plain).states)
    torch.testing.assert_close(part, changed[:, 3:], rtol=1e-4, atol=1e-4)


def keys(model, states, start):
    output = model.block(0, states)
    return {"keys": output.keys[:, :, :start], "values": output.values[:, :, :start]}


def test_all_heads_at_zero_leave_attention_its_bias():
    model = make_model("gpt2")
    states = model.enter(model.embed([IDS]))
    with model.changed([Change(1, "heads", torch.zeros_like)]):
        contribution = model.block(1, states).contributions["attn"]
    assert torch.equal(contribution[0, 0], contribution[0, -1])


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_there_is_not_is_refused(layer):
    model = make_model("llama")
    with (
        pytest.raises(ValueError, match="layers 0 to 3"),
        model.changed([Change(layer, "hidden", torch.zeros_like)]),
    ):
        pass
    with pytest.raises(ValueError, match="layers 0 to 3"):
        model.mlp_weight(layer)


def test_a_weight_of_another_shape_is_refused():
    model = make_model("llama")
    with (
        pytest.raises(ValueError, match=r"\(48, 32\) numbers, not \(32, 48\)"),
        model.with_mlp_weight(0, model.mlp_weight(0).t()),
    ):
        pass


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_packed_form_are_those_of_float64(variant):
    gradients = []
    for dtype in ("float32", "float64"):
        model = make_model(variant, dtype=dtype)
        with torch.no_grad():
            states = model.block(0, model.enter(model.embed([IDS]))).states
        states.requires_grad_()
        with model.differentiable(1):
            later = states
            for layer in range(1, model.layers):
                later = model.block(layer, later).states
            model.log_probs(later[0, -1], [5]).sum().backward()
        gradients.append(states.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
