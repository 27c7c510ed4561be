"""Loading models: what is taken, what is refused and in which words; and their parts."""

import json
import threading

import pytest
import torch
from tiny_models import VARIANTS, make_model, make_network, make_tokenizer, save_folder
from transformers import MptConfig, MptForCausalLM, OPTConfig, OPTForCausalLM

from core.models import model as models
from core.models import registry
from core.models.families import FAMILIES, UnsupportedModel
from core.models.loading import load_model
from core.models.registry import EMBEDDED, REGISTRY

PATIENCE = 120.0  # seconds until what hangs is called failed


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_local_folder_loads_as_it_was_saved(tmp_path, variant):
    folder = save_folder(tmp_path / "model", variant, layers=2)
    model = load_model(folder)
    assert (model.family, model.layers, model.width) == (variant.split("-")[0], 2, 32)
    ids = [3, 50, 99, 7]
    own = make_network(variant, layers=2)(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    states = model.enter(model.embed([ids]))
    for layer in range(2):
        states = model.block(layer, states).states
    torch.testing.assert_close(model.log_probs(states[0, -1], range(len(own))), own)


def test_identity_follows_the_weights(tmp_path):
    first = load_model(save_folder(tmp_path / "a", seed=0))
    same = load_model(save_folder(tmp_path / "b", seed=0))
    other = load_model(save_folder(tmp_path / "c", seed=1))
    assert first.identity == same.identity
    assert first.identity != other.identity


def test_the_untrained_twin_has_the_shape_but_not_the_weights(tmp_path):
    folder = save_folder(tmp_path / "model")
    model, twin, again = load_model(folder), *(load_model(folder, untrained=True) for _ in "ab")
    assert twin.untrained
    assert twin.name.endswith("(untrained)")
    assert twin.identity != model.identity
    assert twin.parameters == model.parameters
    assert not torch.equal(twin.embedding_matrix, model.embedding_matrix)
    torch.testing.assert_close(twin.embedding_matrix, again.embedding_matrix)


def test_making_a_twin_leaves_the_global_random_state_alone(tmp_path):
    folder = save_folder(tmp_path / "model")
    before = torch.random.get_rng_state()
    load_model(folder, untrained=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_family_is_refused_with_the_list_of_supported_ones(tmp_path):
    config = MptConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2)
    MptForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="'mpt'") as refused:
        load_model(tmp_path)
    for family in FAMILIES:
        assert family in str(refused.value)


def test_an_opt_that_normalises_its_stream_is_refused(tmp_path):
    config = OPTConfig(
        vocab_size=50,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        do_layer_norm_before=False,
    )
    OPTForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="another size"):
        load_model(tmp_path)


def test_the_embedding_matrix_is_what_tokens_are_embedded_by():
    for variant in ("gpt2", "gemma"):
        model = make_model(variant)
        torch.testing.assert_close(model.embedding_matrix[[5, 80]], model.embed([5, 80]))


def test_weights_that_could_run_code_are_refused(tmp_path):
    folder = save_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="safetensors"):
        load_model(folder)


def test_code_that_a_folder_brings_is_not_run(tmp_path):
    folder = save_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    assert load_model(folder).family == "gpt2"
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(tmp_path)


def test_a_broken_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        load_model(tmp_path)


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="float8"):
        load_model(tmp_path, dtype="float8")


@pytest.mark.parametrize("device", ["foo", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(tmp_path, device):
    with pytest.raises(ValueError, match="cannot be used here"):
        load_model(save_folder(tmp_path), device=device)


def test_the_embedded_model_before_set_up_names_the_command(home):
    with pytest.raises(ValueError, match="python -m core setup"):
        load_model(EMBEDDED)


def test_availability_and_default_follow_the_disk(home):
    assert registry.availability("gpt2") == "to be downloaded"
    assert registry.default_model()[0] == EMBEDDED
    folder = save_folder(registry.model_folder("gpt2"))
    assert registry.availability("gpt2") == "to be downloaded"  # not whole without its description
    description = {"key": "gpt2", "source": "test", "revision": "abc", "sha256": "1" * 64}
    (folder / "sentitrace.json").write_text(json.dumps(description))
    assert registry.availability("gpt2") == "on disk"
    assert registry.default_model()[0] == "gpt2"
    loaded = load_model("gpt2")
    assert loaded.identity.startswith("1" * 64 + ".")
    assert loaded.revision == "abc"


def test_the_registry_names_supported_families_only():
    for key, entry in REGISTRY.items():
        assert key == entry.key
        assert entry.family in FAMILIES
        assert entry.parameters > entry.layers > 0
        assert entry.licence


def test_the_vocabulary_in_slices_gives_the_same_numbers(monkeypatch):
    model = make_model("gpt_neox")
    states = torch.randn(7, model.width)
    whole = model.log_probs(states, [3, 8])
    torch.testing.assert_close(whole, model.log_probs(states[None], [3, 8])[0])
    monkeypatch.setattr(models, "LOGITS_PER_SLICE", 1000)
    torch.testing.assert_close(model.log_probs(states, [3, 8]), whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_block_at_its_last_position_equals_the_whole_block(variant):
    model = make_model(variant, dtype="float64")
    states = torch.randn(2, 9, model.width, dtype=torch.float64)
    for layer in range(model.layers):
        whole = model.block(layer, states)
        earlier = model.block(layer, states[:, :3])
        torch.testing.assert_close(model.block_at_last(layer, states), whole.states[:, -1:])
        suffix = {"start": 3, "keys": earlier.keys, "values": earlier.values}
        torch.testing.assert_close(
            model.block(layer, states[:, 3:], **suffix).states, whole.states[:, 3:]
        )
        torch.testing.assert_close(
            model.block_at_last(layer, states[:, 3:], **suffix), whole.states[:, -1:]
        )


def test_threads_do_not_see_each_others_edits():
    model = make_model("gpt2", layers=1)
    states = torch.randn(1, 5, model.width)
    plain = model.block(0, states).states
    inside, checked = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []

    def edit(contribution: torch.Tensor) -> torch.Tensor:
        inside.set()
        assert checked.wait(PATIENCE)
        return torch.zeros_like(contribution)

    def edited() -> None:
        found.append(model.block(0, states, edits={"mlp": edit}).states)

    thread = threading.Thread(target=edited)
    thread.start()
    assert inside.wait(PATIENCE)
    torch.testing.assert_close(model.block(0, states).states, plain)
    checked.set()
    thread.join()
    assert not torch.allclose(found[0], plain)


@pytest.mark.embedded
def test_the_embedded_model_is_what_the_registry_says(embedded_model):
    entry = REGISTRY[EMBEDDED]
    assert embedded_model.family == entry.family
    assert embedded_model.layers == entry.layers
    assert embedded_model.parameters == entry.parameters
    assert embedded_model.revision
