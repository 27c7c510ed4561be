"""Counterfactuals of another length: each cell is one plain forward pass of an aligned state."""

from dataclasses import replace

import numpy as np
import pytest
from reference import record, restored_sites
from tiny_models import VARIANTS, make_model
from tiny_probes import make_probe

from core.errors import UserError
from core.patching.sites import KINDS
from core.prompts.alignment import align, end_to_end
from core.prompts.prompt import build_prompt, word_token
from core.tracing.cell_details import inspect
from core.tracing.corruption import case_of
from core.tracing.findings import health_of
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace, trace_progressively
from core.tracing.view import View

pytestmark = pytest.mark.usefixtures("own_home")

TWEET = "I love terrible service, I am not bad"
OTHER = "I love very wonderful service, I am bad"


def settings_of(**fields) -> TraceSettings:
    return TraceSettings(corruption="counterfactual", counterfactual=OTHER, window=3, **fields)


def plain(model, settings, tweet=TWEET, other=OTHER):
    """Sites by their last position in the tweet, and (L, sites, words) of each kind."""
    probe = make_probe(model)
    words = [word_token(model, word) for word in (" good", " bad")]
    prompts = [build_prompt(model, text, probe.suffix) for text in (tweet, other)]
    assert len(prompts[0]) != len(prompts[1])
    own, its = (model.embed(prompt.ids) for prompt in prompts)
    alignment = align(prompts[0].ids, prompts[1].ids, prompts[0].tweet_span)
    assert len(alignment.edits) > 1
    sites = alignment.sites(settings.edited)
    found = {}
    for kind in KINDS:
        if settings.direction == "restore":
            source, base = own, its
            places = [(list(b), end_to_end(b, a)) for a, b in sites.values()]
        else:
            source, base = its, own
            places = [(list(a), end_to_end(a, b)) for a, b in sites.values()]
        found[kind] = restored_sites(model, kind, source, base, words, places, window=3)
    clean, corrupted = (record(model, "hidden", each, words)[1].numpy() for each in (own, its))
    return sites, found, clean, corrupted


@pytest.mark.parametrize("edited", ["last", "all"])
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_cell_equals_one_plain_forward_pass(variant, direction, edited):
    model = make_model(variant, layers=3, dtype="float64")
    settings = settings_of(direction=direction, edited=edited)
    sites, expected, clean, corrupted = plain(model, settings)
    result = trace(model, make_probe(model), TWEET, settings)
    np.testing.assert_allclose(result.reads.clean, clean, atol=1e-9)
    np.testing.assert_allclose(result.reads.corrupted, corrupted[None], atol=1e-9)
    patched = corrupted if direction == "restore" else clean
    others = [t for t in range(len(result.prompt)) if t not in sites]
    assert bool(others) == any(len(own) > 1 for own, _ in result.alignment.edits)
    for kind in KINDS:
        read = result.reads.restored[kind][0]
        np.testing.assert_allclose(read[:, list(sites)], expected[kind], atol=1e-9)
        assert np.abs(read[:, list(sites)] - patched).max() > 0.05  # there is something to equal
        assert np.isnan(read[:, others]).all()
    # At the last position, hidden states of the last layer are the other run's answer.
    total = result.effects["hidden"][-1, -1]
    assert total == pytest.approx(result.total_effect, abs=1e-9)


def test_which_part_of_an_edit_is_restored_matters():
    model = make_model("llama", dtype="float64")
    last, whole = (
        trace(model, make_probe(model), TWEET, settings_of(edited=e)) for e in ("last", "all")
    )
    ends = [own[-1] for own, other in last.alignment.edits if len(other) > 1]
    common = [t for t in last.spans if t not in last.corrupted_span]
    assert ends
    for kind in KINDS:
        same = last.effects[kind][:, common] - whole.effects[kind][:, common]
        assert np.abs(same).max() < 1e-9
        assert np.abs(last.effects[kind][:, ends] - whole.effects[kind][:, ends]).max() > 1e-3


def test_before_the_first_edit_nothing_is_restored():
    model = make_model("gpt2", dtype="float64")
    result = trace(model, make_probe(model), TWEET, settings_of())
    first = min(result.corrupted_span)
    assert first > 0
    for kind in KINDS:
        assert (result.effects[kind][:, :first] == 0).all()
        assert result.trivial[kind][:, :first].all()
    assert not result.is_coarse


def test_kept_and_staged_traces_have_the_same_cells():
    model = make_model("gpt2", layers=14)
    probe = make_probe(model)
    whole = trace(model, probe, TWEET, settings_of())
    steps = list(trace_progressively(model, probe, TWEET, settings_of(), stages=True, keep=True))
    assert not steps[0].has_cells
    assert steps[1].is_coarse
    again = trace(model, probe, TWEET, settings_of(), keep=True)
    assert again.seconds == 0.0
    for kind in KINDS:
        for result in (steps[-1], again):
            np.testing.assert_allclose(result.effects[kind], whole.effects[kind], atol=1e-4)
    other = trace(model, probe, TWEET, settings_of(edited="all"), keep=True)
    assert other.seconds > 0  # kept under a name of its own


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_severed_paths_of_an_unequal_pair_still_run(direction):
    model = make_model("gpt2", dtype="float64")
    settings = settings_of(kinds=("hidden",), severed="mlp", direction=direction)
    cut = trace(model, make_probe(model), TWEET, settings)
    whole = trace(model, make_probe(model), TWEET, settings_of(direction=direction))
    sites = list(cut.spans)
    difference = cut.effects["hidden"][:, sites] - whole.effects["hidden"][:, sites]
    assert np.abs(difference).max() > 1e-3
    np.testing.assert_allclose(difference[-1], 0, atol=1e-9)  # no MLP is left to cut


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_a_cell_is_looked_at_where_it_stands_in_each_prompt(direction):
    model = make_model("gpt2", dtype="float64")
    probe, settings = make_probe(model), settings_of(direction=direction)
    case = case_of(model, probe, TWEET, settings)
    last = len(case.prompt) - 1
    found = inspect(model, probe, TWEET, settings, "attn", model.layers - 1, last)
    assert found.heads is None
    words = found.lens.set_index(["run", "rank"])["token"]
    runs = found.next_tokens.set_index(["run", "rank"])["token"]
    for run in ("clean", "corrupted"):  # at the last layer the lens is the answer
        assert words[run].tolist() == runs[run].tolist()
    inside = next(own for own, _ in case.blank.alignment.edits if len(own) > 1)
    with pytest.raises(UserError, match="a cell stands at a token that both have"):
        inspect(model, probe, TWEET, settings, "hidden", 0, inside[0])


def test_words_are_no_rows_of_an_unequal_pair():
    model = make_model("gpt2")
    with pytest.raises(UserError, match="leave rows at 'tokens'"):
        trace(model, make_probe(model), TWEET, settings_of(rows="words"))


def test_an_unknown_part_of_an_edit_is_refused():
    with pytest.raises(UserError, match="the 'last' token is restored or 'all' of it, not 'first'"):
        TraceSettings(edited="first")  # type: ignore[arg-type]


def test_what_is_said_of_a_pair_names_no_noise():
    model = make_model("gpt2")
    probe = make_probe(model)
    result = trace(model, probe, TWEET, settings_of())
    said = View(result).caption
    assert f"the tokens of \u201c{OTHER}\u201d, aligned by the edit" in said
    assert "noise" not in said
    # A counterfactual that leaves the sentiment as it is wants another one, and no stronger noise.
    weak = replace(result, reads=replace(result.reads, corrupted=result.reads.clean[None]))
    decided = replace(probe, intercept=probe.intercept + 5)
    health = health_of(replace(weak, probe=decided))
    assert health.sentence.endswith("another counterfactual is needed.")
