"""Small random models of each family with a small tokenizer, for tests that must be quick.

Weights are random but not tiny, so that layers differ and effects are well above rounding.
"""

import dataclasses
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
)

from core.models.families import FAMILIES
from core.models.loading import DTYPES
from core.models.model import Model

LINES = [
    "My flight got cancelled and I love waiting here for hours, terrible service I am feeling",
    "great day good bad good bad happy sad I am feeling good I am feeling bad",
    "not good, not bad: awful! wonderful? @name #tag https://example.org",
]

CHAT = (
    "{% for m in messages %}<|endoftext|>{{ m['role'][0] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>a: {% endif %}"
)
"""A chat template of few tokens."""


@cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def _configs(layers: int, vocabulary: int) -> dict[str, object]:
    shape = {"num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 128}
    common = {"vocab_size": vocabulary, "hidden_size": 32} | shape
    neox = common | {"intermediate_size": 64}
    gated = common | {"intermediate_size": 48}
    rotary = {"rope_theta": 10_000.0, "rope_type": "default"}
    windowed = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    return {
        "gpt2": GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=layers, n_head=4, n_positions=128
        ),
        "llama": LlamaConfig(
            **gated, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=rotary
        ),
        "gpt_neox": GPTNeoXConfig(**neox),
        "gpt_neox-sequential": GPTNeoXConfig(**neox, use_parallel_residual=False),
        "qwen2": Qwen2Config(**gated, num_key_value_heads=1, tie_word_embeddings=False),
        "qwen2-windowed": Qwen2Config(**gated, num_key_value_heads=2, **windowed),
        "gemma": GemmaConfig(**gated, num_key_value_heads=1, head_dim=16),
        "opt": OPTConfig(**common, word_embed_proj_dim=32, ffn_dim=64),
    }


VARIANTS = tuple(_configs(2, 400))
"""The families that every test of arithmetic runs on; GPT-NeoX and Qwen2 in both shapes."""


def _more_configs(layers: int, vocabulary: int) -> dict[str, PreTrainedConfig]:
    gpt = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": layers, "n_head": 4}
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": None,
    }
    experts = {"num_experts_per_tok": 2, "sliding_window": None}
    bloom = {"vocab_size": vocabulary, "hidden_size": 24, "n_layer": layers, "n_head": 6}
    multipliers = {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    }
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    windows = {"head_dim": 16, "sliding_window": 4}
    mixed = {"layer_types": [("sliding_attention", "full_attention")[i % 2] for i in range(layers)]}
    neo = {"vocab_size": vocabulary, "hidden_size": 32, "num_layers": layers, "num_heads": 4}
    types = [[["global", "local"], layers // 2], [["global"], layers % 2]]
    return {
        "mistral": MistralConfig(**common, sliding_window=5),
        "qwen3": Qwen3Config(**common, head_dim=16, tie_word_embeddings=True),
        "phi3": Phi3Config(**common, sliding_window=5, partial_rotary_factor=0.5),
        "olmo2": Olmo2Config(**common),
        "gemma2": Gemma2Config(**common, **windows, **caps, query_pre_attn_scalar=16),
        "gemma3_text": Gemma3TextConfig(**common, **windows, **mixed, query_pre_attn_scalar=16),
        "smollm3": SmolLM3Config(**common, no_rope_layer_interval=2),
        "phi": PhiConfig(**common, qk_layernorm=True),
        "olmo": OlmoConfig(**common, clip_qkv=1.5),
        "gpt_neo": GPTNeoConfig(
            **neo, max_position_embeddings=128, attention_types=types, window_size=4
        ),
        "stablelm": StableLmConfig(**common, qk_layernorm=True, use_qkv_bias=True),
        "stablelm-parallel": StableLmConfig(**common, use_parallel_residual=True),
        "granite": GraniteConfig(**common, **multipliers),
        "falcon": FalconConfig(**_only(common, FalconConfig), multi_query=True),
        "falcon-grouped": FalconConfig(
            **_only(common, FalconConfig), new_decoder_architecture=True, num_kv_heads=2
        ),
        "bloom": BloomConfig(**bloom),
        "gptj": GPTJConfig(**gpt, n_positions=128, rotary_dim=4),
        "mixtral": MixtralConfig(**common, **experts, num_local_experts=4),
        "qwen3_moe": Qwen3MoeConfig(
            **common, **experts, head_dim=16, num_experts=4, moe_intermediate_size=24
        ),
        "gpt_oss": GptOssConfig(
            **common, **windows, **mixed, num_experts_per_tok=2, num_local_experts=4
        ),
        "olmoe": OlmoeConfig(**common, num_experts_per_tok=2, num_experts=4),
        "olmo3": Olmo3Config(**common, **mixed, sliding_window=4),
        "cohere": CohereConfig(**common, use_qk_norm=True, logit_scale=0.5),
        "cohere2": Cohere2Config(**common, **mixed, sliding_window=4, logit_scale=0.5),
        "glm": GlmConfig(**common, head_dim=8),
        "glm4": Glm4Config(**common, head_dim=8),
    }


def _only(values: dict[str, object], config: type) -> dict[str, object]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if name in names}


MORE_VARIANTS = tuple(_more_configs(2, 400))
"""Every other family, on which one test of each kind runs."""


def make_network(variant: str, *, layers: int = 4, seed: int = 0) -> torch.nn.Module:
    size = len(make_tokenizer())
    config = {**_configs(layers, size), **_more_configs(layers, size)}[variant]
    attention = FAMILIES[config.model_type].attention
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for parameter in network.parameters():
            # The initialisers are so small that all layers do nearly nothing.
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
            else:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def make_model(variant: str, *, layers: int = 4, dtype: str = "float32", seed: int = 0) -> Model:
    return Model(
        make_network(variant, layers=layers, seed=seed).to(DTYPES[dtype]),
        make_tokenizer(),
        name=f"tiny-{variant}",
        identity=f"tiny-{variant}-{layers}-{seed}",
    )


def save_folder(folder: Path, variant: str = "gpt2", *, layers: int = 4, seed: int = 0) -> Path:
    """Save a small model as a local folder that `load_model` takes."""
    return shutil.copytree(_saved(variant, layers, seed).name, folder, dirs_exist_ok=True)


@cache
def _saved(variant: str, layers: int, seed: int) -> tempfile.TemporaryDirectory[str]:
    """One is made for all tests that take a copy of it: most pages' tests do."""
    folder = tempfile.TemporaryDirectory()
    make_network(variant, layers=layers, seed=seed).save_pretrained(folder.name)
    make_tokenizer().save_pretrained(folder.name)
    return folder
