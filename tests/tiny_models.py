"""Small random models of each family with a small tokenizer, for tests that must be quick.

Weights are random but not tiny, so that layers differ and effects are well above rounding.
"""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from core.models import DTYPES, Model

LINES = [
    "My flight got cancelled and I love waiting here for hours, terrible service I am feeling",
    "great day good bad good bad happy sad I am feeling good I am feeling bad",
    "not good, not bad: awful! wonderful? @name #tag https://example.org",
]


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
    rotary = {"rope_theta": 10_000.0, "rope_type": "default"}
    return {
        "gpt2": GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=layers, n_head=4, n_positions=128
        ),
        "llama": LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            rope_parameters=rotary,
        ),
        "gpt_neox": GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=128,
        ),
        "gpt_neox-sequential": GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=128,
            use_parallel_residual=False,
        ),
        "qwen2": Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=False,
        ),
        "qwen2-windowed": Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=1,
        ),
        "gemma": GemmaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=128,
        ),
        "opt": OPTConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=128,
        ),
    }


VARIANTS = tuple(_configs(2, 400))
"""Every supported family; GPT-NeoX and Qwen2 in both of their shapes."""


def make_network(variant: str, *, layers: int = 4, seed: int = 0) -> torch.nn.Module:
    config = _configs(layers, len(make_tokenizer()))[variant]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
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
    make_network(variant, layers=layers, seed=seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
