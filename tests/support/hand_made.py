"""A trace in the form of `TraceResult.frame()` whose every number is known."""

import numpy as np
import pandas as pd

TOKENS = (
    *("My", "\u00b7flight", "\u00b7was", "\u00b7terrible", "\u00b7I", "\u00b7am"),
    "\u00b7feeling",
)
CORRUPTED = 4  # the first tokens, of the tweet
LAYERS = 6
TOTAL = -4.6


def make_frame(
    *, tokens: tuple[str, ...] = TOKENS, layers: int = LAYERS, samples: int = 10
) -> pd.DataFrame:
    """An early site in hidden and mlp at the last corrupted token, a late one at the last token."""
    rows = []
    for kind, share in (("hidden", 1.0), ("mlp", 0.5), ("attn", 0.25)):
        for layer in range(layers):
            for position, token in enumerate(tokens):
                effect = 0.0
                if position == CORRUPTED - 1 and layer < layers // 2 and kind != "attn":
                    effect = -3.2 * share
                if position == len(tokens) - 1 and layer >= layers // 2 and kind != "mlp":
                    effect = TOTAL * share
                rows.append(
                    {
                        "kind": kind,
                        "layer": layer,
                        "position": position,
                        "token": token,
                        "corrupted": position < CORRUPTED,
                        "effect": effect,
                        "normalised": effect / TOTAL,
                        "standard_error": 0.1 if samples > 1 else np.nan,
                        "samples": samples,
                        "trivial": kind == "hidden" and layer == layers - 1,
                    }
                )
    return pd.DataFrame(rows)
