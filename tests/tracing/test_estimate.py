"""Estimated cells of pairs: where they stand, what they are made of, and what is said of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from reference import record
from tiny_models import make_model
from tiny_probes import make_probe

from core.errors import UserError
from core.patching.gradients import STEPS
from core.patching.sites import KINDS
from core.prompts.prompt import word_token
from core.tracing import findings
from core.tracing.corruption import case_of
from core.tracing.estimate import can_be_estimated, estimate_of
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace
from core.tracing.verdict import verdicts
from core.tracing.view import View

TWEET = "I love terrible service, I am not bad"
LONGER = "I love very wonderful service, I am bad"
EQUAL = "I love wonderful service, I am not bad"
ORDER = ["kind", "layer", "position"]


def asked(other: str, **fields) -> TraceSettings:
    return TraceSettings(corruption="counterfactual", counterfactual=other, window=2, **fields)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize(
    ("other", "fields"),
    [
        (EQUAL, {}),
        (LONGER, {}),
        (LONGER, {"edited": "all"}),
        (EQUAL, {"rows": "words"}),
        (EQUAL, {"every": 2}),
    ],
)
def test_there_is_an_estimate_for_every_cell_and_for_no_other(other, fields, direction):
    model = make_model("llama", layers=3, dtype="float64")
    probe, settings = make_probe(model), asked(other, direction=direction, **fields)
    result = trace(model, probe, TWEET, settings)
    estimate = estimate_of(model, case_of(model, probe, TWEET, settings))
    for kind in KINDS:
        there = np.isfinite(estimate.reads[kind]).all(axis=-1)
        assert (there == result.traced[kind]).all()
        # What is fixed by construction is so in an estimate.
        before = slice(0, min(result.corrupted_span))
        known = result.reads.clean if direction == "corrupt" else result.reads.corrupted[0]
        cells = estimate.reads[kind][:, before]
        cells = cells[np.isfinite(cells).all(axis=-1)]
        np.testing.assert_allclose(cells, np.broadcast_to(known, cells.shape), atol=1e-9)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_the_last_cell_of_an_unequal_pair_is_what_plain_passes_along_the_line_give(direction):
    model = make_model("gpt2", layers=3, dtype="float64")
    probe, settings = make_probe(model), asked(LONGER, direction=direction)
    case = case_of(model, probe, TWEET, settings)
    words = [word_token(model, word) for word in (" good", " bad")]
    own, its = case.embeddings, case.instead
    base, source = (its, own) if direction == "restore" else (own, its)
    towards = base.clone()
    for mine, others in case.blank.alignment.sites("last").values():
        into, taken = (others, mine) if direction == "restore" else (mine, others)
        towards[into[-1]] = source[taken[-1]]
        for offset in range(min(len(into), len(taken))):  # end to end
            towards[into[-1] - offset] = source[taken[-1] - offset]
    gradients = []
    for step in range(STEPS):
        share = (step + 0.5) / STEPS
        states, _ = record(model, "hidden", base + share * (towards - base), words)
        last = states[-1][-1].clone().requires_grad_()
        read = model.log_probs(last[None], words)[0]
        gradients.append(
            torch.stack([torch.autograd.grad(r, last, retain_graph=True)[0] for r in read])
        )
    (its_states, _), (own_states, low) = (
        record(model, "hidden", one, words) for one in (source, base)
    )
    change = its_states[-1][-1] - own_states[-1][-1]
    expected = low + torch.stack(gradients).mean(0) @ change
    found = estimate_of(model, case).reads["hidden"][-1, -1]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)


@pytest.fixture(scope="module")
def traced():
    model = make_model("gpt2", layers=12)
    probe, settings = make_probe(model), asked(EQUAL)
    case = case_of(model, probe, TWEET, settings)
    return (
        trace(model, probe, TWEET, settings),
        estimate_of(model, case),
        verdicts(model, [case])[0],
    )


def coarse(result):
    restored = {kind: read.copy() for kind, read in result.reads.restored.items()}
    for read in restored.values():
        read[:, np.arange(12) % 6 != 0] = np.nan
    return replace(result, reads=replace(result.reads, restored=restored))


def test_exact_cells_take_the_place_of_estimates(traced):
    whole, estimate, verdict = traced
    part = coarse(whole)
    joined = estimate.joined(part)
    assert joined[ORDER].equals(findings.cells(whole)[ORDER])
    between = joined["layer"] % 6 != 0
    assert between[joined["estimated"]].all()
    assert joined["estimated"][between & ~joined["trivial"]].all()
    exact = joined[~joined["estimated"]].drop(columns="estimated").reset_index(drop=True)
    pd.testing.assert_frame_equal(exact, findings.cells(part), check_dtype=False)
    assert not joined.loc[joined["estimated"], ["largest", "faded"]].to_numpy().any()
    assert estimate.joined(verdict)["estimated"].all()
    assert not estimate.joined(whole)["estimated"].any()
    np.testing.assert_allclose(
        joined["effect"].where(joined["estimated"]).dropna(),
        estimate.joined(verdict)["effect"][joined["estimated"].to_numpy()],
    )


def test_how_near_estimates_came_is_the_rank_correlation_of_the_cells_that_were_run(traced):
    whole, estimate, verdict = traced
    perfect = replace(
        estimate, reads={kind: read[0] for kind, read in whole.reads.restored.items()}
    )
    assert perfect.rank_correlation(whole) == pytest.approx(dict.fromkeys(KINDS, 1.0))
    turned = replace(
        estimate, reads={kind: -read[0] for kind, read in whole.reads.restored.items()}
    )
    assert turned.rank_correlation(whole) == pytest.approx(dict.fromkeys(KINDS, -1.0))
    assert set(estimate.rank_correlation(coarse(whole))) <= set(KINDS)


def test_a_view_says_which_cells_are_estimates_and_how_near_they_came(traced):
    whole, estimate, verdict = traced
    before, within, after = (
        View(result, verdict, estimate=estimate).caption
        for result in (verdict, coarse(whole), whole)
    )
    estimates = "Cells of half height are estimates, not runs: integrated gradients in 5 steps."
    near = "Rank correlation of estimates with the cells that were run: Hidden state "
    assert [estimates in said for said in (before, within, after)] == [True, True, False]
    assert [near in said for said in (before, within, after)] == [False, True, True]
    assert "wider cell" not in within
    assert View(coarse(whole), estimate=estimate).findings == View(coarse(whole)).findings


def test_what_is_drawn_or_frozen_is_not_estimated():
    assert can_be_estimated(asked(EQUAL))
    assert not can_be_estimated(TraceSettings())
    frozen = asked(EQUAL, kinds=("hidden",), severed="mlp")
    assert not can_be_estimated(frozen)
    model = make_model("gpt2")
    with pytest.raises(UserError, match="frozen path cannot be estimated"):
        estimate_of(model, case_of(model, make_probe(model), TWEET, frozen))
