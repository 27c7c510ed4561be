"""Which models can be traced, and where are their parts?

A family is one row of `FAMILIES`: the module paths of Hugging Face transformers, which nothing but
`core.models` knows. Everything else speaks of embeddings, blocks, contributions and read-out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError


class UnsupportedModel(UserError):
    """The model cannot be traced: no row of `FAMILIES` fits it, or its files are not whole."""


@dataclass(frozen=True)
class Family:
    """What is particular to one model family; most of it is where its parts are.

    Paths are those of modules, from the causal model or, for contributions, from its block. What
    begins with "named" is a field of the model's configuration.

    What is added to the residual stream is the contribution: where a norm follows attention or the
    MLP, that norm's output. `heads_out` and `mlp_out` always are the linear maps themselves.
    """

    blocks: str
    final_norm: str
    attn: str  #: inside a block: the module whose output attention adds to the residual stream
    mlp: str
    heads_out: str  #: inside a block: the linear map from all heads' mixed values, at its end
    mlp_out: str | None  #: and from the inner activations; None: each expert has one of its own
    position_table: str | None = None  #: learned positions, added to the embeddings
    first_position: int = 0  #: row of the position table that the first token gets
    rotary: str | None = None  #: rotary positions, given to every block
    rotary_by_kind: bool = False  #: they differ between the kinds of layer that the config names
    takes_positions: bool = False  #: a block is given the positions themselves
    alibi: bool | None = None  #: a block asks what ALiBi adds to the scores; False: told, nothing
    cache_argument: str = "past_key_values"
    attention: Literal["sdpa", "eager"] = "sdpa"  #: the quickest that transformers has for it
    attention_in_float32: bool = False  #: whatever the weights are in
    window_everywhere: bool = False  #: a sliding window, where the config has one, is that of all
    adds_in_place: bool = False  #: a block writes sums into what its modules gave
    embedding_norm: str | None = None  #: before the first block
    named_embedding_factor: str | None = None  #: of the embeddings, before the first block
    named_contribution_factor: str | None = None  #: of what `attn` and `mlp` give
    named_logit_factor: str | None = None
    named_logit_divisor: str | None = None
    named_logit_cap: str | None = None  #: c tanh(logit / c)


_LLAMA = Family(
    blocks="model.layers",
    final_norm="model.norm",
    attn="self_attn",
    mlp="mlp",
    heads_out="self_attn.o_proj",
    mlp_out="mlp.down_proj",
    rotary="model.rotary_emb",
)
_NORM_AFTER = replace(_LLAMA, attn="post_attention_layernorm", mlp="post_feedforward_layernorm")
_GPT = Family(
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    attn="attn",
    mlp="mlp",
    heads_out="attn.c_proj",
    mlp_out="mlp.c_proj",
)


FAMILIES: dict[str, Family] = {
    "gpt2": replace(_GPT, position_table="transformer.wpe"),
    "llama": _LLAMA,
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attn="attention",
        mlp="mlp",
        heads_out="attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        rotary="gpt_neox.rotary_emb",
        cache_argument="layer_past",
    ),
    "qwen2": _LLAMA,
    "gemma": _LLAMA,
    "opt": Family(
        blocks="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        attn="self_attn",
        mlp="fc2",  # a block holds the MLP's layers themselves
        heads_out="self_attn.out_proj",
        mlp_out="fc2",
        position_table="model.decoder.embed_positions",
        first_position=2,
    ),
    "mistral": replace(_LLAMA, window_everywhere=True),
    "qwen3": _LLAMA,
    "phi3": replace(_LLAMA, window_everywhere=True),
    "olmo2": _NORM_AFTER,
    "gemma2": replace(_NORM_AFTER, attention="eager", named_logit_cap="final_logit_softcapping"),
    "gemma3_text": replace(
        _NORM_AFTER, rotary_by_kind=True, named_logit_cap="final_logit_softcapping"
    ),
    "smollm3": _LLAMA,
    "phi": replace(
        _LLAMA,
        final_norm="model.final_layernorm",
        heads_out="self_attn.dense",
        mlp_out="mlp.fc2",
    ),
    "olmo": _LLAMA,
    "gpt_neo": replace(
        _GPT,
        heads_out="attn.attention.out_proj",
        position_table="transformer.wpe",
        cache_argument="layer_past",
        attention="eager",
        attention_in_float32=True,
    ),
    "stablelm": _LLAMA,
    "granite": replace(
        _LLAMA,
        named_embedding_factor="embedding_multiplier",
        named_contribution_factor="residual_multiplier",
        named_logit_divisor="logits_scaling",
    ),
    "falcon": replace(
        _GPT,
        attn="self_attention",
        heads_out="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        rotary="transformer.rotary_emb",
        alibi=False,
        cache_argument="layer_past",
        adds_in_place=True,
    ),
    "bloom": replace(
        _GPT,
        attn="self_attention.dense",  # its modules add the residual stream themselves
        mlp="mlp.dense_4h_to_h",
        heads_out="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        alibi=True,
        cache_argument="layer_past",
        attention="eager",
        embedding_norm="transformer.word_embeddings_layernorm",
    ),
    "gptj": replace(
        _GPT,
        heads_out="attn.out_proj",
        mlp_out="mlp.fc_out",
        takes_positions=True,
        cache_argument="layer_past",
        attention="eager",
        attention_in_float32=True,
    ),
    "mixtral": replace(_LLAMA, mlp_out=None, window_everywhere=True),
    "qwen3_moe": replace(_LLAMA, mlp_out=None, window_everywhere=True),
    "gpt_oss": replace(_LLAMA, mlp_out=None, attention="eager"),  # it has attention sinks
    "olmoe": replace(_LLAMA, mlp_out=None),
    "olmo3": replace(_NORM_AFTER, rotary_by_kind=True),
    "cohere": replace(_LLAMA, named_logit_factor="logit_scale"),
    "cohere2": replace(_LLAMA, named_logit_factor="logit_scale"),
    "glm": _LLAMA,
    "glm4": replace(_LLAMA, attn="post_self_attn_layernorm", mlp="post_mlp_layernorm"),
}


def check_config(config: Path, family: Family | None = None) -> None:
    """Refuse a model whose config.json says that it cannot be traced.

    Args:
        family: a row of a person's own, for an architecture without one in `FAMILIES`.

    Raises:
        UnsupportedModel: there is no row for it, or the weights are quantised.
    """
    held = read_json(config)
    kind = held.get("model_type")
    if not isinstance(kind, str) or (kind not in FAMILIES and family is None):
        raise _unsupported(kind)
    quantised = held.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UnsupportedModel(
            f"The model of {config} is quantised ({method or 'its config.json says so'}), and only "
            "plain weights can be traced; give the model that it was made from."
        )


def _unsupported(family: object) -> UnsupportedModel:
    return UnsupportedModel(
        f"Models of the family {family!r} cannot be traced yet; "
        f"supported families are {', '.join(sorted(FAMILIES))}, and `core.load_model` takes a row "
        "for another one (`family=core.Family(...)`)."
    )


def check_architecture(config: Any, name: str, family: Family | None = None) -> None:
    """Refuse a model of a supported family that computes in another way than its family does."""
    if config.model_type not in FAMILIES and family is None:
        raise _unsupported(config.model_type)
    sizes = ["hidden_size", "num_attention_heads"]
    if config.model_type != "bloom":  # no bound: `core.models.attention_inputs.max_positions`
        sizes.append("max_position_embeddings")
    for field in sizes:
        if not isinstance(getattr(config, field, None), int):
            raise UnsupportedModel(
                f"The config.json of {name!r} does not say its {field}, and the model cannot be "
                "traced; add it there."
            )
    if not getattr(config, "do_layer_norm_before", True):
        raise UnsupportedModel(
            f"The model {name!r} normalises its residual stream itself (as OPT-350m does), so "
            "that nothing is simply added to it; choose another size."
        )
    if getattr(config, "apply_residual_connection_post_layernorm", False):
        raise UnsupportedModel(
            f"The model {name!r} adds to its normalised states, not to its residual stream (a "
            "setting of some BLOOM models), and cannot be traced; choose another checkpoint."
        )
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        raise UnsupportedModel(
            f"The model {name!r} cuts its output projections into slices (`slow_but_exact`), and "
            "cannot be traced; set that to false in its config.json."
        )
    if config.model_type == "falcon" and config.alibi:
        raise UnsupportedModel(
            f"The model {name!r} is a Falcon with ALiBi positions, which are rounded in a way of "
            "its own, and cannot be traced; choose a Falcon with rotary positions."
        )
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModel(
            f"The model {name!r} reads its text in both directions, and says no next token; choose "
            "a causal language model."
        )
    if getattr(config, "_remove_final_layer_norm", False):
        raise UnsupportedModel(
            f"The model {name!r} has no norm before its read-out (an OPT saved by an early "
            "version), and cannot be traced; choose another checkpoint."
        )
    embedded = getattr(config, "word_embed_proj_dim", config.hidden_size)
    if embedded != config.hidden_size:
        raise UnsupportedModel(
            f"The model {name!r} has embeddings of {embedded} numbers and states of "
            f"{config.hidden_size} (as OPT-350m has), and cannot be traced; choose another size."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder.

    Raises:
        UserError: the file is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The file {path} is damaged: it cannot be read as JSON ({error}); fetch it again."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"The file {path} does not hold a JSON object.")
    return found
