"""What do a model's parts compute: embeddings, one block, what the last position says?

A block is never written again: `Model.block` calls the model's own block on some positions only,
with a cache object that prepends the keys and values of the positions before them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import UserError
from . import cpu_kernels, packed_weights
from .attention_inputs import (
    AttentionInputs,
    KeysAndValuesOnly,
    Known,
    Prefix,
    StopAfterKeys,
    max_positions,
)
from .families import FAMILIES, Family, UnsupportedModel, check_architecture
from .identity import of_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


Contribution = Literal["attn", "mlp"]
LOGITS_PER_SLICE = 2**24
"""The vocabulary is read in slices of rows that hold at most this many logits (64 MB)."""


@dataclass(frozen=True)
class BlockOutput:
    """What one block made of some positions. Batch is samples, or rows x samples."""

    states: Tensor  # (batch, positions, width): the residual stream after the block
    contributions: Mapping[Contribution, Tensor]  # each (batch, positions, width)
    keys: Tensor  # (batch, key heads, earlier + positions, head size)
    values: Tensor


Edit = Callable[[Tensor], Tensor]
Place = Literal["hidden", "attn", "mlp", "heads", "inner", "attn_out", "mlp_out"]
"""What a `Change` is made of: the state after a block; what attention or the MLP adds to it; what
their output projections are given, all heads' mixed values and the MLP's inner activations; or what
those projections give, which a norm or a factor may make into what is added."""


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
        identity: changes whenever its numbers may; what results are kept under
        (`core.models.identity`).
        layers, width, heads, max_positions, parameters: sizes.
        vocabulary: tokens that it can read and say; a tokenizer may know more.
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
        family: Family | None = None,
    ) -> None:
        """Map a network's parts.

        Args:
            identity: what it was loaded from (`core.models.identity.of_folder`); the precision and
                the generation of the code are added here.
            family: where its parts are; by default the row of `FAMILIES`.

        Raises:
            UnsupportedModel: it computes in another way than its family does, or the family names
                a module that it does not have.
        """
        config: Any = network.config
        check_architecture(config, name, family)
        self.family = config.model_type
        self._family = family or FAMILIES[config.model_type]
        self.parameters = sum(p.numel() for p in network.parameters())
        self.network = network.eval()
        if self._family.mlp_out is None:
            network.set_experts_implementation("eager")  # the one that every precision has
        cpu_kernels.speed_up(network)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.untrained = untrained
        self._blocks = list(self._part(self._family.blocks).children())
        self._final_norm = self._part(self._family.final_norm)
        self._embeddings: Any = network.get_input_embeddings()
        self._head: Any = network.get_output_embeddings()
        self.layers = len(self._blocks)
        self.width = int(config.hidden_size)
        self.heads = int(config.num_attention_heads)
        self.max_positions = max_positions(config)
        self.device = self.embedding_matrix.device
        self.dtype = self.embedding_matrix.dtype
        self.vocabulary = min(self.embedding_matrix.shape[0], self._head.weight.shape[0])
        if self._family.attention_in_float32 and self.dtype == torch.float64:
            raise UnsupportedModel(
                f"The attention of {name!r} is computed in float32 whatever its weights are in, so "
                "that float64 would not be exact; load it in float32."
            )
        self.precision = precision or str(self.dtype).removeprefix("torch.")
        self.identity = of_model(identity, self.precision)
        self.bytes_per_key_and_value, self.bytes_per_state = self._sizes()
        self.block_calls = 0
        path = self._family.rotary
        rotary = None if path is None else self._part(path)
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        self._attention = AttentionInputs(config, self._family, self.layers, rotary, like)
        self._embedding_factor = self._named(self._family.named_embedding_factor)
        self._factor = self._named(self._family.named_contribution_factor) or 1.0
        self._logit_factor = self._named(self._family.named_logit_factor)
        self._logit_divisor = self._named(self._family.named_logit_divisor)
        self._logit_cap = self._named(self._family.named_logit_cap)
        self._calls = threading.local()
        for block in self._blocks:
            heads_out = self._part(self._family.heads_out, block)
            heads_out.register_forward_pre_hook(self._input_hook("heads"))
            heads_out.register_forward_hook(self._output_hook("attn_out"))
            if self._family.mlp_out is not None:
                mlp_out = self._part(self._family.mlp_out, block)
                mlp_out.register_forward_pre_hook(self._input_hook("inner"))
                mlp_out.register_forward_hook(self._other_mlp_out)
                mlp_out.register_forward_hook(self._output_hook("mlp_out"))
            # Hooks run in this order, and OPT's MLP is its output projection.
            self._part(self._family.attn, block).register_forward_hook(
                self._contribution_hook("attn")
            )
            self._part(self._family.mlp, block).register_forward_hook(
                self._contribution_hook("mlp")
            )

    def _part(self, path: str, within: nn.Module | None = None) -> nn.Module:
        try:
            return (within or self.network).get_submodule(path)
        except AttributeError as error:
            where = f"{self.name!r}" if within is None else f"a block of {self.name!r}"
            raise UnsupportedModel(
                f"There is no module {path!r} in {where}: {error}; name one that there is."
            ) from error

    def _named(self, field: str | None) -> float | None:
        """The number that a field of config.json holds; None where there is none."""
        if field is None:
            return None
        config: Any = self.network.config
        if not hasattr(config, field):
            raise UnsupportedModel(
                f"The config.json of {self.name!r} has no field {field!r}; name one that it has."
            )
        value = getattr(config, field)
        return None if value is None else float(value)

    def _sizes(self) -> tuple[int, int]:
        """Bytes of one position's keys and values for all query heads, and of one state's block.

        A block makes of a state about six vectors of the model's width (norms, query, sums) and
        three of the MLP's inner width (before, after and, if gated, beside its nonlinearity).
        """
        weights: list[Any] = [
            getattr(module, "weight", None) for module in self._blocks[0].modules()
        ]
        inner = max(max(weight.shape) for weight in weights if weight is not None)
        # Experts hold their weights in one tensor: (experts, out, in).
        experts = [max(p.shape[1:]) for p in self._blocks[0].parameters() if p.dim() == 3]
        inner = max([inner, *experts])
        size = self.dtype.itemsize
        head = getattr(self.network.config, "head_dim", None) or self.width // self.heads
        return 2 * self.heads * int(head) * size, (6 * self.width + 3 * inner) * size

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
        if self._embedding_factor is not None:
            embeddings = embeddings * self._embedding_factor
        if self._family.embedding_norm is not None:
            embeddings = self._part(self._family.embedding_norm)(embeddings)
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
        earlier = Prefix(keys, values)
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
        collected = StopAfterKeys(keys, values)
        count = states.shape[1]
        with suppress(KeysAndValuesOnly):
            self._run(layer, states, start, count, collected, {})
        known = Known(collected.keys, collected.values)
        output, _ = self._run(layer, states[:, -1:], start + count - 1, 1, known, {})
        return output

    def heads_at(self, layer: int, states: Tensor, position: int) -> Tensor:
        """What each attention head adds to the residual stream at one position, without the bias.

        Args:
            states: (batch, positions, width), the residual stream before the block.

        Returns:
            (batch, heads, width); their sum and the output projection's bias are what the place
            "attn_out" holds, and the contribution unless a norm or a factor follows.
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
            UserError: a layer that there is not.
        """
        for change in changes:
            self.check_layer(change.layer)
            if change.place in ("inner", "mlp_out"):
                self._mlp_out(change.layer)
        before = self._changes
        self._calls.changes = (*before, *changes)
        try:
            yield
        finally:
            self._calls.changes = before

    def mlp_weight(self, layer: int) -> Tensor:
        """Weight (inner, width) of the MLP's output projection, a copy; edited within a context."""
        self.check_layer(layer)
        module: Any = self._mlp_outs.get(layer) or self._mlp_out(layer)
        weight: Tensor = module.weight.detach()
        plain = weight if cpu_kernels.is_transposed(module) else weight.t()
        return plain.clone()

    @contextmanager
    def with_mlp_weight(self, layer: int, weight: Tensor) -> Iterator[None]:
        """Within the context, this thread's MLP of `layer` has another output projection.

        The model's own weight is not written to, so that it is the same tensor before, within and
        after the context, for all threads.

        Args:
            weight: (inner, width).

        Raises:
            UserError: a layer that there is not, or a weight of another shape.
        """
        self.check_layer(layer)
        own: Any = self._mlp_out(layer)
        shape = own.weight.shape if cpu_kernels.is_transposed(own) else own.weight.shape[::-1]
        if weight.shape != shape:
            raise UserError(
                f"The MLP of layer {layer} has an output projection of {tuple(shape)} numbers, "
                f"not {tuple(weight.shape)}; give one for each inner activation and state."
            )
        before = self._mlp_outs
        other = cpu_kernels.linear(weight.detach().to(self.dtype).t(), own.bias, like=own)
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
        with packed_weights.differentiable(module for part in parts for module in part.modules()):
            yield

    def added(self, layer: int, kind: Contribution, projected: Tensor) -> Tensor:
        """What is added to the residual stream, given what the output projection of it gives."""
        path, family = getattr(self._family, kind), self._family
        projection = family.heads_out if kind == "attn" else family.mlp_out
        if not f"{projection}.".startswith(f"{path}."):  # then `path` is the norm that follows
            projected = self._blocks[layer].get_submodule(path)(projected)
        return projected if self._factor == 1.0 else projected * self._factor

    def mlp_adds(self, layer: int, values: Tensor, changes: Tensor) -> Tensor:
        """What is added to the residual stream more when the MLP's projection gives more.

        Args:
            values, changes: (..., width), what the output projection gives and what is added to it.
        """
        mlp, mlp_out = self._family.mlp, self._family.mlp_out
        if f"{mlp_out}.".startswith(f"{mlp}."):  # in proportion, and without rounding
            return changes if self._factor == 1.0 else changes * self._factor
        return self.added(layer, "mlp", values + changes) - self.added(layer, "mlp", values)

    @property
    def mlp_is_one(self) -> bool:
        """False where the MLP is made of experts, none of which is `mlp_out` or can be edited."""
        return self._family.mlp_out is not None

    def _mlp_out(self, layer: int) -> nn.Module:
        if self._family.mlp_out is None:
            raise UserError(
                f"The MLP of {self.name!r} is made of experts, each with an output projection of "
                "its own, so that there is no one weight to edit; choose steering or an ablation."
            )
        return self._blocks[layer].get_submodule(self._family.mlp_out)

    def check_layer(self, layer: int) -> None:
        """Refuse a layer that there is not."""
        if not 0 <= layer < self.layers:
            raise UserError(
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
        self.check_finite(total)
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

    def check_finite(self, read: Tensor) -> None:
        """Refuse what was read of runs that overflowed.

        Raises:
            UserError: a number is infinite or none (NaN).
        """
        if bool(torch.isfinite(read).all()):
            return
        remedy = (
            "load it in float32 or bfloat16"
            if self.dtype == torch.float16
            else "its weights may be damaged, or what is added to its states is too large"
        )
        raise UserError(
            f"The numbers of {self.name!r} overflow in {self.precision}: what it says is not a "
            f"finite number; {remedy}."
        )

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
        return self._finished(logits)

    def _logits(self, states: Tensor) -> Iterator[Tensor]:
        """Logits (rows, vocabulary) of a few of the flattened states after another."""
        flat = states.reshape(-1, self.width)
        rows = max(1, LOGITS_PER_SLICE // self._head.out_features)
        for part in flat.split(rows):
            yield self._finished(self._head(self._final_norm(part)))

    def _finished(self, logits: Tensor) -> Tensor:
        """Logits from what the head gives."""
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self._logit_factor is not None:
            logits = logits * self._logit_factor
        if self._logit_divisor is not None:
            logits = logits / self._logit_divisor
        cap = self._logit_cap
        return logits if cap is None else (logits / cap).tanh() * cap

    def _run(
        self,
        layer: int,
        states: Tensor,
        start: int,
        count: int,
        earlier: Prefix,
        edits: Mapping[Contribution, Edit],
    ) -> tuple[Tensor, _Call]:
        arguments = self._attention.arguments(layer, start, count, len(states))
        arguments[self._family.cache_argument] = earlier
        changes = [change for change in self._changes if change.layer == layer]
        call = _Call(edits, len(states), start, changes, self._mlp_outs.get(layer))
        self._calls.current = call
        try:
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
            contribution = call.shaped(own if self._factor == 1.0 else own * self._factor)
            contribution = call.changed(kind, contribution)
            edit = call.edits.get(kind)
            if edit is not None:
                contribution = edit(contribution)
            in_place = self._family.adds_in_place
            call.contributions[kind] = contribution.clone() if in_place else contribution
            contribution = contribution.view(own.shape)
            if self._factor != 1.0:
                contribution = contribution / self._factor
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

    def _output_hook(self, place: Literal["attn_out", "mlp_out"]) -> Callable[..., Any]:
        def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> Any:
            call: _Call | None = getattr(self._calls, "current", None)
            if call is None or not call.changes:
                return None
            return call.changed(place, call.shaped(output)).view(output.shape)

        return hook

    def _other_mlp_out(self, _module: nn.Module, arguments: Any, _output: Any) -> Any:
        call: _Call | None = getattr(self._calls, "current", None)
        return None if call is None or call.mlp_out is None else call.mlp_out(arguments[0])
