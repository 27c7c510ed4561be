"""How are models chosen, traced one after the other, and shown side by side?"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from .. import dashboard as pages
from ..charts import comparison as comparison_charts
from ..charts import figures
from ..charts.row_labels import label_reach
from ..distribution import COMMAND
from ..errors import UserError
from ..exporting import code
from ..exporting.displays import Beside
from ..exporting.recipe import Recipe, Recipes
from ..models import installed
from ..models.model import Model
from ..models.registry import REGISTRY, default_model, is_on_disk, model_folder
from ..probes.probe import CONTRAST, FEATURES, Features, Probe, words_of
from ..prompts.prompt import build_prompt
from ..server.job_queue import Job, Step, Work
from ..sweeps import comparison
from ..tracing.findings import signed
from ..tracing.result import TraceResult, TraceSettings
from ..tracing.tracer import trace
from ..tracing.view import KINDS, scale_end, unit_of
from . import comparing_averages, open_settings, plain, sharing, theme
from .as_table import as_table, panels_of
from .charts import show_chart
from .door import Guarded, Request, Texts
from .models_on_disk import describe
from .probing import (
    Reads,
    fill_prompt,
    link_of,
    reads_with,
    template_in,
    template_link,
    template_of,
    trained_for,
    words_in,
)
from .prompt_choice import OWN_WORDS, WORDS, template_choice, words_choice
from .saving import downloads
from .sharing import one_of, within

if TYPE_CHECKING:
    import pandas as pd

MOST_MODELS = 4
TWIN = ", untrained"
FEATURE_CHOICES: tuple[Features, ...] = ("logit_pair", "probabilities", "hidden")
BYTES_PER_PARAMETER = 4  # of float32, in which models are traced
WORKING_SPACE = 500 * 10**6  # bytes that a trace needs beyond the weights, about


@dataclass(frozen=True)
class Entry:
    """A model to be compared, or its untrained twin."""

    name: str  # key, hub id or folder
    untrained: bool = False

    @property
    def label(self) -> str:
        """What figures and tables call it; a folder by its last part."""
        short = Path(self.name).name if Path(self.name).is_dir() else self.name
        return f"{short}{TWIN if self.untrained else ''}"


@dataclass(frozen=True)
class Compared:
    """What became of one entry: a trace, or the sentence why there is none."""

    entry: Entry
    result: TraceResult | None
    says: str = ""
    device: str = ""
    precision: str = ""
    parameters: int = 0
    seconds: float = 0.0  # of loading, probe and trace


# --- work ----------------------------------------------------------------------------------------


def comparing(
    entries: Sequence[Entry], reads: Reads, text: str, settings: TraceSettings
) -> Guarded:
    """The work of a comparison: each model is fetched, loaded, traced and let go, then the next.

    A model that cannot be traced gets a sentence, and the others are traced all the same.
    """
    names = [entry.name for entry in entries]
    asks = Request.of_trace(names, text, template_of(reads), settings)
    return Guarded(asks, _tracing_each(entries, reads, text, [settings] * len(entries), {}))


def comparing_again(recipes: Sequence[Recipe]) -> Guarded:
    """The work of the comparison that recipes are of, each model read by the recipe's own probe."""
    first, *others = recipes
    if any(recipe.text != first.text for recipe in others):
        raise UserError("These traces are of different tweets, and cannot stand side by side.")
    if any(recipe.model.precision != "float32" for recipe in recipes):
        raise UserError(
            f"Models are compared in float32 here; run the settings by `{COMMAND} run`."
        )
    entries = [Entry(recipe.model.name, recipe.model.untrained) for recipe in recipes]
    names = [entry.name for entry in entries]
    most = max(recipes, key=lambda recipe: recipe.settings.draws)
    asks = Request.of_trace(names, first.text, first.probe.template, most.settings)
    asks = replace(
        asks,
        prompts=tuple(
            dict.fromkeys(
                Texts((text,), recipe.probe.template)
                for recipe in recipes
                for text in (recipe.text, recipe.settings.counterfactual)
                if text is not None
            )
        ),
    )
    given = dict(zip(entries, recipes, strict=True))
    settings = [recipe.settings for recipe in recipes]
    return Guarded(asks, _tracing_each(entries, "logit_pair", first.text, settings, given))


def _tracing_each(
    entries: Sequence[Entry],
    reads: Reads,
    text: str,
    settings: Sequence[TraceSettings],
    given: Mapping[Entry, Recipe],
) -> Work:
    """Trace every entry by its own settings.

    Args:
        given: recipes of entries, whose probe is taken and whose weights must be those.
    """

    def work(job: Job) -> Iterator[Step]:
        done: list[Compared] = []
        probes: dict[str, Probe] = {}
        yield 0.0, tuple(done)
        for number, entry in enumerate(entries):
            began = time.perf_counter()
            model: Model | None = None
            try:
                model = _load(entry, job)
                if entry in given:
                    given[entry].model.check(model)
                    probe = given[entry].probe
                else:
                    probe = probes.get(entry.name) or _probe(model, entry, reads, text, job)
                    probes[entry.name] = probe
                job.report(number / len(entries), plain(f"Tracing on {entry.label}"))
                asked = settings[number]
                result = _traced(model, probe, text, asked, job, number, len(entries))
                done.append(
                    Compared(
                        entry,
                        result,
                        device=model.device.type,
                        precision=model.precision,
                        parameters=model.parameters,
                        seconds=time.perf_counter() - began,
                    )
                )
            except UserError as mistake:
                done.append(Compared(entry, None, says=str(mistake)))
            finally:
                del model
                _free()
            yield (number + 1) / len(entries), tuple(done)
        if all(compared.result is None for compared in done):
            raise UserError(done[0].says)

    return work


def _traced(
    model: Model,
    probe: Probe,
    text: str,
    settings: TraceSettings,
    job: Job,
    number: int,
    among: int,
) -> TraceResult:
    """Trace on the `number`-th of the models."""
    return trace(
        model,
        probe,
        text,
        settings,
        keep=True,
        progress=lambda share: job.report((number + share) / among),
    )


def _load(entry: Entry, job: Job) -> Model:
    """Fetch and load a model, if it fits into the memory that is free."""
    name = entry.name
    if not Path(name).is_dir() and not is_on_disk(name):
        job.report(0.0, plain(f"Fetching {entry.label}"))
        installed.download(name, progress=lambda done, total: job.report(done / max(total, 1)))
    _check_memory(name)
    job.report(0.0, plain(f"Loading {entry.label}"))
    return pages.load(name, untrained=entry.untrained)


def _probe(model: Model, entry: Entry, reads: Reads, text: str, job: Job) -> Probe:
    """The probe of a model; a twin is read by that of its model, which is trained first."""
    # A tweet that cannot be read is refused before any training.
    build_prompt(model, text, template_of(reads))
    trained = pages.load(entry.name) if entry.untrained else model
    return trained_for(job, trained, reads)


def _check_memory(name: str) -> None:
    """Refuse a model whose weights would not fit beside what is in memory."""
    folder = Path(name) if Path(name).is_dir() else model_folder(name)
    needed = WORKING_SPACE + _weights(folder)
    free, place = _free_memory()
    if needed > free:
        pages.model.clear()  # models that other pages left loaded; they are loaded again there
        _free()
        free, place = _free_memory()
    if needed > free:
        raise UserError(
            f"{name!r} needs about {needed / 1e9:.1f} GB of memory, and the {place} has "
            f"{free / 1e9:.1f} GB free; close other programs or choose a smaller model."
        )


def _free_memory() -> tuple[int, str]:
    """Bytes that are free where models are traced, and what that place is called."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU"
    return int(psutil.virtual_memory().available), "computer"


def _weights(folder: Path) -> int:
    """Bytes of a folder's weights in float32, read from the files' headers."""
    from safetensors import SafetensorError, safe_open

    numbers = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "np") as file:
                numbers += sum(math.prod(file.get_slice(k).get_shape()) for k in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"The weights {path} are damaged; fetch the model anew.") from error
    return BYTES_PER_PARAMETER * numbers


def _free() -> None:
    """Give back the memory of a model that was let go."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- choices -------------------------------------------------------------------------------------


def entries_choice() -> list[Entry]:
    """Two to four models, each with or without its untrained twin."""
    known = [*REGISTRY, *(m.name for m in installed.shelved() if m.name not in REGISTRY)]
    first, second = st.columns([3, 2], gap="medium")
    names = first.multiselect(
        "Models",
        known,
        default=[default_model()[0]],
        format_func=describe,
        accept_new_options=True,
        max_selections=MOST_MODELS,
        key="compare:models",
        persist_state="session",
        help="Or type the hub id of any other model, or the path of a folder. What is not on this "
        "disk is downloaded first.",
    )
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    twins = second.multiselect(
        "With the untrained twin of",
        names,
        default=names[:1] if len(names) == 1 else [],
        format_func=lambda name: Entry(name).label,
        key="compare:twins",
        help="The same shape with random weights. What shows up there too is an artefact.",
    )
    return entries_of(names, twins)


def entries_of(names: Sequence[str], twins: Collection[str]) -> list[Entry]:
    """Every model, and behind it its untrained twin where that is wanted."""
    return [
        Entry(name, untrained)
        for name in names
        for untrained in ((False, True) if name in twins else (False,))
    ]


def settings_choice(names: Sequence[str]) -> tuple[Reads, TraceSettings]:
    """What each trace does and reads, on models of these names."""
    with st.expander("Settings", key="compare:settings"):
        first, second, third = st.columns(3)
        reads = first.selectbox(
            "Probe reads",
            [*FEATURE_CHOICES, CONTRAST],
            format_func=(FEATURES | {CONTRAST: OWN_WORDS}).__getitem__,
            key="compare:features",
            persist_state="session",
            help="Each model has a probe of its own, trained once on the tweets.",
        )
        samples = second.slider(
            "Noise samples", 2, 50, 10, key="compare:samples", persist_state="session"
        )
        noise = third.slider(
            "Noise, in standard deviations", 0.5, 6.0, 3.0, 0.5, format="%.1f",
            key="compare:noise", persist_state="session",
        )  # fmt: skip
        seed = first.number_input(
            "Seed", 0, 2**31 - 1, 0, key="compare:seed", persist_state="session"
        )
        words = words_choice("compare:contrast") if reads == CONTRAST else WORDS
        template = template_choice(*names, key="compare:prompt")
    settings = TraceSettings(samples=samples, noise_scale=noise, seed=seed)
    return reads_with(reads, template, words), settings


# --- the address ---------------------------------------------------------------------------------

ASKED = {
    "probe": ("compare:features", "logit_pair", one_of((*FEATURE_CHOICES, CONTRAST))),
    "samples": ("compare:samples", 10, within(2, 50, int)),
    "noise": ("compare:noise", 3.0, within(0.5, 6.0, float)),
    "seed": ("compare:seed", 0, within(0, 2**31 - 1, int)),
}
"""Parameters of the address: the widgets they are of, their defaults, how they are read."""

SHOWN = {
    "depth": ("compare:depth", "layer", one_of(("layer", "relative"))),
    "share": ("compare:share", False, lambda written: written == "1"),
}


def follow_link() -> Guarded | None:
    """At a visitor's first look, take what the address asks for; gives the work, where all of it
    is on this disk."""
    if st.session_state.get("compare:linked"):
        return None
    st.session_state["compare:linked"] = True
    link = st.query_params.to_dict()
    for name, (key, default, read) in (ASKED | SHOWN).items():
        if name in link:
            with suppress(ValueError):
                if (value := read(link[name])) != default:
                    st.session_state[key] = value
    if "sweep" in link:
        st.session_state["compare:what"] = "averages"
        comparing_averages.follow_link(st.query_params.get_all("sweep"))
        return None
    if sharing.SETTINGS in link:
        return open_settings.linked("compare")
    if not (models := st.query_params.get_all("model")):
        return None
    if refused := next((name for name in models if not sharing.can_be_linked(name)), None):
        sharing.refuse(
            f"The model {refused!r} of this link is not on this disk; choose it below to fetch it."
        )
        return None
    twins = [name for name in st.query_params.get_all("untrained") if name in models]
    st.session_state.tweet = link.get("tweet", "")
    st.session_state["compare:models"] = models[:MOST_MODELS]
    st.session_state["compare:twins"] = twins
    template, words = template_in(link, *models), words_in(link)
    fill_prompt(template, words, "compare:contrast", "compare:prompt")
    entries = entries_of(models[:MOST_MODELS], twins)
    if len(entries) < 2 or not all(is_on_disk(name) for name in models):
        return None
    chosen = {name: st.session_state.get(key, default) for name, (key, default, _) in ASKED.items()}
    settings = TraceSettings(
        samples=chosen["samples"], noise_scale=chosen["noise"], seed=chosen["seed"]
    )
    reads = reads_with(chosen["probe"], template, words)
    return comparing(entries, reads, st.session_state.tweet, settings)


def write_address(share: sharing.Share) -> None:
    """Put what was asked, and how it is shown, into the address."""
    if share.question is not None and share.link is not None:
        sharing.write({**share.question, **share.shown})
    elif id := sharing.kept(share.slot):
        sharing.write({sharing.SETTINGS: id, **share.shown})


def shown_now() -> dict[str, str]:
    """How comparisons are shown, as the address says it."""
    said = {}
    for name, (key, default, _) in SHOWN.items():
        value = st.session_state.get(key)
        if value not in (None, default):
            said[name] = "1" if value is True else str(value)
    return said


def shared(view: View, depth: comparison_charts.Depth) -> sharing.Share:
    """What a link to a comparison, and its code, are made from."""
    results = view.results
    return sharing.Share(
        "compare",
        _question(view),
        shown_now(),
        lambda: code.of_comparison(
            [Recipe.of(result) for result in results],
            [result.layers for result in results],
            Beside(view.share, depth),
        ),
        [result.probe for result in results],
    )


def _question(view: View) -> dict[str, str | list[str]] | None:
    """What this page has to be asked for such a comparison; None where no address can."""
    first = view.results[0]
    settings = first.settings
    names = list(dict.fromkeys(one.entry.name for one in view.compared))
    twins = [one.entry.name for one in view.compared if one.entry.untrained]
    usual = TraceSettings(
        samples=settings.samples, noise_scale=settings.noise_scale, seed=settings.seed
    )
    reads = _asked_for(first.probe)
    ours = reads is not None and all(
        _asked_for(one.probe) == reads and replace(one.settings, proxy="log_odds") == usual
        for one in view.results
    )
    entries = entries_of(names, twins)
    if not ours or entries != [one.entry for one in view.compared]:
        return None
    if not all(map(sharing.can_be_linked, names)):
        return None
    values = {
        "samples": settings.samples,
        "noise": settings.noise_scale,
        "seed": settings.seed,
    }
    question: dict[str, str | list[str]] = {"tweet": first.prompt.tweet, "model": names}
    question |= reads or {}
    if twins:
        question["untrained"] = twins
    for name, value in values.items():
        if value != ASKED[name][1]:
            question[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return question


def _asked_for(probe: Probe) -> dict[str, str] | None:
    """What an address says that reads every model; None where this page cannot ask for it."""
    if probe.is_contrast:
        return link_of(probe)
    words = (probe.words_positive, probe.words_negative)
    ours = probe.features in FEATURE_CHOICES and words == words_of(probe.features, None)
    if not ours or probe.dataset != pages.TWEETS:
        return None
    usual = probe.features == ASKED["probe"][1]
    return ({} if usual else {"probe": probe.features}) | template_link(probe)


# --- what is shown -------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A finished comparison, or what there is of it, as tables."""

    compared: tuple[Compared, ...]  # those that have a trace
    names: tuple[str, ...]
    cells: pd.DataFrame
    summary: pd.DataFrame
    sites: pd.DataFrame
    by_token: bool
    share: bool

    @property
    def results(self) -> list[TraceResult]:
        """The traces, in the order of the names."""
        return [one.result for one in self.compared if one.result is not None]

    @property
    def layers(self) -> dict[str, int]:
        """Number of layers of each trace's model."""
        return {name: result.layers for name, result in zip(self.names, self.results, strict=True)}

    @property
    def nothing(self) -> list[str]:
        """Names of the traces whose cells mean nothing."""
        return self.summary.loc[self.summary["healthy"].eq(False), "trace"].tolist()

    @property
    def unit(self) -> str:
        """Of the effects."""
        return comparison_charts.SHARE_UNIT if self.share else unit_of(self.results[0])


def view_of(compared: Sequence[Compared], *, share: bool) -> View | None:
    """The tables of those that have a trace; None where none has."""
    traced = tuple(one for one in compared if one.result is not None)
    if not traced:
        return None
    names = names_of(traced)
    results = [one.result for one in traced if one.result is not None]
    summary = comparison.summary(results, names)
    summary.insert(1, "device", [f"{one.device}, {one.precision}" for one in traced])
    summary.insert(2, "parameters", [one.parameters for one in traced])
    summary["revision"] = [_revision(result) for result in results]
    summary["whole_seconds"] = [one.seconds for one in traced]
    return View(
        compared=traced,
        names=tuple(names),
        cells=comparison.cells(results, names, share=share),
        summary=summary,
        sites=comparison.sites(results, names),
        by_token=comparison.align(results).by_token,
        share=share,
    )


def _revision(result: TraceResult) -> str:
    return result.model_identity.rpartition("-")[2][:12]


def names_of(compared: Sequence[Compared]) -> list[str]:
    """What traces are called, no two the same."""
    names: list[str] = []
    for one in compared:
        label = one.entry.label
        names.append(label if label not in names else f"{label} ({len(names) + 1})")
    return names


def summary_table(view: View) -> None:
    """Probe quality, total effect and time of each model."""
    rows = view.summary.to_dict("records")
    shown = view.summary.assign(
        probe=[
            f"{row['accuracy']:.1%} ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}) "
            f"on {row['texts']:,}"
            for row in rows
        ],
        effect=[
            f"{_signed(row['total_effect'])} ({_signed(row['lower'])} to {_signed(row['upper'])})"
            for row in rows
        ],
    )
    st.dataframe(
        shown,
        hide_index=True,
        key="compare:summary",
        column_order=[
            "trace", "layers", "tokens", "probe", "macro_f1", "positive", "effect", "share_told",
            "whole_seconds", "device", "says",
        ],
        column_config={
            "trace": st.column_config.TextColumn("Model", pinned=True),
            "layers": "Layers",
            "tokens": "Tokens",
            "probe": st.column_config.TextColumn(
                "Probe accuracy", help="Held out, with its 95% interval and the number of texts."
            ),
            "macro_f1": st.column_config.NumberColumn("Macro-F1", format="percent"),
            "positive": st.column_config.NumberColumn("P(positive), clean", format="%.2f"),
            "effect": st.column_config.TextColumn(
                "Total effect", help="Of the corruption on the proxy, with its 95% interval."
            ),
            "share_told": st.column_config.NumberColumn(
                "Significant cells", format="percent"
            ),
            "whole_seconds": st.column_config.NumberColumn(
                "Time", format="%.1f s", help="Loading, probe and trace, in this session."
            ),
            "device": "On",
            "says": st.column_config.TextColumn("Health check", width="large"),
        },
    )  # fmt: skip


def _signed(value: float) -> str:
    """A number to three digits, a question mark where it is not known."""
    return signed(value) if value == value else "?"


def heatmaps(view: View, depth: comparison_charts.Depth) -> None:
    """For each kind of site, the models side by side and their twins below."""
    end = comparison_charts.shared_end(view.cells, view.nothing)
    deepest = max(view.layers.values())
    reach = label_reach(comparison_charts.row_labels(view.cells))
    for kind, called in KINDS.items():
        if not view.cells["kind"].eq(kind).any():
            continue
        st.markdown(f"**{called}**")
        for row in _rows(view):
            # The leftmost panel has the labels beside it, and room for them.
            widths = [1 + reach / (1200 / len(row))] + [1.0] * (len(row) - 1)
            for column, (place, name) in enumerate(zip(st.columns(widths), row, strict=True)):
                chart = comparison_charts.panel(
                    view.cells,
                    name,
                    kind,
                    end=end,
                    unit=view.unit,
                    layers=deepest,
                    depth=depth,
                    labels="narrow" if column else "always",
                    theme=theme(),
                    grey=name in view.nothing,
                    title=name,
                )
                show_chart(chart, key=f"compare:{kind}:{name}", place=place)
    as_table("compare:table", *panels_of(view.cells))


def _rows(view: View) -> list[list[str]]:
    """Names of the panels that stand beside one another."""
    trained = [
        name for name, one in zip(view.names, view.compared, strict=True) if not one.entry.untrained
    ]
    twins = [name for name in view.names if name not in trained]
    if len(view.names) <= MOST_MODELS:
        return [list(view.names)]
    return [row for row in (trained, twins) if row]


def caption_of(view: View) -> str:
    """What a cell and a row are, and with which settings."""
    first = view.results[0]
    settings = first.settings
    rows = (
        "A row is a token."
        if view.by_token
        else "The tokenizers differ, so a row is a word, and its cell is that of the word's last "
        "token; words that share a token make one row."
    )
    windows = ", ".join(
        f"{result.window} of {result.layers} ({name})"
        for name, result in zip(view.names, view.results, strict=True)
    )
    percent = ", as percent of the same model's total effect," if view.share else ""
    grey = (
        f" Grey: the trace of {' and '.join(view.nothing)} fails its health check, and its cells "
        "show nothing."
        if view.nothing
        else ""
    )
    return (
        f"A cell is the change in {unit_of(first)}"
        f"{percent} when one "
        "site of the corrupted run is restored to its clean activation: the mean of "
        f"{first.samples_done} noise samples (seed {settings.seed}, {settings.noise_scale:g} "
        f"standard deviations). {rows} Every model has a probe of its own; an untrained twin is "
        "read by that of its model. Starred rows are corrupted, hatched cells are fixed by "
        "construction, faded ones are not significant (FDR 5%). MLP and attention cells restore "
        f"{windows} layers.{grey}"
    )


def difference_map(view: View, depth: comparison_charts.Depth) -> None:
    """One trace less another of the same shape, where there are two."""
    pairs = [
        (first, second)
        for second in range(len(view.results))
        for first in range(len(view.results))
        if first != second and comparison.same_shape(view.results[first], view.results[second])
    ]
    if not pairs:
        st.caption(
            "No two of these models have the same tokens and layers, so none are subtracted."
        )
        return
    pairs.sort(key=lambda pair: view.compared[pair[0]].entry.untrained)
    chosen = st.selectbox(
        "Difference",
        pairs,
        format_func=lambda pair: f"{view.names[pair[0]]} - {view.names[pair[1]]}",
        key="compare:pair",
    )
    frame = comparison.difference(
        view.results[chosen[0]], view.results[chosen[1]], share=view.share
    )
    end = scale_end(frame)
    kinds = [kind for kind in KINDS if frame["kind"].eq(kind).any()]
    reach = label_reach(comparison_charts.row_labels(frame))
    layers = view.results[chosen[0]].layers
    show_chart(figures.scale_bar(end, view.unit, theme=theme()), key="compare:difference:scale")
    for column, (place, kind) in enumerate(
        zip(st.columns([1 + reach / 375] + [1.0] * (len(kinds) - 1)), kinds, strict=True)
    ):
        chart = comparison_charts.panel(
            frame,
            "difference",
            kind,
            end=end,
            unit=view.unit,
            layers=layers,
            depth=depth,
            labels="narrow" if column else "always",
            theme=theme(),
            title=KINDS[kind],
        )
        show_chart(chart, key=f"compare:difference:{kind}", place=place)
    as_table("compare:difference:table", *panels_of(frame))
    title = f"{view.names[chosen[0]]} - {view.names[chosen[1]]}"
    caption = (
        f"{title}: each cell\u2019s difference of mean effects, in {view.unit}. Faded cells are "
        "not significant: Welch\u2019s t over the noise samples, FDR 5% within a panel. Hatched "
        "cells are fixed by construction."
    )
    st.caption(plain(caption))
    named = frame.assign(trace=title)
    results = [view.results[n] for n in chosen]
    downloads(
        "compare difference",
        charts={
            "Difference": partial(
                comparison_charts.panels, named, {title: layers}, unit=view.unit, depth=depth,
                title=title, caption=caption, width=520,
            )
        },
        tables={"Difference": lambda: named},
        caption=caption,
        recipe=partial(Recipes.of, results),
    )  # fmt: skip


def sites_table(view: View) -> None:
    """Where the sites of each model lie."""
    if view.sites.empty:
        st.caption("No trace has a significant site.")
        return
    chart = comparison_charts.sites_chart(view.sites, view.names, theme=theme())
    show_chart(chart, key="compare:sites:chart")
    shown = view.sites.assign(
        kind=view.sites["kind"].map(KINDS),
        layers=[
            f"{first}" if first == last else f"{first} to {last}"
            for first, last in zip(view.sites["first_layer"], view.sites["last_layer"], strict=True)
        ],
    )  # fmt: skip
    st.dataframe(
        shown,
        hide_index=True,
        key="compare:sites",
        column_order=[
            "trace",
            "site",
            "kind",
            "token",
            "layers",
            "depth",
            "share",
            "lower",
            "upper",
        ],
        column_config={
            "trace": "Model",
            "site": "Site",
            "kind": "Kind",
            "token": "Token",
            "layers": "Layers",
            "depth": st.column_config.NumberColumn("Relative depth", format="%.2f"),
            "share": st.column_config.NumberColumn("Of the total effect", format="percent"),
            "lower": st.column_config.NumberColumn("95% from", format="percent"),
            "upper": st.column_config.NumberColumn("to", format="percent"),
        },
    )


def save(view: View, depth: comparison_charts.Depth) -> None:
    """Everything of the comparison, to be taken away."""
    caption, share = caption_of(view), shared(view, depth)
    downloads(
        "compare",
        charts={
            "Comparison": partial(
                comparison_charts.panels,
                view.cells,
                view.layers,
                unit=view.unit,
                nothing=view.nothing,
                depth=depth,
                title=f"\u201c{view.results[0].prompt.tweet}\u201d",
                caption=caption,
            ),
            **(
                {}
                if view.sites.empty
                else {
                    "Sites": partial(
                        comparison_charts.sites_chart, view.sites, view.names, width=560
                    )
                }
            ),
        },
        tables={
            "Models": lambda: view.summary,
            "Sites": lambda: view.sites,
            "Cells": lambda: view.cells,
        },
        caption=caption,
        recipe=partial(Recipes.of, view.results),
        share=share,
    )
    write_address(share)
