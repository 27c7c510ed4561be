"""Which code makes a result again? In Python by the library's public face, and as a command.

What a built-in data set's probe reads can be written in plain arguments. Where a probe is of a
person's own texts, or a text cannot stand on a command line, the code reads the settings file.

Text goes into Python by `repr` and into a command by `shlex.quote`: nothing in it is code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data import datasets
from ..distribution import COMMAND, PACKAGE
from ..interventions.plan import Plan
from ..probes.probe import Probe, words_of
from ..probes.training import FOLDS, trained_on
from ..prompts.template import DEFAULT_SUFFIX, TWEET, Template
from ..settings import arguments, changed
from ..tracing.corruption import default_window
from ..tracing.result import TraceSettings
from ..tracing.view import View
from . import embedded_settings
from .displays import Beside
from .recipe import ModelOrigin, Recipe
from .sweep_recipe import SweepRecipe

DATA = "vader-tweets"  # what the commands take by default
OUT = ("figure.svg", "cells.csv")
PROBE = "probe.json"
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
WIDTH = 68  # characters of a line of Python, where it can be broken


@dataclass(frozen=True)
class Code:
    """Code that makes a result again.

    Attributes:
        python: its last name is the result's.
        command: one or more lines for a POSIX shell.
        file: whether it reads the settings file, saved where it is run.
    """

    python: str
    command: str
    file: bool = False


@dataclass(frozen=True)
class Source:
    """A piece of Python that stands as it is among values."""

    text: str

    def __repr__(self) -> str:
        return self.text


# --- one result after another --------------------------------------------------------------------


def of_trace(recipe: Recipe, view: View | None = None) -> Code:
    """The code of one trace.

    Args:
        view: how it is shown; by default as a trace shows itself.
    """
    dressed = []
    if view is not None and (shown := changed(view, but=("result", "verdict", "estimate"))):
        dressed = [_assigned("view", f"{PACKAGE}.View", [Source("result")], shown)]
    if not (_is_named(recipe.probe) and _can_be_said(recipe.text, recipe.settings.counterfactual)):
        return _of_file("result", dressed)
    traced = [Source("model"), Source("probe"), recipe.text, Source("settings")]
    python = [
        *_model_and_probe(recipe.model, recipe.probe),
        _assigned("settings", f"{PACKAGE}.TraceSettings", [], changed(recipe.settings)),
        _assigned("result", f"{PACKAGE}.trace", traced, {}),
        *dressed,
    ]
    options = [
        *_model_options(recipe.model),
        *_probe_options(recipe.probe),
        *_trace_options(recipe.settings),
        *([] if view is None else arguments(view)),
    ]
    return Code(_script(python), _command("trace", options, [recipe.text], OUT))


def of_comparison(recipes: Sequence[Recipe], layers: Sequence[int], beside: Beside) -> Code:
    """The code of several models' traces of one text, side by side.

    Args:
        layers: of each trace's model.
    """
    first = recipes[0]
    settings = first.settings
    windows = [recipe.settings.window for recipe in recipes]
    if windows == list(map(default_window, layers)):
        settings = replace(settings, window=None)  # of every model its own
    alike = all(
        _is_named(recipe.probe)
        and recipe.text == first.text
        and replace(recipe.settings, window=settings.window) == settings
        and settings.window in (None, recipe.settings.window)
        and _reads(recipe.probe) == _reads(first.probe)
        and recipe.probe.dataset == first.probe.dataset
        and recipe.model.precision == "float32"
        for recipe in recipes
    )
    called = _names([recipe.model for recipe in recipes])
    shown = {"share": beside.share, "depth": beside.depth, "names": called}
    side_by_side = ("result", f"{PACKAGE}.show", [Source("*results")], shown)
    if not (alike and _can_be_said(first.text, first.settings.counterfactual)):
        return _of_file("results", [_assigned(*side_by_side)])
    python: list[str] = [
        *_data_lines(first.probe),
        _assigned("settings", f"{PACKAGE}.TraceSettings", [], changed(settings)),
        "results = []",
    ]
    for name in dict.fromkeys(recipe.model.name for recipe in recipes):
        own = [recipe for recipe in recipes if recipe.model.name == name]
        python.append(_assigned("model", f"{PACKAGE}.load_model", [name], {}))
        python.append(_probe_line(own[0].probe))
        for recipe in own:
            place = "model"
            if recipe.model.untrained:
                place = "twin"
                python.append(
                    _assigned(place, f"{PACKAGE}.load_model", [name], {"untrained": True})
                )
            traced = [Source(place), Source("probe"), first.text, Source("settings")]
            python.append(f"results.append({_call(f'{PACKAGE}.trace', traced, {})})")
    python.append(_assigned(*side_by_side))
    options = [part for recipe in recipes for part in _compared(recipe.model)]
    options += [*_probe_options(first.probe), *_trace_options(settings), *arguments(beside)]
    return Code(_script(python), _command("compare", options, [first.text], OUT))


def of_average(recipe: SweepRecipe) -> Code:
    """The code of a sweep and its average."""
    wanted = changed(recipe.options)
    if not _is_swept(recipe):
        return _of_file("result")
    python = [
        *_sweep_lines(recipe),
        _assigned("result", f"{PACKAGE}.average", [Source("store")], wanted),
    ]
    return Code(_script(python), _sweep_command(recipe, arguments(recipe.options)))


def of_averages(recipes: Sequence[SweepRecipe], names: Sequence[str], beside: Beside) -> Code:
    """The code of several sweeps' averages, side by side."""
    shown = {"names": list(names), "share": beside.share, "depth": beside.depth}
    last = ("result", f"{PACKAGE}.show", [Source("*results")], shown)
    if not all(map(_is_swept, recipes)):
        return _of_file("results", [_assigned(*last)])
    python = ["results = []"]
    for recipe in recipes:
        python += _sweep_lines(recipe)
        made = _call(f"{PACKAGE}.average", [Source("store")], changed(recipe.options))
        python.append(f"results.append({made})")
    python.append(_assigned(*last))
    lines = [_command("sweep", _sweep_options(recipe), [], ()) for recipe in recipes]
    options = [*arguments(recipes[0].options), *arguments(beside, but=("share",))]
    swept = [recipe.id for recipe in recipes]
    lines.append(_command("average", options, swept, OUT))
    return Code(_script(python), "\n".join(lines))


def of_intervention(plan: Plan) -> Code:
    """The code of an intervention."""
    if not _can_be_said(plan.text, plan.other):
        return _of_file("result")
    python = [
        _assigned("model", f"{PACKAGE}.load_model", [plan.model], {}),
        _assigned("plan", f"{PACKAGE}.Plan", [], _plan_fields(plan)),
        _assigned("result", f"{PACKAGE}.intervene", [Source("model"), Source("plan")], {}),
    ]
    name = {"exchange": "steer", "replace": "ablate"}.get(plan.what, plan.what)
    always = ("kind",) if plan.what == "replace" else ()
    options = [*_option("--model", plan.model), *arguments(plan, always=always)]
    out = ("figure.svg", "evaluation.csv")
    return Code(_script(python), _command(name, options, [plan.text], out))


def of_probe(probe: Probe) -> Code:
    """The code that trains a probe and judges it; of other texts, the one that opens its file."""
    if not _is_trainable(probe):
        opened = _assigned("probe", f"{PACKAGE}.Probe.load", [PROBE], {})
        return Code(_script([opened, "result = probe.report"]), "", file=True)
    report = probe.judged
    twin = any("twin" in control.name.lower() for control in report.controls)
    trained = {
        **_named_by(probe),
        **({"folds": report.folds} if report.folds != FOLDS else {}),
        **({"seed": probe.seed} if probe.seed else {}),
        **({"name": probe.name} if probe.name else {}),
        "dataset": probe.dataset,
    }
    place = [Source("model"), Source("tweets")]
    python = [
        _assigned("model", f"{PACKAGE}.load_model", [probe.model_name], {}),
        _assigned("tweets", f"{PACKAGE}.load_dataset", [probe.dataset], {}),
        _assigned("probe", f"{PACKAGE}.train_probe", place, trained),
    ]
    if twin:
        python.append(
            _assigned("twin", f"{PACKAGE}.load_model", [probe.model_name], {"untrained": True})
        )
    if report.controls:
        options = {"twin": Source("twin")} if twin else {}
        python.append(
            _assigned("probe", f"{PACKAGE}.with_controls", [Source("probe"), *place], options)
        )
    python.append("result = probe.report")
    judged = ["--no-controls"] if not report.controls else ["--no-twin"] if not twin else []
    options_said = [
        *_option("--model", probe.model_name),
        *_probe_options(probe),
        *(_option("--folds", report.folds) if report.folds != FOLDS else []),
        *(_option("--seed", probe.seed) if probe.seed else []),
        *(_option("--name", probe.name) if probe.name else []),
        *judged,
        "--report",
        "probe",
    ]
    return Code(_script(python), _command("probe", options_said, [], ()))


# --- what can be said ----------------------------------------------------------------------------


def _is_named(probe: Probe) -> bool:
    """Whether `contrast` makes just this probe by its words, or `probe_for` by what it reads."""
    if probe.is_contrast:
        numbers = [*probe.mean, *probe.scale, *probe.coefficients, probe.intercept]
        return numbers == [0, 0, 1, 1, 1, -1, 0] and not probe.name and _can_be_asked(probe)
    return _is_trainable(probe) and (probe.seed, probe.judged.folds) == (0, FOLDS)


def _is_trainable(probe: Probe) -> bool:
    """Whether a probe was trained on a built-in data set as it is on this disk."""
    data = probe.dataset
    if data not in datasets.BUILT_IN or not datasets.dataset_file(data).is_file():
        return False
    return _can_be_asked(probe) and trained_on(probe, datasets.load_dataset(data)) is not None


def _can_be_asked(probe: Probe) -> bool:
    """Whether words and template, written out, ask for those of a probe.

    What a model's chat template writes is its own; one that writes a year may write today's date,
    and another prompt tomorrow.
    """
    template = probe.template
    parts = (template.before, template.suffix)
    return (
        _can_be_said(*parts, *probe.words_positive, *probe.words_negative)
        and not any(TWEET in part for part in parts)
        and not _YEAR.search(template.opening + template.closing)
    )


def _can_be_said(*texts: str | None) -> bool:
    """Whether texts can stand on a command line, which has no null and no half a character."""
    return all(
        "\0" not in text and not any("\ud800" <= mark <= "\udfff" for mark in text)
        for text in texts
        if text is not None
    )


def _is_swept(recipe: SweepRecipe) -> bool:
    return (
        _is_named(recipe.probe)
        and recipe.data in datasets.BUILT_IN
        and recipe.selection.seed == recipe.settings.seed
        and recipe.settings.corruption != "counterfactual"
        and not recipe.model.untrained
    )


# --- pieces --------------------------------------------------------------------------------------


def _of_file(name: str, after: Sequence[str] = ()) -> Code:
    """The code that reads the settings file, and lines of Python after it."""
    file = embedded_settings.SETTINGS
    first = _assigned(name, f"{PACKAGE}.repeat", [file], {})
    return Code(_script([first, *after]), _command("run", [], [file], OUT), file=True)


def _model_and_probe(model: ModelOrigin, probe: Probe) -> list[str]:
    lines = [
        _assigned("model", f"{PACKAGE}.load_model", [model.name], _loading(model, untrained=False)),
        *_data_lines(probe),
        _probe_line(probe),
    ]
    if model.untrained:
        lines.append(
            _assigned(
                "model", f"{PACKAGE}.load_model", [model.name], _loading(model, untrained=True)
            )
        )
    return lines


def _data_lines(probe: Probe) -> list[str]:
    """The line that opens what a probe is trained on; none of a contrast."""
    if probe.is_contrast:
        return []
    return [_assigned("tweets", f"{PACKAGE}.load_dataset", [probe.dataset], {})]


def _loading(model: ModelOrigin, *, untrained: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if model.precision != "float32":
        options["dtype"] = model.precision
    return options | ({"untrained": True} if untrained else {})


def _probe_line(probe: Probe) -> str:
    if probe.is_contrast:
        place = [Source("model"), *probe.words]
        return _assigned("probe", f"{PACKAGE}.contrast", place, _around(probe.template))
    options = {**_named_by(probe), "dataset": probe.dataset}
    return _assigned("probe", f"{PACKAGE}.probe_for", [Source("model"), Source("tweets")], options)


def _named_by(probe: Probe) -> dict[str, Any]:
    """What a probe reads, in the words of `probe_for` and `train_probe`."""
    options: dict[str, Any] = {"features": probe.features, **_around(probe.template)}
    if (words := _words(probe)) is not None:
        options["words"] = words
    return options


def _around(template: Template) -> dict[str, Any]:
    """What stands around a tweet, as an argument; none of the usual."""
    if template.format == "raw":
        return {"template": template.written} if template.asked != Template() else {}
    made = _call(f"{PACKAGE}.Template", [], changed(template.asked))
    return {"template": Source(made)}


def _reads(probe: Probe) -> tuple[Any, ...]:
    """All of what a probe reads."""
    return probe.features, probe.template.asked, probe.words_positive, probe.words_negative


def _words(probe: Probe) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    words = (probe.words_positive, probe.words_negative)
    return None if words == words_of(probe.features, None) else words


def _probe_options(probe: Probe) -> list[str]:
    said = [] if probe.is_contrast or probe.dataset == DATA else _option("--data", probe.dataset)
    return said + _reading(probe)


def _reading(probe: Probe) -> list[str]:
    """The options that say what a probe reads."""
    template = probe.template
    said = ["--contrast", *probe.words] if probe.is_contrast else []
    said += [] if probe.is_contrast else _option("--features", probe.features)
    if template.before:
        said += _option("--prompt", template.written)
    elif template.suffix != DEFAULT_SUFFIX:
        said += _option("--suffix", template.suffix)
    if template.format != "raw":
        said += _option("--format", template.format)
    if probe.is_contrast:
        return said
    for name, words in zip(("--good", "--bad"), _words(probe) or ((), ()), strict=True):
        said += [part for word in words for part in _option(name, word)]
    return said


def _model_options(model: ModelOrigin) -> list[str]:
    said = _option("--model", model.name)
    if model.precision != "float32":
        said += _option("--dtype", model.precision)
    return said + (["--untrained"] if model.untrained else [])


def _compared(model: ModelOrigin) -> list[str]:
    return _option("--untrained" if model.untrained else "--model", model.name)


def _trace_options(settings: TraceSettings) -> list[str]:
    said_by_the_text = ("corruption",) if settings.counterfactual is not None else ()
    return arguments(settings, but=said_by_the_text)


def _names(models: Sequence[ModelOrigin]) -> list[str]:
    return [f"{model.name}{', untrained' if model.untrained else ''}" for model in models]


def _plan_fields(plan: Plan) -> dict[str, Any]:
    return {"what": plan.what, "text": plan.text, **changed(plan, but=("what", "text", "model"))}


def _sweep_lines(recipe: SweepRecipe) -> list[str]:
    """Lines of Python that end in the sweep's `store`."""
    selection = _call(f"{PACKAGE}.Selection", [], changed(recipe.selection))
    settings = _call(f"{PACKAGE}.TraceSettings", [], changed(recipe.settings))
    options: dict[str, Any] = {"selection": Source(selection)}
    if recipe.roles is not None:
        options["roles"] = list(recipe.roles)
    if recipe.most_tokens is not None:
        options["most_tokens"] = recipe.most_tokens
    lines = _model_and_probe(recipe.model, recipe.probe)
    texts = "tweets"
    if recipe.data != recipe.probe.dataset:
        texts = "swept"
        lines.append(_assigned(texts, f"{PACKAGE}.load_dataset", [recipe.data], {}))
    place = [Source("model"), Source("probe"), Source(texts), Source(settings)]
    return [
        *lines,
        _assigned("store", f"{PACKAGE}.sweep", place, {**options, "data": recipe.data}),
    ]


def _sweep_options(recipe: SweepRecipe) -> list[str]:
    options = _option("--model", recipe.model.name)
    if recipe.model.precision != "float32":
        options += _option("--dtype", recipe.model.precision)
    if recipe.data != DATA:
        options += _option("--data", recipe.data)
    if not recipe.probe.is_contrast and recipe.probe.dataset != DATA:
        options += _option("--probe-data", recipe.probe.dataset)
    options += _reading(recipe.probe)
    options += arguments(recipe.selection)
    # The command's own default is one sample.
    options += arguments(recipe.settings, always=("samples",), but=("until", "proxy"))
    if recipe.roles is not None:
        options += _option("--roles", ",".join(recipe.roles))
    if recipe.most_tokens is not None:
        options += _option("--most-tokens", recipe.most_tokens)
    return options


def _sweep_command(recipe: SweepRecipe, averaged: list[str]) -> str:
    """Two lines: the sweep, and the average of it by its name, which its settings make."""
    swept = _command("sweep", _sweep_options(recipe), [], ())
    return f"{swept}\n{_command('average', averaged, [recipe.id], OUT)}"


def _option(name: str, value: object) -> list[str]:
    return [name, str(value)]


def _command(name: str, options: Iterable[str], places: Sequence[str], outs: Sequence[str]) -> str:
    """A line for a shell; a place that begins with a dash comes after two of them."""
    dashes = ["--"] if any(place.startswith("-") for place in places) else []
    written = [part for out in outs for part in ("--out", out)]
    return f"{COMMAND} {shlex.join([name, *options, *written, *dashes, *places])}"


def _script(lines: Iterable[str]) -> str:
    return "\n".join([f"import {PACKAGE}", "", *lines]) + "\n"


def _assigned(name: str, function: str, places: Sequence[Any], options: Mapping[str, Any]) -> str:
    return f"{name} = {_call(function, places, options, already=len(name) + 3)}"


def _call(
    function: str, places: Sequence[Any], options: Mapping[str, Any], *, already: int = 0
) -> str:
    """A call in Python, an argument on a line where it is too long for one."""
    said = [*map(repr, places), *(f"{name}={value!r}" for name, value in options.items())]
    line = f"{function}({', '.join(said)})"
    if already + len(line) <= WIDTH:
        return line
    return "\n".join([f"{function}(", *(f"    {each}," for each in said), ")"])
