"""Does the location matter? Interventions at traced sites and elsewhere, side by side.

That a site restores the sentiment does not show that it is the place to change it: Hase et al. 2023
("Does Localization Inform Editing?") found that tracing hardly tells at which layer an edit of a
fact succeeds. So an intervention is carried out here (`carry_out`) together with its controls: the
same at k random sites matched for role and layer, or along k random directions of equal length; and
on request at every layer, where efficacy is compared with the traced effect.

A `Plan` says all that determines it, and is what the settings files of the page and of
`python -m core edit`, `steer` and `ablate` hold. `core.interventions.judging` says what is held
out, and how the outcome is judged.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cache as once
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from ..data.datasets import FileReading
from ..errors import UserError
from ..models.model import Model
from ..patching.sites import Kind
from ..probes.probe import Words
from ..prompts.prompt import DEFAULT_WORDS, Prompt, build_prompt
from ..prompts.template import DEFAULT_SUFFIX, Format, Template
from ..prompts.token_labels import token_label
from ..settings import described
from ..showing import Shown, Told, teller
from ..tracing.findings import EARLY_LAYERS
from ..tracing.result import Proxy, TraceResult, TraceSettings, read_proxy
from ..tracing.tracer import trace
from .forward import Share, continuations, surprise
from .judging import (
    Estimate,
    HeldOut,
    Judge,
    JudgedBy,
    Wanted,
    correlation,
    flipped,
    held_out_of,
    judged_frame,
    log_odds_under,
    moved,
    perplexity_ratio,
    pooled,
    read_under,
    surprise_under,
)
from .key_covariance import KEYS, key_covariances
from .rome import Edit, EditSettings, make_edits, sample_prefixes, word_at
from .steering import (
    Direction,
    DirectionAblation,
    Editing,
    Fill,
    Intervention,
    Positions,
    Site,
    SiteAblation,
    SiteKind,
    Source,
    Steering,
    head_effects,
    matched_positions,
    matched_sites,
    patch_from,
    random_like,
    site_means,
    top_heads,
    top_sites,
)

if TYPE_CHECKING:
    import pandas as pd

What = Literal["edit", "steer", "ablate", "exchange", "replace"]
Sweep = Literal["layer", "strength"]

SCHEMA: Literal["sentitrace intervention"] = "sentitrace intervention"
VERSION: Literal[1] = 1
LAYERS_SWEPT = 10
"""A sweep of the layers takes so many of them, evenly spread, where there are more."""

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""A sweep of the strength takes these multiples of the plan's."""

MEAN_TEXTS = 100
"""Training texts that means of sites are taken over."""

TOKENS = 8
"""Next tokens that are listed before and after."""


_WORD = 'The {0} word, one token; verbalizers take several.  [default: " {1}"]'


@dataclass(frozen=True)
class Plan:
    """One intervention on one tweet, and how it is judged.

    `core.commands.options` makes the options of commands from these fields.

    Attributes:
        what: edit an MLP (ROME), steer along a direction, ablate it, patch it from another tweet
            (exchange), or ablate traced sites (replace).
        text: the tweet.
        wanted: the side that the proxy should move to; None: the one it is not on.
        layer, position: the site; None: for an edit an MLP at the tweet's tokens in the first two
            thirds of the layers, for a direction the hidden state of the last token.
        target: of an edit; None: the probe's word of the wanted side.
        prefixes, steps, keys: of an edit, see `core.interventions.rome.EditSettings`.
        source, positions: of a direction, see `core.interventions.steering`.
        kind, count: which sites are ablated, and how many of the largest.
        texts: 0: none.
        features, prompt, prompt_format, good, bad, dataset: of the probe; no words: those that go
            with what it reads. model: its name. They say where the plan was made.
        reading: how the data set is read, where it is a file.
    """

    what: What
    text: str
    wanted: Wanted | None = described(None, "The wanted prediction.", unset="the other side")
    layer: int | None = described(None, "Layer of the site.", unset="the largest traced effect")
    position: int | None = described(None, "Token of the site.", unset="the largest traced effect")
    strength: float = described(
        1.0, "Of steering, in distances of the classes; of an edit, a share of it."
    )
    target: str | None = described(None, "The target word.", unset="the probe's")
    prefixes: int = described(4, "Sampled texts before the tweet.")
    steps: int = described(20, "Of the gradient descent, at most.")
    keys: int = described(KEYS, "Tokens behind the keys' covariance.")
    source: Source = described("means", "What the direction is made of.", option="--direction")
    positions: Positions = described("all", "Tokens at which the direction is changed.")
    onwards: bool = described(False, "At every layer from --layer on.")
    fill: Fill = described("zero", "Zero or mean ablation.")
    other: str | None = described(
        None, "Patch the direction with its value in this tweet instead.", option="--like"
    )
    kind: SiteKind = described(
        "mlp",
        "Ablate the largest traced sites of this kind instead of a direction.",
        option="--sites",
        unset="",
    )
    count: int = described(3, "How many sites.")
    controls: int = described(3, "Random sites or directions as controls.")
    texts: int = described(20, "Held-out texts of each sort for the evaluation, at most.")
    samples: int = described(4, "Noise samples of the traces.")
    sweep: Sweep | None = described(None, "Also at other layers, or other strengths.")
    seed: int = described(0, "Seed of everything drawn.")
    features: str = described("logit_pair", "What the probe reads.", metavar="NAME")
    prompt: str = described(
        DEFAULT_SUFFIX,
        'What stands around a text: a suffix, or "Review: {tweet} Sentiment:".',
        metavar="TEXT",
    )
    prompt_format: Format = described(
        "raw", "chat: in the model's chat template.", option="--format", choices=("raw", "chat")
    )
    good: tuple[str, ...] = described((), _WORD.format("positive", "good"), multiple=True)
    bad: tuple[str, ...] = described((), _WORD.format("negative", "bad"), multiple=True)
    dataset: str = described("vader-tweets", "Labelled texts.", option="--data", metavar="NAME")
    reading: FileReading = FileReading()
    model: str = ""
    schema: Literal["sentitrace intervention"] = SCHEMA
    version: Literal[1] = VERSION

    def __post_init__(self) -> None:
        for name, choices in (
            ("what", get_args(What)),
            ("wanted", (None, *get_args(Wanted))),
            ("source", get_args(Source)),
            ("positions", get_args(Positions)),
            ("fill", get_args(Fill)),
            ("kind", get_args(SiteKind)),
            ("sweep", (None, *get_args(Sweep))),
        ):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"An intervention's {name} cannot be {getattr(self, name)!r}; choose one of "
                    f"{', '.join(map(str, choices))}."
                )
        for name, least, most in (
            ("count", 1, 100),
            ("controls", 0, 100),
            ("texts", 0, 10_000),
            ("samples", 1, 1000),
            ("seed", 0, 2**32 - 1),
        ):
            if not least <= getattr(self, name) <= most:
                raise UserError(
                    f"An intervention's {name} must be from {least} to {most}, not "
                    f"{getattr(self, name)}."
                )
        if not np.isfinite(self.strength):
            raise UserError(f"The strength must be a number, not {self.strength}.")
        if (self.what == "exchange") != (self.other is not None):
            raise UserError(
                "Patching a direction needs another tweet, and nothing else does; the "
                f"intervention is {self.what!r} and the other tweet {self.other!r}."
            )
        if self.sweep == "strength" and self.what not in ("edit", "steer"):
            raise UserError(
                f"Only an edit and steering have a strength to sweep, not {self.what!r}."
            )
        self.edit_settings("")

    @property
    def words(self) -> Words | None:
        """The probe's words, where they are not those that go with what it reads."""
        if not (self.good or self.bad):
            return None
        return self.good or (DEFAULT_WORDS[0],), self.bad or (DEFAULT_WORDS[1],)

    def edit_settings(self, target: str) -> EditSettings:
        """The settings of its edit."""
        return EditSettings(
            target=target,
            prefixes=self.prefixes,
            steps=self.steps,
            keys=self.keys,
            seed=self.seed,
        )

    def trace_settings(self, proxy: Proxy = "log_odds") -> TraceSettings:
        """The settings of its traces."""
        return TraceSettings(samples=self.samples, seed=self.seed, proxy=proxy)

    @property
    def template(self) -> Template:
        """What stands around a text."""
        return replace(Template.of(self.prompt), format=self.prompt_format)

    def to_json(self) -> str:
        """The plan as JSON, as `from_json` reads it."""
        return _adapter().dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, content: str | bytes, origin: str = "") -> Plan:
        """Read a plan that `to_json` wrote; every field is checked.

        Raises:
            UserError: this is no plan, or a value in it cannot be right.
        """
        called = f"The settings {origin}" if origin else "The settings"
        try:
            held = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{called} are not JSON; save them again.") from error
        if not isinstance(held, dict) or held.get("schema") != SCHEMA:
            raise UserError(
                f"{called} are not those of an intervention; give a file that the Interventions "
                "page, `edit`, `steer` or `ablate` saved."
            )
        strange = sorted(set(held) - {one.name for one in fields(cls)})
        if strange:
            raise UserError(f"{called} hold {strange[0]!r}, which is not known; leave it out.")
        try:
            return _adapter().validate_json(content, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the file"
            said = str(wrong["msg"]).removeprefix("Value error, ")
            raise UserError(f"{called} cannot be used: {place}: {said}") from error


@once
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


@dataclass(frozen=True)
class Reading:
    """What the model makes of the tweet, before or after."""

    log_odds: float  # the probe's, of positive
    probability: float
    good: float  # P of the probe's first good word
    bad: float
    next_tokens: pd.DataFrame  # rank, token, probability
    continuation: str  # the most probable one


@dataclass(frozen=True)
class Outcome(Shown):
    """What an intervention did, as far as it is known yet.

    Attributes:
        site: (layer, position) where it is made; the position is None for all tokens.
        word: of the tweet at the site; other tweets are judged with and without it.
        located: were layer and position taken from the trace?
        before, after: what the model makes of the tweet.
        trace_before, trace_after: of the tweet, by the unchanged and the changed model.
        judged: as `core.interventions.judging.judged_frame`; the arms are "located" (or "chosen")
        and "random".
        curve: by layer: layer, effect (share of the total effect that the trace restores there),
            moves (nats to the wanted side), flips; None unless the layers were swept.
        correlation: Spearman's of effect and moves over the layers of the curve.
        strengths: strength, log_odds, moves, perplexity, lower, upper; None unless swept.
        notes: sentences that a reader has to know.
    """

    plan: Plan
    prompt: Prompt
    wanted: Wanted
    site: tuple[int, int | None]
    word: str
    label: str
    located: bool
    trace_before: TraceResult
    controls: tuple[str, ...] = ()
    before: Reading | None = None
    after: Reading | None = None
    trace_after: TraceResult | None = None
    judged: pd.DataFrame | None = None
    curve: pd.DataFrame | None = None
    correlation: Estimate | None = None
    strengths: pd.DataFrame | None = None
    edit: Edit | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        """What the intervention is called beside its controls."""
        return "located" if self.located else "chosen"


Steps = Iterator[tuple[float, Outcome]]


class _Progress:
    """Shares of one step of several, in order."""

    def __init__(self, report: Share | None) -> None:
        self.report = report
        self.done, self.part = 0.0, 0.0

    def step(self, share: float) -> Share:
        """Begin a step that is this share of the whole."""
        self.done, self.part = self.done + self.part, share
        self(0.0)
        return self

    def __call__(self, share: float) -> None:
        if self.report is not None:
            self.report(min(1.0, self.done + self.part * share))


def intervene(
    model: Model,
    plan: Plan,
    *,
    held: HeldOut | None = None,
    keep: bool = False,
    progress: Told | None = None,
) -> Outcome:
    """Carry out an intervention and its controls; see `carry_out`.

    Args:
        held: the texts that judge it; by default the plan's data set, split.
        progress: called with the share of the work done after the texts are read, or True for a
            bar.

    Raises:
        UserError: the tweet, the plan or its data set cannot be used.
    """
    held = held or held_out_of(
        model, plan.dataset, plan.features, template=plan.template, words=plan.words
    )
    show = teller(progress, "Intervening")
    return deque(carry_out(model, held, plan, keep=keep, progress=show), maxlen=1)[0][1]


def carry_out(
    model: Model, held: HeldOut, plan: Plan, *, keep: bool = False, progress: Share | None = None
) -> Steps:
    """Carry out an intervention and its controls.

    Yields (share done, what is known so far): after the first trace, after the tweet was read with
    the intervention, after its trace, its judgement, that of the controls, and each point of a
    sweep.

    Args:
        held: from `core.interventions.judging.hold_out`; its probe reads the sentiment.
        keep: look for and keep the trace of the unchanged model, see `core.tracing.tracer`.
        progress: called with the share of the whole work done. An exception ends it.

    Raises:
        UserError: the tweet or the plan cannot be used; one sentence says why.
    """
    show = _Progress(progress)
    prompt = build_prompt(model, plan.text, held.probe.template)
    _check(model, plan, prompt)
    before_trace = trace(
        model,
        held.probe,
        plan.text,
        plan.trace_settings(),
        keep=keep,
        progress=show.step(0.12),
    )
    wanted = plan.wanted or ("negative" if before_trace.clean_probability >= 0.5 else "positive")
    layer, position = _site(model, plan, before_trace)
    maker = _Maker(model, held, plan, before_trace, wanted, position)
    outcome = Outcome(
        plan=plan,
        prompt=prompt,
        wanted=wanted,
        site=(layer, position if plan.what == "edit" else None),
        word=word_at(prompt, position) if position in prompt.tweet_span else "",
        label="",
        located=plan.layer is None and plan.position is None,
        trace_before=before_trace,
        before=_read(model, held, plan, None),
        notes=_notes(held, plan, before_trace),
    )
    yield show.done, outcome

    made = maker.main(layer, show.step(0.15))
    outcome = replace(
        outcome, label=made.label, edit=maker.edit, notes=(*outcome.notes, *maker.notes)
    )
    outcome = replace(outcome, after=_read(model, held, plan, made))
    yield show.done + show.part, outcome

    changed = show.step(0.12)
    with made.applied(model, len(prompt)):
        after_trace = trace(model, held.probe, plan.text, plan.trace_settings(), progress=changed)
    outcome = replace(outcome, trace_after=after_trace)
    yield show.done + show.part, outcome

    texts = JudgedBy(plan.text)
    if plan.texts:
        texts = held.judged_by(plan.text, outcome.word, count=plan.texts, seed=plan.seed)
    judge = Judge(
        model, held.probe, texts, wanted, continued=4 if plan.texts else 0, seed=plan.seed
    )
    arms = {outcome.arm: judge.judge(made, progress=show.step(0.1))}
    outcome = replace(outcome, judged=judged_frame(arms))
    yield show.done + show.part, outcome

    rest = 1 - show.done - show.part
    share = (rest / 2 if plan.sweep else rest) / max(1, plan.controls)
    found = []
    names: tuple[str, ...] = ()
    for name, control in maker.controls(layer, show, share / 2):
        found.append(judge.judge(control, progress=show.step(share / 2)))
        names = (*names, name)
        outcome = replace(
            outcome, judged=judged_frame(arms | {"random": pooled(found)}), controls=names
        )
        yield show.done + show.part, outcome

    if plan.sweep == "layer":
        for curve in maker.by_layer(show.step(rest / 2)):
            related = correlation(curve["effect"].to_numpy(), curve["moves"].to_numpy())
            outcome = replace(outcome, curve=curve, correlation=related)
            yield show.done, outcome
    elif plan.sweep == "strength":
        for strengths in maker.by_strength(made, texts, show.step(rest / 2)):
            outcome = replace(outcome, strengths=strengths)
            yield show.done, outcome
    yield 1.0, outcome


# --- making them ---------------------------------------------------------------------------------


class _Maker:
    """Makes a plan's intervention, its controls, and what a sweep needs."""

    def __init__(
        self,
        model: Model,
        held: HeldOut,
        plan: Plan,
        traced: TraceResult,
        wanted: Wanted,
        position: int,
    ) -> None:
        self.model, self.held, self.plan, self.traced = model, held, plan, traced
        self.wanted, self.position = wanted, position
        self.sign = -1.0 if wanted == "negative" else 1.0
        self.edit: Edit | None = None
        self.notes: list[str] = []
        self._prefixes: list[list[int]] | None = None
        self._main: Intervention | None = None
        self._heads: Any = None

    # The intervention itself.

    def main(self, layer: int, show: Share) -> Intervention:
        if self.plan.what == "edit":
            (self.edit,) = self.edits([(layer, self.position)], show)
            self.notes.append(_edit_note(self.edit))
            self._main = Editing(self.edit, self.plan.strength)
        elif self.plan.what == "replace":
            self._main = self.replacement(self.sites(show), show)
        else:
            direction = self.held.direction(
                self.model, self.plan.source, layer, seed=self.plan.seed
            )
            self._main = self.along(direction)
        return self._main

    def edits(self, sites: Sequence[tuple[int, int]], show: Share) -> list[Edit]:
        plan, model, probe = self.plan, self.model, self.held.probe
        target = plan.target or probe.words[1 if self.wanted == "negative" else 0]
        covariances = key_covariances(
            model,
            self.held.training_texts,
            sorted({layer for layer, _ in sites}),
            keys=plan.keys,
            progress=lambda share: show(0.5 * share),
        )
        if self._prefixes is None:
            self._prefixes = sample_prefixes(model, plan.prefixes, seed=plan.seed)
        return make_edits(
            model,
            self.traced.prompt,
            sites,
            covariances,
            plan.edit_settings(target),
            prefixes=self._prefixes,
            progress=lambda share: show(0.5 + 0.5 * share),
        )

    def along(self, direction: Direction, strength: float | None = None) -> Intervention:
        plan = self.plan
        if plan.what == "steer":
            size = self.sign * (plan.strength if strength is None else strength)
            return Steering(direction, size, plan.positions)
        if plan.what == "ablate":
            layers = range(direction.layer, self.traced.layers) if plan.onwards else None
            return DirectionAblation(
                direction, plan.fill, plan.positions, None if layers is None else tuple(layers)
            )
        return patch_from(
            self.model, direction, plan.other or "", self.held.probe.template, plan.positions
        )

    def sites(self, show: Share) -> list[Site]:
        plan, prompt = self.plan, self.traced.prompt
        if plan.kind == "head":
            last = len(prompt) - 1
            self._heads = head_effects(
                self.model,
                self.held.probe,
                plan.text,
                plan.trace_settings(),
                last,
                progress=show,
            )
            return top_heads(self._heads, self.traced.total_effect, plan.count)
        if plan.layer is not None and plan.position is not None:
            return [Site(plan.kind, plan.layer, plan.position)]
        return top_sites(self.traced, plan.kind, plan.count)

    def replacement(self, sites: Sequence[Site], show: Share | None = None) -> SiteAblation:
        means = {}
        if self.plan.fill == "mean":
            texts = self.held.training_texts[:MEAN_TEXTS]
            means = site_means(
                self.model, texts, sites, template=self.held.probe.template, progress=show
            )
        return SiteAblation(tuple(sites), self.plan.fill, means)

    # Its controls.

    def controls(
        self, layer: int, show: _Progress, share: float
    ) -> Iterator[tuple[str, Intervention]]:
        plan, main = self.plan, self._main
        if plan.what == "edit":
            prompt = self.traced.prompt
            others = matched_positions(prompt, self.position, count=plan.controls)
            order = np.random.default_rng(plan.seed).permutation(len(others))[: plan.controls]
            if not len(order):
                return
            places = [(layer, others[int(number)]) for number in order]
            for edit in self.edits(places, show.step(share * len(places))):
                name = f"token {edit.position} {prompt.labels[edit.position]}"
                yield name, Editing(edit, plan.strength)
            return
        for number in range(plan.controls):
            show.step(share)
            seed = plan.seed + 1 + number
            if plan.what == "replace":
                assert isinstance(main, SiteAblation)
                sites = matched_sites(self.model, self.traced.prompt, main.sites, seed=seed)
                if not sites:
                    return
                yield ", ".join(site.label for site in sites), self.replacement(sites)
            else:
                own = self.held.direction(self.model, plan.source, layer, seed=plan.seed)
                other = random_like(own, self.held.states(layer), seed)
                yield f"random direction {seed}", self.along(other)

    # Sweeps.

    def by_layer(self, show: Share) -> Iterator[pd.DataFrame]:
        """The curve of efficacy by layer, growing where the layers are made one by one."""
        import pandas as pd

        plan, model = self.plan, self.model
        layers = swept_layers(model.layers, plan.what == "edit")
        before = log_odds_under(model, self.held.probe, [plan.text])
        rows: list[dict[str, Any]] = []

        def made(layer: int, intervention: Intervention) -> dict[str, Any]:
            after = log_odds_under(model, self.held.probe, [plan.text], intervention)
            hits = flipped(before, after, self.wanted)
            return {
                "layer": layer,
                "effect": self._effect(layer),
                "moves": float(moved(before, after, self.wanted)[0]),
                "flips": bool(hits.any()),
            }

        if plan.what == "edit":
            for edit in self.edits([(layer, self.position) for layer in layers], show):
                rows.append(made(edit.layer, Editing(edit, plan.strength)))
            yield pd.DataFrame(rows)
            return
        for number, layer in enumerate(layers, start=1):
            if plan.what == "replace":
                intervention: Intervention = self.replacement(self._sites_of(layer))
            else:
                intervention = self.along(
                    self.held.direction(model, plan.source, layer, seed=plan.seed)
                )
            rows.append(made(layer, intervention))
            show(number / len(layers))
            yield pd.DataFrame(rows)

    def _sites_of(self, layer: int) -> list[Site]:
        if self.plan.kind == "head":
            heads = self._heads[layer] * np.sign(self.traced.total_effect)
            return [Site("head", layer, None, int(heads.argmax()))]
        return [Site(self.plan.kind, layer, self.position)]

    def _effect(self, layer: int) -> float:
        """Share of the total effect that the trace restores at this layer's site."""
        if self.plan.what == "replace" and self.plan.kind == "head":
            return float(self._heads[layer].max() / (self.traced.total_effect or np.nan))
        kind: Kind = "hidden"
        if self.plan.what == "edit":
            kind = "mlp"
        elif self.plan.what == "replace" and self.plan.kind != "head":
            kind = self.plan.kind
        effect = self.traced.effects[kind][layer, self.position]
        return float(effect / (self.traced.total_effect or np.nan))

    def by_strength(
        self, main: Intervention, texts: JudgedBy, show: Share
    ) -> Iterator[pd.DataFrame]:
        """What each strength does to the tweet, and what it costs."""
        import pandas as pd

        plan, model, probe = self.plan, self.model, self.held.probe
        before = log_odds_under(model, probe, [plan.text])
        calm = surprise(model, texts.neutral) if texts.neutral else None
        rows: list[dict[str, Any]] = []
        for number, times in enumerate(STRENGTHS, start=1):
            size = times * plan.strength
            if isinstance(main, Editing):
                intervention: Intervention = Editing(main.edit, size)
            else:
                assert isinstance(main, Steering)
                intervention = self.along(main.direction, size)
            after = log_odds_under(model, probe, [plan.text], intervention)
            cost = Estimate(float("nan"), float("nan"), float("nan"), 0)
            if calm is not None:
                cost = perplexity_ratio(calm, surprise_under(model, texts.neutral, intervention))
            rows.append(
                {
                    "strength": size,
                    "log_odds": float(after[0]),
                    "moves": float(moved(before, after, self.wanted)[0]),
                    "perplexity": cost.value,
                    "lower": cost.lower,
                    "upper": cost.upper,
                }
            )
            show(number / len(STRENGTHS))
            yield pd.DataFrame(rows)


def swept_layers(layers: int, edit: bool) -> list[int]:
    """Layers of a sweep: all, or `LAYERS_SWEPT` of them; an edit of the last layer reaches nothing
    but the last token, and is left out."""
    last = layers - 2 if edit else layers - 1
    if last < LAYERS_SWEPT:
        return list(range(last + 1))
    return sorted({round(place) for place in np.linspace(0, last, LAYERS_SWEPT)})


def early_site(result: TraceResult, kind: Kind = "mlp") -> tuple[int, int]:
    """(layer, position) of the largest effect among corrupted tokens in the first two thirds."""
    effects = result.effects[kind] * np.sign(result.total_effect)
    out = result.trivial[kind] | np.isnan(effects)
    out[int(np.ceil(EARLY_LAYERS * result.layers)) :] = True
    others = [t for t in range(effects.shape[1]) if t not in result.corrupted_span]
    out[:, others] = True
    layer, position = np.unravel_index(int(np.where(out, -np.inf, effects).argmax()), effects.shape)
    return int(layer), int(position)


def late_site(result: TraceResult, kind: Kind = "hidden") -> tuple[int, int]:
    """(layer, position) of the largest effect that is not trivial at the last token."""
    effects = result.effects[kind] * np.sign(result.total_effect)
    last = effects.shape[1] - 1
    column = np.where(result.trivial[kind][:, last], -np.inf, effects[:, last])
    return int(np.nan_to_num(column, nan=-np.inf).argmax()), last


def _site(model: Model, plan: Plan, traced: TraceResult) -> tuple[int, int]:
    """Layer and position of the plan's site."""
    if plan.what == "edit":
        layer, position = early_site(traced)
        if plan.position is not None:
            position = plan.position
            effects = traced.effects["mlp"][: model.layers - 1, position]
            layer = int((effects * np.sign(traced.total_effect)).argmax())
    elif plan.what == "replace" and plan.kind != "head":
        layer, position = traced.top_cells[plan.kind]
        position = position if plan.position is None else plan.position
    else:
        layer, position = late_site(traced)
    return layer if plan.layer is None else plan.layer, position


def _check(model: Model, plan: Plan, prompt: Prompt) -> None:
    if plan.layer is not None:
        model.check_layer(plan.layer)
    if plan.position is not None and not 0 <= plan.position < len(prompt):
        raise UserError(
            f"There is no token {plan.position}: this prompt has tokens 0 to {len(prompt) - 1}."
        )


def _notes(held: HeldOut, plan: Plan, traced: TraceResult) -> tuple[str, ...]:
    notes = [held.said] if held.said else []
    if plan.text.strip() in {text.strip() for text in held.training_texts}:
        notes.append("This tweet is one of those that probe and directions were fitted on.")
    if traced.distinguishable is False:
        notes.append(
            "The trace's total effect is not significant, so its largest cell is no better than "
            "another."
        )
    return tuple(notes)


def _edit_note(edit: Edit) -> str:
    return (
        f"With v* alone P({edit.settings.target.strip()}) is {edit.probability:.2f} over "
        f"{edit.settings.prefixes + 1} contexts after {len(edit.losses) - 1} steps; the key "
        f"covariance is of {edit.keys:,} tokens, shrunk by {edit.shrinkage:.3f}."
    )


@torch.inference_mode()
def _read(model: Model, held: HeldOut, plan: Plan, intervention: Intervention | None) -> Reading:
    """What the model makes of the tweet under an intervention."""
    import pandas as pd

    probe = held.probe
    read = read_under(model, probe, [plan.text], intervention)[0]
    prompt = build_prompt(model, plan.text, probe.template)
    context: Any = nullcontext()
    if intervention is not None:
        context = intervention.applied(model, len(prompt))
    with context:
        states = model.enter(model.embed(torch.tensor([prompt.ids])))
        for layer in range(model.layers):
            states = model.block(layer, states).states
        probabilities, ids = model.next_tokens(states[:, -1], TOKENS)
        (going,) = continuations(model, prompt.ids, 20, temperature=0)
    tokens = pd.DataFrame(
        {
            "rank": np.arange(1, len(ids) + 1),
            "token": [token_label(model, token) for token in ids.tolist()],
            "probability": probabilities.tolist(),
        }
    )
    return Reading(
        log_odds=float(read_proxy("log_odds", probe, read)),
        probability=float(read_proxy("probability", probe, read)),
        good=float(read_proxy("good", probe, read)),
        bad=float(read_proxy("bad", probe, read)),
        next_tokens=tokens,
        continuation=str(model.tokenizer.decode(going)),
    )
