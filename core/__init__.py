"""SentiTrace: where does a language model keep and use the sentiment of a tweet?

The names below are the library's public face. They are imported when first asked for, so that
`import core` is quick.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.average import average_effects as average_effects
    from core.datasets import load_dataset as load_dataset
    from core.export import export_figure as export_figure
    from core.models import load_model as load_model
    from core.probes import Probe as Probe
    from core.probes import train_probe as train_probe
    from core.results import TraceResult as TraceResult
    from core.results import TraceSettings as TraceSettings
    from core.trace import trace as trace
    from core.trace import trace_progressively as trace_progressively

# By default OpenMP threads spin while they wait for each other; where another process wants a core
# (a browser, a second trace) a trace then takes several times as long. OpenMP reads this when torch
# is first imported. `benchmarks/waiting.py` measures it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# oneDNN keeps code for every shape of product. A trace has thousands of shapes, and keeping the
# default of 1,024 takes memory without saving time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

_HOME = {
    "average_effects": "core.average",
    "load_model": "core.models",
    "load_dataset": "core.datasets",
    "train_probe": "core.probes",
    "Probe": "core.probes",
    "TraceSettings": "core.results",
    "TraceResult": "core.results",
    "trace": "core.trace",
    "trace_progressively": "core.trace",
    "export_figure": "core.export",
}
__all__ = [
    "Probe",
    "TraceResult",
    "TraceSettings",
    "average_effects",
    "export_figure",
    "load_dataset",
    "load_model",
    "trace",
    "trace_progressively",
    "train_probe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if name == "trace" else getattr(module, name)
