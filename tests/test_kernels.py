"""Faster forms of a network's parts give the same numbers."""

import os

import pytest
import torch
from tiny_models import VARIANTS, make_network
from transformers.activations import NewGELUActivation

from core.kernels import PackedLinear, can_pack, speed_up, tf32, use_physical_cores

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.float32), reason="packing is for x86 processors only"
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


def test_gradients_are_those_of_the_plain_layer():
    plain = torch.nn.Linear(7, 11).requires_grad_(False)
    inputs = torch.randn(3, 7, requires_grad=True)
    PackedLinear(plain.weight, plain.bias)(inputs).square().sum().backward()
    expected = torch.autograd.grad(plain(inputs).square().sum(), inputs)[0]
    torch.testing.assert_close(inputs.grad, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_with_faster_parts_equals_itself(variant):
    plain, fast = make_network(variant), make_network(variant)
    speed_up(fast)
    ids = torch.tensor([[3, 50, 99, 7, 120]])
    torch.testing.assert_close(fast(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    left = [m for m in fast.modules() if isinstance(m, torch.nn.Linear | NewGELUActivation)]
    assert left == []
    assert any(isinstance(module, PackedLinear) for module in fast.modules())


def test_float64_stays_as_it_is():
    network = make_network("llama").double()
    speed_up(network)
    assert not any(isinstance(module, PackedLinear) for module in network.modules())


def test_tf32_is_left_as_it_was():
    before = torch.backends.cuda.matmul.allow_tf32
    with tf32(not before):
        assert torch.backends.cuda.matmul.allow_tf32 is not before
    assert torch.backends.cuda.matmul.allow_tf32 is before


def test_threads_are_at_most_the_cores_that_may_be_used(monkeypatch):
    threads = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        use_physical_cores()
        assert 1 <= torch.get_num_threads() <= (os.cpu_count() or 1)
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        use_physical_cores()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
