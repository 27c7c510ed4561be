"""Packed weights give the numbers of plain ones, and where torch has none the plain ones do."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import VARIANTS, make_model, make_network
from transformers.activations import NewGELUActivation

from core.models import packed_weights
from core.models.cpu_kernels import linear, speed_up
from core.models.packed_weights import PackedLinear, can_pack, differentiable

CPU = torch.device("cpu")
IDS = [3, 50, 99, 7, 120]

pytestmark = pytest.mark.skipif(
    not can_pack(CPU, torch.float32), reason="packing is for x86 processors only"
)


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 7), (2, 1, 4, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_equals_the_plain_one(shape, bias):
    plain = torch.nn.Linear(7, 11, bias=bias).requires_grad_(False)
    packed = PackedLinear(plain.weight, plain.bias)
    inputs = torch.randn(shape)
    torch.testing.assert_close(packed(inputs), plain(inputs))
    strided = torch.randn(*shape[:-1], 14)[..., ::2]
    torch.testing.assert_close(packed(strided), plain(strided))
    assert torch.equal(packed.weight, plain.weight)


@pytest.mark.parametrize("held", [True, False], ids=["held transposed", "restored"])
def test_gradients_are_those_of_the_plain_layer(held):
    plain = torch.nn.Linear(7, 11).requires_grad_(False)
    inputs = torch.randn(3, 7, requires_grad=True)
    packed = PackedLinear(plain.weight, plain.bias)
    with differentiable([packed] if held else []):
        packed(inputs).square().sum().backward()
    expected = torch.autograd.grad(plain(inputs).square().sum(), inputs)[0]
    torch.testing.assert_close(inputs.grad, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_with_faster_parts_equals_itself(variant):
    plain, fast = make_network(variant), make_network(variant)
    speed_up(fast)
    ids = torch.tensor([IDS])
    torch.testing.assert_close(fast(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    left = [m for m in fast.modules() if isinstance(m, torch.nn.Linear | NewGELUActivation)]
    assert left == []
    assert any(isinstance(module, PackedLinear) for module in fast.modules())


def test_float64_stays_as_it_is():
    network = make_network("llama").double()
    speed_up(network)
    assert not any(isinstance(module, PackedLinear) for module in network.modules())


# --- without the door ----------------------------------------------------------------------------


def _reorder(weight):
    return weight.to_mkldnn()


def _refuses(*arguments):
    raise RuntimeError("another number of arguments")


def _doubled(inputs, packed, bias, *_):
    return 2 * torch.nn.functional.linear(inputs, packed.to_dense(), bias)


def _transposed(weight):
    return (weight + 1).to_mkldnn()


def _straight(inputs, packed, bias, *_):
    return torch.nn.functional.linear(inputs, packed.to_dense(), bias)


DOORS = {
    "no operator": {},
    "one of two": {"_reorder_linear_weight": _reorder},
    "refused": {"_reorder_linear_weight": _reorder, "_linear_pointwise": _refuses},
    "another product": {"_reorder_linear_weight": _reorder, "_linear_pointwise": _doubled},
    "another weight": {"_reorder_linear_weight": _transposed, "_linear_pointwise": _straight},
}
"""torch's private operators: missing, refusing, or with other numbers."""


@pytest.fixture
def put_door(monkeypatch):
    def put(operators):
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
        packed_weights._is_right.cache_clear()

    yield put
    packed_weights._is_right.cache_clear()


def log_probs(model) -> torch.Tensor:
    states = model.enter(model.embed([IDS]))
    for layer in range(model.layers):
        states = model.block(layer, states).states
    return model.log_probs(states[0, -1], list(range(50)))


def test_a_stand_in_that_is_right_is_taken(put_door):
    """So that what is refused below is refused for its numbers."""
    put_door({"_reorder_linear_weight": _reorder, "_linear_pointwise": _straight})
    assert can_pack(CPU, torch.float32)
    assert not can_pack(CPU, torch.bfloat16)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("variant", ["gpt2", "llama", "opt"])
def test_without_the_private_operators_a_model_says_the_same(door, variant, put_door, caplog):
    packed = make_model(variant)
    assert any(isinstance(module, PackedLinear) for module in packed.network.modules())
    expected = log_probs(packed)
    put_door(DOORS[door])
    plain = make_model(variant)
    assert not any(isinstance(module, PackedLinear) for module in plain.network.modules())
    torch.testing.assert_close(log_probs(plain), expected, rtol=1e-4, atol=1e-4)
    assert "operators for packed weights" in caplog.text

    states = plain.enter(plain.embed([IDS])).requires_grad_()
    with plain.differentiable(0):
        plain.block(0, states).states.sum().backward()
    assert states.grad is not None
    weight = plain.mlp_weight(1)
    with plain.with_mlp_weight(1, weight):
        torch.testing.assert_close(log_probs(plain), expected, rtol=1e-4, atol=1e-4)


def test_it_is_asked_once_a_process(put_door, caplog):
    put_door(DOORS["no operator"])
    assert not can_pack(CPU, torch.float32)
    assert not can_pack(CPU, torch.float32)
    assert len(caplog.records) == 1


def test_a_layer_in_the_form_of_a_plain_one_is_plain():
    like = torch.nn.Linear(3, 2)
    weight = torch.randn(4, 3)
    made = linear(weight, None, like=like)
    assert type(made) is torch.nn.Linear
    inputs = torch.randn(5, 3)
    assert torch.equal(made(inputs), inputs @ weight.t())
