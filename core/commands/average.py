"""`python -m core average`: what the tweets of a sweep say together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..errors import UserError
from .options import SettingsCommand, settings_options
from .shared import (
    FIGURES,
    TABLES,
    check_out,
    out_option,
    print_table,
    progress_bar,
    progress_option,
    without_nan,
    writing,
)

if TYPE_CHECKING:
    from ..exporting.displays import Beside
    from ..sweeps.average import Average
    from ..sweeps.record import Record
    from ..sweeps.study import Options
    from ..sweeps.sweep import Selection


@click.command(cls=SettingsCommand)
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True)
@settings_options("options", "sweeps.study:Options")
@settings_options("selection", "sweeps.sweep:Selection", only=("label", "shortest", "longest"))
@settings_options("beside", "exporting.displays:Beside", only=("depth",))
@out_option("")
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write aggregated numbers of all tweets, of positive and negative, short and long ones, "
    "without any text; the Average page reads it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table and settings as JSON.")
@progress_option
def average(
    sweeps: tuple[str, ...],
    options: Options,
    selection: Selection,
    beside: Beside,
    outs: tuple[Path, ...],
    summary: Path | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Average the traces of SWEEP (its name or the beginning of it, see `sweep --list`).

    Several are shown side by side in a figure and stand in one table.
    """
    for out in outs:
        check_out(out, (*FIGURES, *TABLES))
    if summary is not None:
        check_out(summary, ("json",))
    from ..sweeps import average as averaging
    from ..sweeps.store import open_store

    stores = [open_store(sweep) for sweep in sweeps]
    if len(stores) > 1 and (summary is not None or as_json):
        raise UserError("A summary and JSON are of one sweep; name one alone.")

    def wanted(record: Record) -> bool:
        tokens = len(record.result.prompt.tweet_span)
        return (
            selection.label in (None, record.label)
            and tokens >= selection.shortest
            and (selection.longest is None or tokens <= selection.longest)
        )

    averages = [averaging.average(store, where=wanted, **asdict(options)) for store in stores]
    store, found = stores[0], averages[0]
    for out in outs:
        save_averages(averages, out, beside)
    if summary is not None:
        from ..sweeps import study

        with progress_bar("Averaging every group", progress) as show, writing(summary):
            study.save(study.study(store, options, progress=show), summary)
    if as_json:
        rows = found.frame.to_dict("records")
        total = {
            "mean": found.total.mean,
            "lower": found.total.lower,
            "upper": found.total.upper,
            "n": found.total.n,
        }
        content = {"sweep": store.id, "about": found.about, "total": total, "cells": rows}
        click.echo(json.dumps(without_nan(content), ensure_ascii=False))
        return
    for number, each in enumerate(averages):
        if number:
            click.echo("")
        print_average(each)
    for written in (*outs, *((summary,) if summary is not None else ())):
        click.echo(f"Saved {written}")


def print_average(found: Average) -> None:
    """Print what an average says: its total effect, its claims, its largest cells."""
    from ..patching.sites import Kind
    from ..sweeps import average_findings as words
    from ..sweeps.average import TOWARDS
    from ..tracing.view import KINDS, ordinal

    about = found.about
    said = words.finding(found)
    some = f", every {ordinal(about['every'])} traced" if about["every"] > 1 else ""
    click.echo(f"Model     {about['model']}, {about['layers']} layers{some}")
    click.echo(f"Effects   {about['unit']}, {TOWARDS[about['towards']]}")
    click.echo(f"Intervals {found.intervals}")
    click.echo(f"\n{said.effect}.\n{said.sentence}")
    for claim in said.claims:
        click.echo(f"  {claim.verdict:<13}{claim.text} {claim.why}")
    titles = found.titles()
    click.echo("\nLargest effect of each kind and role, cells fixed by construction left out")
    table: list[Sequence[str]] = [("kind", "role", "layer", "mean", "95% interval", "n", "peaks")]
    free = found.frame[~found.frame["trivial"] & found.frame["mean"].notna()]
    for kind in about["kinds"]:
        for role in found.roles:
            rows = free[(free["kind"] == kind) & (free["role"] == role)]
            if rows.empty:
                continue
            top = rows.loc[rows["mean"].idxmax()]
            share = rows["peak_share"].sum()
            table.append(
                (
                    KINDS[cast("Kind", kind)],
                    titles[role],
                    str(top["layer"]),
                    f"{top['mean']:+.3g}",
                    f"{top['lower']:+.3g} to {top['upper']:+.3g}",
                    str(top["n"]),
                    f"{share:.0%}",
                )
            )
    print_table(table, right=(2, 3, 5, 6))
    click.echo("peaks: share of tweets whose largest cell of the kind lies at the role.")


def save_averages(
    averages: Sequence[Average], path: Path, beside: Beside | None = None
) -> list[Path]:
    """Save an average, or several side by side, in the form that the ending names."""
    from ..exporting.displays import display_of, show

    with writing(path):
        if len(averages) == 1:
            return [display_of(averages[0]).save(path)]
        depth = "layer" if beside is None else beside.depth
        return [display_of(show(*averages, depth=depth)).save(path)]
