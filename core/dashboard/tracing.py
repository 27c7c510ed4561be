"""How is a trace asked for, made in the background, and drawn?

What was asked stands in the page's address, so that a link asks it again; what was traced before is
then read from what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

import streamlit as st

from ..charts import figures
from ..charts.row_labels import Labels
from ..charts.row_labels import Rows as Labelled
from ..errors import UserError
from ..exporting import code
from ..exporting.recipe import Recipe
from ..models.loading import identity_on_disk
from ..models.model import Contribution
from ..models.registry import REGISTRY, availability, default_model
from ..patching.sites import KINDS as KINDS_TRACED
from ..patching.sites import Kind
from ..probes.library import key_of
from ..probes.probe import Probe
from ..prompts.alignment import Edited
from ..prompts.counterfactuals import propose
from ..prompts.prompt import Prompt, build_prompt
from ..prompts.template import Template
from ..server.job_queue import Job, Step
from ..server.limits import limits
from ..tracing.coarse_to_fine import is_enough
from ..tracing.corruption import case_of
from ..tracing.estimate import Estimate, can_be_estimated, estimate_of
from ..tracing.findings import health_of
from ..tracing.result import (
    PROXIES,
    Corruption,
    Direction,
    Proxy,
    Rows,
    TraceResult,
    TraceSettings,
    Until,
    proxies_of,
    units_of,
)
from ..tracing.tracer import trace_progressively
from ..tracing.verdict import Alternative, alternatives, word_effects
from ..tracing.view import AROUND, KINDS, Around, View, rounded, short_unit
from . import loaded_for, model, plain, sharing, switch, theme
from .as_table import as_table
from .charts import show_chart
from .door import Guarded, Request
from .probing import Reads, link_of, probes_of, take_link, template_of, trained_for
from .sharing import one_of, within

if TYPE_CHECKING:
    import pandas as pd

    from ..models.model import Model

SPANS = {"tweet": "Whole tweet", "words": "Words", "tokens": "Tokens"}
HOW: dict[Corruption, str] = {
    "noise": "Gaussian noise",
    "uniform": "Uniform noise",
    "mean": "Mean embedding",
    "counterfactual": "Another tweet",
}
EXPLAINED: dict[Corruption, str] = {
    "noise": "The paper's; may take the model out of its distribution.",
    "uniform": "As strong as Gaussian noise, of another shape: a genuine site is robust to it.",
    "mean": "Every token becomes the mean embedding: deterministic; one sample suffices.",
    "counterfactual": "A counterfactual, so that only sentiment words change.",
}
VIEWS: dict[str, dict[str, str]] = {
    "unit": {"raw": "Raw", "share": "% of total"},
    "rows": {"tokens": "Tokens", "words": "Words"},
    "around": AROUND,
    "panels": {"all": "All", "hidden": "Hidden", "mlp": "MLP", "attn": "Attention"},
}
LABELS = {"unit": "Effect", "rows": "Rows", "around": "Template rows", "panels": "Panels"}
UNTIL: dict[Until, str] = {"settled": "Until settled", "all": "All cells"}
RESTORED: dict[Rows, str] = {"tokens": "One token", "words": "A word"}
EDITED: dict[Edited, str] = {"last": "Its last token", "all": "All of it"}
FURTHER = ("words", "corruption", "reverse", "severed", "noise")
"""Further analyses, as an address names them."""

LONG = 24  # rows; more of them scroll inside the figure
WINDOW = 520  # pixels of the figure that scrolls
NOISE, SAMPLES, MOST_SAMPLES = 3.0, 10, 50
TOTAL_SAMPLES = 40
"""Noise samples of the total effect, which cost forward passes alone."""

MOST_PROBES = 6
"""Other probes of a model that are asked where a verdict says that no cell can be read."""


# --- the work ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """A trace so far.

    Attributes:
        result: of the samples that are done; without cells while there is none.
        verdict: the clean and all corrupted runs alone, by which the tweet is judged while cells
            are restored; None where the whole trace was kept.
        word: the word that matters most alone, and its total effect; None until it is known.
        alternatives: other settings and their verdicts, where this one said that no cell can be
            read and the trace went no further; None otherwise.
        estimate: of the cells, while they are run, where one may be shown; None otherwise.
    """

    result: TraceResult
    verdict: TraceResult | None
    word: tuple[str, float] | None = None
    alternatives: tuple[Alternative, ...] | None = None
    estimate: Estimate | None = None


def tracing(
    name: str,
    reads: Reads,
    text: str,
    settings: TraceSettings,
    *,
    anyway: bool = False,
) -> Guarded:
    """The work of one trace: load the model, train its probe if there is none, trace.

    Args:
        anyway: restore cells also where the verdict says that they cannot be read.
    """
    others = list(probes_of(name).values())[:MOST_PROBES]

    def work(job: Job) -> Iterator[Step]:
        loaded = loaded_for(job, name)
        # A tweet that cannot be read is refused before any training.
        build_prompt(loaded, text, template_of(reads))
        probe = trained_for(job, loaded, reads)
        yield from steps(job, loaded, probe, text, settings, None if anyway else others)

    return Guarded(Request.of_trace([name], text, template_of(reads), settings), work)


def steps(
    job: Job,
    loaded: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings,
    others: Sequence[Probe] | None = None,
) -> Iterator[Step]:
    """Trace: the verdict first, then from coarse to fine; each step's result is a `Traced`.

    Args:
        others: end after a verdict by which no cell can be read, and look for a setting, and a
            probe among these, under which it can; None restores the cells all the same.
    """
    job.report(0.0, "Tracing")
    verdict, word, estimate, share = None, None, None, 0.0

    def report(done: float) -> None:
        nonlocal share
        share = done
        job.report(done)

    for result in trace_progressively(
        loaded, probe, text, settings, keep=True, stages=True, progress=report
    ):
        if result.has_cells:
            yield share, Traced(result, verdict, word, estimate=estimate)
            if verdict is None and is_enough(result):
                # It was kept, and there at once.
                yield 1.0, Traced(result, None, _most_important_word(loaded, result))
            continue
        verdict = result
        yield 0.0, Traced(result, verdict)
        if result.total_samples_done < settings.total_draws:
            continue
        if others is not None and health_of(verdict).ok is False:
            yield from _instead(job, loaded, verdict, others)
            return
        if can_be_estimated(settings):
            estimate = estimate_of(loaded, case_of(loaded, probe, text, settings))
            yield 0.0, Traced(result, verdict, estimate=estimate)
        word = _most_important_word(loaded, verdict)
        yield 0.0, Traced(result, verdict, word, estimate=estimate)


def ask_for_all_cells(settled: TraceResult) -> None:
    """Go on with a trace that ended when it was settled."""
    st.session_state.tweet = settled.prompt.tweet
    st.session_state.until = "all"
    st.session_state.insisted = True  # its cells were asked for already
    st.session_state.asked = True


def _instead(
    job: Job, loaded: Model, verdict: TraceResult, others: Sequence[Probe]
) -> Iterator[Step]:
    """The verdicts of other settings and probes, as they come."""
    job.report(0.0, "Trying other corruptions and probes")
    probe = verdict.probe
    like = [other for other in others if other.template == probe.template and other != probe]
    found: list[Alternative] = []
    share = 0.0

    def report(done: float) -> None:
        nonlocal share
        share = done
        job.report(done)

    for alternative in alternatives(
        loaded,
        [probe, *like],
        verdict.prompt.tweet,
        verdict.settings,
        most_samples=limits().samples,
        progress=report,
    ):
        found.append(alternative)
        yield share, Traced(verdict, verdict, alternatives=tuple(found))


def _most_important_word(loaded: Model, verdict: TraceResult) -> tuple[str, float] | None:
    how = replace(verdict.settings, corruption="mean", counterfactual=None, corrupt="tweet")
    asked = (verdict.model_identity, key_of(verdict.probe), verdict.prompt.tweet, how.proxy)
    return _word_of(asked, loaded, verdict.probe, verdict.prompt.tweet, how)


@st.cache_data(show_spinner=False, max_entries=512)
def _word_of(
    asked: tuple[str, ...], _model: Model, _probe: Probe, _tweet: str, _how: TraceSettings
) -> tuple[str, float] | None:
    """The word whose total effect is largest with the mean embedding in its place: a run a word."""
    words = word_effects(_model, _probe, _tweet, _how)
    if len(words) < 2:
        return None
    most = words.iloc[int(words["total_effect"].abs().argmax())]
    return str(most["text"]), float(most["total_effect"])


# --- what is asked -------------------------------------------------------------------------------


def span_choice(name: str, text: str, template: Template) -> TraceSettings | None:
    """What is corrupted and how; None while that cannot be traced, which a sentence then says."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="top"):
        how: Corruption = st.selectbox(
            "Corrupt with",
            list(HOW),
            format_func=HOW.__getitem__,
            key="how",
            persist_state="session",
            width=210,
            help="What takes the place of the corrupted tokens' embeddings. "
            + " ".join(f"**{HOW[kind]}**: {said}" for kind, said in EXPLAINED.items()),
        )
        part = "tweet"
        if how != "counterfactual":
            part = switch(
                "What is corrupted",
                SPANS,
                "corrupt",
                help="The trace looks for the activations that undo this corruption.",
            )
    settings = TraceSettings(corruption=how) if how != "counterfactual" else TraceSettings()
    if part == "tweet" and how != "counterfactual":
        return settings
    prompt = prompt_of(name, text, template)
    if prompt is None:
        return None
    if how == "counterfactual":
        return _counterfactual_choice(name, text, prompt)
    span = _words_choice(text, prompt) if part == "words" else _tokens_choice(text, prompt)
    return None if span is None else replace(settings, corrupt=span)


def settings_choice(asked: TraceSettings | None) -> TraceSettings | None:
    """How a trace is made, folded away behind the paper's defaults; None if nothing is asked."""
    draws = asked is None or asked.corruption in ("noise", "uniform")
    with st.expander("Settings", key="settings"):
        first, second = st.columns(2)
        noise_scale = first.slider(
            "Noise, in standard deviations",
            0.5,
            6.0,
            NOISE,
            0.5,
            format="%.1f",
            key="noise",
            persist_state="session",
            disabled=not draws,
            help="Of the embeddings of the data set's tokens; the paper uses 3.",
        )
        samples = second.slider(
            "Noise samples",
            1,
            MOST_SAMPLES,
            SAMPLES,
            key="samples",
            persist_state="session",
            disabled=not draws,
            help="More samples give a sharper picture and take longer; Stop keeps what is there.",
        )
        window = first.number_input(
            "Window, in layers",
            1,
            48,
            None,
            key="window",
            persist_state="session",
            placeholder="scaled with the model's depth",
            help="MLP and attention are restored over this many layers; the paper uses 10 of 48.",
        )
        seed = second.number_input(
            "Seed",
            0,
            2**31 - 1,
            0,
            key="seed",
            persist_state="session",
            disabled=not draws,
            help="The same seed draws the same noise.",
        )
        until = switch(
            "Layers",
            UNTIL,
            "until",
            help="Coarse layers come first. Until settled: the layers between them are traced only "
            "near where a site may be, which takes a fraction of the time.",
            within=first,
        )
        rows = switch(
            "Restore at once",
            RESTORED,
            "restored",
            help="All tokens of a word: fewer rows, and less time, where links, emoji or long "
            "words make many tokens.",
            within=second,
        )
        st.toggle(
            "Trace what fails the health check",
            key="anyway",
            persist_state="session",
            help="Cells that cannot be read take as long as others; without this a tweet without a "
            "significant total effect gets other settings offered instead.",
        )
    if asked is None:
        return None
    return replace(
        asked,
        samples=samples,
        total_samples=_total_samples() if draws else None,
        noise_scale=noise_scale,
        seed=seed,
        window=window,
        until=until,
        rows=rows,
    )


def prompt_of(name: str, text: str, template: Template) -> Prompt | None:
    """The tweet as the model reads it with the probe's suffix, if the model is there to say so."""
    if not text.strip():
        st.caption("Type a tweet first; its words then stand here to be chosen.")
        return None
    if availability(name) == "to be downloaded":
        st.caption("Download the model to select words.")
        return None
    try:
        with st.spinner("Reading the tweet as the model does"):
            return build_prompt(model(name), text, template)
    except UserError as mistake:
        st.caption(plain(str(mistake)))
        return None


def _field(part: str, text: str, template: Template) -> str:
    """Key of the field where words or tokens are chosen: under another prompt they have others."""
    around = "" if template.is_plain else f"{template.asked}:"
    return f"{part}:{around}{text}"


def _words_choice(text: str, prompt: Prompt) -> str | tuple[int, ...] | None:
    numbers = [n for n, word in enumerate(prompt.words) if word.in_tweet and word.tokens]
    chosen = st.pills(
        "Words to corrupt",
        numbers,
        selection_mode="multi",
        format_func=lambda number: plain(prompt.words[number].text),
        key=_field("words", text, prompt.template),
        persist_state="session",
        help="Click the words to corrupt; no others are.",
    )
    if not chosen:
        st.caption("Click at least one word.")
        return None
    if len(chosen) == 1:
        return f"word:{chosen[0]}"
    return tuple(sorted({token for n in chosen for token in prompt.words[n].tokens}))


def _tokens_choice(text: str, prompt: Prompt) -> tuple[int, ...] | None:
    chosen = st.pills(
        "Tokens to corrupt",
        list(prompt.tweet_span),
        selection_mode="multi",
        format_func=lambda position: plain(prompt.labels[position]),
        key=_field("tokens", text, prompt.template),
        persist_state="session",
        help="Tokens are the pieces that the model reads; a word may be several.",
    )
    if not chosen:
        st.caption("Click at least one token.")
        return None
    return tuple(sorted(chosen))


def _counterfactual_choice(name: str, text: str, prompt: Prompt) -> TraceSettings | None:
    """Another tweet, proposed by exchanging sentiment words, and whether its length matches."""
    place = f"other:{text}"
    proposals = propose(model(name), prompt)[:6]
    if place not in st.session_state:
        fits = [proposal.text for proposal in proposals if proposal.same_length]
        st.session_state[place] = fits[0] if fits else ""

    def take() -> None:
        taken = st.session_state.get(f"proposal:{text}")
        if taken is not None:
            st.session_state[place] = proposals[taken].text

    if proposals:
        st.pills(
            "Swap sentiment words",
            list(range(len(proposals))),
            format_func=lambda number: plain(_exchange(proposals[number])),
            key=f"proposal:{text}",
            on_change=take,
            help="Minimal edits from the list of opposites in assets/antonyms.json.",
        )
    other: str = st.text_input(
        "The other tweet",
        key=place,
        persist_state="session",
        placeholder="The same words with the opposite sentiment",
        help="Its tokens take the place of the tweet's; where they differ, the tweet is corrupted.",
    )
    if not other.strip():
        said = "No sentiment word of the list is in this tweet; " if not proposals else ""
        st.caption(f"{said}type the tweet with the opposite sentiment.")
        return None
    try:
        instead = build_prompt(model(name), other, prompt.template)
    except UserError as mistake:
        st.caption(plain(str(mistake)))
        return None
    if len(instead) != len(prompt):
        st.caption(
            f"Lengths differ: it makes {len(instead)} tokens with the suffix, the tweet "
            f"{len(prompt)}. Positions are aligned by the edit, and an edited span is one site."
        )
        edited = switch(
            "In an edited span, restore",
            EDITED,
            "edited",
            help="What is put into the other tweet's edited span: the last token's activation, or "
            "those of the whole span, end to end.",
        )
        return TraceSettings(corruption="counterfactual", counterfactual=other, edited=edited)
    if instead.ids == prompt.ids:
        st.caption("It is the same tweet: change a word.")
        return None
    st.caption(f"Lengths match: both make {len(prompt)} tokens with the suffix.")
    return TraceSettings(corruption="counterfactual", counterfactual=other)


def _exchange(proposal: Any) -> str:
    changed = ", ".join(f"{word} \u2192 {opposite}" for word, opposite in proposal.replaced)
    if proposal.same_length:
        return changed
    difference = proposal.tokens - proposal.tokens_wanted
    return f"{changed} ({difference:+d} token{'s' if abs(difference) > 1 else ''})"


# --- the address ---------------------------------------------------------------------------------


ASKED: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "how": ("noise", one_of(HOW)),
    "corrupt": ("tweet", one_of(SPANS)),
    "noise": (NOISE, within(0.5, 6.0, float)),
    "samples": (SAMPLES, within(1, MOST_SAMPLES, int)),
    "window": (None, within(1, 48, int)),
    "seed": (0, within(0, 2**31 - 1, int)),
    "until": ("settled", one_of(UNTIL)),
    "restored": ("tokens", one_of(RESTORED)),
    "edited": ("last", one_of(EDITED)),
}
"""Widgets whose values stand in the address: their defaults, and how they are read from it."""

BEYOND: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "direction": ("restore", one_of(get_args(Direction))),
    "severed": (None, one_of(get_args(Contribution))),
    "every": (1, within(1, 48, int)),
    "kinds": (KINDS_TRACED, lambda written: tuple(map(one_of(KINDS_TRACED), written.split(".")))),
    "total": (None, lambda written: None if written == "none" else within(1, 999, int)(written)),
}
"""What an address can ask and no widget can, such as noising; settings files and links do."""

SHOWN: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "proxy": ("log_odds", one_of(PROXIES)),
    **{name: (next(iter(options)), one_of(options)) for name, options in VIEWS.items()},
}
"""The same of how a result is shown."""


def follow_link() -> Guarded | None:
    """At a visitor's first look, ask what the address asks; what it cannot mean is left out.

    Returns:
        The work, where no widgets can ask for it; else None, and they are as the address says.
    """
    if "linked" in st.session_state:
        return None
    st.session_state.linked = True
    link = st.query_params.to_dict()
    values = _values(link, ASKED | SHOWN)
    for key, value in values.items():
        if value != (ASKED | SHOWN)[key][0]:
            st.session_state[key] = value
    if "cell" in link:
        st.session_state.cell = _cell_of(link["cell"])
    if link.get("further") in FURTHER:
        st.session_state.further = st.session_state["further:linked"] = link["further"]
        if link.get("against") in HOW:
            st.session_state["other corruption"] = link["against"]
    if sharing.SETTINGS in link:
        from .open_settings import linked

        return linked("trace")
    name = link.get("model", "")
    if name in REGISTRY and name != default_model()[0]:
        st.session_state.model = name
    reads = take_link(name, link)
    template = Template() if reads is None else template_of(reads)
    text = link.get("tweet", "")
    if not text:
        return None
    st.session_state.tweet = text
    chosen = [int(number) for number in link.get("span", "").split(".") if number.isdecimal()]
    for part in ("words", "tokens"):
        if link.get("corrupt") == part and chosen:
            field = _field(part, text, template)
            st.session_state[field] = _there(name, text, template, part, chosen)
    if "other" in link:
        st.session_state[f"other:{text}"] = link["other"]
    if reads is None:
        sharing.refuse(
            "The probe or the model of this link is not kept here; ask for the settings file and "
            "open that."
        )
        return None
    there = sharing.can_be_linked(name) and availability(name) != "to be downloaded"
    if not there or not (BEYOND.keys() & link.keys() or name not in REGISTRY):
        st.session_state.asked = there
        return None
    try:
        settings = _asked_by(link, chosen)
    except UserError as mistake:
        sharing.refuse(str(mistake))
        return None
    return tracing(name, reads, text, settings, anyway=True)


def _values(
    link: Mapping[str, str], known: Mapping[str, tuple[Any, Callable[[str], Any]]]
) -> dict[str, Any]:
    """What an address says of these; what it cannot mean is left out."""
    values = {}
    for key, (_, read) in known.items():
        if key in link:
            with suppress(ValueError):
                values[key] = read(link[key])
    return values


def _asked_by(link: Mapping[str, str], chosen: Sequence[int]) -> TraceSettings:
    """The settings that an address asks for."""
    said = {key: default for key, (default, _) in (ASKED | BEYOND).items()}
    said["total"] = _total_samples()
    said |= _values(link, ASKED | BEYOND)
    corrupt: str | tuple[int, ...] = "tweet"
    if said["corrupt"] == "tokens" and chosen:
        corrupt = tuple(chosen)
    elif said["corrupt"] == "words" and chosen:
        corrupt = f"word:{chosen[0]}"
    draws = said["how"] in ("noise", "uniform")
    return TraceSettings(
        kinds=said["kinds"],
        samples=said["samples"],
        total_samples=said["total"] if draws else None,
        noise_scale=said["noise"],
        seed=said["seed"],
        window=said["window"],
        corrupt=corrupt,
        corruption=said["how"],
        counterfactual=link.get("other") if said["how"] == "counterfactual" else None,
        edited=said["edited"],
        direction=said["direction"],
        severed=said["severed"],
        rows=said["restored"],
        every=said["every"],
        until=said["until"],
    )


def _there(name: str, text: str, template: Template, part: str, chosen: list[int]) -> list[int]:
    """Those of the chosen words or tokens that the tweet has."""
    if name not in REGISTRY or availability(name) == "to be downloaded":
        return []
    try:
        prompt = build_prompt(model(name), text, template)
    except UserError:
        return []
    if part == "tokens":
        return [number for number in chosen if number in prompt.tweet_span]
    words = {n for n, word in enumerate(prompt.words) if word.in_tweet and word.tokens}
    return [number for number in chosen if number in words]


def write_address(result: TraceResult | None, cell: figures.Cell | None) -> None:
    """Put what was asked, how it is shown and the chosen cell into the address.

    Args:
        result: None for the example, which needs no asking.
    """
    asked: Mapping[str, Any] = {}
    if result is not None:
        question = _question(result)
        if question is not None and len(urlencode(question)) <= sharing.LONGEST:
            asked = question
        elif id := sharing.kept("trace"):
            asked = {sharing.SETTINGS: id}
    sharing.write({**asked, **_shown(cell)})


def shared(
    view: View, cell: figures.Cell | None, other: TraceResult | None = None
) -> sharing.Share:
    """What a link to a view of a trace, and its code, are made from.

    Args:
        other: the trace that a further analysis made, whose code is wanted instead.
    """
    result = view.result
    if other is not None:
        view = View(other, share=True)
    recipe = partial(Recipe.of, view.result)
    done = replace(result.settings, samples=max(1, result.samples_done))
    if result.settings.corruption not in ("noise", "uniform"):
        done = result.settings
    return sharing.Share(
        "trace",
        _question(replace(result, settings=done)),
        _shown(cell),
        lambda: code.of_trace(recipe(), view),
        (result.probe,),
    )


def _shown(cell: figures.Cell | None) -> dict[str, str]:
    """How a trace is shown, as the address says it."""
    link = {}
    for key, (default, _) in SHOWN.items():
        value = st.session_state.get(key, default)
        if value not in (default, None):
            link[key] = value
    if cell is not None:
        link["cell"] = "-".join(map(str, cell))
    if further := st.session_state.get("further"):
        link["further"] = further
        if further == "corruption" and (against := st.session_state.get("other corruption")):
            link["against"] = against
    return link


def _question(result: TraceResult) -> dict[str, str] | None:
    """What this page has to be asked for such a result; None where no address can."""
    settings = result.settings
    name = result.model_name
    if not sharing.can_be_linked(name) or result.model_identity != identity_on_disk(name):
        return None  # a folder, a twin, another precision, or a model of before
    if (reads := link_of(result.probe)) is None:
        return None
    link = {"tweet": result.prompt.tweet, "model": name, **reads}
    if settings.corruption != "noise":
        link["how"] = settings.corruption
    if settings.counterfactual is not None:
        link["other"] = settings.counterfactual
    if isinstance(settings.corrupt, tuple):
        link |= {"corrupt": "tokens", "span": ".".join(map(str, settings.corrupt))}
    elif settings.corrupt != "tweet":
        link |= {"corrupt": "words", "span": settings.corrupt.removeprefix("word:")}
    numbers = {
        "noise": f"{settings.noise_scale:g}",
        "samples": str(settings.samples),
        "window": str(settings.window),
        "seed": str(settings.seed),
        "until": settings.until,
        "restored": settings.rows,
        "edited": settings.edited,
        "direction": settings.direction,
        "severed": str(settings.severed),
        "every": str(settings.every),
        "kinds": ".".join(settings.kinds),
    }
    for key, value in numbers.items():
        default = (ASKED | BEYOND)[key][0]
        if isinstance(default, tuple):
            default = ".".join(default)
        if value != (f"{default:g}" if isinstance(default, float) else str(default)):
            link[key] = value
    draws = settings.corruption in ("noise", "uniform")
    if draws and settings.total_samples != _total_samples():
        link["total"] = str(settings.total_samples).lower()
    return link


def _total_samples() -> int:
    """Noise samples of the total effect that this page asks for."""
    return min(TOTAL_SAMPLES, limits().samples or TOTAL_SAMPLES)


def _cell_of(written: str) -> figures.Cell | None:
    named, *numbers = written.split("-")
    kind: Kind | None = next((kind for kind in get_args(Kind) if kind == named), None)
    if kind is None or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        return None
    return kind, int(numbers[0]), int(numbers[1])


# --- how it is shown -----------------------------------------------------------------------------


def proxy_choice(probe: Probe) -> Proxy:
    """Which number's change the effect is."""
    units, offered = units_of(probe), proxies_of(probe)
    if st.session_state.get("proxy") not in (None, *offered):
        del st.session_state["proxy"]
    return st.selectbox(
        "Effect measured in",
        offered,
        format_func=units.__getitem__,
        key="proxy",
        persist_state="session",
        help="Read from the same run; nothing is computed again.",
    )


def view_choice(result: TraceResult, judged: TraceResult, estimate: Estimate | None = None) -> View:
    """The switches above the heatmaps, and the view of a trace that they ask for."""
    settings = result.settings
    kinds = settings.kinds
    helps = {
        "unit": "Effects as they are, or in percent of the total effect.",
        "rows": "A row for every token, or for every word: that of its last token.",
        "around": "Rows of the template's tokens; those ahead of the tweet are 0 anyway.",
        "panels": "Every kind of site, or one large.",
    }
    chosen: dict[str, str] = {}
    with st.container(horizontal=True, gap="medium", key="view"):
        for name, options in VIEWS.items():
            if name == "rows" and settings.rows == "words":
                chosen[name] = "words"  # there are no others
                continue
            if name == "around" and result.prompt.template.is_plain:
                continue
            offered = options
            if name == "panels":
                offered = {key: said for key, said in options.items() if key in ("all", *kinds)}
            if st.session_state.get(name) not in (None, *offered):
                del st.session_state[name]
            label = LABELS[name]
            chosen[name] = switch(label, offered, name, help=helps[name])
    return View(
        result,
        judged,
        share=chosen["unit"] == "share",
        words=chosen["rows"] == "words",
        kind=next((kind for kind in kinds if kind == chosen["panels"]), None),
        estimate=estimate,
        around=next((each for each in get_args(Around) if each == chosen.get("around")), "after"),
    )


def emphasised(sentence: str, *, warn: bool = False) -> str:
    """A finding as Markdown: where a site is stands out from how much it carries."""
    if warn:
        return f":orange[:material/warning: **{plain(sentence)}**]"
    place, colon, rest = sentence.partition(":")
    if not colon:
        return f":gray[{plain(sentence)}]" if "yet" in sentence else f"**{plain(sentence)}**"
    return f"**{plain(place)}:** {plain(rest)}"


def word_line(traced: Traced) -> str:
    """The word that matters most, as Markdown."""
    assert traced.word is not None
    word, effect = traced.word
    unit = short_unit(traced.result)
    return (
        f"**\u201c{plain(word)}\u201d** matters most: with the mean embedding in its place alone, "
        f"the total effect is {plain(rounded(effect))} in {plain(unit)}."
    )


def heatmaps(
    frame: pd.DataFrame,
    *,
    end: float,
    rows: Labelled | None = None,
    grey: bool = False,
    chosen: figures.Cell | None = None,
    on_click: Callable[[Kind], None] | None = None,
    key: str = "heatmap",
    titles: Mapping[str, str] = KINDS,
) -> None:
    """A panel for each kind of site, side by side; one below the other on a narrow screen.

    A long tweet's panels scroll inside the figure, and their layers stay in sight above them.

    Args:
        rows: all that the panels may come to show; None takes those of the frame. So does a long
            tweet, where each panel has labels: room for words that are not shown costs most there.
        on_click: called with the kind when a cell of its panel is clicked; the selection is then
            in the session's state under `key:kind`.
    """
    kinds = list(dict.fromkeys(frame["kind"]))
    long = frame["position"].nunique() > LONG
    rows = Labelled.of(frame) if long or rows is None else rows
    alone = len(kinds) == 1
    # The leftmost panel has the token labels beside it, and room for them: where the page is
    # 1440 pixels wide, a panel is about 375.
    widths = [1 + rows.width / 375] + [1.0] * (len(kinds) - 1)
    if long:
        widths = [1.0] * len(kinds)
    with st.container(height=WINDOW if long else "content", border=False, key=f"{key}:window"):
        for i, (kind, column) in enumerate(zip(kinds, st.columns(widths), strict=True)):
            # Far down in a long tweet the leftmost panel's labels are no help to the others.
            labels: Labels = "always" if long or not i else "narrow"
            with column:
                if long:
                    with st.container(key=f"{key}:strip:{kind}"):
                        show_chart(
                            figures.layer_strip(
                                frame, kind, title=titles[kind], labels=labels, rows=rows
                            ),
                            key=f"{key}:layers:{kind}",
                        )
                chart = figures.heatmap(
                    frame,
                    kind,
                    end=end,
                    labels=labels,
                    rows=rows,
                    theme=theme(),
                    title=titles[kind],
                    grey=grey,
                    row=figures.WIDE_ROW if alone and not long else None,
                    strip=long,
                    chosen=chosen,
                    select="cell" if on_click else None,
                )
                if on_click is None:
                    show_chart(chart, f"{key}:{kind}")
                else:
                    show_chart(
                        chart,
                        f"{key}:{kind}",
                        selection_mode="cell",
                        on_select=lambda kind=kind: on_click(kind),
                    )
    panels = {titles[kind]: frame[frame["kind"] == kind] for kind in kinds}
    labels_of = {row - rows.first: label for row, label in rows.labels.items() if row >= rows.first}
    as_table(f"{key}:table", panels, labels_of)
