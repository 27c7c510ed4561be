"""Python processes of a test, forked from a server that has loaded the libraries once."""

import multiprocessing
from collections.abc import Callable
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "core.sweeps.sweep",
        "transformers.models.gpt2.modeling_gpt2",
        "pandas",
        "pyarrow.parquet",
        "pytest",
    ]
)


def start(work: Callable[..., None], *arguments: object) -> Any:
    """Work in a process of its own, on one thread: there in a moment, and killed without regret."""
    process = FORKS.Process(target=_alone, args=(work, *arguments), daemon=True)
    process.start()
    return process


def _alone(work: Callable[..., None], *arguments: object) -> None:
    import torch

    torch.set_num_threads(1)
    work(*arguments)
