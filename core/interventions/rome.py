"""Can the sentiment of a word be edited where it was traced? ROME, moved to tweets.

Rank-One Model Editing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT",
section 3.1 and appendix E) takes an MLP's output projection W for an associative memory from keys
k, its inner activations, to values v, what it adds to the residual stream, and inserts one pair:

1. k*: the key at the subject's last token, averaged over the text alone and behind sampled
   prefixes (E.1). The subject is here the word of the tweet at the site.
2. v*: what the MLP should say there so that the prompt goes on with the target. Gradient descent
   on the change d of that value (E.5) minimises

       mean over prefixes of -log P(target | prefix + prompt, v + d)
       + 0.0625 KL(P(x | "{word} is a", v + d) || P(x | "{word} is a"))
       + 0.5 |d| / |v|^2,      with |d| at most 4 |v|.

   Adam, step 0.5, at most 20 steps, ended when the loss is below 0.05: the numbers of the
   authors' code. It reads the KL term at the word; here, as the paper has it, at the prompt's end.
3. W' = W + (C^-1 k*) L^T with L = (v* - W k*) / ((C^-1 k*)^T k*) (equation 2; W is (inner, D)
   here, so that a key is multiplied from the left). C: `core.interventions.key_covariance`.

Prefixes are drawn from the model, 10 tokens long and followed by a line break; the paper drew 50 of
2 to 10 tokens, its code 20 of 5 and 10, and here `EditSettings.prefixes` says how many.

The gradient of v*: only the states at the site and after it can change, and only above the layer.
So every prompt is run once, and a step runs the layers above on the positions from the site on,
against the keys and values of the positions before it. Where weights are stored in oneDNN's order,
`Model.differentiable` holds a transposed copy of the layers above meanwhile. No weight has a
gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..models.model import Change, Model, Place
from ..prompts.prompt import Prompt, build_prompt, word_token
from ..statistics import Array
from .forward import Share, continuations
from .key_covariance import KEYS, KeyCovariance

PREFIX_LENGTH = 10
"""Tokens of a prefix, before the line break; one length, so that all prefixes share a pass."""

PREFIX_TOP_K = 5
"""Prefixes are drawn from so many most probable tokens, as in the authors' code."""


@dataclass(frozen=True)
class EditSettings:
    """How an edit is made.

    Attributes:
        target: what the prompt should go on with; one token, such as " good".
        prefixes: sampled prefixes, besides the text alone.
        steps, learning_rate: of Adam.
        kl_factor, decay, clamp: weights of the KL term and of |d| / |v|^2, and the most that |d|
            may be, in |v|.
        enough: the descent ends when the loss is below this.
        essence: the prompt of the KL term; {} is the word.
        keys: tokens behind C.
        seed: of the prefixes.
    """

    target: str = " good"
    prefixes: int = 10
    steps: int = 20
    learning_rate: float = 0.5
    kl_factor: float = 0.0625
    decay: float = 0.5
    clamp: float = 4.0
    enough: float = 0.05
    essence: str = "{} is a"
    keys: int = KEYS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("prefixes", 0), ("steps", 1), ("keys", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"An edit's {name} must be at least {least}, not {getattr(self, name)}."
                )
        for name in ("learning_rate", "kl_factor", "decay", "clamp", "enough"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise UserError(f"An edit's {name} must be 0 or more, not {value}.")
        if self.essence.count("{}") != 1:
            raise UserError(
                f"The prompt of the KL term, {self.essence!r}, must hold one {{}} for the word."
            )


@dataclass(frozen=True)
class Edit:
    """A rank-one edit of one layer's MLP, made for one site of one tweet."""

    layer: int
    position: int
    word: str
    settings: EditSettings
    key: Array = field(repr=False)  # k*, (inner,)
    direction: Array = field(repr=False)  # C^-1 k*, (inner,)
    change: Array = field(repr=False)  # d = v* - W k*, (D,)
    factor: Array = field(repr=False)  # L, (D,)
    losses: tuple[float, ...]  # before each step of the descent, and after the last one
    probability: float  # of the target with v*, mean over the prefixes
    keys: int  # behind C
    shrinkage: float  # of C

    def weight(self, before: Tensor, strength: float = 1.0) -> Tensor:
        """W' from W, both (inner, D); a strength below 1 makes a part of the edit."""
        update = np.outer(self.direction, strength * self.factor)
        return (before.cpu().double() + torch.from_numpy(update)).to(before.dtype).to(before.device)

    @contextmanager
    def applied(self, model: Model, strength: float = 1.0) -> Iterator[None]:
        """Within the context, this thread's model is edited; its weights are never written."""
        weight = self.weight(model.mlp_weight(self.layer), strength)
        with model.with_mlp_weight(self.layer, weight):
            yield


def make_edit(
    model: Model,
    prompt: Prompt,
    layer: int,
    position: int,
    covariance: KeyCovariance,
    settings: EditSettings | None = None,
    *,
    progress: Share | None = None,
) -> Edit:
    """Make the edit that lets a prompt go on with the target; see `make_edits`."""
    (edit,) = make_edits(
        model, prompt, [(layer, position)], {layer: covariance}, settings, progress=progress
    )
    return edit


def make_edits(
    model: Model,
    prompt: Prompt,
    sites: Sequence[tuple[int, int]],
    covariances: Mapping[int, KeyCovariance],
    settings: EditSettings | None = None,
    *,
    prefixes: Sequence[Sequence[int]] | None = None,
    progress: Share | None = None,
) -> list[Edit]:
    """Make an edit for each of some sites, any of which alone lets the prompt go on as wanted.

    Their descents share batches and are otherwise independent: each is what it would be alone, but
    for the order of sums in float arithmetic.

    Args:
        prompt: of the tweet; see `core.prompts.prompt.build_prompt`.
        sites: (layer, position), at whose token the key is taken.
        covariances: of those layers' keys, from
        `core.interventions.key_covariance.key_covariances`.
        prefixes: from `sample_prefixes`, where several calls share them.
        progress: called with the share of the steps done. An exception ends the work.

    Raises:
        UserError: there is no such site, its key or all keys of its layer are 0, or the target is
            not one token.
    """
    settings = settings or EditSettings()
    for layer, position in sites:
        _check_site(model, prompt, layer, position)
        if layer not in covariances or covariances[layer].layer != layer:
            raise UserError(f"The covariance of the keys of layer {layer} is needed, and missing.")
    if prefixes is None:
        prefixes = sample_prefixes(model, settings.prefixes, seed=settings.seed)
    objective = Objective(model, prompt, sites, settings, prefixes)
    for (layer, position), key in zip(sites, objective.keys, strict=True):
        if not bool(key.any()):
            raise UserError(
                f"The MLP of layer {layer} is zero at {word_at(prompt, position)!r}: all its "
                "inner activations are 0, so that nothing can be stored there; choose another site."
            )
    changes, losses = _descend(objective, settings, progress)
    probabilities = objective.probabilities(changes)
    edits = []
    for row, (layer, position) in enumerate(sites):
        key = objective.keys[row].numpy()
        direction = covariances[layer].solve(key)
        change = changes[row].cpu().double().numpy()
        edits.append(
            Edit(
                layer=layer,
                position=position,
                word=word_at(prompt, position),
                settings=settings,
                key=key,
                direction=direction,
                change=change,
                factor=change / float(direction @ key),
                losses=losses[row],
                probability=probabilities[row],
                keys=covariances[layer].keys,
                shrinkage=covariances[layer].shrinkage,
            )
        )
    return edits


def sample_prefixes(model: Model, count: int, *, seed: int = 0) -> list[list[int]]:
    """Token ids of texts that the model begins by itself, each ended by a line break."""
    if count == 0:
        return []
    tokenizer = model.tokenizer
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    if first is not None and first >= model.vocabulary:
        first = None  # a tokenizer may know tokens that the model does not embed
    line: list[int] = tokenizer("\n", add_special_tokens=False)["input_ids"]
    drawn = continuations(
        model,
        line if first is None else [first],
        PREFIX_LENGTH,
        samples=count,
        top_k=PREFIX_TOP_K,
        seed=seed,
    )
    return [[*ids, *line] for ids in drawn]


def _descend(
    objective: Objective, settings: EditSettings, progress: Share | None
) -> tuple[Tensor, list[tuple[float, ...]]]:
    """The changes (R, D) that the descents end with, and the losses at each point of them."""
    most = settings.clamp * objective.values.to(objective.dtype).norm(dim=-1, keepdim=True)
    changes = torch.zeros_like(objective.values, dtype=objective.dtype).requires_grad_()
    optimizer = torch.optim.Adam([changes], lr=settings.learning_rate)
    losses: list[list[float]] = [[] for _ in objective.sites]
    going = torch.ones(len(objective.sites), 1, dtype=torch.bool, device=changes.device)
    first = min(layer for layer, _ in objective.sites)
    with objective.model.differentiable(first + 1), torch.enable_grad():
        for step in range(settings.steps + 1):
            loss = objective.losses(changes)
            for row, value in enumerate(loss.tolist()):
                if going[row]:
                    losses[row].append(value)
            going &= (loss.detach() >= settings.enough)[:, None]
            if step == settings.steps or not going.any():
                break
            optimizer.zero_grad()
            loss.sum().backward()
            before = changes.detach().clone()
            optimizer.step()
            with torch.no_grad():
                changes *= (most / changes.norm(dim=-1, keepdim=True)).clamp(max=1.0)
                changes.copy_(torch.where(going, changes, before))
            if progress is not None:
                progress((step + 1) / settings.steps)
    return changes.detach(), [tuple(values) for values in losses]


@dataclass(frozen=True)
class _Row:
    """A site as one group of prompts has it."""

    site: int  # its place in `Objective.sites`
    layer: int
    offset: int  # of its position from the group's start


@dataclass(frozen=True)
class _Group:
    """B prompts of one length, and the sites that are changed in them."""

    rows: list[_Row]  # those of lower layers first
    start: int  # the first position that a site can change
    after: dict[int, Tensor]  # by layer: states (B, positions from start, D) after its block
    given: dict[int, Tensor]  # by layer: what its MLP's output projection gives, of that shape
    keys: dict[int, Tensor]  # by layer: (B, key heads, start, head size)
    values: dict[int, Tensor]


class Objective:
    """The losses that v* minimises, as functions of the change d of the MLP's value at a site.

    There are R sites, each with a loss and a change of its own.

    Attributes:
        sites: (layer, position) of each.
        keys: k* of each, (R, inner).
        values: what the MLP's output projection gives at each in the text alone, (R, D).
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sites: Sequence[tuple[int, int]],
        settings: EditSettings,
        prefixes: Sequence[Sequence[int]] = (),
    ) -> None:
        """Run every prompt once."""
        self.model = model
        self.sites = list(sites)
        self.settings = settings
        self.dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.target = word_token(model, settings.target)
        ids = list(prompt.ids)
        added = int(prompt.tokens[0].start == prompt.tokens[0].end)  # a BOS stays first
        by_length: dict[int, list[list[int]]] = defaultdict(list)
        for prefix in ([], *prefixes):
            whole = [*ids[:added], *prefix, *ids[added:]]
            if len(whole) <= model.max_positions:
                by_length[len(prefix)].append(whole)
        self._targets: list[_Group] = []
        met: list[Tensor] = []
        for length, together in by_length.items():
            places = {site: position + length for site, (_, position) in enumerate(self.sites)}
            group, keys, values = self._run(together, places)
            self._targets.append(group)
            met.append(keys)
            if length == 0:
                self.values = values[:, 0]
        self.keys = torch.cat(met, dim=1).cpu().double().mean(1)
        self._essences: list[tuple[_Group, Tensor]] = []  # and what they say unchanged
        for at in sorted({position for _, position in self.sites} if settings.kl_factor else ()):
            essence, last = _essence(model, prompt, at, settings.essence)
            own = [site for site, (_, position) in enumerate(self.sites) if position == at]
            group, _, _ = self._run([list(essence.ids)], dict.fromkeys(own, last))
            with torch.no_grad():
                said = self._log_probs(self._climb(group, torch.zeros_like(self.values))[:1])
            self._essences.append((group, said))

    @torch.no_grad()
    def _run(
        self, prompts: list[list[int]], places: dict[int, int]
    ) -> tuple[_Group, Tensor, Tensor]:
        """A group, and at its sites the keys (sites, B, inner) and the values (sites, B, D).

        Args:
            places: the position of each site in these prompts.
        """
        model, start = self.model, min(places.values())
        layers = {self.sites[site][0] for site in places}
        inner: dict[int, Tensor] = {}
        given: dict[int, Tensor] = {}

        def recorder(layer: int, place: Place, into: dict[int, Tensor]) -> Change:
            def record(values: Tensor) -> Tensor:
                into[layer] = values.clone()  # (B, positions from start, inner or D)
                return values

            return Change(layer, place, record, positions=range(start, len(prompts[0])))

        recorders = [recorder(layer, "inner", inner) for layer in layers]
        recorders += [recorder(layer, "mlp_out", given) for layer in layers]
        rows = [_Row(site, self.sites[site][0], place - start) for site, place in places.items()]
        rows.sort(key=lambda row: row.layer)
        group = _Group(rows, start, {}, given, {}, {})
        states = model.enter(model.embed(torch.tensor(prompts)))
        with model.changed(recorders):
            for layer in range(model.layers):
                output = model.block(layer, states)
                states = output.states
                if layer in layers:
                    group.after[layer] = states[:, start:].clone()
                if layer > min(layers):
                    group.keys[layer] = output.keys[:, :, :start].clone()
                    group.values[layer] = output.values[:, :, :start].clone()
        at = [(self.sites[site][0], place - start) for site, place in places.items()]
        return (
            group,
            torch.stack([inner[layer][:, offset] for layer, offset in at]),
            torch.stack([given[layer][:, offset] for layer, offset in at]),
        )

    def _climb(self, group: _Group, changes: Tensor) -> Tensor:
        """States (rows, B, D) of the last position after the last block, with changes (R, D)."""
        model = self.model
        states: Tensor | None = None  # (rows under way, B, positions, D)
        for layer in range(group.rows[0].layer, model.layers):
            if states is not None:
                states = model.block(
                    layer,
                    states.flatten(0, 1),
                    start=group.start,
                    keys=group.keys[layer] if group.start else None,
                    values=group.values[layer] if group.start else None,
                ).states.view_as(states)
            for row in group.rows:
                if row.layer == layer:
                    after, here = group.after[layer], slice(row.offset, row.offset + 1)
                    change = changes[row.site].to(after.dtype)
                    value = group.given[layer][:, here]
                    changed = after[:, here] + model.mlp_adds(layer, value, change)
                    parts = [after[:, : row.offset], changed, after[:, row.offset + 1 :]]
                    joins = torch.cat(parts, dim=1)[None]
                    states = joins if states is None else torch.cat([states, joins])
        assert states is not None
        return states[:, :, -1]

    def _log_probs(self, states: Tensor) -> Tensor:
        vocabulary = self.model.embedding_matrix.shape[0]
        return self.model.log_probs(states, range(vocabulary))

    def losses(self, changes: Tensor) -> Tensor:
        """The loss (R,) of every site's change (R, D), with gradients."""
        settings = self.settings
        nats = -self._said(changes).mean(1)
        divergence = [changes.new_zeros(()) for _ in self.sites]
        for group, before in self._essences:
            now = self._log_probs(self._climb(group, changes))
            for row, kl in zip(group.rows, (now.exp() * (now - before)).sum(-1)[:, 0], strict=True):
                divergence[row.site] = kl.to(changes.dtype)
        # The norm has no gradient at 0, where torch takes 0 for it.
        size = changes.norm(dim=-1) / self.values.to(changes.dtype).norm(dim=-1) ** 2
        loss: Tensor = nats + settings.kl_factor * torch.stack(divergence) + settings.decay * size
        return loss

    def _said(self, changes: Tensor) -> Tensor:
        """log P(target) of every site's change, after the text alone and each prefix: (R, N)."""
        found: list[Tensor] = []
        for group in self._targets:
            last = self._climb(group, changes)
            said = self.model.log_probs(last, [self.target])[..., 0]  # (rows, B)
            order = sorted(range(len(group.rows)), key=lambda row: group.rows[row].site)
            found.append(said[order])
        return torch.cat(found, dim=1).to(changes.dtype)

    @torch.no_grad()
    def probabilities(self, changes: Tensor) -> list[float]:
        """P(target) with each change, mean over the prompts."""
        found: list[float] = self._said(changes).exp().mean(1).tolist()
        return found


def word_at(prompt: Prompt, position: int) -> str:
    """The word that a token belongs to; the token's own characters where there is none."""
    token = prompt.tokens[position]
    if token.word >= 0:
        return prompt.words[token.word].text
    return prompt.text[token.start : token.end].strip() or token.label


def _essence(model: Model, prompt: Prompt, position: int, template: str) -> tuple[Prompt, int]:
    """The prompt of the KL term, and the position of its word's last token."""
    before, _, after = template.partition("{}")
    essence = build_prompt(model, template.format(word_at(prompt, position)), "")
    end = len(essence.text) - len(after.rstrip())
    inside = [
        place
        for place, token in enumerate(essence.tokens)
        if len(before.lstrip()) < token.end <= end
    ]
    return essence, inside[-1] if inside else len(essence) - 1


def _check_site(model: Model, prompt: Prompt, layer: int, position: int) -> None:
    if not (0 <= layer < model.layers and 0 <= position < len(prompt)):
        raise UserError(
            f"There is no site at layer {layer} and position {position}; the prompt has layers 0 "
            f"to {model.layers - 1} and positions 0 to {len(prompt) - 1}."
        )
    if layer == model.layers - 1 and position < len(prompt) - 1:
        raise UserError(
            f"After the last layer, {layer}, nothing reads position {position}; choose an earlier "
            f"layer, or the last position, {len(prompt) - 1}."
        )
