"""Interventions with their controls, carried out on small models from a plan."""

import json

import numpy as np
import pytest
import torch
from tiny_held import make_held
from tiny_models import make_model

import core
from core.interventions.judging import log_odds_under
from core.interventions.plan import Plan, carry_out, early_site, late_site, swept_layers
from core.interventions.steering import DirectionAblation, Steering
from core.tracing.result import TraceSettings

TWEET = "My flight got cancelled, terrible service"
QUICK = {"samples": 2, "texts": 4, "controls": 2, "steps": 2, "prefixes": 1, "keys": 50}


@pytest.fixture(autouse=True)
def home(own_home):
    return own_home


@pytest.fixture
def model():
    return make_model("llama")


@pytest.fixture
def held(model):
    return make_held(model)


def outcomes(model, held, **options):
    return list(carry_out(model, held, Plan(text=TWEET, **QUICK | options)))


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_reads_back_as_it_was_written():
    plan = Plan("exchange", TWEET, other="great day", source="probe", sweep="layer", layer=2)
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["schema"] == "sentitrace intervention"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"what": "pray"}, "what: Input should be 'edit'"),
        ({"count": 0}, "count must be from 1"),
        ({"layer": "two"}, "layer"),
        ({"schema": "something"}, "not those of an intervention"),
        ({"wish": 1}, "hold 'wish', which is not known"),
        ({"strength": None}, "strength"),
        ({"version": 2}, "version"),
        ({"other": "great"}, "nothing else does"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_a_plan_that_cannot_be_right_is_refused_in_a_sentence(change, match):
    held = json.loads(Plan("steer", TWEET).to_json()) | change
    with pytest.raises(ValueError, match=match) as refused:
        Plan.from_json(json.dumps(held), "x.json")
    assert str(refused.value).startswith("The settings x.json")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "1"])
def test_what_is_no_plan_is_refused(content):
    with pytest.raises(ValueError, match=r"The settings"):
        Plan.from_json(content)


def test_only_what_has_a_strength_can_sweep_it():
    with pytest.raises(ValueError, match="have a strength to sweep"):
        Plan("ablate", TWEET, sweep="strength")
    with pytest.raises(ValueError, match="Patching a direction needs another tweet"):
        Plan("exchange", TWEET)


# --- carrying them out ---------------------------------------------------------------------------


def test_an_edit_is_made_where_the_trace_says_and_judged_beside_matched_sites(model, held):
    steps = outcomes(model, held, what="edit", sweep="layer")
    shares = [share for share, _ in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    first, last = steps[0][1], steps[-1][1]
    assert first.before is not None
    assert first.after is None
    traced = core.trace(model, held.probe, TWEET, TraceSettings(samples=2))
    assert last.site == early_site(traced)
    assert last.located
    assert last.edit is not None
    assert last.edit.settings.target == (" bad" if last.wanted == "negative" else " good")
    assert last.trace_after is not None
    assert last.trace_before.high == pytest.approx(traced.high)
    assert last.trace_after.high == pytest.approx(last.after.log_odds, abs=1e-3)
    judged = last.judged.set_index(["arm", "measure", "texts"])
    moves = last.after.log_odds - last.before.log_odds
    sign = -1 if last.wanted == "negative" else 1
    assert judged.loc[("located", "moves", "tweet"), "value"] == pytest.approx(
        sign * moves, abs=1e-3
    )
    assert judged.loc[("random", "moves", "tweet"), "n"] == len(last.controls) == 2
    assert last.curve["layer"].tolist() == swept_layers(model.layers, edit=True) == [0, 1, 2]
    row = last.curve.set_index("layer").loc[last.site[0]]
    assert row["moves"] == pytest.approx(sign * moves, abs=0.05 * abs(moves) + 1e-3)
    share = traced.effects["mlp"][last.site] / traced.total_effect
    assert row["effect"] == pytest.approx(share, rel=1e-3)
    assert last.correlation.n == 3
    assert not model.is_changed


def test_steering_moves_to_the_wanted_side_by_the_strength(model, held):
    (*_, (_, last)) = outcomes(
        model, held, what="steer", layer=2, wanted="positive", strength=2.0, sweep="strength"
    )
    direction = held.direction(model, "means", 2)
    expected = log_odds_under(model, held.probe, [TWEET], Steering(direction, 2.0))
    assert last.after.log_odds == pytest.approx(float(expected[0]), abs=1e-3)
    assert not last.located
    assert last.arm == "chosen"
    strengths = last.strengths.set_index("strength")
    assert strengths.loc[0.0, "moves"] == 0
    assert strengths.loc[0.0, "perplexity"] == 1
    assert strengths.loc[2.0, "log_odds"] == pytest.approx(last.after.log_odds, abs=1e-3)
    assert len(last.controls) == 2
    (*_, (_, back)) = outcomes(model, held, what="steer", layer=2, wanted="negative", strength=2.0)
    expected = log_odds_under(model, held.probe, [TWEET], Steering(direction, -2.0))
    assert back.after.log_odds == pytest.approx(float(expected[0]), abs=1e-3)


def test_ablation_onwards_is_at_every_layer_from_there_on(model, held):
    (*_, (_, last)) = outcomes(model, held, what="ablate", layer=1, onwards=True, sweep="layer")
    ablation = DirectionAblation(held.direction(model, "means", 1), layers=(1, 2, 3))
    expected = log_odds_under(model, held.probe, [TWEET], ablation)
    assert last.after.log_odds == pytest.approx(float(expected[0]), abs=1e-3)
    assert last.label == "ablate means at layers 1 to 3"
    assert len(last.curve) == 4


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn", "head"])
@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_silenced_sites_have_as_many_matched_ones_beside_them(model, held, kind, fill):
    (*_, (_, last)) = outcomes(model, held, what="replace", kind=kind, fill=fill, count=2)
    assert last.label.count(kind) == 2
    assert len(last.controls) == 2
    assert all(control.count(kind) == 2 for control in last.controls)
    assert last.after.log_odds != last.before.log_odds


def test_an_exchange_with_the_tweet_itself_changes_nothing(model, held):
    (*_, (_, last)) = outcomes(
        model, held, what="exchange", other=TWEET, positions="last", layer=1, controls=0
    )
    assert last.after.log_odds == pytest.approx(last.before.log_odds, abs=1e-3)
    assert last.controls == ()


def test_a_tweet_that_was_learned_from_is_named_as_one(model, held):
    text = held.training_texts[0]
    _, first = next(carry_out(model, held, Plan("steer", text, **QUICK)))
    assert "fitted on" in first.notes[0]


def test_the_same_plan_makes_the_same_numbers(model, held):
    one, other = (outcomes(model, held, what="edit")[-1][1] for _ in "ab")
    np.testing.assert_array_equal(one.edit.change, other.edit.change)
    assert one.judged.equals(other.judged)
    assert one.after.continuation == other.after.continuation


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": 9}, "layers 0 to 3"),
        ({"position": 99}, "tokens 0 to"),
        ({"layer": 3, "position": 2}, "nothing reads"),
        ({"target": " unlikely"}, "tokens"),
    ],
)
def test_what_the_model_does_not_have_is_refused(model, held, options, match):
    with pytest.raises(ValueError, match=match):
        outcomes(model, held, what="edit", **options)


def test_a_stop_leaves_the_model_as_it_was(model, held):
    def stop(share: float) -> None:
        if share > 0.3:
            raise InterruptedError

    before = log_odds_under(model, held.probe, [TWEET])
    with pytest.raises(InterruptedError):
        list(carry_out(model, held, Plan("edit", TWEET, **QUICK), progress=stop))
    assert not model.is_changed
    assert np.array_equal(log_odds_under(model, held.probe, [TWEET]), before)


def test_early_and_late_sites_are_the_largest_of_their_part(model, held):
    traced = core.trace(model, held.probe, TWEET, TraceSettings(samples=2))
    layer, position = early_site(traced)
    assert layer < 3
    assert position in traced.corrupted_span
    layer, position = late_site(traced)
    assert position == len(traced.prompt) - 1
    assert not traced.trivial["hidden"][layer, position]


def test_a_sweep_takes_ten_layers_of_many():
    assert swept_layers(30, edit=True)[0] == 0
    assert swept_layers(30, edit=True)[-1] == 28
    assert len(swept_layers(48, edit=False)) == 10
    assert swept_layers(4, edit=False) == [0, 1, 2, 3]


@pytest.mark.embedded
def test_an_edit_of_the_embedded_model_flips_its_tweet_and_is_gone_after(embedded_model, tweets):
    from core.interventions.key_covariance import key_covariances
    from core.interventions.rome import EditSettings, make_edit
    from core.prompts.prompt import build_prompt, word_token

    model = embedded_model
    prompt = build_prompt(model, "terrible service")
    position = next(word.tokens[-1] for word in prompt.words if word.text == "terrible")
    covariance = key_covariances(model, list(tweets["text"][:40]), [8], keys=500)[8]
    settings = EditSettings(prefixes=1, steps=15)
    good, bad = (word_token(model, word) for word in (" good", " bad"))

    def said() -> torch.Tensor:
        with torch.inference_mode():
            states = model.enter(model.embed(torch.tensor([prompt.ids])))
            for layer in range(model.layers):
                states = model.block(layer, states).states
            return model.log_probs(states[0, -1], [good, bad])

    before = said()
    edit = make_edit(model, prompt, 8, position, covariance, settings)
    with edit.applied(model):
        edited = said()
    assert edited[0].exp() > 0.5
    assert edited[0] > edited[1] + 2
    assert torch.equal(said(), before)
