"""What happens to the sentiment when a direction or a site is pushed, taken out or exchanged?

A direction is a unit vector of the residual stream after one block (`sentiment_direction`):

- "probe": the weights of a logistic regression on states of that layer, which points to positive;
- "means": the mean of the positive texts' states minus that of the negative ones (Marks and Tegmark
  2023; for sentiment Tigges et al. 2023, "Linear Representations of Sentiment in LLMs");
- "words": the state of the suffix with the good word minus that with the bad one, at that word (a
  contrast pair as in Turner et al. 2023, "Activation Addition");
- "random": drawn evenly from all directions, as a control.

What is done with it: `Steering` adds it, `DirectionAblation` projects it out (Arditi et al. 2024)
or sets it to its mean, `DirectionPatch` gives it the size that it has in another tweet.
`SiteAblation` sets whole sites (states, contributions, heads) to zero or to their mean over texts.

One strength of steering is the distance between the classes: how far the mean positive text lies
from the mean negative one along the sentiment direction. A random direction is given the same
length.

All of them make a `core.models.model.Change`: while one is `applied`, traces, probes and
continuations of this thread speak of the changed model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..models.model import Change, Model, Place
from ..patching.clean_and_corrupted import run_source
from ..patching.restore import restore_heads
from ..patching.sites import Kind
from ..probes.probe import Probe
from ..prompts.prompt import Prompt, build_prompt, word_token
from ..prompts.template import Template
from ..prompts.token_roles import roles_of
from ..statistics import Array
from ..tracing.corruption import case_of, runs_of
from ..tracing.result import TraceResult, TraceSettings, read_proxy
from .forward import Share, batches, states_at
from .rome import Edit

Source = Literal["probe", "means", "words", "random"]
SOURCES: dict[Source, str] = {
    "probe": "weights of a probe of this layer's states",
    "means": "mean of positive texts minus mean of negative texts",
    "words": "the good word's state minus the bad one's",
    "random": "a random direction, as a control",
}
Positions = Literal["all", "last"]
Fill = Literal["zero", "mean"]
SiteKind = Literal["hidden", "mlp", "attn", "head"]
FOR_EVER = 10**9


class Intervention(Protocol):
    """Something that can be done to a model for a while."""

    @property
    def label(self) -> str:
        """What a person calls it."""
        ...

    @property
    def everywhere(self) -> bool:
        """True where it means something for any text, and not only for the one it was made for."""
        ...

    def applied(self, model: Model, length: int | None = None) -> AbstractContextManager[None]:
        """Within the context it is in force.

        Args:
            length: tokens of the prompt; without it, "last" means every position, each of which is
                the last one of what stands before it.
        """
        ...


# --- directions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direction:
    """A direction of the residual stream after a block, which points to positive."""

    source: Source
    layer: int
    vector: Array = field(repr=False)  # (D,), of length 1
    gap: float  # distance of the class means along it: what one strength of steering adds
    middle: float  # its mean over the texts' states, halfway between the classes

    def of(self, states: Array) -> Array:
        """The component (...) along the direction of states (..., D)."""
        component: Array = states @ self.vector
        return component


def sentiment_direction(
    model: Model,
    source: Source,
    layer: int,
    states: Array,
    labels: NDArray[np.int64],
    *,
    probe: Probe | None = None,
    weight: Array | None = None,
    seed: int = 0,
) -> Direction:
    """A direction, from states that its judging must not use.

    Args:
        states: (texts, D), the last position's residual stream after block `layer`.
        labels: (texts,), 1 positive.
        probe: for "words": its suffix and words.
        weight: for "probe": (D,), of a regression on these states.
        seed: of a random direction.

    Raises:
        UserError: an unknown source, one without what it is made of, or a layer that there is not.
    """
    if source not in get_args(Source):
        raise UserError(
            f"The direction {source!r} is not known; choose one of {', '.join(SOURCES)}."
        )
    model.check_layer(layer)
    apart = states[labels == 1].mean(0) - states[labels == 0].mean(0)
    if source == "means":
        vector = apart
    elif source == "probe":
        if weight is None:
            raise UserError("A probe's direction is that of its weights: give `weight`.")
        vector = weight
    elif source == "words":
        if probe is None:
            raise UserError("The words of a direction are a probe's: give `probe`.")
        good, bad = (_word_state(model, probe.template.answer, word, layer) for word in probe.words)
        vector = good - bad
    else:
        vector = np.random.default_rng(seed).standard_normal(model.width)
    unit = vector / np.linalg.norm(vector)
    means = [float((states[labels == label] @ unit).mean()) for label in (0, 1)]
    # A random direction has hardly any distance of its own: it gets that of the class means.
    gap = float(np.linalg.norm(apart)) if source == "random" else means[1] - means[0]
    return Direction(source, layer, unit, gap, sum(means) / 2)


def random_like(direction: Direction, states: Array, seed: int) -> Direction:
    """A random direction with the same gap, for a control of the same length."""
    vector = np.random.default_rng(seed).standard_normal(len(direction.vector))
    unit = vector / np.linalg.norm(vector)
    return replace(direction, source="random", vector=unit, middle=float((states @ unit).mean()))


def _word_state(model: Model, suffix: str, word: str, layer: int) -> Array:
    word_token(model, word)  # refused in our words where it is several tokens
    prompt = build_prompt(model, suffix + word, "")
    state = states_at(model, prompt.ids, len(prompt) - 1, [layer])[layer]
    numbers: Array = state.cpu().double().numpy()
    return numbers


# --- along a direction ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Steering:
    """Adds a direction: `strength` times the distance between the classes."""

    direction: Direction
    strength: float
    positions: Positions = "all"
    everywhere: bool = True

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"steer {self.direction.source} at layer {self.direction.layer}, {self.strength:+g}"

    @contextmanager
    def applied(self, model: Model, length: int | None = None) -> Iterator[None]:
        """Within the context it is in force; see `Intervention`."""
        added = self.strength * self.direction.gap * self.direction.vector
        vector = _on(model, added)
        where = _positions(self.positions, length)
        change = Change(self.direction.layer, "hidden", lambda states: states + vector, where)
        # Nothing is changed at all by a strength of 0, not even the last bit.
        with model.changed([change] if self.strength else []):
            yield


@dataclass(frozen=True)
class DirectionAblation:
    """Takes a direction out of the residual stream, or sets it to its mean.

    Attributes:
        fill: "zero" projects it out; "mean" sets the component to `Direction.middle`.
        layers: after which blocks; None: the direction's own alone. Above it, later blocks may
            write the direction again.
    """

    direction: Direction
    fill: Fill = "zero"
    positions: Positions = "all"
    layers: tuple[int, ...] | None = None
    everywhere: bool = True

    @property
    def label(self) -> str:
        """What a person calls it."""
        layers = self.layers or (self.direction.layer,)
        at = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        return f"ablate {self.direction.source} at {at}"

    @contextmanager
    def applied(self, model: Model, length: int | None = None) -> Iterator[None]:
        """Within the context it is in force; see `Intervention`."""
        value = 0.0 if self.fill == "zero" else self.direction.middle
        set_to = _component_setter(model, self.direction, value)
        where = _positions(self.positions, length)
        layers = self.layers or (self.direction.layer,)
        with model.changed([Change(layer, "hidden", set_to, where) for layer in layers]):
            yield


@dataclass(frozen=True)
class DirectionPatch:
    """Gives a direction the size that it has in another tweet: direction patching."""

    direction: Direction
    value: float  # of the component, at the other tweet's last position
    positions: Positions = "last"
    everywhere: bool = True

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"patch {self.direction.source} at layer {self.direction.layer}"

    @contextmanager
    def applied(self, model: Model, length: int | None = None) -> Iterator[None]:
        """Within the context it is in force; see `Intervention`."""
        set_to = _component_setter(model, self.direction, self.value)
        where = _positions(self.positions, length)
        with model.changed([Change(self.direction.layer, "hidden", set_to, where)]):
            yield


def patch_from(
    model: Model,
    direction: Direction,
    other: str,
    template: Template,
    positions: Positions = "last",
) -> DirectionPatch:
    """The exchange that takes the direction's size from another tweet's last position."""
    prompt = build_prompt(model, other, template)
    found = states_at(model, prompt.ids, len(prompt) - 1, [direction.layer])[direction.layer]
    return DirectionPatch(direction, float(direction.of(found.cpu().double().numpy())), positions)


def _component_setter(
    model: Model, direction: Direction, value: float
) -> Callable[[Tensor], Tensor]:
    unit = _on(model, direction.vector)

    def set_to(states: Tensor) -> Tensor:
        return states + (value - states @ unit)[..., None] * unit

    return set_to


def _on(model: Model, vector: Array) -> Tensor:
    return torch.from_numpy(np.asarray(vector)).to(model.dtype).to(model.device)


def _positions(positions: Positions, length: int | None) -> Collection[int] | None:
    if positions not in get_args(Positions):
        raise UserError(f"The positions {positions!r} are not known; choose 'all' or 'last'.")
    return None if positions == "all" or length is None else range(length - 1, FOR_EVER)


# --- whole sites ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A state, a contribution or a head.

    Attributes:
        position: of the token; None: all positions.
        head: of attention, for the kind "head".
    """

    kind: SiteKind
    layer: int
    position: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SiteKind) or (self.kind == "head") != (self.head is not None):
            raise UserError(
                f"The site {self.kind!r} with head {self.head} is none; choose hidden, mlp, attn, "
                "or head with the number of one."
            )

    @property
    def label(self) -> str:
        """What a person calls it."""
        name = f"head {self.layer}.{self.head}" if self.kind == "head" else self.kind
        layer = "" if self.kind == "head" else f" layer {self.layer}"
        return name + layer + ("" if self.position is None else f" token {self.position}")


@dataclass(frozen=True)
class SiteAblation:
    """Sets sites to zero, or to their means over texts.

    Attributes:
        means: by (kind, layer), from `site_means`; needed for the fill "mean" alone. Of heads, all
            heads' mixed values beside one another.
    """

    sites: tuple[Site, ...]
    fill: Fill = "zero"
    means: dict[tuple[SiteKind, int], Array] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.fill} at {', '.join(site.label for site in self.sites)}"

    @property
    def everywhere(self) -> bool:
        """True where no site belongs to one token of one text."""
        return all(site.position is None for site in self.sites)

    @contextmanager
    def applied(self, model: Model, length: int | None = None) -> Iterator[None]:
        """Within the context it is in force; see `Intervention`."""
        with model.changed([self._change(model, site) for site in self.sites]):
            yield

    def _change(self, model: Model, site: Site) -> Change:
        where = None if site.position is None else (site.position,)
        mean: Tensor | float = 0.0
        if self.fill == "mean":
            mean = _on(model, self.means[site.kind, site.layer])
        if site.head is None:
            return Change(
                site.layer, _place(site.kind), lambda values: torch.zeros_like(values) + mean, where
            )
        if not 0 <= site.head < model.heads:
            raise UserError(
                f"There is no head {site.head}: a layer has heads 0 to {model.heads - 1}."
            )
        number = site.head

        def without(mixed: Tensor) -> Tensor:
            size = mixed.shape[-1] // model.heads
            own = slice(number * size, (number + 1) * size)
            mixed = mixed.clone()
            mixed[..., own] = mean[own] if isinstance(mean, Tensor) else 0.0
            return mixed

        return Change(site.layer, "heads", without, where)


def _place(kind: SiteKind) -> Place:
    return "heads" if kind == "head" else kind


@torch.inference_mode()
def site_means(
    model: Model,
    texts: Sequence[str],
    sites: Sequence[Site],
    *,
    template: Template,
    progress: Share | None = None,
) -> dict[tuple[SiteKind, int], Array]:
    """Means of what stands at sites, over all tokens of texts but each one's first."""
    wanted = sorted({(site.kind, site.layer) for site in sites})
    sums: dict[tuple[SiteKind, int], Tensor] = {}
    counts = dict.fromkeys(wanted, 0)

    def recorder(key: tuple[SiteKind, int]) -> Change:
        def record(values: Tensor) -> Tensor:
            rows = values[:, 1:].reshape(-1, values.shape[-1])
            sums[key] = sums.get(key, torch.zeros(())) + rows.cpu().double().sum(0)
            counts[key] += len(rows)
            return values

        return Change(key[1], _place(key[0]), record)

    prompts = [build_prompt(model, text, template).ids for text in texts]
    done = 0
    with model.changed([recorder(key) for key in wanted]):
        for numbers, ids in batches(model, prompts):
            states = model.enter(model.embed(ids))
            for layer in range(max(layer for _, layer in wanted) + 1):
                states = model.block(layer, states).states
            done += len(numbers)
            if progress is not None:
                progress(done / len(texts))
    return {key: sums[key].numpy() / counts[key] for key in wanted}


def top_sites(result: TraceResult, kind: Kind, count: int) -> list[Site]:
    """The cells of a trace with the largest share of its total effect; trivial ones left out."""
    effects = result.effects[kind] * np.sign(result.total_effect)
    free = ~(result.trivial[kind] | np.isnan(effects))
    order = np.argsort(np.where(free, -effects, np.inf), axis=None, kind="stable")
    order = order[: min(count, int(free.sum()))]
    return [
        Site(kind, int(layer), int(position))
        for layer, position in zip(*np.unravel_index(order, effects.shape), strict=True)
    ]


def head_effects(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings,
    position: int,
    *,
    progress: Share | None = None,
) -> Array:
    """Indirect effect of every attention head restored alone at one position: (layers, heads).

    The mean over the settings' noise samples, in units of their proxy.
    """
    case = case_of(model, probe, text, replace(settings, kinds=("hidden",)))
    clean = run_source(model, case.embeddings[None], case.readout)
    samples = range(settings.draws)
    source, base, _ = runs_of(model, [case] * len(samples), samples, clean)
    without = read_proxy(settings.proxy, probe, base.read.cpu().double().numpy())
    sign = -1.0 if settings.direction == "corrupt" else 1.0
    found = np.empty((model.layers, model.heads))
    for layer in range(model.layers):
        read = restore_heads(model, source, base, case.readout, layer, case.span_at(position))
        effects = read_proxy(settings.proxy, probe, read) - without[:, None]
        found[layer] = sign * effects.mean(0)
        if progress is not None:
            progress((layer + 1) / model.layers)
    return found


def top_heads(effects: Array, total_effect: float, count: int) -> list[Site]:
    """The heads (at all positions) with the largest share of the total effect."""
    order = np.argsort(-effects * np.sign(total_effect), axis=None, kind="stable")[:count]
    return [
        Site("head", int(layer), None, int(head))
        for layer, head in zip(*np.unravel_index(order, effects.shape), strict=True)
    ]


def matched_sites(
    model: Model, prompt: Prompt, sites: Sequence[Site], *, seed: int = 0
) -> list[Site]:
    """For each site a random other one: of the same kind and layer and, as far as there is one,
    at a token of the same role (`core.prompts.token_roles`), else of the same side, tweet or
    suffix.

    Of a head it is another head of its layer. A site that has no match is left out.
    """
    generator = np.random.default_rng(seed)
    taken = set(sites)
    found = []
    for site in sites:
        others = [other for other in _matches(model, prompt, site) if other not in taken]
        if others:
            found.append(others[int(generator.integers(len(others)))])
            taken.add(found[-1])
    return found


def _matches(model: Model, prompt: Prompt, site: Site) -> list[Site]:
    if site.head is not None:
        return [replace(site, head=head) for head in range(model.heads) if head != site.head]
    if site.position is None:
        layers = range(model.layers)
        return [replace(site, layer=layer) for layer in layers if layer != site.layer]
    return [replace(site, position=other) for other in matched_positions(prompt, site.position)]


def matched_positions(prompt: Prompt, position: int, *, count: int = 1) -> list[int]:
    """Other tokens of a token's role; where they are fewer than `count`, of its side.

    A side is the tweet or the suffix.

    Tokens of the same word do not count, nor does the prompt's first token, whose states are
    outliers in many models.
    """
    roles = roles_of(prompt)
    tweet = set(prompt.tweet_span)
    word = prompt.tokens[position].word
    side = [
        other
        for other in range(1, len(prompt))
        if other != position
        and (other in tweet) == (position in tweet)
        and (word < 0 or prompt.tokens[other].word != word)
    ]
    alike = [other for other in side if roles[other] == roles[position]]
    return alike if len(alike) >= count else side


@dataclass(frozen=True)
class Editing:
    """A ROME edit, in part or whole."""

    edit: Edit
    strength: float = 1.0
    everywhere: bool = True

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"edit {self.edit.word!r} at layer {self.edit.layer}"

    @contextmanager
    def applied(self, model: Model, length: int | None = None) -> Iterator[None]:
        """Within the context it is in force; see `Intervention`."""
        with self.edit.applied(model, self.strength):
            yield
