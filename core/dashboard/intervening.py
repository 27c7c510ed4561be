"""Which intervention does a person ask for, how is it carried out, and how is its outcome shown?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st
from pydantic import TypeAdapter, ValidationError

from ..charts import figures, intervention
from ..data.datasets import FileReading
from ..distribution import COMMAND
from ..errors import UserError
from ..exporting import code
from ..interventions.judging import NEUTRAL, HeldOut, hold_out
from ..interventions.plan import Outcome, Plan, Sweep, What, carry_out
from ..models.loading import identity_on_disk
from ..models.registry import REGISTRY, availability
from ..probes.library import key_of
from ..probes.probe import CONTRAST, Probe, words_of
from ..prompts.prompt import build_prompt
from ..prompts.template import Template
from ..server.job_queue import Job, Step
from ..settings import changed
from ..tracing.findings import token_of
from ..tracing.view import KINDS, rounded, scale_end, unit_of
from . import TWEETS, loaded_for, open_settings, plain, sharing, switch, theme, tweets
from .charts import show_chart
from .door import Guarded, Request, Texts
from .probing import TRAINABLE, Reads, ask_for, probes_of, reads_with, template_of, trained_for
from .saving import downloads
from .tracing import heatmaps, prompt_of

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from ..models.model import Model

TITLES: dict[What, str] = {
    "edit": "Edit",
    "steer": "Steer",
    "ablate": "Ablate a direction",
    "exchange": "Patch a direction",
    "replace": "Ablate sites",
}
EXPLAINED: dict[What, str] = {
    "edit": "Edits one layer's MLP, so that the prompt continues with the other word (ROME).",
    "steer": "Adds a sentiment direction to the residual stream after one layer.",
    "ablate": "Removes a sentiment direction from the residual stream.",
    "exchange": "Patches a sentiment direction with its value in another tweet.",
    "replace": "Zero- or mean-ablates the cells with the largest traced effects, or whole heads.",
}
SOURCES = {
    "means": "positive minus negative tweets",
    "probe": "a probe's weights",
    "words": "the good minus the bad word",
    "random": "random, as a control",
}
SITES = {"mlp": "MLPs", "attn": "Attention", "hidden": "Hidden states", "head": "Heads"}
FOLLOWS = (
    "**What this shows, and what not.** That a site restores the sentiment shows that the model "
    "passes it through there. It does not show that it is the place to change it: if the same "
    "intervention at random sites of the same layer and role moves the tweet as far, the "
    "location did not matter, and if efficacy does not follow the traced effect from layer to "
    "layer, tracing did not find where to edit (Hase et al. 2023 found so for facts). An "
    "intervention that moves the tweet but also its neighbours or neutral text is not specific "
    "to the sentiment. One tweet shows "
    "an example; benchmarks/RESULTS.md has the same over many."
)


# --- the work ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A plan and what it is carried out on."""

    name: str  # of the model
    reads: Reads
    plan: Plan


def intervening(asked: Asked) -> Guarded:
    """The work: load the model, split the tweets, carry the intervention out."""
    plan, template = asked.plan, template_of(asked.reads)

    def work(job: Job) -> Iterator[Step]:
        loaded = loaded_for(job, asked.name)
        build_prompt(loaded, asked.plan.text, template)  # refused before any training
        probe = trained_for(job, loaded, asked.reads)
        if plan.features == CONTRAST and _asked_of(plan) != _reads(probe):
            raise UserError(
                "The words of this intervention stand in the prompt as this page does not put "
                f"them; carry it out by `{COMMAND} run`."
            )
        held = _held_out(job, loaded, probe)
        job.report(0.0, "Intervening")
        yield from carry_out(loaded, held, _read_by(plan, probe), keep=True, progress=job.report)

    other = () if plan.other is None else (Texts((plan.other,), template),)
    asks = Request(
        models=(asked.name,), prompts=(Texts((plan.text,), template), *other), samples=plan.samples
    )
    return Guarded(asks, work)


def _held_out(job: Job, loaded: Model, probe: Probe) -> HeldOut:
    def show(done: int, total: int) -> None:
        job.report(
            done / max(1, total), "Splitting the tweets, and fitting the probe on four fifths"
        )

    return _split(loaded.identity, key_of(probe), _model=loaded, _probe=probe, _show=show)


@st.cache_resource(show_spinner=False, max_entries=2)
def _split(identity: str, key: str, _model: Model, _probe: Probe, _show: Any) -> HeldOut:
    """The tweets in two parts, shared by all users."""
    from ..data.datasets import load_dataset

    everything = load_dataset(TWEETS, min_rating=0.0)
    neutral = list(everything["text"][everything["rating"].abs() < NEUTRAL])
    return hold_out(_model, tweets(), _probe, neutral=neutral, progress=_show)


# --- what is asked -------------------------------------------------------------------------------


def follow_link() -> Guarded | None:
    """At a visitor's first look, take what the page's address asks for.

    Returns:
        The work, where the address has a whole plan; the widgets are then as the plan says. One
        with a cell alone leaves the rest to be chosen.
    """
    if st.session_state.get("intervention:linked"):
        return None
    st.session_state["intervention:linked"] = True
    link = st.query_params.to_dict()
    if link.get("sites") in KINDS:
        st.session_state["intervention:shown"] = link["sites"]
    try:
        if sharing.SETTINGS in link:
            return open_settings.linked("intervention")
        if "what" in link:
            return _of_address(link)
    except UserError as mistake:
        sharing.refuse(str(mistake))
        return None
    if "tweet" in link:
        st.session_state.tweet = link["tweet"]
    numbers = [link.get(name, "") for name in ("layer", "position")]
    if link.get("kind") in KINDS and all(map(str.isdecimal, numbers)):
        st.session_state.cell = (link["kind"], *map(int, numbers))
        st.session_state["intervention:where"] = "cell"
        if link["kind"] != "mlp":
            st.session_state["intervention:what"] = "replace"
    return None


def _of_address(link: Mapping[str, str]) -> Guarded | None:
    known = {each.name for each in fields(Plan)} - {"model", "reading", "schema", "version"}
    said: dict[str, Any] = {key: value for key, value in link.items() if key in known}
    for side in ("good", "bad"):
        if side in link:
            said[side] = tuple(st.query_params.get_all(side))
    said |= {"text": link.get("tweet", ""), "model": link.get("model", "")}
    try:
        plan = TypeAdapter(Plan).validate_python(said)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise UserError(f"The link is damaged at {place}; ask for the settings file.") from error
    if not sharing.can_be_linked(plan.model) or availability(plan.model) == "to be downloaded":
        raise UserError(
            f"The model {plan.model!r} of this link is not on this disk; fetch it on the Compare "
            "page first."
        )
    return of_plan(plan)


def of_plan(plan: Plan) -> Guarded:
    """The work of a plan, by the kept probe that it describes; the widgets are then as it says.

    Raises:
        UserError: the model or the probe is not here, or the data are none of this page's.
    """
    if plan.dataset != TWEETS or plan.reading != FileReading():
        raise UserError(
            f"This page judges by its own tweets, and the plan by {plan.dataset!r}; carry it out "
            f"by `{COMMAND} run`."
        )
    name = plan.model
    # A folder is not looked into before the door has let it in.
    kept = probes_of(name) if sharing.can_be_linked(name) else {}
    reads: Reads | None = next(
        (each for each in kept.values() if _reads(each) == _asked_of(plan)), None
    )
    if reads is None and plan.features == CONTRAST:
        target, distractor = (side[0].strip() for side in plan.words or words_of(CONTRAST, None))
        reads = reads_with(CONTRAST, plan.template, (target, distractor))
    elif reads is None and plan.features in TRAINABLE and plan.words is None:
        reads = reads_with(plan.features, plan.template)
    if reads is None:
        raise UserError(
            "The probe of this intervention is not kept here; train it on the Probes page first."
        )
    if name in REGISTRY:
        st.session_state.model = name
        ask_for(reads)
    _fill_widgets(plan)
    return intervening(Asked(name, reads, plan))


AskedOf = tuple[str, Template, tuple[str, ...], tuple[str, ...]]


def _reads(probe: Probe) -> AskedOf:
    """What a probe reads, as a plan says it."""
    features = probe.features
    if features == "hidden":  # the best layer of these texts; of others it may be another
        features = f"hidden:{probe.layer}"
    sides = probe.words_positive, probe.words_negative
    good, bad = ((), ()) if sides == words_of(probe.features, None) else sides
    return features, probe.template.asked, good, bad


def _asked_of(plan: Plan) -> AskedOf:
    sides = plan.words or ((), ())
    if sides == words_of(plan.features, None):
        sides = (), ()
    good, bad = sides
    return plan.features, plan.template, tuple(good), tuple(bad)


def _read_by(plan: Plan, probe: Probe) -> Plan:
    """The plan with what its probe reads, so that its settings make it again elsewhere."""
    features, template, good, bad = _reads(probe)
    return replace(
        plan,
        features=features,
        prompt=template.written,
        prompt_format=template.format,
        good=good,
        bad=bad,
    )


def _fill_widgets(plan: Plan) -> None:
    """Let the page's widgets say what a plan does."""
    what = plan.what
    values: dict[str, Any] = {
        "what": what,
        "wanted": plan.wanted or "other",
        f"sweep:{3 if what in ('edit', 'steer') else 2}": plan.sweep or "none",
        "controls": plan.controls,
        "texts": plan.texts,
        "samples": plan.samples,
        "seed": plan.seed,
    }
    if what in ("edit", "replace"):
        named = plan.layer is not None or plan.position is not None
        values["where"] = "named" if named else "trace"
        values["layer"] = plan.layer or 0
        if plan.position is not None:
            values[f"token:{plan.text}"] = plan.position
    if what == "edit":
        values |= {"strength:2.0": plan.strength, "prefixes": plan.prefixes}
        values["target"] = plan.target or ""
    elif what == "replace":
        values |= {"kind": plan.kind, "fill": plan.fill, "count": plan.count}
    else:
        values |= {"source": plan.source, f"positions:{what}": plan.positions}
        values |= {"after": plan.layer, "onwards": plan.onwards, "fill": plan.fill}
        values |= {"strength:4.0": plan.strength, "other": plan.other or ""}
    st.session_state.tweet = plan.text
    for key, value in values.items():
        st.session_state[f"intervention:{key}"] = value


def write_address(outcome: Outcome) -> None:
    """Put what was asked, and how it is shown, into the address."""
    share = shared(outcome)
    if share.question is not None and share.link is not None:
        sharing.write({**share.question, **share.shown})
    elif id := sharing.kept("intervention"):
        sharing.write({sharing.SETTINGS: id, **share.shown})


def shared(outcome: Outcome) -> sharing.Share:
    """What a link to an outcome, and its code, are made from."""
    plan = _whole_plan(outcome)
    question: dict[str, str | list[str]] | None = None
    default = plan.reading == FileReading() and plan.dataset == TWEETS
    identity = outcome.trace_before.model_identity
    if default and sharing.can_be_linked(plan.model) and identity == identity_on_disk(plan.model):
        question = {"what": plan.what, "tweet": plan.text, "model": plan.model}
        for name, value in changed(plan, but=("what", "text", "model")).items():
            question[name] = list(value) if isinstance(value, tuple) else str(value)
    kind = st.session_state.get("intervention:shown")
    return sharing.Share(
        "intervention",
        question,
        {} if kind in (None, _first_kind(plan)) else {"sites": kind},
        lambda: code.of_intervention(plan),
    )


def _whole_plan(outcome: Outcome) -> Plan:
    """The plan with its model's name."""
    return replace(outcome.plan, model=outcome.trace_before.model_name)


def _first_kind(plan: Plan) -> str:
    """The kind of site whose traces are shown at first."""
    return "mlp" if plan.what == "edit" else "hidden"


def plan_choice(name: str, text: str, template: Template) -> Plan | None:
    """The intervention that is asked for; None while it cannot be carried out, and says why."""
    what: What = switch("Intervention", TITLES, "intervention:what")
    st.caption(EXPLAINED[what])
    options: dict[str, Any] = {}
    if what == "edit":
        options |= _site_choice(name, text, template, ("mlp",))
        options["strength"] = _strength("Strength", 2.0, "1 is the whole edit.")
    elif what == "replace":
        options |= _sites_choice(name, text, template)
    else:
        options |= _direction_choice(what)
    options |= _settings_choice(what)
    if what == "exchange" and not (options.get("other") or "").strip():
        st.caption("Type the other tweet; the direction's size is taken from it.")
        return None
    try:
        return Plan(what=what, text=text, model=name, **options)
    except UserError as mistake:
        st.error(plain(str(mistake)), icon=":material/error:")
        return None


def _site_choice(
    name: str, text: str, template: Template, kinds: tuple[str, ...]
) -> dict[str, Any]:
    """Where: the largest traced effect, the cell of the Trace page, or layer and token by name."""
    cell: figures.Cell | None = st.session_state.get("cell")
    places = {"trace": "The largest traced effect", "named": "A chosen site"}
    if cell is not None and cell[0] in kinds:
        kind, layer, position = cell
        places["cell"] = f"The chosen cell: layer {layer}, token {position}"
    if st.session_state.get("intervention:where") not in places:
        st.session_state["intervention:where"] = "trace"
    where = st.selectbox(
        "Where",
        list(places),
        format_func=places.__getitem__,
        key="intervention:where",
        help="Click a cell on the Trace page, and it can be chosen here.",
    )
    if where == "cell" and cell is not None:
        return {"layer": cell[1], "position": cell[2]}
    if where == "trace":
        return {}
    prompt = prompt_of(name, text, template)
    first, second = st.columns(2)
    layer = first.number_input("Layer", 0, 199, 0, key="intervention:layer")
    if prompt is None:
        return {"layer": layer}
    position = second.selectbox(
        "Token",
        range(len(prompt)),
        index=prompt.tweet_span[-1],
        format_func=lambda place: f"{place} {prompt.labels[place]}",
        key=f"intervention:token:{text}",
    )
    return {"layer": layer, "position": position}


def _sites_choice(name: str, text: str, template: Template) -> dict[str, Any]:
    first, second = st.columns(2)
    with first:
        kind = st.segmented_control(
            "Of",
            list(SITES),
            default="mlp",
            format_func=SITES.__getitem__,
            required=True,
            key="intervention:kind",
        )
    with second:
        fill = _fill_choice()
    options: dict[str, Any] = {"kind": kind, "fill": fill}
    if kind != "head":
        options |= _site_choice(name, text, template, (str(kind),))
    if "position" not in options:
        options["count"] = st.slider("How many of the largest", 1, 20, 3, key="intervention:count")
    return options


def _direction_choice(what: What) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if what == "exchange":
        options["other"] = st.text_input(
            "The other tweet", key="intervention:other", placeholder="Type or paste a tweet"
        )
    first, second = st.columns(2)
    with first:
        options["source"] = st.selectbox(
            "Direction",
            list(SOURCES),
            format_func=SOURCES.__getitem__,
            key="intervention:source",
            help="Fitted on four fifths of the tweets, evaluated on the last fifth.",
        )
    with second:
        options["layer"] = st.number_input(
            "After layer",
            0,
            199,
            None,
            key="intervention:after",
            placeholder="the largest traced effect",
            help="Without one: the layer with the largest hidden-state effect at the last token.",
        )
    first, second = st.columns(2)
    with first:
        options["positions"] = st.segmented_control(
            "At",
            ["all", "last"],
            default="last" if what == "exchange" else "all",
            format_func={"all": "All tokens", "last": "The last one"}.__getitem__,
            required=True,
            key=f"intervention:positions:{what}",
        )
    with second:
        if what == "steer":
            options["strength"] = _strength(
                "Strength", 4.0, "1 is the distance between the positive and the negative tweets."
            )
        elif what == "ablate":
            options["fill"] = _fill_choice()
    if what == "ablate":
        options["onwards"] = st.toggle(
            "At every layer from there on",
            key="intervention:onwards",
            help="Otherwise later layers may write the direction again.",
        )
    return options


def _fill_choice() -> str:
    chosen: str = st.segmented_control(
        "Replacement",
        ["zero", "mean"],
        default="zero",
        format_func={"zero": "Zero", "mean": "The mean"}.__getitem__,
        required=True,
        key="intervention:fill",
    )
    return chosen


def _strength(label: str, most: float, said: str) -> float:
    return st.slider(label, 0.0, most, 1.0, 0.25, key=f"intervention:strength:{most}", help=said)


def _settings_choice(what: What) -> dict[str, Any]:
    """How it is judged, folded away."""
    options: dict[str, Any] = {}
    with st.expander("Settings", key="intervention:settings"):
        first, second = st.columns(2)
        wanted = first.selectbox(
            "Wanted",
            ["other", "positive", "negative"],
            format_func={
                "other": "the other side",
                "positive": "positive",
                "negative": "negative",
            }.__getitem__,
            key="intervention:wanted",
            help="Where the tweet's proxy should go.",
        )
        options["wanted"] = None if wanted == "other" else wanted
        sweeps: dict[Sweep | Literal["none"], str] = {"none": "nothing", "layer": "the layers"}
        if what in ("edit", "steer"):
            sweeps["strength"] = "the strength"
        sweep = second.selectbox(
            "Sweep",
            list(sweeps),
            format_func=sweeps.__getitem__,
            key=f"intervention:sweep:{len(sweeps)}",
            help="The same at other layers or strengths; takes longer.",
        )
        options["sweep"] = None if sweep == "none" else sweep
        options["controls"] = first.slider(
            "Random controls", 0, 10, 2, key="intervention:controls",
            help="Matched sites, or directions of the same length, as controls.",
        )  # fmt: skip
        options["texts"] = second.slider(
            "Held-out texts of each sort", 0, 100, 10, 5, key="intervention:texts",
            help="Tweets with and without the word, and neutral texts, for the evaluation.",
        )  # fmt: skip
        options["samples"] = first.slider(
            "Noise samples of the traces", 1, 20, 3, key="intervention:samples"
        )
        options["seed"] = second.number_input("Seed", 0, 2**31 - 1, 0, key="intervention:seed")
        if what == "edit":
            options["prefixes"] = first.slider(
                "Sampled prefixes", 0, 20, 4, key="intervention:prefixes",
                help="Texts before the tweet, over which the key is averaged; the paper has 50.",
            )  # fmt: skip
            target = second.text_input(
                "Target word",
                key="intervention:target",
                placeholder="the probe's word",
                help="One token; most need the space before them.",
            )
            options["target"] = target or None
    return options


# --- what came out -------------------------------------------------------------------------------


def headline(outcome: Outcome) -> str:
    """What the intervention did to the tweet, in one sentence."""
    before, after = outcome.before, outcome.after
    if before is None or after is None:
        return "Reading the tweet"
    was, now = before.log_odds > 0, after.log_odds > 0
    sides = {True: "positive", False: "negative"}
    said = f"From {sides[was]} to {sides[now]}" if was != now else f"Still {sides[now]}"
    return f"{said}: P(positive) {before.probability:.2f} before, {after.probability:.2f} after"


def site_line(outcome: Outcome) -> str:
    """What was done, and where."""
    layer, position = outcome.site
    at = f"layer {layer}"
    if position is not None:
        at += f", token {position} ({outcome.prompt.labels[position]})"
    found = "the largest traced effect" if outcome.located else "as chosen"
    done = outcome.label or TITLES[outcome.plan.what]
    return f"{done[0].upper()}{done[1:]}; site: {at}, {found}; wanted: {outcome.wanted}."


def show_readings(outcome: Outcome) -> None:
    """Proxy, next tokens and continuation, before and after, side by side."""
    columns = st.columns(2, gap="medium")
    for column, name, reading in zip(
        columns, ("Before", "After"), (outcome.before, outcome.after), strict=True
    ):
        with column, st.container(border=True, key=f"intervention:{name}"):
            st.markdown(f"**{name}**")
            if reading is None:
                st.caption("Not computed yet.")
                continue
            good, bad = (word.strip() for word in outcome.trace_before.probe.words)
            st.text(
                f"log-odds {rounded(reading.log_odds)}   "
                f"P({good}) {reading.good:.3f}   P({bad}) {reading.bad:.3f}"
            )
            st.text(f"\u2026 {outcome.prompt.template.answer.strip()}{reading.continuation}")
            st.dataframe(
                reading.next_tokens[["token", "probability"]],
                hide_index=True,
                height="content",
                column_config={
                    "token": "Next token",
                    "probability": st.column_config.ProgressColumn(
                        "Probability", min_value=0.0, max_value=1.0, format="%.3f"
                    ),
                },
                key=f"intervention:tokens:{name}",
            )


def show_judgement(outcome: Outcome) -> None:
    """The panels of the evaluation, and how to read them."""
    judged = outcome.judged
    if judged is None:
        return
    st.subheader("Evaluation against controls", anchor=False)
    groups = [
        group
        for group, (measures, _, _) in intervention.GROUPS.items()
        if judged["value"][judged["measure"].isin(measures)].notna().any()
    ]
    for column, group in zip(st.columns(len(groups), gap="medium"), groups, strict=True):
        chart = intervention.judgement(judged, group, theme=theme())
        show_chart(chart, key=f"judged:{group}", place=column)
    st.caption(plain(intervention.caption_of(outcome)))


def show_traces(outcome: Outcome) -> None:
    """The trace before and after, one kind of site at a time, on one scale."""
    import pandas as pd

    st.subheader("The trace, before and after", anchor=False)
    kind = (
        st.segmented_control(
            "Sites",
            list(KINDS),
            default=_first_kind(outcome.plan),
            format_func=KINDS.__getitem__,
            required=True,
            key="intervention:shown",
            label_visibility="collapsed",
        )
        or "hidden"
    )
    frames = []
    titles = {}
    for name, result in (("before", outcome.trace_before), ("after", outcome.trace_after)):
        if result is None:
            continue
        frame = result.frame()
        frames.append(frame[frame["kind"] == kind].assign(kind=name))
        titles[name] = (
            f"{name.capitalize()}: {result.high:+.2f} clean, {result.low:+.2f} corrupted".replace(
                "-", "\u2212"
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    unit = unit_of(outcome.trace_before)
    end = scale_end(frame)
    heatmaps(frame, end=end, key="intervention-map", titles=titles)
    show_chart(figures.scale_bar(end, unit, theme=theme()), key="intervention:scale")
    st.caption(
        f"{KINDS[kind]}: each cell is the change in {plain(unit)} when that clean "
        "activation is restored in the corrupted run; both panels on one scale, "
        f"{outcome.plan.samples} noise samples."
    )


def show_sweep(outcome: Outcome) -> None:
    """By layer beside the traced effect, or by strength beside its cost."""
    if outcome.curve is not None and len(outcome.curve) > 1:
        st.subheader("At every layer", anchor=False)
        first, second = st.columns([3, 2], gap="medium")
        curve = outcome.curve
        show_chart(
            intervention.layer_curves(curve, theme=theme()),
            key="intervention:curves",
            place=first,
        )
        show_chart(
            intervention.agreement(curve, theme=theme()),
            key="intervention:agreement",
            place=second,
        )
        related = outcome.correlation
        if related is not None and related.value == related.value:
            st.caption(
                f"Rank correlation of efficacy and traced effect over {related.n} layers: "
                f"{related.value:+.2f} (95% interval {related.lower:+.2f} to {related.upper:+.2f}, "
                "of one tweet).".replace("-", "\u2212")
            )
    if outcome.strengths is not None and len(outcome.strengths) > 1:
        st.subheader("By strength", anchor=False)
        first, second = st.columns(2, gap="medium")
        shown: list[tuple[Any, Literal["log_odds", "perplexity"]]] = [
            (first, "log_odds"),
            (second, "perplexity"),
        ]
        for column, what in shown:
            if outcome.strengths[what].notna().any():
                show_chart(
                    intervention.strength_curve(outcome.strengths, what, theme=theme()),
                    key=f"intervention:curve:{what}",
                    place=column,
                )


def save(outcome: Outcome) -> None:
    """Everything shown, as files, and the settings that make it again."""
    charts: dict[str, Callable[[], alt.TopLevelMixin]] = {
        "Trace before": partial(figures.trace_heatmaps, outcome.trace_before, inline=False)
    }
    tables: dict[str, Callable[[], pd.DataFrame]] = {"trace before": outcome.trace_before.frame}
    if outcome.trace_after is not None:
        charts["Trace after"] = partial(figures.trace_heatmaps, outcome.trace_after, inline=False)
        tables["trace after"] = outcome.trace_after.frame
    judged, curve, strengths = outcome.judged, outcome.curve, outcome.strengths
    if judged is not None:
        tables["judged"] = lambda: judged
        for group, (measures, title, _) in intervention.GROUPS.items():
            if judged["measure"].isin(measures).any():
                charts[title] = partial(intervention.judgement, judged, group)
    if curve is not None and len(curve) > 1:
        charts["By layer"] = partial(intervention.layer_curves, curve)
        charts["Agreement"] = partial(intervention.agreement, curve)
        tables["by layer"] = lambda: curve
    if strengths is not None and len(strengths) > 1:
        charts["By strength"] = partial(intervention.strength_curve, strengths, "log_odds")
        tables["by strength"] = lambda: strengths
    downloads(
        "intervention",
        charts=charts,
        tables=tables,
        caption=intervention.caption_of(outcome),
        recipe=partial(_whole_plan, outcome),
        share=shared(outcome),
    )


def peak_line(outcome: Outcome) -> str:
    """The largest traced effect, of each kind: what "located" means."""
    result = outcome.trace_before
    places = [
        f"{KINDS[kind]}: layer {layer}, {token_of(result, position)}"
        for kind, (layer, position) in result.top_cells.items()
    ]
    return "Largest traced effects. " + "; ".join(places) + "."
