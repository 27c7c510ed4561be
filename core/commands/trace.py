"""`python -m core trace`: trace one tweet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ..errors import UserError
from .options import SettingsCommand, settings_options
from .shared import (
    DEFAULT_DATA,
    FIGURES,
    TABLES,
    check_out,
    contrast_of,
    contrast_option,
    default_name,
    model_options,
    one_line,
    open_model,
    open_texts,
    out_option,
    plus_minus,
    print_table,
    probe_file_option,
    probe_of,
    probe_options,
    progress_bar,
    progress_option,
    reading_options,
    save_traces,
    template_of,
    without_nan,
    words_or_default,
)

if TYPE_CHECKING:
    from ..data.datasets import FileReading
    from ..models.model import Model
    from ..probes.probe import Features, Probe
    from ..prompts.template import Format
    from ..tracing.result import TraceResult, TraceSettings
    from ..tracing.view import View

ALL = "hidden,mlp,attn"
TOP_CELLS = 2  # of each kind, inside the corrupted span and outside


@click.command(cls=SettingsCommand)
@click.argument("text")
@model_options
@click.option("--untrained", is_flag=True, help="Trace the untrained twin instead, as a control.")
@probe_file_option("--data")
@probe_options
@contrast_option
@reading_options
@settings_options(
    "settings",
    "tracing.result:TraceSettings",
    defaults={"kinds": None},
    other={"kinds": {"unset": ALL}},
    make=lambda **fields: _settings(**fields),
)
@settings_options(
    "shown", "tracing.view:View", only=("share", "words", "kind", "around"), given=True
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MB",
    help="What a trace may need beyond the model's weights.  [default: half of what is free]",
)
@out_option(" of all cells")
@click.option("--json", "as_json", is_flag=True, help="Print the result, all cells, as JSON.")
@progress_option
def trace(
    text: str,
    name: str | None,
    device: str | None,
    dtype: str,
    untrained: bool,
    probe_file: Path | None,
    data: str | None,
    reading: FileReading,
    features: Features | None,
    suffix: str | None,
    prompt: str | None,
    prompt_format: Format | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
    contrast: tuple[str, str] | None,
    settings: TraceSettings,
    shown: dict[str, Any],
    memory: int | None,
    outs: tuple[Path, ...],
    as_json: bool,
    progress: bool | None,
) -> None:
    """Trace TEXT: which sites of the model carry its sentiment?

    Put -- before a text that begins with a dash.
    """
    for out in outs:
        check_out(out, (*FIGURES, *TABLES))
    from ..data.datasets import FileReading
    from ..models.loading import load_model
    from ..probes.probe import Probe
    from ..prompts.prompt import build_prompt, resolve_span
    from ..prompts.template import Template
    from ..tracing.tracer import trace_progressively
    from ..tracing.view import View

    asked = template_of(suffix, prompt, prompt_format)
    given = None
    if probe_file is not None:
        given = Probe.load(probe_file)
        around = asked.written if asked else None
        _check_given(given, probe_file, data, features, around, prompt_format, good, bad)
        if contrast is not None:
            raise UserError("A probe's file and a contrast are two ways to read: give one.")
        if reading != FileReading():
            raise UserError(
                f"The probe {probe_file} is trained already, so no file is read: leave out "
                "the options for files."
            )
    model = open_model(name, device, dtype, progress)
    # A tweet or span that cannot be used is refused before a probe is trained.
    built = build_prompt(model, text, given.template if given else asked or Template())
    resolve_span(built, settings.corrupt)
    if contrast is not None:
        trained = {"--data": data, "--features": features, "--good": good, "--bad": bad}
        given = contrast_of(model, contrast, asked, trained)
    if given is None:
        data = data or DEFAULT_DATA
        texts = open_texts(data, reading)
        given = probe_of(
            model,
            data,
            texts.frame,
            features or "logit_pair",
            progress,
            read_as=texts.read_as,
            template=asked,
            words=words_or_default(good, bad),
        )
    if untrained:
        model = load_model(name or default_name(), device=device, dtype=dtype, untrained=True)
    with progress_bar(f"Tracing {len(built)} tokens x {model.layers} layers", progress) as show:
        for partial in trace_progressively(
            model,
            given,
            text,
            settings,
            keep=True,
            memory=None if memory is None else memory * 10**6,
            progress=show,
        ):
            result = partial
    for out in outs:
        save_traces([result], out, shown=shown)
    if as_json:
        click.echo(json.dumps(_as_json(result), ensure_ascii=False))
        return
    view = View(result)
    _print_trace(view)
    _print_instead(model, view)
    for out in outs:
        click.echo(f"Saved {out}")


def _settings(**fields: Any) -> TraceSettings:
    """Of the options; a frozen path is one of hidden states, another tweet is a corruption."""
    from ..tracing.result import TraceSettings

    if fields["kinds"] is None:
        fields["kinds"] = ("hidden",) if fields["severed"] else tuple(ALL.split(","))
    if fields["counterfactual"] is not None:
        fields["corruption"] = "counterfactual"
    return TraceSettings(**fields)


def _check_given(
    given: Probe,
    file: Path,
    data: str | None,
    features: str | None,
    around: str | None,
    prompt_format: Format | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
) -> None:
    """A probe from a file brings its data, features, prompt and words; options may only agree."""
    for option, asked, has in (
        ("--data", data, given.dataset),
        ("--features", features, given.features),
        ("--suffix", around, given.template.written),
        ("--format", prompt_format, given.prompt_format),
        ("--good", good or None, given.words_positive),
        ("--bad", bad or None, given.words_negative),
    ):
        if asked is not None and asked != has:
            raise UserError(
                f"The probe {file} was trained with {option} {has!r}, not {asked!r}; "
                f"leave out {option}, or train another probe."
            )


def _print_trace(view: View) -> None:
    from ..tracing.result import units_of
    from ..tracing.view import KINDS, probe_line

    result = view.result
    click.echo(f"Prompt      {one_line(result.prompt.text)}")
    click.echo(
        f"Model       {result.model_name}, {result.layers} layers, {len(result.prompt)} tokens, "
        f"{len(result.corrupted_span)} of them corrupted"
    )
    reads = f"{result.probe.features}, " if result.probe.report is not None else ""
    click.echo(f"Probe       {reads}{probe_line(result).removeprefix('probe ')}")
    click.echo(f"Prediction  {view.headline}")
    click.echo(f"Proxy       {view.unit}")
    click.echo(f"            clean      {result.high:+.4g}")
    share = units_of(result.probe)["probability"] if result.probe.is_contrast else "P(positive)"
    click.echo(
        f"            corrupted  {result.low:+.4g}{plus_minus(result.low_error)}   "
        f"({share} = {result.corrupted_probability:.2f}; {_corruption_line(result)})"
    )
    click.echo(f"            total      {result.total_effect:+.4g}{plus_minus(result.low_error)}")
    found = result.distinguishable
    if found is None and result.settings.corruption in ("noise", "uniform"):
        click.echo("            One noise sample gives no standard error; take more.")
    elif found is False:
        click.echo(
            "            The total effect is not significant, so the effects below show nothing."
        )
    if result.settings.direction == "corrupt":
        click.echo(
            "Direction   noising: corrupted activations in the clean run; an effect is a loss"
        )
    if result.settings.severed is not None:
        severed = KINDS[result.settings.severed]
        click.echo(f"Frozen      the restored token's own later {severed} path stays corrupted")
    click.echo(
        f"\nLargest effects ({TOP_CELLS} of each kind among the corrupted tokens, *, and "
        f"{TOP_CELLS} among the others)"
    )
    table: list[Sequence[str]] = [("kind", "layer", "position", "token", "effect", "of total")]
    for cell in _top_cells(result):
        table.append(
            (
                KINDS[cell["kind"]],
                str(cell["layer"]),
                str(cell["position"]),
                f"{cell['token']}{' *' if cell['corrupted'] else ''}",
                f"{cell['effect']:+.4g}{plus_minus(cell['standard_error'])}",
                "" if found is False else f"{cell['normalised']:.0%}",
            )
        )
    print_table(table, right=(1, 2, 5))
    if found is not None:
        click.echo("\u00b1 is the standard error over the noise samples.")
    windowed = [kind for kind in result.settings.kinds if kind != "hidden"]
    if windowed:
        click.echo(
            f"{' and '.join(KINDS[kind] for kind in windowed)} cells cover "
            f"{result.window} layer{'s' if result.window != 1 else ''} around the one named."
        )


def _print_instead(model: Model, view: View) -> None:
    """Where the cells cannot be read: the setting under which most can."""
    from ..tracing.verdict import alternatives, best_first
    from ..tracing.view import with_interval

    if not view.grey:
        return
    result = view.result
    said = result.distinguishable is False  # above the table
    click.echo("" if said else f"\n{view.findings.sentence}")
    found = alternatives(model, [result.probe], result.prompt.tweet, result.settings)
    for best in best_first(list(found))[:1]:
        effect = with_interval(best.result.total_effect, best.result.low_reach)
        click.echo(
            f"{best.how(result)} the total effect is {effect} and {best.removed:.0%} of the clean "
            "log-odds are removed."
        )


def _corruption_line(result: TraceResult) -> str:
    settings = result.settings
    if settings.counterfactual is not None:
        aligned = ", aligned by the edit" if result.alignment is not None else ""
        return f"counterfactual {one_line(settings.counterfactual)!r}{aligned}"
    if settings.corruption == "mean":
        return "mean embedding"
    plural = "s" if result.samples_done != 1 else ""
    kind = "uniform noise" if settings.corruption == "uniform" else "noise"
    return f"{result.samples_done} sample{plural} of {kind}, sd {result.noise:.3g}"


def _top_cells(result: TraceResult) -> list[dict[str, Any]]:
    """The cells with the largest effects, those fixed by construction left out."""
    frame = result.frame()
    free = frame[~frame["trivial"]]
    cells: list[dict[str, Any]] = []
    for kind in result.settings.kinds:
        for corrupted in (True, False):
            of_kind = free[(free["kind"] == kind) & (free["corrupted"] == corrupted)]
            order = of_kind["effect"].abs().sort_values(ascending=False, kind="stable").index
            largest = of_kind.loc[order[:TOP_CELLS]].to_dict("records")
            cells += cast("list[dict[str, Any]]", largest)
    return cells


def _as_json(result: TraceResult) -> Any:
    """All of a result that a program may want, with null for what is not known."""
    settings, report = result.settings, result.probe.report
    prediction = "positive" if result.clean_probability >= 0.5 else "negative"
    return without_nan(
        {
            "tweet": result.prompt.tweet,
            "suffix": result.probe.suffix,
            "prompt": result.prompt.text,
            "format": result.probe.prompt_format,
            "model": result.model_name,
            "model_identity": result.model_identity,
            "layers": result.layers,
            "tokens": list(result.tokens),
            "token_ids": list(result.prompt.ids),
            "corrupted_span": list(result.corrupted_span),
            "settings": asdict(settings) | {"kinds": list(settings.kinds), "window": result.window},
            "samples": result.samples_done,
            "noise": result.noise,
            "probe": {
                "features": result.probe.features,
                "words": list(result.probe.words),
                "layer": result.probe.layer,
                "dataset": result.probe.dataset,
                "accuracy": None if report is None else report.accuracy,
                "accuracy_low": None if report is None else report.accuracy_low,
                "accuracy_high": None if report is None else report.accuracy_high,
            },
            "prediction": prediction if report is not None else None,
            "clean_probability": result.clean_probability,
            "corrupted_probability": result.corrupted_probability,
            "high": result.high,
            "low": result.low,
            "low_error": result.low_error,
            "total_effect": result.total_effect,
            "distinguishable": result.distinguishable,
            "effects": {kind: values.tolist() for kind, values in result.effects.items()},
            "standard_errors": {
                kind: values.tolist() for kind, values in result.standard_errors.items()
            },
            "seconds": result.seconds,
        }
    )
