"""What happens at one cell of a trace, beyond its effect?

The next tokens of the three runs, the logit lens (nostalgebraist 2020, "interpreting GPT: the logit
lens"), and, for attention, each head of the cell's layer restored alone. All of it is computed
anew for the one cell, exactly; a result keeps only what was read of every cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UserError
from ..models.model import Model
from ..patching.clean_and_corrupted import run_source
from ..patching.restore import last_state, restore_heads
from ..patching.sites import Kind
from ..probes.probe import Probe
from ..prompts.token_labels import token_label
from ..statistics import standard_error
from .corruption import case_of, runs_of
from .result import TraceSettings, read_proxy

if TYPE_CHECKING:
    import pandas as pd

TOKENS = 8
"""Next tokens that are listed for each run."""

SAMPLES = 10
"""Noise samples that are averaged at most: one cell needs no more for a list of tokens."""


@dataclass(frozen=True)
class CellDetails:
    """What was found at one cell; see the tables' columns in `inspect`."""

    kind: Kind
    layer: int
    position: int
    samples: int
    next_tokens: pd.DataFrame
    lens: pd.DataFrame
    heads: pd.DataFrame | None


@torch.inference_mode()
def inspect(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings,
    kind: Kind,
    layer: int,
    position: int,
    *,
    progress: Callable[[float], None] | None = None,
) -> CellDetails:
    """Look at one cell of the trace with these settings.

    Returns:
        next_tokens: run ("clean", "corrupted", "restored"), rank, token, probability (mean over
            the samples): the most probable next tokens of the prompt. With `settings.direction`
            "corrupt", "restored" is the clean run with the corrupted site.
        lens: run ("clean", "corrupted"), rank, token, probability: what the final norm and the
            head make of the residual stream after `layer` at `position`.
        heads: head, effect, standard_error, in units of the settings' proxy: each head of this one
            layer restored alone, whatever the window; None unless `kind` is "attn", and where a
            counterfactual has another length: a head's output is then that of other positions.

    Raises:
        UserError: there is no such cell, or the tweet cannot be traced.
    """
    import pandas as pd

    case = case_of(model, probe, text, settings)
    if not (0 <= layer < model.layers and 0 <= position < len(case.prompt)):
        raise UserError(
            f"There is no cell at layer {layer} and position {position}; the trace has layers 0 to "
            f"{model.layers - 1} and positions 0 to {len(case.prompt) - 1}."
        )
    span = case.span_at(position)
    show = progress or (lambda _share: None)
    samples = range(min(settings.draws, SAMPLES))
    clean = run_source(model, case.embeddings[None], case.readout)
    show(0.2)
    source, base, _ = runs_of(model, [case] * len(samples), samples, clean)
    show(0.5)
    corrupted = base if settings.direction == "restore" else source
    patched = last_state(model, source, base, kind, layer, span, window=case.blank.window)
    show(0.7)
    said = {
        "clean": clean.states[-1][:, -1],
        "corrupted": corrupted.states[-1][:, -1],
        "restored": patched,
    }
    # A source that was moved stands at the base's positions.
    at_cell = {
        "clean": clean.states[layer + 1][:, position],
        "corrupted": corrupted.states[layer + 1][:, span[-1]],
    }
    heads = None
    if kind == "attn" and case.places is None:
        read = restore_heads(model, source, base, case.readout, layer, span)  # (S, H, C)
        without = base.read.cpu().double().numpy()[:, None]
        effects = read_proxy(settings.proxy, probe, read) - read_proxy(
            settings.proxy, probe, without
        )
        if settings.direction == "corrupt":
            effects = -effects
        heads = pd.DataFrame(
            {
                "head": np.arange(model.heads),
                "effect": effects.mean(axis=0),
                "standard_error": standard_error(effects),
            }
        )
    show(1.0)
    return CellDetails(
        kind=kind,
        layer=layer,
        position=position,
        samples=len(samples),
        next_tokens=_most_probable(model, said),
        lens=_most_probable(model, at_cell),
        heads=heads,
    )


def _most_probable(model: Model, states: dict[str, torch.Tensor]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for run, last in states.items():
        probabilities, ids = model.next_tokens(last, TOKENS)
        for rank, (probability, token) in enumerate(
            zip(probabilities.tolist(), ids.tolist(), strict=True), start=1
        ):
            label = token_label(model, token)
            rows.append({"run": run, "rank": rank, "token": label, "probability": probability})
    return pd.DataFrame(rows)
