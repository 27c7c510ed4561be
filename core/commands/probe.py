"""`python -m core probe`: train a probe and judge it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from .options import SettingsCommand
from .shared import (
    DEFAULT_DATA,
    check_out,
    contrast_of,
    contrast_option,
    default_name,
    model_options,
    one_line,
    open_model,
    open_texts,
    print_table,
    probe_options,
    progress_bar,
    progress_option,
    reading_options,
    template_of,
    words_or_default,
    writing,
)

if TYPE_CHECKING:
    from ..data.datasets import FileReading
    from ..probes.probe import Features, Probe
    from ..prompts.template import Format


@click.command(cls=SettingsCommand)
@model_options
@probe_options
@contrast_option
@reading_options
@click.option("--folds", default=5, show_default=True, help="Of the cross-validation.")
@click.option("--seed", default=0, show_default=True, help="Of the folds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Where to write the probe.  [default: kept in the cache folder, where `trace` finds it]",
)
@click.option(
    "--report",
    "report_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also write the whole report there: the probe as JSON, every table as CSV.",
)
@click.option(
    "--controls/--no-controls",
    default=True,
    show_default=True,
    help="Compare the probe with controls; the untrained twin has to encode the texts too.",
)
@click.option(
    "--twin/--no-twin",
    default=True,
    show_default=True,
    help="Whether the untrained twin is among the controls.",
)
@click.option("--name", "called", default="", help="What lists call the probe.")
@click.option("--json", "as_json", is_flag=True, help="Print the probe as JSON.")
@progress_option
def probe(
    name: str | None,
    device: str | None,
    dtype: str,
    data: str | None,
    reading: FileReading,
    features: Features | None,
    suffix: str | None,
    prompt: str | None,
    prompt_format: Format | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
    contrast: tuple[str, str] | None,
    folds: int,
    seed: int,
    out: Path | None,
    report_folder: Path | None,
    controls: bool,
    twin: bool,
    called: str,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Train a probe that reads a tweet's sentiment from the model, and judge it.

    Or, by --contrast, save two next words to be read instead, for commands that take --probe.
    """
    if out is not None:
        check_out(out, ("json",))
    from ..data.readable import readable_texts
    from ..probes.library import keep
    from ..probes.training import train_probe
    from ..prompts.template import Template

    template = template_of(suffix, prompt, prompt_format) or Template()
    if contrast is not None:
        model = open_model(name, device, dtype, progress)
        trained_alone = {"--data": data, "--features": features, "--good": good, "--bad": bad}
        made = contrast_of(model, contrast, template, trained_alone | {"--report": report_folder})
        if out is None:
            raise UserError("A contrast is not kept by itself: say where it goes by --out.")
        with writing(out):
            made.save(out)
        click.echo(made.to_json().decode() if as_json else f"Saved {made.title} as {out}")
        return
    data = data or DEFAULT_DATA
    texts = open_texts(data, reading)
    model = open_model(name, device, dtype, progress)
    found = readable_texts(model, texts.frame, template)
    if found.refused:
        click.echo(f"{data}: {found.describe()}", err=True)
    tweets = found.frame
    with progress_bar(f"Encoding {len(tweets):,} texts", progress) as show:
        trained = train_probe(
            model,
            tweets,
            features=features or "logit_pair",
            template=template,
            words=words_or_default(good, bad),
            folds=folds,
            seed=seed,
            dataset=data,
            name=called,
            read_as=texts.read_as,
            progress=lambda done, total: show(done / total),
        )
    if controls:
        from ..models.loading import load_model
        from ..probes.controls import with_controls

        random = None
        if twin:
            random = load_model(name or default_name(), device=device, dtype=dtype, untrained=True)
        whose = " by the untrained twin" if twin else ""
        with progress_bar(f"Encoding {len(tweets):,} texts{whose}", progress) as show:
            trained = with_controls(
                trained,
                model,
                tweets,
                twin=random,
                progress=lambda done, total: show(done / total),
            )
    if out is not None:
        with writing(out):
            trained.save(out)
    else:
        out = keep(trained)
    if report_folder is not None:
        _write_report(trained, report_folder)
    if as_json:
        click.echo(out.read_text(encoding="utf-8"), nl=False)
        return
    _print_probe(trained)
    if report_folder is not None:
        click.echo(f"Report in {report_folder}")
    click.echo(f"Saved as {out}")


def _print_probe(trained: Probe) -> None:
    from ..probes.scores import METRICS

    report = trained.judged
    at = "" if trained.layer is None else f", layer {trained.layer}"
    click.echo(
        f"Probe of {trained.model_name} ({trained.features}{at}) on {report.n:,} texts"
        f"{f' of {trained.dataset}' if trained.dataset else ''}:"
    )
    if trained.read_as:
        click.echo(f"  {one_line(trained.read_as)}")
    click.echo(
        f"  accuracy  {report.accuracy:.1%} (95% interval {report.accuracy_low:.1%} to "
        f"{report.accuracy_high:.1%}), {report.folds}-fold cross-validation\n"
        f"  macro-F1  {report.macro_f1:.1%}\n"
        f"  majority  {report.majority:.1%} (always the more frequent label)\n"
    )
    table: list[Sequence[str]] = [("", *(name.partition(" (")[0] for name in METRICS.values()))]
    for name, scores in (
        ("the probe", report.scores),
        *((control.name, control.scores) for control in report.controls),
    ):
        table.append((name, *(f"{scores[metric].value:.3f}" for metric in METRICS)))
    print_table(table, right=range(1, len(METRICS) + 1))
    if report.verdict is not None:
        click.echo(f"\n{report.verdict}")


def _write_report(trained: Probe, folder: Path) -> None:
    """Write the probe, and every table of its report, into a folder."""
    from ..exporting.table_files import export_table

    with writing(folder):
        trained.save(folder / "probe.json")
        for name, table in trained.judged.tables().items():
            export_table(table, folder / f"{name}.csv")
