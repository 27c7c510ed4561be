"""`python -m core compare`: several models on one tweet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    one_line,
    open_model,
    open_texts,
    out_option,
    print_table,
    probe_of,
    probe_options,
    progress_bar,
    progress_option,
    reading_options,
    save_figure,
    template_of,
    words_or_default,
    writing,
)

if TYPE_CHECKING:
    from ..data.datasets import FileReading
    from ..exporting.displays import Beside
    from ..probes.probe import Features
    from ..prompts.template import Format
    from ..tracing.result import TraceResult, TraceSettings


@click.command(cls=SettingsCommand)
@click.argument("text")
@click.option(
    "--model", "names", multiple=True, metavar="KEY", help="Key, hub id or folder; may be repeated."
)
@click.option(
    "--untrained",
    "twins",
    multiple=True,
    metavar="KEY",
    help="The untrained twin of this model too, read by the model's own probe; may be repeated.",
)
@click.option("--device", metavar="NAME", help='For example "cpu" or "cuda:1".')
@probe_options
@contrast_option
@reading_options
@settings_options("settings", "tracing.result:TraceSettings")
@settings_options("beside", "exporting.displays:Beside")
@out_option(" of all cells")
@progress_option
def compare(
    text: str,
    names: tuple[str, ...],
    twins: tuple[str, ...],
    device: str | None,
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
    beside: Beside,
    outs: tuple[Path, ...],
    progress: bool | None,
) -> None:
    """Trace TEXT on several models, side by side: the same sites?

    Put -- before a text that begins with a dash.
    """
    for out in outs:
        check_out(out, (*FIGURES, *TABLES))
    if len(names) + len(twins) < 2:
        raise UserError(
            "A comparison needs two models; name them by --model KEY and --untrained KEY."
        )
    if settings.counterfactual is not None:
        settings = replace(settings, corruption="counterfactual")
    from ..exporting.displays import show
    from ..models.loading import load_model
    from ..tracing.tracer import trace

    template = template_of(suffix, prompt, prompt_format)
    trained = {"--data": data, "--features": features, "--good": good, "--bad": bad}
    data = data or DEFAULT_DATA
    texts = open_texts(data, reading) if contrast is None else None
    results: list[TraceResult] = []
    called: list[str] = []
    for name in dict.fromkeys((*names, *twins)):
        model = open_model(name, device, "float32", progress)
        if texts is None:
            assert contrast is not None
            probe = contrast_of(model, contrast, template, trained)
        else:
            probe = probe_of(
                model,
                data,
                texts.frame,
                features or "logit_pair",
                progress,
                template=template,
                words=words_or_default(good, bad),
                read_as=texts.read_as,
            )
        for untrained in (False, True):
            if name not in (twins if untrained else names):
                continue
            label = f"{name}, untrained" if untrained else name
            if untrained:
                model = load_model(name, device=device, untrained=True)
            with progress_bar(f"Tracing on {label}", progress) as bar:
                results.append(trace(model, probe, text, settings, keep=True, progress=bar))
            called.append(label)
        del model
    shown = show(*results, names=called, share=beside.share, depth=beside.depth)
    _print(shown.sentences(), results, called)
    for out in outs:
        with writing(out):
            click.echo(f"Saved {_save(shown, out)}")


def _save(shown: Any, out: Path) -> Path:
    from ..exporting.displays import display_of

    display = display_of(shown)
    if out.suffix.lower().removeprefix(".") in FIGURES:
        assert display.recipe is not None
        return save_figure(display.figure(), out, recipe=display.recipe())
    return display.save(out)


def _print(sentences: Sequence[str], results: Sequence[TraceResult], names: Sequence[str]) -> None:
    from ..sweeps.comparison import summary

    rows: list[Sequence[str]] = [("model", "accuracy", "P(positive)", "total effect", "health")]
    for row in summary(results, names).to_dict("records"):
        rows.append(
            (
                one_line(str(row["trace"])),
                f"{row['accuracy']:.1%}",
                f"{row['positive']:.2f}",
                f"{row['total_effect']:+.3g}",
                str(row["says"]),
            )
        )
    print_table(rows, right=(1, 2, 3))
    click.echo("")
    for sentence in sentences:
        click.echo(one_line(sentence))
