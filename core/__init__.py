"""SentiTrace: where does a language model keep and use the sentiment of a tweet?

The names below are the library's public face. They are imported when first asked for, so that
`import core` is quick.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.datasets import load_dataset as load_dataset
    from .data.pairs import load_pairs as load_pairs
    from .data.readable import readable_texts as readable_texts
    from .exporting.displays import display_of as display_of
    from .exporting.displays import show as show
    from .exporting.figure_files import export_figure as export_figure
    from .exporting.settings_files import repeat as repeat
    from .interventions.plan import Plan as Plan
    from .interventions.plan import intervene as intervene
    from .models.families import Family as Family
    from .models.loading import load_model as load_model
    from .probes.contrast import contrast as contrast
    from .probes.controls import with_controls as with_controls
    from .probes.library import probe_for as probe_for
    from .probes.probe import Probe as Probe
    from .probes.training import train_probe as train_probe
    from .prompts.template import Template as Template
    from .sweeps.average import average as average
    from .sweeps.average import average_effects as average_effects
    from .sweeps.store import open_store as open_store
    from .sweeps.sweep import Selection as Selection
    from .sweeps.sweep import sweep as sweep
    from .tracing.result import TraceResult as TraceResult
    from .tracing.result import TraceSettings as TraceSettings
    from .tracing.tracer import trace as trace
    from .tracing.tracer import trace_progressively as trace_progressively
    from .tracing.view import View as View

# By default OpenMP threads spin while they wait for each other; where another process wants a core
# (a browser, a second trace) a trace then takes several times as long. OpenMP reads this when torch
# is first imported. `benchmarks/waiting.py` measures it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# oneDNN keeps code for every shape of product. A trace has thousands of shapes, and keeping the
# default of 1,024 takes memory without saving time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

_HOME = {
    "average": ".sweeps.average",
    "intervene": ".interventions.plan",
    "open_store": ".sweeps.store",
    "Plan": ".interventions.plan",
    "probe_for": ".probes.library",
    "repeat": ".exporting.settings_files",
    "Selection": ".sweeps.sweep",
    "sweep": ".sweeps.sweep",
    "View": ".tracing.view",
    "with_controls": ".probes.controls",
    "average_effects": ".sweeps.average",
    "Family": ".models.families",
    "load_model": ".models.loading",
    "contrast": ".probes.contrast",
    "Template": ".prompts.template",
    "load_dataset": ".data.datasets",
    "load_pairs": ".data.pairs",
    "readable_texts": ".data.readable",
    "train_probe": ".probes.training",
    "Probe": ".probes.probe",
    "TraceSettings": ".tracing.result",
    "TraceResult": ".tracing.result",
    "trace": ".tracing.tracer",
    "trace_progressively": ".tracing.tracer",
    "export_figure": ".exporting.figure_files",
    "show": ".exporting.displays",
    "display_of": ".exporting.displays",
}
__all__ = [
    "Family",
    "Plan",
    "Selection",
    "View",
    "average",
    "intervene",
    "open_store",
    "probe_for",
    "repeat",
    "sweep",
    "with_controls",
    "Probe",
    "Template",
    "TraceResult",
    "TraceSettings",
    "average_effects",
    "contrast",
    "export_figure",
    "load_dataset",
    "load_model",
    "load_pairs",
    "readable_texts",
    "show",
    "trace",
    "trace_progressively",
    "train_probe",
    "display_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
