"""Does punctuation hold a summary of the sentiment? An ablation of punctuation alone.

Tigges et al. 2023 ("Linear Representations of Sentiment in Large Language Models") find that models
gather the sentiment of a phrase at tokens without sentiment of their own, such as commas. The test:
in the clean run, hold the residual stream at a tweet's inner punctuation to its mean over tweets,
after block l and after every later one. From there on these positions say that there is
punctuation, and nothing of this tweet. How much of the proxy is lost?

Three groups of tokens are ablated, each with means of its own:

- "punctuation": tokens of the role of that name made of marks without sentiment of their own (not
  "!" and "?", and not the tweet's last token, which would summarise by its place alone);
- "other": as many other tokens without sentiment (role "middle"), each the nearest one that is not
  taken, as a control;
- "sentiment": the last tokens of sentiment words, for comparison.

With l = 0 the group is ablated in all layers. A summary shows as a loss at punctuation that
exceeds the control's in the layers after which the sentiment has been moved there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..models.model import Model
from ..probes.probe import Probe
from ..prompts.prompt import Prompt, build_prompt
from ..prompts.token_roles import roles_of
from ..statistics import Array, percentile_interval
from ..tracing.corruption import readout_of
from ..tracing.result import read_proxy

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("punctuation", "other", "sentiment")
PLAIN = frozenset(",.;:\u2026-\u2013\u2014()[]\"'\u201c\u201d\u2018\u2019/&*")
"""Marks without a sentiment of their own."""

DRAWS = 1000  # bootstrap replicates
FEWEST = 10  # tweets


def groups_of(prompt: Prompt) -> dict[str, list[int]]:
    """Positions of each group in one prompt; empty where it has no inner plain punctuation, or
    fewer other tokens than that."""
    roles = roles_of(prompt)
    marks = [
        position
        for position, role in enumerate(roles)
        if role == "punctuation"
        and set((word := prompt.words[prompt.tokens[position].word]).text) <= PLAIN
        and prompt.tweet_span[-1] not in word.tokens
    ]
    free = [position for position, role in enumerate(roles) if role == "middle"]
    if not marks or len(free) < len(marks):
        return {}
    others = []
    for mark in marks:
        nearest = min(free, key=lambda position: (abs(position - mark), -position))
        free.remove(nearest)
        others.append(nearest)
    sentiment = [position for position, role in enumerate(roles) if role == "sentiment_last"]
    return {"punctuation": marks, "other": sorted(others), "sentiment": sentiment}


def ablation(
    model: Model,
    probe: Probe,
    texts: Sequence[str],
    *,
    every: int = 2,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """How much of the proxy is lost when a group of tokens is ablated from a layer on.

    Args:
        texts: tweets; those without inner plain punctuation are left out.
        every: begin at layers 0, every, 2 * every, ...
        seed: of the bootstrap over tweets.

    Returns:
        group (of `GROUPS`, and "difference": punctuation minus other), layer (the first that is
        ablated), mean (loss in the probe's log-odds, towards what it says of the clean run),
        lower, upper (95% percentile bootstrap over tweets), n.

    Raises:
        UserError: fewer than `FEWEST` tweets have such punctuation.
    """
    import pandas as pd

    found: list[tuple[Prompt, dict[str, list[int]]]] = []
    for text in texts:
        prompt = build_prompt(model, text, probe.template)
        if groups := groups_of(prompt):
            found.append((prompt, groups))
    if len(found) < FEWEST:
        raise UserError(
            f"Only {len(found)} of these {len(texts)} tweets have punctuation inside, and other "
            f"tokens to compare it with; at least {FEWEST} are needed, so take more tweets."
        )
    last = model.layers - 1 if probe.layer is None else probe.layer
    starts = list(range(0, last, every))
    means = _means(model, found, last, lambda share: progress(share / 3) if progress else None)
    losses = np.full((len(found), len(GROUPS), len(starts)), np.nan)
    for number, (prompt, groups) in enumerate(found):
        losses[number] = _losses(model, probe, prompt, groups, means, starts)
        if progress is not None:
            progress((1 + 2 * (number + 1) / len(found)) / 3)
    both = np.concatenate([losses, losses[:, :1] - losses[:, 1:2]], axis=1)
    counts = np.random.default_rng(seed).multinomial(
        len(found), np.full(len(found), 1 / len(found)), DRAWS
    )
    there = ~np.isnan(both)
    weights = counts @ there.reshape(len(found), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (counts @ np.nan_to_num(both).reshape(len(found), -1)) / weights
    lower, upper = percentile_interval(drawn)
    group, layer = (index.ravel() for index in np.indices(both.shape[1:]))
    return pd.DataFrame(
        {
            "group": np.array([*GROUPS, "difference"], dtype=object)[group],
            "layer": np.array(starts)[layer],
            "mean": np.nanmean(both, axis=0).ravel(),
            "lower": lower,
            "upper": upper,
            "n": there.sum(axis=0).ravel(),
        }
    )


@torch.inference_mode()
def _means(
    model: Model,
    found: Sequence[tuple[Prompt, dict[str, list[int]]]],
    last: int,
    progress: Callable[[float], None],
) -> Tensor:
    """Mean states after blocks 0 to last - 1 of each group's tokens: (groups, last, D)."""
    sums = torch.zeros(len(GROUPS), last, model.width, dtype=torch.float64)
    counts = [0] * len(GROUPS)
    for number, (prompt, groups) in enumerate(found):
        states = model.enter(model.embed(torch.tensor([list(prompt.ids)])))
        for layer in range(last):
            states = model.block(layer, states).states
            for group, name in enumerate(GROUPS):
                sums[group, layer] += states[0, groups[name]].double().sum(0).cpu()
        for group, name in enumerate(GROUPS):
            counts[group] += len(groups[name])
        progress((number + 1) / len(found))
    return sums / torch.tensor(counts).clamp(min=1)[:, None, None]


@torch.inference_mode()
def _losses(
    model: Model,
    probe: Probe,
    prompt: Prompt,
    groups: dict[str, list[int]],
    means: Tensor,
    starts: list[int],
) -> Array:
    """Loss of the proxy, (groups, starts): NaN where a tweet has no token of a group.

    One pass for all: row 0 stays clean, and each start adds a row for each group.
    """
    readout = readout_of(model, probe)
    held = means.to(model.dtype).to(model.device)
    states = model.enter(model.embed(torch.tensor([list(prompt.ids)])))
    begun: list[int] = []
    heard: Tensor | None = None
    for layer in range(model.layers):
        states = model.block(layer, states).states
        if layer in starts:
            states = torch.cat([states, states[:1].expand(len(GROUPS), -1, -1)])
            begun.append(layer)
        if begun and layer < held.shape[1]:
            states = states.clone()
            for group, name in enumerate(GROUPS):
                rows = states[1 + group :: len(GROUPS)]
                rows[:, groups[name]] = held[group, layer]
        if layer == readout.layer:
            heard = states[:, -1]
    read = readout.read(model, states[:, -1], heard).cpu().double().numpy()
    odds = read_proxy("log_odds", probe, read)
    losses: Array = (odds[0] - odds[1:]).reshape(len(starts), len(GROUPS)).T
    losses = losses * (1.0 if odds[0] >= 0 else -1.0)
    for group, name in enumerate(GROUPS):
        if not groups[name]:
            losses[group] = np.nan
    return losses
