"""All that changes a model's numbers changes its identity, and every cache goes by that."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_models import VARIANTS, make_network, save_folder
from tiny_probes import make_probe
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
    TOKENIZER_CONFIG_FILE,
)

import core
from core.interventions import key_covariance
from core.models import hub, identity
from core.models.families import FAMILIES
from core.models.identity import UNREAD, of_folder, same_model
from core.models.loading import DTYPES, identity_on_disk, load_model
from core.models.parts_check import kept_path
from core.models.registry import model_folder
from core.probes import encoding
from core.probes.library import kept_probes, key_of, probe_for
from core.sweeps import sweep
from core.tracing import corruption, sample_cache
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace
from core.tracing.verdict import total_effects

ROOT = Path(core.__file__).parent
IDS = [3, 50, 99, 7]
TEXTS = [f"{word} day number {i}" for i in range(10) for word in ("good", "great", "bad", "awful")]
TWEETS = pd.DataFrame({"text": TEXTS, "label": [int(i % 4 < 2) for i in range(len(TEXTS))]})


def change(folder: Path, **fields: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def said(model) -> torch.Tensor:
    states = model.enter(model.embed([IDS]))
    for layer in range(model.layers):
        states = model.block(layer, states).states
    return model.log_probs(states[0, -1], range(300))


def other(value: object) -> object:
    """Another value of a field of config.json."""
    if isinstance(value, dict):
        return value | {"changed": 1}
    if isinstance(value, bool):
        return not value
    return "changed" if value is None else [value, "changed"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_field_of_the_configuration_is_part_of_it(tmp_path, variant):
    folder = save_folder(tmp_path, variant, layers=2)
    config = json.loads((folder / "config.json").read_text())
    # A field that the configuration does not have yet, too: the next version's, or a person's.
    names = {*config, *make_network(variant, layers=2).config.to_dict(), "a_new_field"}
    before = of_folder(folder)
    unnoticed = set()
    for name in names:
        changed = config | {name: other(config.get(name))}
        (folder / "config.json").write_text(json.dumps(changed))
        if of_folder(folder) == before:
            unnoticed.add(name)
    assert unnoticed == names & UNREAD


def test_fields_that_are_not_part_of_it_change_no_number(tmp_path):
    folder = save_folder(tmp_path, "llama", layers=2)
    first = load_model(folder)
    config = {"_name_or_path": "elsewhere", "transformers_version": "4.1.0"}
    config |= {"dtype": "bfloat16", "torch_dtype": "float16"}
    assert set(config) == UNREAD
    again = load_model(change(folder, **config))
    assert again.identity == first.identity
    assert torch.equal(said(again), said(first))
    keys = list(json.loads((folder / "config.json").read_text()).items())
    (folder / "config.json").write_text(json.dumps(dict(reversed(keys)), indent=4))
    assert load_model(folder).identity == first.identity


def test_an_edited_configuration_gets_the_numbers_of_its_own(tmp_path, own_home):
    folder = save_folder(tmp_path / "model", "gpt2", layers=3)

    def effect(**how: bool) -> float:
        model = load_model(folder)
        probe = probe_for(model, TWEETS)
        return trace(model, probe, "a bad day", TraceSettings(samples=2), **how).total_effect

    first = effect(keep=True)
    change(folder, scale_attn_by_inverse_layer_idx=True)
    second = effect(keep=True)
    assert second != first
    assert effect(keep=False) == pytest.approx(second, abs=1e-5)
    change(folder, scale_attn_by_inverse_layer_idx=False)
    assert effect(keep=True) == first  # what was kept of it is found again


def tokenizer_names() -> list[str]:
    """Every file that transformers may read for a tokenizer of a supported family."""
    import transformers

    names = {ADDED_TOKENS_FILE, FULL_TOKENIZER_FILE, SPECIAL_TOKENS_MAP_FILE, TOKENIZER_CONFIG_FILE}
    classes = {TOKENIZER_MAPPING_NAMES.get(family) for family in FAMILIES} - {None}
    # A model of these families may bring another one's tokenizer.
    classes |= {"BertTokenizer", "T5Tokenizer", "XLMRobertaTokenizer", "LlamaTokenizer"}
    for name in sorted(classes):
        names |= set(getattr(transformers, name).vocab_files_names.values())
    assert {"vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"} <= names
    return sorted(names)


@pytest.mark.parametrize("name", tokenizer_names())
def test_every_file_of_the_tokenizer_is_part_of_it(tmp_path, name):
    folder = save_folder(tmp_path, layers=2)
    before = of_folder(folder)
    path = folder / name
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    after = of_folder(folder)
    assert after != before
    assert after.partition(".")[0] == before.partition(".")[0]  # the weights are the same


def test_other_files_are_not_part_of_it(tmp_path):
    folder = save_folder(tmp_path, layers=2)
    before = of_folder(folder)
    (folder / "README.md").write_text("of a model")
    (folder / "optimizer.pt").write_bytes(b"large")
    assert of_folder(folder) == before


def test_precision_generation_and_training_are_part_of_it(tmp_path, monkeypatch):
    folder = save_folder(tmp_path, layers=2)
    found = [load_model(folder, dtype=dtype).identity for dtype in DTYPES]
    found.append(load_model(folder, untrained=True).identity)
    monkeypatch.setattr(identity, "ENGINE", identity.ENGINE + 1)
    found.append(load_model(folder).identity)
    assert len(set(found)) == len(DTYPES) + 2


def test_weights_that_were_written_after_the_description_are_read_anew(own_home, tmp_path):
    folder = save_folder(model_folder("gpt2"), layers=2)
    hub.write_description(folder, key="gpt2", source="made by hand", revision="0")
    described = hub.describe_folder(folder)["sha256"]
    first = of_folder(folder)
    assert first.startswith(described)
    assert identity_on_disk("gpt2") == load_model("gpt2").identity
    assert of_folder(save_folder(tmp_path / "copy", layers=2)) == first  # wherever it lies
    make_network("gpt2", layers=2, seed=1).save_pretrained(folder)
    assert not of_folder(folder).startswith(described)


# --- who goes by it ------------------------------------------------------------------------------


def keys_of(model) -> dict[str, object]:
    """What is kept of a model by the folder of the cache, each found by a name of its own."""
    probe = make_probe(model)
    case = corruption.case_of(model, probe, "a bad day", TraceSettings(samples=1))
    return {
        "features": encoding._key(model, [(1, 2)]),
        "probes": key_of(probe),
        "traces": sample_cache.key_of(model, case.readout, case.blank),
        "keys": key_covariance._folder(model, [(1, 2)]),
        "checks": kept_path(model.identity),
        # The same probe for all: a sweep is found by its model, too, and not by that alone.
        "sweeps": sweep.create(model, replace(probe, model_identity="any"), TWEETS).id,
    }


NOT_OF_A_MODEL = {"models", "datasets", "downloads", "links", "locks", "logs"}


def test_every_cache_of_a_model_is_known_here():
    """Whoever adds a folder to the cache says above what of a model it is found by."""
    named = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.right, ast.Constant)
                and re.fullmatch(r"(cache\.)?home\(\)", ast.unparse(node.left))
            ):
                named.add(node.right.value)
    assert named - NOT_OF_A_MODEL == {"features", "probes", "traces", "keys", "checks", "sweeps"}


def test_every_cache_goes_by_the_whole_identity(tmp_path, own_home, monkeypatch):
    folder = save_folder(tmp_path / "model", "llama", layers=2)
    loaded = [load_model(folder), load_model(folder, dtype="tf32")]
    change(folder, rms_norm_eps=1e-3)
    loaded.append(load_model(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["terrible"])
    tokenizer.save_pretrained(folder)
    loaded.append(load_model(folder))
    make_network("llama", layers=2, seed=1).save_pretrained(folder)
    loaded.append(load_model(folder))
    loaded.append(load_model(folder, untrained=True))
    monkeypatch.setattr(identity, "ENGINE", identity.ENGINE + 1)
    loaded.append(load_model(folder))
    found = [keys_of(model) for model in loaded]
    for name in found[0]:
        assert len({keys[name] for keys in found}) == len(loaded), name


def test_a_kept_probe_of_another_precision_is_not_handed_out(tmp_path, own_home):
    folder = save_folder(tmp_path, layers=2)
    exact, coarse = load_model(folder, dtype="float64"), load_model(folder, dtype="bfloat16")
    first = probe_for(exact, TWEETS)
    assert kept_probes(coarse.identity) == []
    second = probe_for(coarse, TWEETS)
    assert second.coefficients != first.coefficients
    assert kept_probes(exact.identity) == [first]
    # Brought on purpose, it may be read on the same model in another precision.
    assert trace(coarse, first, "a bad day", TraceSettings(samples=1)).probe == first
    change(folder, attn_pdrop=0.3)
    with pytest.raises(ValueError, match="choose a probe of this model or train one"):
        trace(load_model(folder), first, "a bad day")


# --- what was saved before -----------------------------------------------------------------------


def test_an_identity_of_before_is_that_of_its_weights():
    weights, others = "a" * 64, "b" * 64
    own = f"{weights}.0123456789abcdef.float32.2"
    assert same_model(own, own)
    assert same_model(own.replace("float32.2", "bfloat16.3"), own)
    assert not same_model(own.replace("0123", "4567"), own)
    assert not same_model(own.replace(weights, others), own)
    assert same_model(weights, own)
    assert not same_model(others, own)
    assert same_model(f"untrained-0-{weights}", f"untrained-0-{own}")
    assert not same_model(weights, f"untrained-0-{own}")
    assert not same_model(f"untrained-0-{own}", own)


@pytest.mark.embedded
def test_the_example_and_files_of_before_are_of_the_embedded_model(embedded_model):
    from core.exporting.recipe import Recipe
    from core.tracing.example import load

    example = load()
    assert same_model(example.model_identity, embedded_model.identity)
    recipe = Recipe.from_json(Recipe.of(example).to_json())
    recipe.model.check(embedded_model)
    again = total_effects(
        embedded_model, recipe.probe, recipe.text, TraceSettings(samples=1), scales=[3]
    )
    assert again["high"][0] == pytest.approx(example.high, rel=1e-3)
