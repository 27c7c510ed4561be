"""torch's switch for TF32 is set once a process, and never for a moment."""

import re
from pathlib import Path

import pytest
import torch

import core
from core.errors import UserError
from core.models import cuda_precision


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    monkeypatch.setattr(cuda_precision, "_decided", [])
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("first", "others", "refused", "switch"),
    [
        ("tf32", ["tf32"], ["float32", "bfloat16"], True),
        ("float32", ["float32", "float64", "float16", "bfloat16"], ["tf32"], False),
    ],
)
def test_the_first_model_on_a_card_decides(first, others, refused, switch):
    torch.backends.cuda.matmul.allow_tf32 = not switch
    cuda_precision.decide(first)
    assert torch.backends.cuda.matmul.allow_tf32 is switch
    for dtype in others:
        cuda_precision.decide(dtype)
    for dtype in refused:
        with pytest.raises(UserError, match=f"The dtype '{dtype}' needs products in .*: load"):
            cuda_precision.decide(dtype)
    assert torch.backends.cuda.matmul.allow_tf32 is switch


def test_no_other_module_sets_it():
    switches = re.compile(r"allow_tf32|fp32_precision|float32_matmul_precision")
    named = {
        path.name
        for path in Path(core.__file__).parent.rglob("*.py")
        if switches.search(path.read_text(encoding="utf-8"))
    }
    assert named == {"cuda_precision.py"}
