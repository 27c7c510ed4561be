"""`python -m core average`: what the tweets of a sweep say together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from core.commands.shared import (
    FIGURES,
    TABLES,
    check_out,
    out_option,
    print_table,
    progress_bar,
    progress_option,
    proxy_option,
    without_nan,
    writing,
)

if TYPE_CHECKING:
    from core.average import Average, Interval, Towards
    from core.records import Record
    from core.results import Proxy
    from core.roles import Scheme

LABELS = {"positive": 1, "negative": 0}


@click.command()
@click.argument("sweep")
@click.option(
    "--roles",
    type=click.Choice(["tweet", "paper"]),
    default="tweet",
    show_default=True,
    help="Roles of tokens: what tweets are made of, or the six of Meng et al. 2022.",
)
@click.option(
    "--interval",
    type=click.Choice(["bootstrap", "normal"]),
    default="bootstrap",
    show_default=True,
    help="How the 95% intervals over tweets are made.",
)
@click.option("--normalised", is_flag=True, help="As shares of the total effect.")
@proxy_option
@click.option(
    "--towards",
    type=click.Choice(["prediction", "label", "positive"]),
    default="prediction",
    show_default=True,
    help="The side that effects count to.",
)
@click.option("--label", type=click.Choice(list(LABELS)), help="Tweets of one sentiment alone.")
@click.option("--shortest", type=int, default=1, show_default=True, help="In tokens of the tweet.")
@click.option("--longest", type=int, help="In tokens of the tweet.")
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
    sweep: str,
    roles: Scheme,
    interval: Interval,
    normalised: bool,
    proxy: Proxy,
    towards: Towards,
    label: str | None,
    shortest: int,
    longest: int | None,
    outs: tuple[Path, ...],
    summary: Path | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Average the traces of SWEEP (its name or the beginning of it, see `sweep --list`)."""
    for out in outs:
        check_out(out, (*FIGURES, *TABLES))
    if summary is not None:
        check_out(summary, ("json",))
    from core import average as averaging
    from core.store import open_store

    store = open_store(sweep)

    def wanted(record: Record) -> bool:
        tokens = len(record.result.prompt.tweet_span)
        return (
            (label is None or record.label == LABELS[label])
            and tokens >= shortest
            and (longest is None or tokens <= longest)
        )

    found = averaging.average(
        store,
        roles=roles,
        interval=interval,
        normalised=normalised,
        proxy=proxy,
        where=wanted,
        towards=towards,
    )
    for out in outs:
        _write(found, out)
    if summary is not None:
        from core import studies

        options = studies.Options(roles, interval, normalised, proxy, towards)
        with progress_bar("Averaging from every side", progress) as show, writing(summary):
            studies.save(studies.study(store, options, progress=show), summary)
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
    _print(found)
    for written in (*outs, *((summary,) if summary is not None else ())):
        click.echo(f"Saved {written}")


def _print(found: Average) -> None:
    from core import average_findings as words
    from core.average import INTERVALS, TOWARDS
    from core.figures import KINDS
    from core.runs import Kind

    about = found.about
    said = words.finding(found)
    click.echo(f"Model     {about['model']}, {about['layers']} layers, every {about['every']}")
    click.echo(f"Effects   {about['unit']}, {TOWARDS[about['towards']]}")
    click.echo(f"Intervals {INTERVALS[about['interval']]}")
    click.echo(f"\n{said.effect}.\n{said.sentence}")
    for claim in said.claims:
        click.echo(f"  {claim.verdict:<8}{claim.text} {claim.why}")
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


def _write(found: Average, path: Path) -> None:
    from core.export import export_figure, export_table

    with writing(path):
        if path.suffix.lower().removeprefix(".") not in FIGURES:
            export_table(found.frame, path)
            return
        from core import average_figures as drawing
        from core import average_findings as words

        chart = drawing.heatmap_figure(
            words.cells(found),
            titles=found.titles(),
            unit=drawing.unit_of(found),
            title=f"{found.about['model']}, {found.n:,} tweets",
            caption=drawing.heatmap_caption(found),
        )
        export_figure(chart, path)
