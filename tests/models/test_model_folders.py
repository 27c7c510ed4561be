"""Model folders as people have them: what is not whole is refused in a sentence, never guessed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_models import VARIANTS, make_network, make_tokenizer, save_folder
from tiny_probes import make_probe
from transformers import AutoModelForSequenceClassification, LlamaConfig, OPTConfig, OPTForCausalLM

from core.__main__ import main
from core.interventions.forward import continuations, read_texts, surprise
from core.interventions.judging import hold_out
from core.interventions.key_covariance import KeyCovariance, key_covariances
from core.interventions.rome import EditSettings, make_edit
from core.models.families import UnsupportedModel
from core.models.loading import load_model
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.readout import Readout
from core.patching.restore import CHECK_TOLERANCE, EngineError, restore
from core.probes.encoding import encode
from core.probes.library import probe_for
from core.probes.training import train_probe
from core.prompts.prompt import build_prompt, word_token
from core.sweeps import sweep
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace, trace_together

TEXTS = [f"{word} day number {i}" for i in range(10) for word in ("good", "great", "bad", "awful")]
TWEETS = pd.DataFrame({"text": TEXTS, "label": [int(i % 4 < 2) for i in range(len(TEXTS))]})
ONE = TraceSettings(samples=1)


@pytest.fixture(autouse=True)
def home(own_home):
    return own_home


def change(folder: Path, **fields: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def rewrite(folder: Path, rewritten) -> Path:
    """Save other weights, made of those that are there by name."""
    path = folder / "model.safetensors"
    weights = rewritten(load_file(path))
    save_file({n: w.contiguous().clone() for n, w in weights.items()}, path, {"format": "pt"})
    return folder


def is_one_sentence(said: str) -> bool:
    return "\n" not in said and said.endswith(".") and len(said) < 700


def refusal(folder: Path) -> str:
    with pytest.raises(UnsupportedModel) as refused:
        load_model(folder)
    assert is_one_sentence(str(refused.value))
    return str(refused.value)


# --- weights -------------------------------------------------------------------------------------


def without(part: str):
    return lambda weights: {name: w for name, w in weights.items() if part not in name}


def a_classifier(folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=len(make_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
        num_labels=2,
        pad_token_id=0,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


BROKEN = {
    "a classifier": (a_classifier, r"1 weight is missing \('lm_head.weight'\), 1 weight has no "),
    "module.": (
        lambda f: rewrite(
            save_folder(f, "qwen2", layers=2), lambda w: {f"module.{n}": t for n, t in w.items()}
        ),
        r"27 weights are missing \(the first 'lm_head.weight'\), 27 weights have no place in it "
        r"\(the first 'module.lm_head.weight'\)",
    ),
    "a block is missing": (
        lambda f: rewrite(save_folder(f, "llama", layers=3), without(".layers.2.")),
        r"9 weights are missing \(the first 'model.layers.2.input_layernorm.weight'\)",
    ),
    "a bias is missing": (
        lambda f: rewrite(save_folder(f, "gpt2", layers=2), without("h.1.mlp.c_fc.bias")),
        r"1 weight is missing \('transformer.h.1.mlp.c_fc.bias'\)",
    ),
    "the tied embeddings are missing": (
        lambda f: rewrite(save_folder(f, "gpt2", layers=2), without("wte")),
        r"2 weights are missing \(the first 'lm_head.weight'\)",
    ),
    "a block too many": (
        lambda f: change(save_folder(f, "llama", layers=3), num_hidden_layers=2),
        r"9 weights have no place in it \(the first 'model.layers.2.input_layernorm.weight'\)",
    ),
    "another size": (
        lambda f: change(save_folder(f, "llama", layers=2), intermediate_size=64),
        r"6 weights have another shape \('model.layers.0.mlp.down_proj.weight': \(32, 48\) instead "
        r"of \(32, 64\)\)",
    ),
    "another vocabulary": (
        lambda f: change(save_folder(f, "gpt_neox", layers=2), vocab_size=500),
        r"have another shape \('\w+",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_weights_that_leave_a_part_random_are_refused_by_name(tmp_path, home, case):
    make, words = BROKEN[case]
    folder = make(tmp_path / "model")
    with pytest.raises(UnsupportedModel, match=words):
        load_model(folder)
    assert str(folder) in refusal(folder)
    assert not home.exists()  # nothing is kept of it
    done = CliRunner().invoke(main, ["trace", "--model", str(folder), "a bad day"])
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert "weight" in done.output


OLDER = {
    "gpt2": ("transformer.h.{}.attn", True),
    "gpt_neox": ("gpt_neox.layers.{}.attention", True),
    "opt": ("", False),
    **dict.fromkeys(("llama", "qwen2", "gemma"), ("model.layers.{}.self_attn", False)),
}
"""Where older versions saved buffers, and whether the causal mask was among them."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_weights_are_taken_however_they_were_saved(tmp_path, variant):
    """Tied heads, buffers of older versions, and names without the prefix are no fault."""
    folder = save_folder(tmp_path / "model", variant, layers=2)
    said = load_model(folder).log_probs(torch.ones(1, 32), range(50))

    attention, mask = OLDER[variant.partition("-")[0]]

    def older(weights):
        found = dict(weights)
        for layer in range(2):
            if mask:
                found[f"{attention.format(layer)}.bias"] = torch.ones(1, 1, 128, 128)
                found[f"{attention.format(layer)}.masked_bias"] = torch.tensor(-1e9)
            if variant != "gpt2":
                found[f"{attention.format(layer)}.rotary_emb.inv_freq"] = torch.ones(4)
        return found

    if variant != "opt":
        rewrite(folder, older)
    assert torch.equal(load_model(folder).log_probs(torch.ones(1, 32), range(50)), said)
    if variant == "gpt2":
        rewrite(folder, lambda w: {n.removeprefix("transformer."): t for n, t in w.items()})
        assert torch.equal(load_model(folder).log_probs(torch.ones(1, 32), range(50)), said)
        rewrite(folder, lambda w: w | {"lm_head.weight": w["wte.weight"]})
        assert torch.equal(load_model(folder).log_probs(torch.ones(1, 32), range(50)), said)


# --- files ---------------------------------------------------------------------------------------


def sharded(folder: Path) -> Path:
    make_network("llama", layers=2).save_pretrained(folder, max_shard_size="20KB")
    make_tokenizer().save_pretrained(folder)
    return folder


def no_shards(folder: Path) -> Path:
    for path in sharded(folder).glob("*.safetensors"):
        path.unlink()
    return folder


def one_shard_less(folder: Path) -> Path:
    sorted(sharded(folder).glob("*.safetensors"))[1].unlink()
    return folder


def no_index(folder: Path) -> Path:
    (sharded(folder) / "model.safetensors.index.json").unlink()
    return folder


def an_empty_index(folder: Path) -> Path:
    (sharded(folder) / "model.safetensors.index.json").write_text("{}")
    return folder


def adapter_alone(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    save_file({"lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    make_tokenizer().save_pretrained(folder)
    return folder


def adapter_beside(folder: Path) -> Path:
    (save_folder(folder) / "adapter_config.json").write_text("{}")
    return folder


def no_tokenizer(folder: Path) -> Path:
    make_network("gpt2", layers=2).save_pretrained(folder)
    return folder


def tokenizer_settings_alone(folder: Path) -> Path:
    (save_folder(folder) / "tokenizer.json").unlink()
    return folder


def a_tokenizer_of_nothing(folder: Path) -> Path:
    (save_folder(folder) / "tokenizer.json").write_text('{"version": "1.0"}')
    return folder


def a_tokenizer_of_an_unknown_kind(folder: Path) -> Path:
    path = save_folder(folder) / "tokenizer.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"pre_tokenizer": {"type": "Telepathy"}}))
    return folder


def a_larger_tokenizer(folder: Path) -> Path:
    """The model embeds fewer tokens than the tokenizer's own vocabulary has."""
    save_folder(folder, "llama", layers=2)
    rewrite(folder, lambda w: {n: t[:200] if "embed" in n else t for n, t in w.items()})
    return change(folder, vocab_size=200)


def without_final_norm(folder: Path) -> Path:
    return change(save_folder(folder, "opt", layers=2), _remove_final_layer_norm=True)


def projected(folder: Path) -> Path:
    config = OPTConfig(
        vocab_size=400,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def quantised(method: object):
    return lambda folder: change(save_folder(folder), quantization_config=method)


FILES = {
    "a shard is missing": (one_shard_less, r"'model-00002-of-\d+.safetensors' is missing of"),
    "all shards are missing": (no_shards, r"'model-00001-of-\d+.safetensors' is missing and"),
    "shards without an index": (no_index, r"neither model.safetensors nor model.safetensors.index"),
    "an index of nothing": (an_empty_index, "names no weights"),
    "gptq": (quantised({"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "fp8": (quantised({"quant_method": "fp8"}), r"quantised \(fp8\)"),
    "bitsandbytes": (quantised({"load_in_4bit": True}), "is quantised"),
    "an adapter alone": (adapter_alone, "holds an adapter; merge it"),
    "an adapter beside a model": (adapter_beside, "holds an adapter; merge it"),
    "no tokenizer": (no_tokenizer, r"holds no tokenizer; put the model's tokenizer.json there"),
    "settings of a tokenizer": (tokenizer_settings_alone, "holds no tokenizer"),
    "a tokenizer of nothing": (a_tokenizer_of_nothing, "has no tokenizer that can be read"),
    "a tokenizer of an unknown kind": (
        a_tokenizer_of_an_unknown_kind,  # for which the library raises Exception itself
        "has no tokenizer that can be read",
    ),
    "another model's tokenizer": (a_larger_tokenizer, r"has \d+ tokens, more than the 200"),
    "OPT without a final norm": (without_final_norm, "has no norm before its read-out"),
    "OPT with projections": (projected, "embeddings of 16 numbers and states of 32"),
    "a family that is none": (
        lambda f: change(save_folder(f), model_type=["gpt2"]),
        "cannot be traced yet",
    ),
    "a size in words": (
        lambda f: change(save_folder(f, "llama"), hidden_size="wide"),
        "does not describe a model",
    ),
    "heads that do not divide": (
        lambda f: change(save_folder(f, "gpt2"), n_head=5),
        r"cannot be loaded|does not describe a model",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_folder_that_is_not_whole_is_refused_in_a_sentence(tmp_path, case):
    make, words = FILES[case]
    folder = make(tmp_path / "model")
    with pytest.raises(UnsupportedModel, match=words):
        load_model(folder)
    refusal(folder)
    done = CliRunner().invoke(main, ["trace", "--model", str(folder), "a bad day"])
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert len(done.output.strip().splitlines()) == 1


def test_shards_that_are_whole_are_taken(tmp_path):
    whole = load_model(save_folder(tmp_path / "one", "llama", layers=2))
    several = load_model(sharded(tmp_path / "several"))
    assert torch.equal(several.embedding_matrix, whole.embedding_matrix)


def test_a_token_that_the_model_does_not_embed_is_refused_where_it_stands(tmp_path):
    folder = save_folder(tmp_path, "llama", layers=2)
    tokenizer = make_tokenizer().__class__.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>", " splendid"])
    tokenizer.save_pretrained(folder)
    model = load_model(folder)
    probe = make_probe(model)
    assert trace(model, probe, "a bad day", ONE).samples_done == 1
    words = r"the token '<extra>', number \d+ of the tokenizer, but .* embeds only \d+; leave"
    for ask in (
        lambda: build_prompt(model, "a bad <extra> day"),
        lambda: trace(model, probe, "a bad <extra> day", ONE),
        lambda: surprise(model, ["a bad <extra> day"]),
    ):
        with pytest.raises(ValueError, match=words):
            ask()
    with pytest.raises(ValueError, match="'a bad <extra> day'.* a token that is not embedded"):
        encode(model, ["a bad day", "a bad <extra> day"])
    with pytest.raises(ValueError, match="embeds only"):
        word_token(model, " splendid")
    odd = pd.DataFrame({"text": ["a bad <extra> day", "a bad day"], "label": [0, 1]})
    store = sweep.create(model, probe, odd, ONE)
    *_, last = sweep.run(model, store)
    assert (last.done, last.failed) == (1, 1)
    assert "<extra>" in store.failures()["reason"][0]


# --- numbers -------------------------------------------------------------------------------------


@pytest.fixture
def overflowing(tmp_path):
    """Too large for float16 (65,504), and quite usable in float32."""
    folder = save_folder(tmp_path, "gpt2", layers=2)
    return rewrite(
        folder,
        lambda w: {n: t * 1e5 if n.endswith("0.mlp.c_proj.weight") else t for n, t in w.items()},
    )


def test_an_overflow_is_said_and_nothing_of_it_is_kept(overflowing, home):
    model = load_model(overflowing, dtype="float16")
    probe = make_probe(model)
    for ask in (
        lambda: trace(model, probe, "a bad day", ONE, keep=True),
        lambda: trace_together(model, probe, ["a bad day"], ONE),
        lambda: train_probe(model, TWEETS),
        lambda: train_probe(model, TWEETS, features="hidden"),
        lambda: encode(model, TEXTS),
        lambda: read_texts(model, Readout((5,)), TEXTS[:2]),
        lambda: surprise(model, TEXTS[:2]),
        lambda: continuations(model, [5, 6], 2),
        lambda: key_covariances(model, TEXTS[:4], [1]),
    ):
        with pytest.raises(ValueError, match=r"overflow in float16.*; load it in float32 or bfl"):
            ask()
    assert not list(home.rglob("*.safetensors"))
    for dtype in ("float32", "bfloat16"):
        wide = load_model(overflowing, dtype=dtype)
        assert np.isfinite(train_probe(wide, TWEETS).coefficients).all()


def test_an_overflow_of_a_restored_run_alone_is_said():
    """The check looks at every cell, not at the clean and the corrupted run alone."""
    from tiny_models import make_model

    model = make_model("gpt2", layers=2)
    readout = Readout((5,))
    states = model.embed([[3, 50, 99]])
    source = run_source(model, states, readout)
    base = run_base(model, states + 0.1, readout, source)
    states = source.states.clone()
    states[1, 0, 1] = float("inf")  # one site, which no check before it reads
    source = replace(source, states=states)
    with pytest.raises(ValueError, match="overflow in float32"):
        restore(model, source, base, readout)


def test_a_failed_self_check_is_a_sentence_on_the_command_line(tmp_path, monkeypatch):
    from tiny_world import keep_tweets

    keep_tweets()
    folder = save_folder(tmp_path, layers=2)
    monkeypatch.setitem(CHECK_TOLERANCE, torch.float32, -1.0)  # nothing is exact enough
    done = CliRunner().invoke(main, ["trace", "--model", str(folder), "a bad day"])
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert "The self-check of this trace failed" in done.output
    assert issubclass(EngineError, ValueError)


# --- edits ---------------------------------------------------------------------------------------


def test_a_silent_mlp_is_not_edited(tmp_path):
    """OPT's units are rectified: with low biases all of a layer's are 0, whatever it reads."""
    folder = save_folder(tmp_path, "opt", layers=3)
    rewrite(folder, lambda w: {n: t - 1e3 if "1.fc1.bias" in n else t for n, t in w.items()})
    model = load_model(folder)
    covariances = key_covariances(model, TEXTS[:8], [0, 1])
    prompt = build_prompt(model, "a bad day")
    settings = EditSettings(prefixes=1, steps=1)
    with pytest.raises(ValueError, match=r"layer 1 is zero at 'day'.*choose another site"):
        make_edit(model, prompt, 1, 2, covariances[1], settings)
    with pytest.raises(ValueError, match=r"layer 1 .* are all 0; choose another layer"):
        covariances[1].solve(np.ones(64))
    assert np.isfinite(make_edit(model, prompt, 0, 2, covariances[0], settings).factor).all()


def test_keys_that_are_all_alike_are_said():
    alike = KeyCovariance(0, np.ones((3, 3)), keys=7, shrinkage=0.0)
    with pytest.raises(ValueError, match="at the 7 tokens of the data are all alike"):
        alike.solve(np.array([1.0, 0.0, 0.0]))


# --- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [float("nan"), None, pd.NA, 3], ids=str)
def test_a_row_without_text_is_named(tmp_path, missing):
    from tiny_models import make_model

    model = make_model("gpt2", layers=2)
    probe = make_probe(model)
    tweets = TWEETS.astype({"text": object}).copy()
    tweets.at[7, "text"] = missing
    grouped = tweets.assign(group=range(len(tweets)))
    for ask in (
        lambda: train_probe(model, tweets),
        lambda: train_probe(model, grouped, features="hidden"),
        lambda: probe_for(model, tweets),
        lambda: hold_out(model, tweets, probe),
        lambda: sweep.create(model, probe, tweets),
    ):
        with pytest.raises(ValueError, match=r"The text of row 7 is .*, not text; leave out"):
            ask()
    for ask in (
        lambda: trace(model, probe, missing, ONE),
        lambda: trace_together(model, probe, [missing], ONE),
        lambda: encode(model, ["a bad day", missing]),
        lambda: read_texts(model, Readout((5,)), [missing]),
    ):
        with pytest.raises(ValueError, match=r"must be text, not|there is no text; leave"):
            ask()


def test_a_frame_without_labels_or_columns_is_refused():
    from tiny_models import make_model

    model = make_model("gpt2", layers=2)
    unlabelled = TWEETS.astype({"label": float}).copy()
    unlabelled.loc[3, "label"] = float("nan")
    for ask in (train_probe, probe_for):
        with pytest.raises(ValueError, match="Row 3 has no label"):
            ask(model, unlabelled)
        with pytest.raises(ValueError, match="no column 'text', only tweet, label"):
            ask(model, TWEETS.rename(columns={"text": "tweet"}))


def test_a_model_that_was_removed_meanwhile_is_said(tmp_path):
    folder = save_folder(tmp_path / "model", layers=2)
    load_model(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_model(folder)
