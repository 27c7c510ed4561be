"""A model that can be worked out by hand: every layer adds the mean of all states up to a token.

It is a GPT-2 of two dimensions. A token's embedding is (v, -v), v its value; attention weighs all
positions alike and passes them on as they are; MLPs, positions and biases are zero. Layer norms
have so large an epsilon that they only subtract the mean, which is zero. So all is linear, and
log P(" good") - log P(" bad") is 4 times the last state where their values are 1 and -1.
"""

from collections.abc import Mapping

import torch
from tiny_models import make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from core.models.families import FAMILIES
from core.models.model import Model

EPSILON = 1e8


def make_linear_model(values: Mapping[str, float], layers: int = 2) -> Model:
    """Args: values: of tokens, by their text; those that are not named have 0."""
    tokenizer = make_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=2,
        n_layer=layers,
        n_head=1,
        n_positions=64,
        layer_norm_epsilon=EPSILON,
        attn_implementation=FAMILIES["gpt2"].attention,
    )
    network = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.zero_()
        if ".ln_" in name and name.endswith("weight"):
            parameter.fill_(EPSILON**0.5)
    for block in network.transformer.h:
        block.attn.c_attn.weight[:, 4:] = torch.eye(2)  # of query, key and value, the last
        block.attn.c_proj.weight[:] = torch.eye(2)
    for text, value in values.items():
        (token,) = tokenizer(text).input_ids
        network.transformer.wte.weight[token] = torch.tensor([value, -value])
    return Model(network, tokenizer, name="linear", identity=f"linear-{layers}-{sorted(values)}")
