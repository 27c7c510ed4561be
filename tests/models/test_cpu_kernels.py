"""One thread works on each core that this process may use."""

import os

import torch

from core.models.cpu_kernels import use_physical_cores


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
