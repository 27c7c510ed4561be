"""What can be said of a pair's cells before they are run? Estimates, and how good they have been.

Integrated gradients (`core.patching.gradients`) rank a counterfactual's cells nearly as exact runs
do, noise's less well, and those of the mean embedding not at all (`benchmarks/estimates.py`
measures it). So a pair's heatmap, and no other, can stand before its first cell is run, drawn as
what it is. No finding is made of an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UserError
from ..models.model import Model
from ..patching.clean_and_corrupted import run_source
from ..patching.gradients import STEPS, estimate
from ..patching.sites import Kind
from ..statistics import Array, spearman
from .corruption import Case
from .findings import cells
from .result import TraceResult, TraceSettings

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 5
"""Cells that a rank correlation is made of."""


@dataclass(frozen=True)
class Estimate:
    """Estimated reads of all cells of a trace whose corruption draws nothing.

    Attributes:
        reads: of each kind (L, T, C), as `Reads.restored` has them of one sample.
    """

    reads: Mapping[Kind, Array]

    def of(self, result: TraceResult) -> TraceResult:
        """The trace, read through a result's proxy, as it would be were the estimates its cells."""
        restored = {kind: read[None] for kind, read in self.reads.items()}
        return replace(result, reads=replace(result.reads, restored=restored))

    def joined(self, result: TraceResult) -> pd.DataFrame:
        """All cells (`core.tracing.findings.cells`), estimated where a result has not run them.

        A column `estimated` says which are; of those none is faded or the largest.
        """
        import pandas as pd

        whole = cells(self.of(result)).assign(estimated=True, largest=False, faded=False)
        if not result.has_cells:
            return whole
        exact = cells(result).assign(estimated=False)
        places = ["kind", "layer", "position"]
        all_cells = pd.MultiIndex.from_frame(whole[places])
        left = ~all_cells.isin(pd.MultiIndex.from_frame(exact[places]))
        joined = pd.concat([exact, whole[left]]).set_index(places)
        return joined.reindex(all_cells).reset_index()

    def rank_correlation(self, result: TraceResult) -> dict[Kind, float]:
        """Spearman's, of each kind's estimates and exact cells, over those that a result has run.

        Cells that are fixed by construction are left out; so is a kind of which fewer than
        `FEWEST` others were run.
        """
        found: dict[Kind, float] = {}
        estimated = self.of(result).effects
        for kind, effects in result.effects.items():
            run = np.isfinite(effects) & ~result.trivial[kind]
            if run.sum() >= FEWEST:
                found[kind] = spearman(effects[run], estimated[kind][run])
        return found


def can_be_estimated(settings: TraceSettings) -> bool:
    """Whether estimates come near enough to be shown: of counterfactuals, without frozen paths."""
    return settings.corruption == "counterfactual" and settings.severed is None


def estimate_of(model: Model, case: Case, *, steps: int = STEPS, sample: int = 0) -> Estimate:
    """Estimate all cells of a case; see `core.patching.gradients`.

    Args:
        sample: of the corruption, where it draws.

    Raises:
        UserError: frozen paths, whose cells no gradient estimates.
    """
    blank, settings, places = case.blank, case.blank.settings, case.places
    if settings.severed is not None:
        raise UserError("Cells with a frozen path cannot be estimated; run them.")
    embeddings = [case.embeddings, case.corrupted(sample)]
    if settings.direction == "corrupt":
        embeddings.reverse()
    source, base = (run_source(model, one[None], case.readout) for one in embeddings)
    line, spans = (embeddings[1], embeddings[0]), blank.spans
    if places is not None:
        source, spans = source.at(places.source), places.spans_by_last()
        towards = embeddings[1].clone()
        for span in spans.values():
            taken = torch.as_tensor(places.source)[list(span)]
            towards[list(span)] = embeddings[0][taken]
        line = (embeddings[1], towards)
    found = estimate(
        *(model, source, base, line, case.readout),
        kinds=settings.kinds,
        window=blank.window,
        spans=spans,
        steps=steps,
    )
    if places is not None:
        moved = places.own({kind: read[None] for kind, read in found.items()}, len(blank.prompt))
        found = {kind: read[0] for kind, read in moved.items()}
    for read in found.values():
        every = np.arange(len(read)) % settings.every != 0
        read[every] = np.nan
    return Estimate(found)
