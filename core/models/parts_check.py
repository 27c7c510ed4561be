"""Do a model's parts, put together, say what the model itself says?

Asked once of each model, when it is first loaded; the answer is kept by its identity. So a row of
`FAMILIES`, or of a person's own, that does not fit is refused before anything is traced with it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..storage import cache
from .families import UnsupportedModel
from .model import Change, Model, Place

TOLERANCE = {
    torch.float64: 1e-6,  # transformers computes norms in float32
    torch.float32: 1e-3,
    torch.float16: 0.1,
    torch.bfloat16: 0.5,
}
"""How far the parts may be from the model, in log-probability and in shares of a state's size."""

LENGTH = 12
"""Tokens of the text that is read."""


def check_once(model: Model) -> None:
    """Refuse a model whose parts do not give what it says; what was found before is believed.

    Raises:
        UnsupportedModel: they differ, or cannot be put together.
    """
    path = kept_path(model.identity)
    kept = _read(path)
    difference = _largest_difference(model) if kept is None else kept
    if difference is None:
        return  # the model itself overflows, and says so when it is traced
    if not difference <= TOLERANCE[model.dtype]:  # a NaN is refused as well
        raise UnsupportedModel(
            f"The parts of {model.name!r}, put together, differ from what the model says by "
            f"{difference:.2g}, more than {TOLERANCE[model.dtype]:.2g} for {model.precision}; its "
            "family's row names a wrong module or leaves something out."
        )
    if kept is None:
        # Where nothing can be kept, it is asked again the next time.
        with suppress(OSError), cache.write_beside(path) as beside:
            beside.write_text(json.dumps({"difference": difference}), encoding="utf-8")


def kept_path(identity: str) -> Path:
    """Of what was found of a model; another version of transformers is asked anew."""
    from transformers import __version__

    digest = hashlib.sha256(f"{identity} {__version__}".encode()).hexdigest()[:32]
    return cache.home() / "checks" / f"{digest}.json"


def _read(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["difference"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is damaged


@torch.no_grad()
def _largest_difference(model: Model) -> float | None:
    """Between the parts and the model's own forward pass; None where the latter is not finite."""
    count = min(LENGTH, model.max_positions)
    ids = torch.tensor([[(7 + 97 * i) % model.vocabulary for i in range(count)]])
    own = model.network(ids.to(model.device), use_cache=False).logits[0]
    own = own.to(torch.promote_types(own.dtype, torch.float32)).log_softmax(-1)
    if not bool(torch.isfinite(own).all()):
        return None
    try:
        last, share = _parts(model, ids)
        said = model.log_probs(last, range(own.shape[-1]))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        _refuse(model, error)
    finally:
        model.block_calls = 0  # it counts what was asked for
    return float(torch.maximum((said - own).abs().max(), share))  # a NaN stays one


def _refuse(model: Model, error: Exception) -> NoReturn:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise UnsupportedModel(
        f"The blocks of {model.name!r} cannot be run as its family's row says ({reason}); mend "
        "the row."
    ) from error


def _parts(model: Model, ids: Tensor) -> tuple[Tensor, Tensor]:
    """States after the last block (positions, width), and how far the parts of a block are off.

    The latter as a share of the largest number among the block's states, and the worst of them:

    - what attention and the MLP add, against how the stream changes;
    - what is added, against what the output projections give;
    - the later positions alone, and the last one, against all at once.
    """
    states = model.enter(model.embed(ids))
    middle = states.shape[1] // 2
    worst = torch.zeros((), dtype=states.dtype, device=states.device)
    given: dict[Place, Tensor] = {}

    def recorder(layer: int, place: Place) -> Change:
        def record(values: Tensor) -> Tensor:
            given[place] = values.clone()
            return values

        return Change(layer, place, record)

    places: list[Place] = ["attn_out", "mlp_out"] if model.mlp_is_one else ["attn_out"]
    for layer in range(model.layers):
        with model.changed([recorder(layer, place) for place in places]):
            whole = model.block(layer, states)
        keys, values = whole.keys[:, :, :middle], whole.values[:, :, :middle]
        later = model.block(layer, states[:, middle:], start=middle, keys=keys, values=values)
        last = model.block_at_last(layer, states)
        contributions = whole.contributions
        differences = [
            states + contributions["attn"] + contributions["mlp"] - whole.states,
            model.added(layer, "attn", given["attn_out"]) - contributions["attn"],
            later.states - whole.states[:, middle:],
            last - whole.states[:, -1:],
        ]
        if model.mlp_is_one:
            differences.append(model.added(layer, "mlp", given["mlp_out"]) - contributions["mlp"])
        size = whole.states.abs().max().clamp(min=torch.finfo(states.dtype).tiny)
        worst = torch.stack([worst, *(d.abs().max() / size for d in differences)]).max()
        states = whole.states
    return states[0], worst
