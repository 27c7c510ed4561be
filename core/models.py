"""Which models can be traced, and how are their parts called?

The only module that knows the module paths of Hugging Face transformers. A family is one row of
`FAMILIES`; everything else speaks of embeddings, blocks, contributions and read-out.

A block is never written again: `Model.block` calls the model's own block on some positions only,
with a cache object that prepends the keys and values of the positions before them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from core import cache, hub, kernels
from core.registry import EMBEDDED, REGISTRY, is_on_disk, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Contribution = Literal["attn", "mlp"]
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,  # float32 whose products CUDA makes in TF32; elsewhere plain float32
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TWIN_SEED = 0
"""Seed of every untrained twin, so that a twin is one model and not a new one at each load."""

LOGITS_PER_SLICE = 2**24
"""The vocabulary is read in slices of rows that hold at most this many logits (64 MB)."""


class UnsupportedModel(ValueError):
    """The model cannot be traced: its family has no row in `FAMILIES`, or it has no safetensors."""


@dataclass(frozen=True)
class Family:
    """Module paths of one model family, from the causal model or, for contributions, its block."""

    blocks: str
    final_norm: str
    attn: str  # inside a block: the module whose output attention adds to the residual stream
    mlp: str
    heads_out: str  # inside a block: the linear map from all heads' mixed values to `attn`'s output
    mlp_out: str  # inside a block: the linear map from the inner activations to `mlp`'s output
    position_table: str | None = None  # learned positions, added to the embeddings
    first_position: int = 0  # row of the position table that the first token gets
    rotary: str | None = None  # rotary positions, given to every block
    cache_argument: str = "past_key_values"


_LLAMA = Family(
    blocks="model.layers",
    final_norm="model.norm",
    attn="self_attn",
    mlp="mlp",
    heads_out="self_attn.o_proj",
    mlp_out="mlp.down_proj",
    rotary="model.rotary_emb",
)

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        attn="attn",
        mlp="mlp",
        heads_out="attn.c_proj",
        mlp_out="mlp.c_proj",
        position_table="transformer.wpe",
    ),
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
}


class _Prefix:
    """A cache for one call of one block: keys and values of earlier positions, then the new ones.

    Stands where transformers expects a `Cache`: attention hands over its new keys and values of
    shape (batch, heads, new, head size) and attends to what comes back.
    """

    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        self._earlier = (keys, values)  # (samples, heads, earlier, head size), batch = rows*samples
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (
            new if earlier is None else _prepend(earlier, new)
            for earlier, new in zip(self._earlier, (keys, values), strict=True)
        )
        return self.keys, self.values


def _prepend(earlier: Tensor, new: Tensor) -> Tensor:
    samples, heads, count, size = earlier.shape
    batch, _, fresh, _ = new.shape
    joined = new.new_empty(batch, heads, count + fresh, size)
    joined.view(-1, samples, heads, count + fresh, size)[:, :, :, :count] = earlier
    joined[:, :, count:] = new
    return joined


class _KeysAndValuesOnly(Exception):
    """Ends a block's attention once its keys and values are known."""


class _StopAfterKeys(_Prefix):
    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        super().update(keys, values)
        raise _KeysAndValuesOnly


class _Known(_Prefix):
    """Keys and values are all known already; the new ones are among them."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        known_keys, known_values = self._earlier
        assert known_keys is not None
        assert known_values is not None
        return known_keys, known_values


@dataclass(frozen=True)
class BlockOutput:
    """What one block made of some positions. Batch is samples, or rows x samples."""

    states: Tensor  # (batch, positions, width): the residual stream after the block
    contributions: Mapping[Contribution, Tensor]  # each (batch, positions, width)
    keys: Tensor  # (batch, key heads, earlier + positions, head size)
    values: Tensor


Edit = Callable[[Tensor], Tensor]
Place = Literal["hidden", "attn", "mlp", "heads", "inner"]
"""What a `Change` is made of: the state after a block; what attention or the MLP adds to it; or
what their output projections are given, all heads' mixed values and the MLP's inner activations."""


@dataclass(frozen=True)
class Change:
    """A change of what one block computes, in force within `Model.changed`.

    Attributes:
        layer: of the block, from 0.
        place: see `Place`.
        apply: from (batch, chosen positions, width of the place) to what takes its place.
        positions: token positions at which it is made, such as `range(4, 10**9)`; None: all.
    """

    layer: int
    place: Place
    apply: Edit
    positions: Container[int] | None = None

    def made(self, values: Tensor, start: int) -> Tensor:
        """The changed values (batch, positions start, start + 1, ..., width)."""
        if self.positions is None:
            return self.apply(values)
        here = [i for i in range(values.shape[1]) if start + i in self.positions]
        if not here:
            return values
        changed = values.clone()
        changed[:, here] = self.apply(values[:, here])
        return changed


@dataclass
class _Call:
    edits: Mapping[Contribution, Edit]
    batch: int
    start: int = 0
    changes: Sequence[Change] = ()
    mlp_out: nn.Module | None = None  # in place of the block's own
    contributions: dict[Contribution, Tensor] = field(default_factory=dict)

    def shaped(self, values: Tensor) -> Tensor:
        """Values as (batch, positions, width); OPT's MLP knows no batch."""
        return values.view(self.batch, -1, values.shape[-1])

    def changed(self, place: Place, values: Tensor) -> Tensor:
        for change in self.changes:
            if change.place == place:
                values = change.made(values, self.start)
        return values


class Model:
    """A causal language model in parts: embeddings, blocks, and what the last position says.

    Safe to share between threads: what a call edits or records belongs to the calling thread.

    Attributes:
        name: the key, hub id or folder it was loaded by; a twin's name ends in " (untrained)".
        identity: changes whenever the weights do; part of every key under which results are kept.
        layers, width, heads, max_positions, parameters: sizes.
        precision: a key of `DTYPES`, in which products are made.
        block_calls: how many times a block was run; tests use it to see that nothing was computed.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        name: str,
        identity: str,
        revision: str | None = None,
        untrained: bool = False,
        precision: str | None = None,
    ) -> None:
        config: Any = network.config
        if config.model_type not in FAMILIES:
            raise _unsupported(config.model_type)
        if not getattr(config, "do_layer_norm_before", True):
            raise UnsupportedModel(
                f"The model {name!r} normalises its residual stream itself (as OPT-350m does), so "
                "that nothing is simply added to it; choose another size."
            )
        self.family = config.model_type
        self._family = FAMILIES[config.model_type]
        self.parameters = sum(p.numel() for p in network.parameters())
        self.network = network.eval()
        kernels.speed_up(network)
        self.tokenizer = tokenizer
        self.name = name
        self.identity = identity
        self.revision = revision
        self.untrained = untrained
        self._blocks = list(network.get_submodule(self._family.blocks).children())
        self._final_norm = network.get_submodule(self._family.final_norm)
        self._embeddings: Any = network.get_input_embeddings()
        self._head: Any = network.get_output_embeddings()
        self.layers = len(self._blocks)
        self.width = int(config.hidden_size)
        self.heads = int(config.num_attention_heads)
        self.max_positions = int(config.max_position_embeddings)
        self.device = self.embedding_matrix.device
        self.dtype = self.embedding_matrix.dtype
        self.precision = precision or str(self.dtype).removeprefix("torch.")
        self.bytes_per_key_and_value, self.bytes_per_state = self._sizes()
        self.block_calls = 0
        self._windows = [_sliding_window(config, layer) for layer in range(self.layers)]
        self._calls = threading.local()
        for block in self._blocks:
            heads_out = block.get_submodule(self._family.heads_out)
            heads_out.register_forward_pre_hook(self._input_hook("heads"))
            mlp_out = block.get_submodule(self._family.mlp_out)
            mlp_out.register_forward_pre_hook(self._input_hook("inner"))
            mlp_out.register_forward_hook(self._other_mlp_out)
            # Hooks run in this order, and OPT's MLP is its output projection.
            for kind in ("attn", "mlp"):
                path = getattr(self._family, kind)
                block.get_submodule(path).register_forward_hook(self._contribution_hook(kind))

    def _sizes(self) -> tuple[int, int]:
        """Bytes of one position's keys and values for all query heads, and of one state's block.

        A block makes of a state about six vectors of the model's width (norms, query, sums) and
        three of the MLP's inner width (before, after and, if gated, beside its nonlinearity).
        """
        weights: list[Any] = [
            getattr(module, "weight", None) for module in self._blocks[0].modules()
        ]
        inner = max(max(weight.shape) for weight in weights if weight is not None)
        size = self.dtype.itemsize
        return 2 * self.width * size, (6 * self.width + 3 * inner) * size

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.family}, {self.layers} layers, {self.device})"

    @property
    def embedding_matrix(self) -> Tensor:
        """Input embeddings of the whole vocabulary, of shape (vocabulary, width)."""
        matrix: Tensor = self._embeddings.weight.detach()
        scale = getattr(self._embeddings, "scalar_embed_scale", 1.0)  # Gemma's, inside the module
        return matrix if scale == 1.0 else matrix * scale

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Input embeddings of token ids, before any position is added: (..., positions, width)."""
        embedded: Tensor = self._embeddings(torch.as_tensor(ids, device=self.device))
        return embedded

    def enter(self, embeddings: Tensor, *, start: int = 0) -> Tensor:
        """The residual stream before the first block, of the shape of `embeddings`.

        Args:
            embeddings: (..., positions, width), of the positions `start`, `start + 1`, ...
        """
        if self._family.position_table is None:
            return embeddings
        table: Any = self.network.get_submodule(self._family.position_table)
        first = start + self._family.first_position
        positions: Tensor = table.weight[first : first + embeddings.shape[-2]]
        return embeddings + positions

    def block(
        self,
        layer: int,
        states: Tensor,
        *,
        start: int = 0,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        edits: Mapping[Contribution, Edit] | None = None,
    ) -> BlockOutput:
        """Run one block on the positions `start`, `start + 1`, ... only.

        Args:
            states: (batch, positions, width), the residual stream before the block.
            keys, values: of the `start` earlier positions, (samples, key heads, start, head size);
                the batch is a whole number of times `samples`, samples running fastest.
            edits: functions from a contribution (batch, positions, width) to what takes its place.
        """
        earlier = _Prefix(keys, values)
        output, call = self._run(layer, states, start, states.shape[1], earlier, edits or {})
        assert earlier.keys is not None
        assert earlier.values is not None
        return BlockOutput(output, call.contributions, earlier.keys, earlier.values)

    def block_at_last(
        self,
        layer: int,
        states: Tensor,
        *,
        start: int = 0,
        keys: Tensor | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        """As `block`, but only the last position's state is made: (batch, 1, width).

        Keys and values are needed at every position; queries, the attention's output and the MLP
        only at the last.
        """
        collected = _StopAfterKeys(keys, values)
        count = states.shape[1]
        with suppress(_KeysAndValuesOnly):
            self._run(layer, states, start, count, collected, {})
        known = _Known(collected.keys, collected.values)
        output, _ = self._run(layer, states[:, -1:], start + count - 1, 1, known, {})
        return output

    def heads_at(self, layer: int, states: Tensor, position: int) -> Tensor:
        """What each attention head adds to the residual stream at one position, without the bias.

        Args:
            states: (batch, positions, width), the residual stream before the block.

        Returns:
            (batch, heads, width); their sum and the output projection's bias are the contribution.
        """
        project: Any = self._blocks[layer].get_submodule(self._family.heads_out)
        mixed: list[Tensor] = []
        here = threading.get_ident()

        def record(_module: nn.Module, arguments: Any) -> None:
            if threading.get_ident() == here:  # others may be using the same model
                mixed.append(arguments[0][:, position])

        handle = project.register_forward_pre_hook(record)
        try:
            self.block(layer, states)
        finally:
            handle.remove()
        batch, width = mixed[0].shape  # of the values of all heads beside one another
        own = torch.eye(self.heads, dtype=self.dtype, device=self.device)
        own = own.repeat_interleave(width // self.heads, dim=1)  # (heads, width), 1 where its own
        apart = project((mixed[0][:, None] * own).view(batch, self.heads, 1, width).flatten(0, 1))
        nothing = project(torch.zeros_like(mixed[0][:1, None]))
        return cast("Tensor", (apart - nothing).view(batch, self.heads, -1))

    # --- a model that is changed, for one thread and for a while ---------------------------------

    @property
    def is_changed(self) -> bool:
        """True within `changed` and `with_mlp_weight`, in the thread that asked for them."""
        return bool(self._changes or self._mlp_outs)

    @property
    def _changes(self) -> tuple[Change, ...]:
        changes: tuple[Change, ...] = getattr(self._calls, "changes", ())
        return changes

    @property
    def _mlp_outs(self) -> dict[int, nn.Module]:
        others: dict[int, nn.Module] = getattr(self._calls, "mlp_outs", {})
        return others

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """Within the context, this thread's blocks make these changes; others' do not.

        Everything that runs blocks, a trace as well, then speaks of the changed model. What is kept
        on disk goes by `identity`, which stays; so nothing made of a changed model may be kept.

        Raises:
            ValueError: a layer that there is not.
        """
        for change in changes:
            self._check_layer(change.layer)
        before = self._changes
        self._calls.changes = (*before, *changes)
        try:
            yield
        finally:
            self._calls.changes = before

    def mlp_weight(self, layer: int) -> Tensor:
        """Weight (inner, width) of the MLP's output projection, a copy; edited within a context."""
        self._check_layer(layer)
        module: Any = self._mlp_outs.get(layer) or self._mlp_out(layer)
        weight: Tensor = module.weight.detach()
        plain = weight if kernels.is_transposed(module) else weight.t()
        return plain.clone()

    @contextmanager
    def with_mlp_weight(self, layer: int, weight: Tensor) -> Iterator[None]:
        """Within the context, this thread's MLP of `layer` has another output projection.

        The model's own weight is not written to, so that it is the same tensor before, within and
        after the context, for all threads.

        Args:
            weight: (inner, width).

        Raises:
            ValueError: a layer that there is not, or a weight of another shape.
        """
        self._check_layer(layer)
        own: Any = self._mlp_out(layer)
        shape = own.weight.shape if kernels.is_transposed(own) else own.weight.shape[::-1]
        if weight.shape != shape:
            raise ValueError(
                f"The MLP of layer {layer} has an output projection of {tuple(shape)} numbers, "
                f"not {tuple(weight.shape)}; give one for each inner activation and state."
            )
        before = self._mlp_outs
        other = kernels.linear(weight.detach().to(self.dtype).t(), own.bias, like=own)
        self._calls.mlp_outs = {**before, layer: other}
        try:
            yield
        finally:
            self._calls.mlp_outs = before

    @contextmanager
    def differentiable(self, first: int) -> Iterator[None]:
        """Make gradients through the blocks from `first` on, and the read-out, quick.

        A weight in oneDNN's order has no gradient of its own, and is brought into the plain order
        for each product that needs one. Here a transposed copy, in oneDNN's order too, is held for
        those layers while the context lasts. Weights never have a gradient; states do.
        """
        parts = [*self._blocks[first:], self._head]
        with kernels.differentiable(module for part in parts for module in part.modules()):
            yield

    def _mlp_out(self, layer: int) -> nn.Module:
        return self._blocks[layer].get_submodule(self._family.mlp_out)

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.layers:
            raise ValueError(
                f"There is no layer {layer}: {self.name!r} has layers 0 to {self.layers - 1}."
            )

    def next_tokens(self, states: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The most probable next tokens, given the residual stream after the last block.

        Applied to an earlier layer's state it is the logit lens (nostalgebraist 2020).

        Args:
            states: (samples, width); probabilities are averaged over the samples.

        Returns:
            Probabilities and token ids, each (count,), the largest first.
        """
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for logits in self._logits(states):
            total = total + logits.float().softmax(-1).sum(0)
        found = (total / len(states)).topk(count)
        return found.values, found.indices

    def log_probs(self, states: Tensor, token_ids: Sequence[int]) -> Tensor:
        """log P of some next tokens, given the residual stream after the last block.

        Args:
            states: (..., width), at the positions to be read.
            token_ids: the tokens to be read.

        Returns:
            (..., len(token_ids)), in float32 or the model's wider dtype.
        """
        read = [
            logits[:, list(token_ids)] - logits.logsumexp(-1, keepdim=True)
            for logits in self._logits(states)
        ]
        return torch.cat(read).view(*states.shape[:-1], len(token_ids))

    def log_normaliser(self, states: Tensor) -> Tensor:
        """What `logits` exceed log P by: (...), given states (..., width) as in `log_probs`."""
        read = [logits.logsumexp(-1) for logits in self._logits(states)]
        return torch.cat(read).view(states.shape[:-1])

    def logits(self, states: Tensor, token_ids: Sequence[int]) -> Tensor:
        """Logits of some next tokens, at the cost of those tokens alone: (..., len(token_ids))."""
        rows = self._head.weight[list(token_ids)]
        bias = self._head.bias
        logits = nn.functional.linear(
            self._final_norm(states), rows, None if bias is None else bias[list(token_ids)]
        )
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def _logits(self, states: Tensor) -> Iterator[Tensor]:
        """Logits (rows, vocabulary) of a few of the flattened states after another."""
        flat = states.reshape(-1, self.width)
        rows = max(1, LOGITS_PER_SLICE // self._head.out_features)
        for part in flat.split(rows):
            with kernels.tf32(self.precision == "tf32"):
                logits = self._head(self._final_norm(part))
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            yield logits

    def _run(
        self,
        layer: int,
        states: Tensor,
        start: int,
        count: int,
        earlier: _Prefix,
        edits: Mapping[Contribution, Edit],
    ) -> tuple[Tensor, _Call]:
        arguments: dict[str, Any] = {
            self._family.cache_argument: earlier,
            "attention_mask": self._mask(layer, start, count),
            "use_cache": True,
        }
        if self._family.rotary is not None:
            arguments["position_embeddings"] = self._rotary(start, start + count)
        changes = [change for change in self._changes if change.layer == layer]
        call = _Call(edits, len(states), start, changes, self._mlp_outs.get(layer))
        self._calls.current = call
        try:
            with kernels.tf32(self.precision == "tf32"):
                output = self._blocks[layer](states, **arguments)
        finally:
            self._calls.current = None
        self.block_calls += 1
        # Blocks returned a tuple before transformers 5.
        output = output[0] if isinstance(output, tuple) else output
        return call.changed("hidden", output), call

    def _contribution_hook(self, kind: Contribution) -> Callable[..., Any]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            call: _Call | None = getattr(self._calls, "current", None)
            if call is None:
                return None
            own: Tensor = output[0] if isinstance(output, tuple) else output
            contribution = call.changed(kind, call.shaped(own))
            edit = call.edits.get(kind)
            if edit is not None:
                contribution = edit(contribution)
            call.contributions[kind] = contribution
            contribution = contribution.view(own.shape)
            return (contribution, *output[1:]) if isinstance(output, tuple) else contribution

        return hook

    def _input_hook(self, place: Literal["heads", "inner"]) -> Callable[..., Any]:
        def hook(_module: nn.Module, arguments: Any) -> Any:
            call: _Call | None = getattr(self._calls, "current", None)
            if call is None or not call.changes:
                return None
            changed = call.changed(place, call.shaped(arguments[0]))
            return (changed.view(arguments[0].shape), *arguments[1:])

        return hook

    def _other_mlp_out(self, _module: nn.Module, arguments: Any, _output: Any) -> Any:
        call: _Call | None = getattr(self._calls, "current", None)
        return None if call is None or call.mlp_out is None else call.mlp_out(arguments[0])

    def _rotary(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        rotary = self.network.get_submodule(self._family.rotary or "")
        positions = torch.arange(start, stop, device=self.device)[None]
        like = torch.empty(0, device=self.device, dtype=self.dtype)
        cosine, sine = rotary(like, position_ids=positions)
        return cosine, sine

    def _mask(self, layer: int, start: int, count: int) -> Tensor | None:
        """Additive mask of shape (1, 1, count, start + count); None where attention needs none."""
        window = self._windows[layer]
        windowed = window is not None and start + count > window
        if not windowed and (start == 0 or count == 1):
            return None  # plain causal attention, or one query that sees everything
        query = torch.arange(start, start + count, device=self.device)[:, None]
        key = torch.arange(start + count, device=self.device)[None]
        seen = key <= query
        if window is not None:
            seen &= key > query - window
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, float("-inf"))[None, None]


def _sliding_window(config: Any, layer: int) -> int | None:
    kinds = getattr(config, "layer_types", None)
    if kinds is None or kinds[layer] != "sliding_attention":
        return None
    return int(config.sliding_window)


def _unsupported(family: object) -> UnsupportedModel:
    return UnsupportedModel(
        f"Models of the family {family!r} cannot be traced yet; "
        f"supported families are {', '.join(sorted(FAMILIES))}."
    )


def check_family(config: Path) -> None:
    """Refuse a model whose config.json names a family that cannot be traced.

    Raises:
        UnsupportedModel: the family has no row in `FAMILIES`.
    """
    family = _read_json(config).get("model_type")
    if family not in FAMILIES:
        raise _unsupported(family)


def default_device() -> torch.device:
    """CUDA if there, else MPS, else CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"The device {str(device)!r} cannot be used here; leave it out to run on "
            f"{default_device().type}."
        ) from error
    return found


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    untrained: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Load a model by registry key, hub id or local folder; a hub id is downloaded once.

    Args:
        name: for example "gpt2", "EleutherAI/pythia-160m" or "./my-model".
        device: default CUDA if there, else MPS, else CPU.
        dtype: one of `DTYPES`; float32 by default.
        untrained: the twin, the same shape with random weights of the model's own initialiser.
        progress: called with (bytes done, bytes in all) while a model is downloaded.

    Raises:
        UnsupportedModel: the family is not supported, or there are no safetensors.
        ValueError: the model is neither known, nor on disk, nor on the hub.
    """
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

    if dtype not in DTYPES:
        raise ValueError(f"The dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}.")
    folder = _find_folder(str(name), progress)
    check_family(folder / "config.json")
    target = default_device() if device is None else _usable(device)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if untrained:
        with _seeded(TWIN_SEED):
            network = _causal_model().from_config(
                config, dtype=DTYPES[dtype], attn_implementation="sdpa", trust_remote_code=False
            )
    else:
        if not list(folder.glob("*.safetensors")):
            raise UnsupportedModel(
                f"The model in {folder} has no safetensors file; other weight files are not "
                "loaded because they can run code. Save it with safe serialisation first."
            )
        try:
            network = _causal_model().from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                local_files_only=True,
            )
        except SafetensorError as error:
            raise ValueError(
                f"The weights in {folder} are damaged ({error}); remove that folder and fetch the "
                "model again."
            ) from error
    if (folder / "tokenizer.json").is_file():
        _read_json(folder / "tokenizer.json")  # says in a sentence what is wrong with it
    tokenizer = AutoTokenizer.from_pretrained(
        folder, use_fast=True, trust_remote_code=False, local_files_only=True
    )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel(
            f"The tokenizer in {folder} gives no character offsets; "
            "add its tokenizer.json (a fast tokenizer)."
        )
    if target.type == "cpu":
        kernels.use_physical_cores()
    identity, revision = _identity(folder)
    return Model(
        network.to(target).requires_grad_(False),
        tokenizer,
        name=f"{name} (untrained)" if untrained else str(name),
        identity=f"untrained-{TWIN_SEED}-{identity}" if untrained else identity,
        revision=revision,
        untrained=untrained,
        precision=dtype,
    )


def _causal_model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM  # without types of its own


def _find_folder(name: str, progress: Callable[[int, int], None] | None) -> Path:
    if name in REGISTRY or not Path(name).is_dir():
        folder = model_folder(name)
        if is_on_disk(name):
            return folder
        if name == EMBEDDED:
            raise ValueError(
                f"The model {name!r} is not prepared yet; run `python -m core setup` first."
            )
        hub_id = REGISTRY[name].hub_id if name in REGISTRY else name
        hub.download_model(hub_id, folder, progress=progress, accept=check_family)
        return folder
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"The folder {name!r} holds no config.json; "
            f"give a model's folder, a hub id or one of {', '.join(REGISTRY)}."
        )
    return folder


def _identity(folder: Path) -> tuple[str, str | None]:
    """Identity of the weights and, where it is known, the revision they came from."""
    description = hub.describe_folder(folder)
    if description is not None:
        return description["sha256"], description.get("revision")
    files = sorted(folder.glob("*.safetensors"))
    stamps = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _hash_of_files(str(folder.resolve()), stamps), None


@lru_cache(maxsize=64)
def _hash_of_files(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """SHA-256 of a folder's weights; read again only when a file's size or time changed."""
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        digest.update(cache.sha256(Path(folder) / name).encode())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The file {path} is damaged: it cannot be read as JSON ({error}); fetch it again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"The file {path} does not hold a JSON object.")
    return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
