"""Files that hold a trace: they are as they were, and give back what was written."""

from dataclasses import replace

import numpy as np
import pytest

from core.tracing import example
from core.tracing.serialization import read_reads, write_reads


@pytest.fixture(scope="module")
def reads():
    return example.load().reads


def test_the_example_is_written_as_it_lies_in_the_assets(tmp_path):
    held = example.load()
    example.save(held, tmp_path)
    name = f"{example.NAME}.safetensors"
    assert (tmp_path / name).read_bytes() == (example.ASSETS / name).read_bytes()
    again = example.load(tmp_path)
    assert replace(again, reads=held.reads) == held


def test_reads_come_back_with_the_samples_of_the_total_effect_and_cells_left_out(reads, tmp_path):
    total = np.concatenate([reads.corrupted, reads.corrupted + 1.0])
    coarse = {kind: values.copy() for kind, values in reads.restored.items()}
    coarse["mlp"][:, 1] = np.nan
    written = replace(reads, restored=coarse, total=total)
    write_reads(tmp_path / "reads.safetensors", written)
    back = read_reads(tmp_path / "reads.safetensors")
    for name in ("clean", "corrupted", "total"):
        np.testing.assert_array_equal(getattr(back, name), getattr(written, name))
    assert list(back.restored) == list(written.restored)
    for kind, values in written.restored.items():
        np.testing.assert_array_equal(back.restored[kind], values)
