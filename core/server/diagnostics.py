"""What does this server run on, and what does it hold? Memory, disk, versions; nobody's texts."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ..storage import cache

if TYPE_CHECKING:
    import pandas as pd

    from .job_queue import Look

LIBRARIES = (
    "altair",
    "datasets",
    "numpy",
    "pandas",
    "safetensors",
    "scikit-learn",
    "streamlit",
    "torch",
    "transformers",
)


def memory() -> pd.DataFrame:
    """Columns: what, bytes."""
    import pandas as pd
    import psutil
    import torch

    machine = psutil.virtual_memory()
    rows = [
        ("this process", psutil.Process().memory_info().rss),
        ("free on the machine", machine.available),
        ("the machine's", machine.total),
    ]
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        rows += [
            ("this process on the GPU", torch.cuda.memory_reserved()),
            ("free on the GPU", free),
            ("the GPU's", total),
        ]
    return pd.DataFrame(rows, columns=["what", "bytes"])


def disk() -> pd.DataFrame:
    """What lies in the cache folder, by its folders: kind, files, bytes.

    A file that is removed while it is counted counts as none.
    """
    import pandas as pd

    rows = []
    folders = cache.home().iterdir() if cache.home().is_dir() else ()
    for folder in sorted(path for path in folders if path.is_dir()):
        sizes = []
        for path in folder.rglob("*"):
            try:
                if path.is_file():
                    sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        rows.append((folder.name, len(sizes), sum(sizes)))
    return pd.DataFrame(rows, columns=["kind", "files", "bytes"])


def versions() -> pd.DataFrame:
    """Columns: what, version."""
    import pandas as pd

    rows = [
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release().partition('-')[0]}"),
    ]
    for name in LIBRARIES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    return pd.DataFrame(rows, columns=["what", "version"])


def requests(look: Look) -> pd.DataFrame:
    """What the queue does and has done: what, count."""
    import pandas as pd

    rows = [
        ("running", int(bool(look.running))),
        ("waiting", look.waiting),
        *((state, look.ended.get(state, 0)) for state in ("done", "stopped", "failed")),
    ]
    return pd.DataFrame(rows, columns=["what", "count"])
