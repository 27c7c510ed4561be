"""A model is put together from its parts once, when it is first loaded; and rows of one's own."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import MORE_VARIANTS, make_network, make_tokenizer, save_folder
from transformers import Starcoder2Config, Starcoder2ForCausalLM

import core
from core.models import parts_check
from core.models.families import FAMILIES, UnsupportedModel
from core.models.identity import same_model
from core.models.loading import load_model

ROW = core.Family(
    blocks="model.layers",
    final_norm="model.norm",
    attn="self_attn",
    mlp="mlp",
    heads_out="self_attn.o_proj",
    mlp_out="mlp.c_proj",
    rotary="model.rotary_emb",
    window_everywhere=True,
)


@pytest.fixture
def home(own_home):
    return own_home


@pytest.fixture
def folder(tmp_path):
    """A model of an architecture that has no row."""
    assert "starcoder2" not in FAMILIES
    config = Starcoder2Config(
        vocab_size=len(make_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        sliding_window=4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Starcoder2ForCausalLM(config)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    network.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("variant", MORE_VARIANTS)
def test_a_local_folder_of_every_family_loads_as_it_was_saved(home, tmp_path, variant):
    model = load_model(save_folder(tmp_path / "model", variant, layers=2))
    assert (model.family, model.layers) == (variant.split("-")[0], 2)
    ids = [3, 50, 99, 7, 21, 11]
    own = make_network(variant, layers=2)(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    states = model.enter(model.embed([ids]))
    for layer in range(2):
        states = model.block(layer, states).states
    said = model.log_probs(states[0, -1], range(len(own)))
    torch.testing.assert_close(said, own, rtol=1e-4, atol=1e-4)
    assert len(list((home / "checks").glob("*.json"))) == 1


def test_a_row_of_ones_own_loads_what_has_none(home, folder):
    with pytest.raises(UnsupportedModel, match=r"'starcoder2'.*family=core\.Family") as refused:
        load_model(folder)
    for family in FAMILIES:
        assert family in str(refused.value)
    model = load_model(folder, family=ROW, dtype="float64")
    assert model.block_calls == 0
    ids = [3, 50, 99, 7, 21, 11, 8]
    own = model.network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    states = model.enter(model.embed([ids]))
    for layer in range(3):
        states = model.block(layer, states).states
    torch.testing.assert_close(model.log_probs(states[0, -1], range(len(own))), own)
    other = load_model(folder, family=replace(ROW, attn="self_attn.o_proj"), dtype="float64")
    assert not same_model(model.identity, other.identity)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"attn": "input_layernorm"}, r"differ from what the model says by \d"),
        ({"mlp": "post_attention_layernorm"}, r"differ from what the model says by \d"),
        ({"final_norm": "model.layers.0.input_layernorm"}, r"says by \d.*more than 0.001"),
        ({"mlp_out": "mlp.c_fc"}, "cannot be run as its family's row says"),
        ({"heads_out": "self_attn.q_proj"}, r"differ from what the model says by \d"),
        ({"rotary": None}, "cannot be run as its family's row says"),
        ({"window_everywhere": False}, r"differ from what the model says by \d"),
        ({"named_logit_divisor": "hidden_size"}, r"differ from what the model says by \d"),
        ({"named_logit_cap": "logit_cap"}, "has no field 'logit_cap'"),
        ({"rotary": "model.rope"}, r"no module 'model\.rope' in"),
        ({"blocks": "model.blocks"}, r"no module 'model\.blocks' in"),
        ({"heads_out": "self_attn.proj"}, r"no module 'self_attn\.proj' in a block of"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(home, folder, wrong, match):
    with pytest.raises(UnsupportedModel, match=match):
        load_model(folder, family=replace(ROW, **wrong))
    assert not list((home / "checks").glob("*.json"))


def test_the_check_is_made_once(home, tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "model", layers=2)
    made = []
    find = parts_check._largest_difference
    monkeypatch.setattr(
        parts_check, "_largest_difference", lambda model: made.append(model.identity) or find(model)
    )
    first = load_model(folder)
    load_model(folder)
    twin = load_model(folder, untrained=True)
    assert made == [first.identity, twin.identity]
    path = parts_check.kept_path(first.identity)
    assert json.loads(path.read_text())["difference"] < 1e-4
    path.write_text("damaged")
    load_model(folder)
    assert made == [first.identity, twin.identity, first.identity]
    path.write_text('{"difference": 3.0}')
    with pytest.raises(UnsupportedModel, match="by 3, more than"):
        load_model(folder)
