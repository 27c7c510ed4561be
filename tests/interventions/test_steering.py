"""Directions and sites: what each intervention does to plain runs, known in advance."""

import numpy as np
import pytest
import torch
from tiny_models import VARIANTS, make_model
from tiny_probes import make_probe

import core
from core.interventions.steering import (
    Direction,
    DirectionAblation,
    DirectionPatch,
    Site,
    SiteAblation,
    Steering,
    head_effects,
    matched_sites,
    patch_from,
    random_like,
    sentiment_direction,
    site_means,
    top_heads,
    top_sites,
)
from core.models.model import Model
from core.prompts.prompt import build_prompt
from core.tracing.result import TraceSettings

TWEET = "My flight got cancelled, terrible service"
OTHER = "great day, happy happy"
SUFFIX = " I am feeling"
LAYER = 1


def states_of(model: Model, text: str = TWEET) -> list[torch.Tensor]:
    """The residual stream (positions, D) after each block."""
    states = model.enter(model.embed([build_prompt(model, text).ids]))
    found = []
    for layer in range(model.layers):
        states = model.block(layer, states).states
        found.append(states[0])
    return found


def a_direction(model: Model, *, gap: float = 2.0) -> Direction:
    vector = np.random.default_rng(0).standard_normal(model.width)
    return Direction("means", LAYER, vector / np.linalg.norm(vector), gap, 0.5)


def unit_of(direction: Direction) -> torch.Tensor:
    return torch.from_numpy(direction.vector).float()


# --- directions ----------------------------------------------------------------------------------


def test_the_means_direction_points_from_negative_to_positive_and_measures_its_length():
    model = make_model("llama")
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 50)
    apart = np.zeros(32)
    apart[[3, 7]] = 3.0, 4.0
    states = rng.standard_normal((100, 32)) * 1e-6 + labels[:, None] * apart
    direction = sentiment_direction(model, "means", 2, states, labels)
    np.testing.assert_allclose(direction.vector, apart / 5, atol=1e-5)
    assert direction.gap == pytest.approx(5, abs=1e-4)
    assert direction.middle == pytest.approx(2.5, abs=1e-4)
    weight = sentiment_direction(model, "probe", 2, states, labels, weight=2 * apart)
    np.testing.assert_allclose(weight.vector, apart / 5)
    random = random_like(direction, states, 3)
    assert random.gap == direction.gap
    assert np.linalg.norm(random.vector) == pytest.approx(1)
    assert abs(random.vector @ direction.vector) < 0.9
    alone = sentiment_direction(model, "random", 2, states, labels, seed=3)
    assert alone.gap == pytest.approx(5, abs=1e-4)


def test_the_words_direction_is_the_difference_of_two_clean_states():
    model = make_model("gpt2")
    states, labels = np.random.default_rng(0).standard_normal((4, 32)), np.array([0, 1, 0, 1])
    probe = make_probe(model)
    direction = sentiment_direction(model, "words", LAYER, states, labels, probe=probe)
    good, bad = (
        states_of_text(model, f" I am feeling{word}")[LAYER][-1] for word in (" good", " bad")
    )
    expected = (good - bad).numpy()
    np.testing.assert_allclose(
        direction.vector, expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-5
    )


def states_of_text(model: Model, text: str) -> list[torch.Tensor]:
    """As `states_of`, without a suffix."""
    states = model.enter(model.embed([build_prompt(model, text, "").ids]))
    found = []
    for layer in range(model.layers):
        states = model.block(layer, states).states
        found.append(states[0])
    return found


@pytest.mark.parametrize(
    ("source", "layer", "match"),
    [
        ("love", 0, "is not known"),
        ("means", 4, "layers 0 to 3"),
        ("probe", 0, "give `weight`"),
        ("words", 0, "give `probe`"),
    ],
)
def test_unknown_directions_are_refused(source, layer, match):
    model = make_model("llama")
    with pytest.raises(ValueError, match=match):
        sentiment_direction(model, source, layer, np.ones((2, 32)), np.array([0, 1]))


# --- along a direction ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_strength_0_changes_nothing_at_all(variant):
    model = make_model(variant)
    before = states_of(model)
    with Steering(a_direction(model), 0.0).applied(model):
        after = states_of(model)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_steering_adds_the_gap_times_the_strength(variant):
    model = make_model(variant)
    direction = a_direction(model)
    before = states_of(model)
    with Steering(direction, -1.5).applied(model):
        after = states_of(model)
    added = (after[LAYER] - before[LAYER]).mean(0)
    torch.testing.assert_close(added, -1.5 * 2.0 * unit_of(direction), rtol=1e-3, atol=1e-4)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[-1], before[-1])
    assert all(torch.equal(a, b) for a, b in zip(states_of(model), before, strict=True))


def test_the_last_position_alone_can_be_steered():
    model = make_model("llama")
    prompt = build_prompt(model, TWEET)
    before = states_of(model)
    with Steering(a_direction(model), 1.0, "last").applied(model, len(prompt)):
        after = states_of(model)
    assert torch.equal(after[LAYER][:-1], before[LAYER][:-1])
    assert not torch.allclose(after[LAYER][-1], before[LAYER][-1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_ablating_twice_equals_once(variant, fill):
    model = make_model(variant)
    direction = a_direction(model)
    ablation = DirectionAblation(direction, fill)
    with ablation.applied(model):
        once = states_of(model)
        with ablation.applied(model):
            twice = states_of(model)
    wanted = 0.0 if fill == "zero" else direction.middle
    for run in (once, twice):
        component = run[LAYER] @ unit_of(direction)
        torch.testing.assert_close(component, torch.full_like(component, wanted), atol=1e-5, rtol=0)
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_is_orthogonal_stays_when_a_direction_is_ablated():
    model = make_model("llama")
    direction = a_direction(model)
    unit = unit_of(direction)
    before = states_of(model)[LAYER]
    with DirectionAblation(direction).applied(model):
        after = states_of(model)[LAYER]
    torch.testing.assert_close(after, before - torch.outer(before @ unit, unit))


def test_ablating_at_many_layers_leaves_none_of_it_behind():
    model = make_model("llama")
    direction = a_direction(model)
    with DirectionAblation(direction, layers=(1, 2, 3)).applied(model):
        after = states_of(model)
    for layer in (1, 2, 3):
        assert (after[layer] @ unit_of(direction)).abs().max() < 1e-4
    assert (after[0] @ unit_of(direction)).abs().max() > 1e-3


def test_an_exchange_gives_the_direction_the_other_tweets_size():
    model = make_model("llama")
    direction = a_direction(model)
    exchange = patch_from(model, direction, OTHER, SUFFIX)
    other = states_of(model, OTHER)[LAYER][-1] @ unit_of(direction)
    assert exchange.value == pytest.approx(float(other), rel=1e-4)
    prompt = build_prompt(model, TWEET)
    before = states_of(model)
    with exchange.applied(model, len(prompt)):
        after = states_of(model)
    assert float(after[LAYER][-1] @ unit_of(direction)) == pytest.approx(exchange.value, rel=1e-4)
    assert torch.equal(after[LAYER][:-1], before[LAYER][:-1])
    # With itself nothing is exchanged.
    itself = patch_from(model, direction, TWEET, SUFFIX)
    with itself.applied(model, len(prompt)):
        torch.testing.assert_close(states_of(model)[-1], before[-1], rtol=1e-4, atol=1e-4)


def test_positions_that_are_not_known_are_refused():
    model = make_model("llama")
    with (
        pytest.raises(ValueError, match="'first'"),
        Steering(a_direction(model), 1.0, "first").applied(model),
    ):
        pass


# --- whole sites ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
def test_a_site_at_zero_is_zero_there_and_nowhere_else(variant, kind):
    model = make_model(variant)
    states = model.enter(model.embed([build_prompt(model, TWEET).ids]))
    states = model.block(0, states).states
    plain = model.block(LAYER, states)
    with SiteAblation((Site(kind, LAYER, 3),)).applied(model):
        output = model.block(LAYER, states)
    found = output.states if kind == "hidden" else output.contributions[kind]
    own = plain.states if kind == "hidden" else plain.contributions[kind]
    assert found[0, 3].abs().max() == 0
    others = [t for t in range(found.shape[1]) if t != 3]
    torch.testing.assert_close(found[0, others], own[0, others])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_silenced_head_takes_its_own_part_of_attention_away(variant):
    model = make_model(variant)
    states = model.enter(model.embed([build_prompt(model, TWEET).ids]))
    plain = model.block(LAYER, states).contributions["attn"]
    own = model.heads_at(LAYER, states, 4)[0, 2]
    with SiteAblation((Site("head", LAYER, None, 2),)).applied(model):
        without = model.block(LAYER, states).contributions["attn"]
    torch.testing.assert_close(plain[0, 4] - without[0, 4], own, rtol=1e-3, atol=1e-4)


def test_means_are_those_of_all_tokens_but_the_first():
    model = make_model("gpt2")
    means = site_means(
        model, [TWEET, OTHER], [Site("mlp", LAYER), Site("head", 2, None, 0)], template=SUFFIX
    )
    rows = []
    for text in (TWEET, OTHER):
        states = model.enter(model.embed([build_prompt(model, text).ids]))
        states = model.block(0, states).states
        rows.append(model.block(LAYER, states).contributions["mlp"][0, 1:])
    np.testing.assert_allclose(means["mlp", LAYER], torch.cat(rows).mean(0), rtol=1e-3, atol=1e-4)
    sites = (Site("mlp", LAYER), Site("head", 2, 3, 0))
    with SiteAblation(sites, "mean", means).applied(model):
        states = model.enter(model.embed([build_prompt(model, TWEET).ids]))
        states = model.block(0, states).states
        contribution = model.block(LAYER, states).contributions["mlp"][0, 5]
    np.testing.assert_allclose(contribution, means["mlp", LAYER], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "site", [("mlp", 0, 0, 1), ("head", 0, 0, None), ("embedding", 0, 0, None)]
)
def test_sites_that_make_no_sense_are_refused(site):
    with pytest.raises(ValueError, match="is none"):
        Site(*site)


def test_a_head_that_there_is_not_is_refused():
    model = make_model("llama")
    with (
        pytest.raises(ValueError, match="heads 0 to 3"),
        SiteAblation((Site("head", 0, None, 4),)).applied(model),
    ):
        pass


def test_top_sites_are_the_largest_free_cells_of_a_trace():
    model = make_model("llama")
    result = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=2, window=1))
    sites = top_sites(result, "mlp", 3)
    towards = result.effects["mlp"] * np.sign(result.total_effect)
    towards[result.trivial["mlp"]] = -np.inf
    values = [towards[site.layer, site.position] for site in sites]
    assert values == sorted(values, reverse=True)
    assert values[0] == towards.max()
    assert (sites[0].layer, sites[0].position) == result.top_cells["mlp"]


def test_matched_sites_have_the_same_kind_layer_and_side():
    model = make_model("llama")
    prompt = build_prompt(model, TWEET)
    sites = [Site("mlp", 1, 4), Site("attn", 2, len(prompt) - 2), Site("head", 1, None, 2)]
    for seed in range(5):
        matched = matched_sites(model, prompt, sites, seed=seed)
        assert len(matched) == 3
        for site, other in zip(sites, matched, strict=True):
            assert other not in sites
            assert (other.kind, other.layer) == (site.kind, site.layer)
            if site.position is not None:
                inside = (site.position in prompt.tweet_span, other.position in prompt.tweet_span)
                assert inside[0] == inside[1]
                word = prompt.tokens[site.position].word
                assert prompt.tokens[other.position].word != word
    assert len({tuple(matched_sites(model, prompt, sites, seed=s)) for s in range(9)}) > 1


def test_heads_effects_are_those_of_the_cell_inspected_alone():
    from core.tracing.cell_details import inspect

    model = make_model("gpt2")
    probe, settings = make_probe(model), TraceSettings(samples=2)
    last = len(build_prompt(model, TWEET)) - 1
    effects = head_effects(model, probe, TWEET, settings, last)
    details = inspect(model, probe, TWEET, settings, "attn", 2, last)
    np.testing.assert_allclose(effects[2], details.heads["effect"], rtol=1e-3, atol=1e-5)
    (top,) = top_heads(effects, 1.0, 1)
    assert effects[top.layer, top.head] == effects.max()
    (top,) = top_heads(effects, -1.0, 1)
    assert effects[top.layer, top.head] == effects.min()


def test_a_trace_of_the_changed_model_checks_itself_and_differs():
    """The engine runs on a changed model as on any other; its self-check would refuse otherwise."""
    model = make_model("llama")
    probe, settings = make_probe(model), TraceSettings(samples=2)
    plain = core.trace(model, probe, TWEET, settings)
    steering = Steering(a_direction(model, gap=20.0), 1.0, "last")
    with steering.applied(model, len(plain.prompt)):
        changed = core.trace(model, probe, TWEET, settings)
    assert changed.high != pytest.approx(plain.high, abs=1e-3)
    again = core.trace(model, probe, TWEET, settings)
    np.testing.assert_array_equal(again.effects["mlp"], plain.effects["mlp"])


def test_labels_say_what_is_done():
    model = make_model("llama")
    direction = a_direction(model)
    assert Steering(direction, 2).label == "steer means at layer 1, +2"
    assert DirectionAblation(direction, layers=(1, 2)).label == "ablate means at layers 1 to 2"
    assert DirectionPatch(direction, 1.0).everywhere
    assert SiteAblation((Site("mlp", 3, 4),)).label == "zero at mlp layer 3 token 4"
    assert not SiteAblation((Site("mlp", 3, 4),)).everywhere
    assert SiteAblation((Site("head", 3, None, 1),)).label == "zero at head 3.1"
