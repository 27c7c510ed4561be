"""`python -m core corruptions`: which findings do noise and counterfactual pairs agree on?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import SettingsCommand, settings_options
from .shared import (
    DEFAULT_DATA,
    check_out,
    features_option,
    model_options,
    open_model,
    open_pairs,
    open_texts,
    print_table,
    probe_file_option,
    probe_of,
    progress_bar,
    progress_option,
    writing,
)
from .sweep import processes_for, say, trace_store

if TYPE_CHECKING:
    import pandas as pd

    from ..models.model import Model
    from ..probes.probe import Features, Probe
    from ..sweeps.study import Options
    from ..sweeps.two_corruptions import TwoCorruptions
    from ..tracing.result import TraceSettings


@click.command(cls=SettingsCommand)
@model_options
@click.option(
    "--pairs",
    "pairs_file",
    metavar="FILE",
    help="Pairs to trace, as `sweep --pairs` takes them.  [default: made of the tweets]",
)
@click.option(
    "--tweets",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Tweets that are corrupted by noise, of those that the probe predicts correctly.",
)
@click.option(
    "--number-of-pairs",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Pairs, of those of which the probe predicts both texts correctly.",
)
@probe_file_option(DEFAULT_DATA)
@features_option
@settings_options(
    "settings",
    "tracing.result:TraceSettings",
    only=("samples", "noise_scale", "seed", "every", "edited"),
    defaults={"samples": 1, "every": 2},
    other={"seed": {"help": "Seed of the drawn tweets and pairs, and of the noise."}},
)
@settings_options("options", "sweeps.study:Options", only=("roles", "interval", "proxy", "towards"))
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that share the cores; each holds the model.  [default: as many as fit]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write both averages as aggregated numbers, without any text; the Average page shows "
    "assets/noise-and-pairs-smollm2.json.",
)
@progress_option
def corruptions(
    name: str | None,
    device: str | None,
    dtype: str,
    pairs_file: str | None,
    tweets: int,
    number_of_pairs: int,
    probe_file: Path | None,
    features: Features,
    settings: TraceSettings,
    options: Options,
    processes: int | None,
    out: Path | None,
    progress: bool | None,
) -> None:
    """Sweep tweets by noise and pairs of them, and say which findings both agree on.

    Both sweeps go on where they were ended, by whatever; what is traced already costs nothing.
    """
    if out is not None:
        check_out(out, ("json",))
    from ..data.datasets import FileReading
    from ..sweeps import sweep as sweeping
    from ..sweeps import two_corruptions
    from ..sweeps.sweep import Selection

    pairs = None if pairs_file is None else open_pairs(pairs_file, FileReading())
    texts = open_texts(DEFAULT_DATA).frame
    model = open_model(name, device, dtype, progress)
    probe = _probe(model, probe_file, features, texts, progress)
    if pairs is None:
        pairs = _made(model, probe, texts, progress)
    named = f"{DEFAULT_DATA}, pairs" if pairs_file is None else Path(pairs_file).name
    stores = []
    for frame, n, how, data in (
        (texts, tweets, settings, DEFAULT_DATA),
        (pairs, number_of_pairs, replace(settings, corruption="counterfactual"), named),
    ):
        with progress_bar(f"Choosing from {data}", progress) as show:
            selection = Selection(which="correct", n=n, seed=settings.seed)
            stores.append(
                sweeping.create(
                    model, probe, frame, how, selection=selection, data=data, progress=show
                )
            )
    counts = [processes or processes_for(store, device) for store in stores]
    held = model if min(counts) == 1 else None
    del model  # where only other processes work, each holds its own
    for store, count in zip(stores, counts, strict=True):
        trace_store(store, held, device=device, processes=count, progress=progress)
        say(store)
    with progress_bar("Averaging both sweeps", progress) as show:
        found = two_corruptions.of_sweeps(stores[0], stores[1], options, progress=show)
    _print(found)
    if out is not None:
        with writing(out):
            two_corruptions.save(found, out)
        click.echo(f"Saved {out}")


def _probe(
    model: Model,
    file: Path | None,
    features: Features,
    texts: pd.DataFrame,
    progress: bool | None,
) -> Probe:
    from ..probes.probe import Probe

    if file is not None:
        return Probe.load(file)
    return probe_of(model, DEFAULT_DATA, texts, features, progress)


def _made(model: Model, probe: Probe, texts: pd.DataFrame, progress: bool | None) -> pd.DataFrame:
    """Pairs made of the tweets."""
    from ..probes.turned_pairs import make_pairs

    with progress_bar("Reading edited texts", progress) as show:
        made = make_pairs(model, probe, texts, progress=lambda done, total: show(done / total))
    click.echo(made.describe())
    return made.frame


def _print(found: TwoCorruptions) -> None:
    from ..sweeps.average_findings import with_interval
    from ..tracing.result import PROXIES
    from ..tracing.view import KINDS

    for name, average in (("Noise", found.noise), ("Pairs", found.pairs)):
        unit = PROXIES[average.about["proxy"]]
        total = with_interval(average.total)
        click.echo(f"{name}  average total effect {total} {unit}, {average.counted}")
    click.echo()
    for sentence in found.sentences():
        click.echo(sentence)
    click.echo()
    table = [("site", "role", "layers", "noise", "pairs", "found by")]
    for site in found.sites:
        first, last = site.peak.layers
        table.append(
            (
                KINDS[site.peak.kind],
                site.peak.title,
                f"{first} to {last}",
                f"{site.noise:.0%}",
                f"{site.pairs:.0%}",
                site.label,
            )
        )
    print_table(table, right=(2, 3, 4))
    click.echo("noise, pairs: largest share of that corruption's total effect in these layers.")
