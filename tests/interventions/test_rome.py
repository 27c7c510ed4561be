"""ROME: the edit is the closed form, its gradient the true one, and nothing of it stays."""

import os

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from tiny_models import MORE_VARIANTS, VARIANTS, make_model, make_network
from transformers.pytorch_utils import Conv1D

from core.interventions import key_covariance, rome
from core.interventions.forward import continuations, gram_entropy, surprise
from core.interventions.key_covariance import KeyCovariance, key_covariances
from core.interventions.rome import EditSettings, Objective, make_edit, make_edits, sample_prefixes
from core.models.families import FAMILIES
from core.models.model import Change
from core.prompts.prompt import build_prompt, word_token

TWEET = "My flight got cancelled, terrible service"
TEXTS = [
    "great day I am feeling good",
    "My flight got cancelled and I love waiting here for hours",
    "not good, not bad: awful! wonderful?",
    "happy sad happy sad terrible",
]
QUICK = EditSettings(target=" good", prefixes=2, steps=3)


EDITABLE = [
    variant for variant in MORE_VARIANTS if FAMILIES[variant.partition("-")[0]].mlp_out is not None
]


def mlp_path(variant: str, layer: int) -> str:
    family = FAMILIES[variant.partition("-")[0]]
    return f"{family.blocks}.{layer}.{family.mlp_out}"


@pytest.fixture(autouse=True)
def home(own_home):
    return own_home


def position_of(prompt, word: str) -> int:
    return next(found.tokens[-1] for found in prompt.words if found.text == word)


def plain_keys(variant: str, layer: int, ids) -> torch.Tensor:
    """What transformers' own module is given at each token, (positions, inner)."""
    network = make_network(variant).double()
    module = network.get_submodule(mlp_path(variant, layer))
    met: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _module, arguments: met.append(arguments[0]))
    network(torch.tensor([list(ids)]))
    return met[0].reshape(len(ids), -1).detach()


# --- the covariance ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_covariance_is_that_of_plain_keys_shrunk_by_ledoit_and_wolf(variant):
    model = make_model(variant, dtype="float64")
    keys = [plain_keys(variant, 1, build_prompt(model, text, "").ids)[1:] for text in TEXTS]
    stacked = torch.cat(keys).numpy()
    expected, shrinkage = ledoit_wolf(stacked, assume_centered=True)
    found = key_covariances(model, TEXTS, [1])[1]
    assert found.keys == len(stacked)
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-5)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-4, atol=1e-6)
    key = stacked[0]
    np.testing.assert_allclose(found.matrix @ found.solve(key), key, rtol=1e-6, atol=1e-9)


def test_kept_covariances_are_read_back_and_others_made(home, monkeypatch):
    model = make_model("llama")
    first = key_covariances(model, TEXTS, [0, 2])
    assert len(list((home / "keys").rglob("*.safetensors"))) == 2
    calls = model.block_calls
    again = key_covariances(model, TEXTS, [0, 2])
    assert model.block_calls == calls
    np.testing.assert_allclose(again[2].matrix, first[2].matrix, rtol=1e-6)
    assert (again[2].keys, again[2].shrinkage) == (first[2].keys, first[2].shrinkage)
    monkeypatch.setattr(key_covariance, "AT_ONCE", 1)  # one layer in each pass
    np.testing.assert_allclose(
        key_covariances(make_model("llama"), TEXTS, [0, 1, 2, 3])[3].matrix,
        key_covariances(make_model("llama", dtype="float64"), TEXTS, [3])[3].matrix,
        rtol=1e-3,
        atol=1e-3,
    )


def test_covariances_keep_to_their_space_and_those_used_last_stay(home, monkeypatch):
    model = make_model("gpt2")
    key_covariances(model, TEXTS, [0, 1, 2])
    files = sorted((home / "keys").glob("*/*.safetensors"))
    assert len(files) == 3
    for age, path in enumerate(files):
        os.utime(path, (1000 + age, 1000 + age))
    key_covariances(model, TEXTS, [0])  # used now; layer 1 is the oldest
    monkeypatch.setattr(key_covariance, "SPACE", 3 * files[0].stat().st_size)
    key_covariances(model, TEXTS, [3])
    left = sorted(path.stem for path in (home / "keys").glob("*/*.safetensors"))
    assert left == ["000", "002", "003"]
    # One that is larger than the space alone stays until the next.
    monkeypatch.setattr(key_covariance, "SPACE", 1)
    assert key_covariances(model, TEXTS, [1])[1].keys > 0
    assert [path.stem for path in (home / "keys").glob("*/*.safetensors")] == ["001"]


def test_a_damaged_file_is_made_again(home):
    model = make_model("llama")
    first = key_covariances(model, TEXTS, [1])[1]
    (path,) = (home / "keys").rglob("*.safetensors")
    path.write_bytes(b"nothing")
    np.testing.assert_allclose(key_covariances(model, TEXTS, [1])[1].matrix, first.matrix)


def test_only_as_many_texts_as_are_asked_for_are_read():
    model = make_model("llama")
    one = key_covariances(model, TEXTS, [0], keys=1)[0].keys
    assert one == len(build_prompt(model, TEXTS[0], "")) - 1
    assert key_covariances(model, ["", *TEXTS], [0])[0].keys > one


def test_a_changed_model_gives_no_covariance():
    model = make_model("llama")
    with (
        model.changed([Change(0, "hidden", torch.zeros_like)]),
        pytest.raises(ValueError, match="is changed"),
    ):
        key_covariances(model, TEXTS, [0])


# --- the edit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_edited_weights_are_the_closed_form_and_put_the_key_where_it_should_be(variant):
    model = make_model(variant, dtype="float64")
    prompt = build_prompt(model, TWEET)
    position = position_of(prompt, "terrible")
    covariance = key_covariances(model, TEXTS, [1])[1]
    prefixes = sample_prefixes(model, 2)
    (edit,) = make_edits(model, prompt, [(1, position)], {1: covariance}, QUICK, prefixes=prefixes)
    # k*, from transformers' own network: the mean over the text alone and behind each prefix.
    met = [
        plain_keys(variant, 1, [*prefix, *prompt.ids])[position + len(prefix)]
        for prefix in ([], *prefixes)
    ]
    key = torch.stack(met).mean(0).numpy()
    np.testing.assert_allclose(edit.key, key, rtol=1e-6, atol=1e-9)
    # W' = W + (C^-1 k*) L^T, L = (v* - W k*) / (k*^T C^-1 k*)  (equation 2)
    before = model.mlp_weight(1).numpy()
    solved = np.linalg.solve(covariance.matrix, key)
    factor = edit.change / (key @ solved)
    expected = before + np.outer(solved, factor)
    with edit.applied(model):
        np.testing.assert_allclose(model.mlp_weight(1).numpy(), expected, rtol=1e-6, atol=1e-9)
        # The edited layer gives v* for k*.
        wanted = key @ before + edit.change
        np.testing.assert_allclose(key @ model.mlp_weight(1).numpy(), wanted, rtol=1e-6)
    assert np.array_equal(model.mlp_weight(1).numpy(), before)
    assert edit.word == "terrible"


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_objective_are_finite_differences(variant):
    model = make_model(variant, dtype="float64")
    prompt = build_prompt(model, TWEET)
    position = position_of(prompt, "terrible")
    objective = Objective(
        model, prompt, [(0, position), (2, position - 2)], QUICK, sample_prefixes(model, 2)
    )
    generator = torch.Generator().manual_seed(0)
    changes = torch.randn(2, model.width, dtype=torch.float64, generator=generator)
    changes.requires_grad_()
    objective.losses(changes).sum().backward()
    # transformers' RMSNorm works in float32 whatever it is given, and needs longer steps.
    step, close = (1e-6, 1e-5) if model.family in ("gpt2", "gpt_neox", "opt") else (3e-3, 1e-2)
    steepest = changes.grad / changes.grad.norm()
    directions = [steepest, steepest * torch.tensor([[1.0], [0.0]])]
    if step == 1e-6:
        directions += [torch.randn(2, model.width, generator=generator) for _ in range(3)]
    for direction in directions:
        with torch.no_grad():
            up, down = (objective.losses(changes + s * direction) for s in (step, -step))
        slope = float((up - down).sum() / (2 * step))
        assert float((changes.grad * direction).sum()) == pytest.approx(slope, rel=close)


@pytest.mark.parametrize("variant", ["gpt2", "llama", *EDITABLE])
def test_the_objective_is_that_of_plain_passes(variant):
    """The loss of a change, written out with transformers' own network and a hook."""
    model = make_model(variant, dtype="float32" if variant in ("gpt_neo", "gptj") else "float64")
    prompt = build_prompt(model, TWEET)
    position = position_of(prompt, "terrible")
    prefixes = sample_prefixes(model, 2)
    size = (model.width,)
    change = torch.randn(size, dtype=model.dtype, generator=torch.Generator().manual_seed(1))
    network = make_network(variant).to(model.dtype)
    mlp = network.get_submodule(mlp_path(variant, 1))

    def said(ids, place: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        met: list[torch.Tensor] = []

        def add(_module, _arguments, output):
            met.append(output[..., place or 0, :].reshape(-1).clone())
            if place is not None:
                output = output.clone()
                output[..., place, :] += change
            return output

        handle = mlp.register_forward_hook(add)
        logits = network(torch.tensor([list(ids)])).logits[0, -1]
        handle.remove()
        return logits.log_softmax(-1), met[0]

    target = word_token(model, " good")
    nats = [
        -said([*prefix, *prompt.ids], position + len(prefix))[0][target]
        for prefix in ([], *prefixes)
    ]
    essence = build_prompt(model, "terrible is a", "")
    last = max(i for i, token in enumerate(essence.tokens) if token.end <= len("terrible"))
    now, before = said(essence.ids, last)[0], said(essence.ids, None)[0]
    kl = (now.exp() * (now - before)).sum()
    value = said(prompt.ids, position)[1]
    expected = torch.stack(nats).mean() + 0.0625 * kl + 0.5 * change.norm() / value.norm() ** 2
    objective = Objective(model, prompt, [(1, position)], QUICK, prefixes)
    torch.testing.assert_close(objective.losses(change[None])[0], expected)


def test_edits_made_together_are_those_made_alone():
    model = make_model("llama")
    prompt = build_prompt(model, TWEET)
    covariances = key_covariances(model, TEXTS, [0, 1, 2])
    sites = [(2, 3), (0, 3), (1, 5), (1, 2)]
    together = make_edits(model, prompt, sites, covariances, QUICK)
    for edit in together:
        alone = make_edit(model, prompt, edit.layer, edit.position, covariances[edit.layer], QUICK)
        np.testing.assert_allclose(edit.change, alone.change, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(edit.losses, alone.losses, rtol=1e-3)
    assert [(edit.layer, edit.position) for edit in together] == sites


def test_the_descent_ends_where_it_is_good_enough_and_within_its_ball():
    model = make_model("llama")
    prompt = build_prompt(model, TWEET)
    covariances = key_covariances(model, TEXTS, [1])
    settings = EditSettings(prefixes=0, steps=60, enough=5.5, clamp=100.0)
    edit = make_edit(model, prompt, 1, 3, covariances[1], settings)
    assert len(edit.losses) < 61
    assert edit.losses[-1] < 5.5 < edit.losses[-2]
    tight = make_edit(
        model, prompt, 1, 3, covariances[1], EditSettings(prefixes=0, steps=40, clamp=0.1)
    )
    objective = Objective(model, prompt, [(1, 3)], settings)
    assert np.linalg.norm(tight.change) <= 0.1001 * float(objective.values.norm())


@pytest.mark.parametrize("variant", [*VARIANTS, "gemma2", "granite", "bloom"])
def test_an_edit_makes_the_target_likely_and_leaves_no_trace(variant):
    model = make_model(variant)
    prompt = build_prompt(model, TWEET)
    covariance = KeyCovariance(2, np.eye(len(model.mlp_weight(2))), 1, 0.0)
    settings = EditSettings(prefixes=0, kl_factor=0.0, learning_rate=0.05)
    edit = make_edit(model, prompt, 2, len(prompt) - 1, covariance, settings)
    target = word_token(model, " good")

    def said() -> torch.Tensor:
        states = model.enter(model.embed(prompt.ids)[None])
        for layer in range(model.layers):
            states = model.block(layer, states).states
        return model.log_probs(states[0, -1], range(300))

    before = said()
    pointers = {name: p.data_ptr() for name, p in model.network.named_parameters()}
    with edit.applied(model):
        edited = said()
    # The edited layer meets other tokens' keys too, so that this is not just what v* gives.
    assert edit.losses[-1] < edit.losses[0]
    assert edited[target] > before[target]
    assert torch.equal(said(), before)
    assert {name: p.data_ptr() for name, p in model.network.named_parameters()} == pointers
    with edit.applied(model, strength=0.0):
        assert torch.equal(said(), before)


def test_conv1d_is_among_the_families():
    """GPT-2's weight is stored the other way round where it is not packed."""
    model = make_model("gpt2", dtype="float64")
    module = model.network.get_submodule(mlp_path("gpt2", 1))
    assert isinstance(module, Conv1D)
    assert torch.equal(model.mlp_weight(1), module.weight)


@pytest.mark.parametrize(
    ("layer", "position", "match"),
    [(4, 0, "layers 0 to 3"), (0, 99, "positions 0 to"), (3, 0, "nothing reads")],
)
def test_sites_that_there_are_not_are_refused(layer, position, match):
    model = make_model("llama")
    prompt = build_prompt(model, TWEET)
    covariance = KeyCovariance(layer, np.eye(48), 1, 0.0)
    with pytest.raises(ValueError, match=match):
        make_edit(model, prompt, layer, position, covariance, QUICK)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"prefixes": -1}, "prefixes must be at least 0"),
        ({"clamp": float("nan")}, "clamp must be 0 or more"),
        ({"essence": "is a"}, "must hold one {}"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        EditSettings(**wrong)


def test_a_target_of_several_tokens_is_refused():
    model = make_model("llama")
    covariance = key_covariances(model, TEXTS, [0])[0]
    with pytest.raises(ValueError, match="tokens"):
        make_edit(
            model, build_prompt(model, TWEET), 0, 2, covariance, EditSettings(target=" unlikely")
        )


# --- plain passes --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_surprise_and_continuations_are_those_of_transformers(variant):
    model = make_model(variant)
    network = make_network(variant)
    found = surprise(model, TEXTS)
    for text, nats, tokens in zip(TEXTS, found.nats, found.tokens, strict=True):
        ids = torch.tensor([build_prompt(model, text, "").ids])
        said = network(ids).logits[0, :-1].log_softmax(-1)
        own = -said.gather(1, ids[0, 1:, None]).sum()
        assert nats == pytest.approx(float(own), rel=1e-4)
        assert tokens == ids.shape[1] - 1
    ids = list(build_prompt(model, TWEET).ids)
    (greedy,) = continuations(model, ids, 5, temperature=0)
    for token in greedy:
        assert int(network(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_a_seed_draws_the_same_continuations_and_another_seed_others():
    model = make_model("gpt2")
    ids = build_prompt(model, TWEET).ids
    first = continuations(model, ids, 8, samples=3, seed=1)
    assert first == continuations(model, ids, 8, samples=3, seed=1)
    assert first != continuations(model, ids, 8, samples=3, seed=2)
    assert len({tuple(ids) for ids in first}) > 1
    assert sum(map(len, continuations(model, ids, 10**6, temperature=0))) == 128 - len(ids)


def test_gram_entropy_falls_where_a_text_repeats_itself():
    assert gram_entropy([1, 1, 1, 1, 1]) == 0
    # Four different bigrams and three trigrams: (2/3 log2 4 + 4/3 log2 3) / 2
    assert gram_entropy([1, 2, 3, 4, 5]) == pytest.approx((4 / 3 + 4 / 3 * np.log2(3)) / 2)
    assert np.isnan(gram_entropy([1, 2]))


def test_the_word_at_a_site_is_what_the_essence_prompt_is_about():
    model = make_model("llama")
    prompt = build_prompt(model, TWEET)
    assert rome.word_at(prompt, position_of(prompt, "service")) == "service"
