"""`python -m core pairs`: make pairs of labelled texts, or see those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import SettingsCommand
from .shared import (
    DEFAULT_DATA,
    TABLES,
    check_out,
    features_option,
    model_options,
    open_model,
    open_texts,
    print_table,
    probe_file_option,
    probe_of,
    progress_bar,
    progress_option,
    reading_options,
    writing,
)

if TYPE_CHECKING:
    from ..data.datasets import FileReading
    from ..probes.probe import Features


@click.command(cls=SettingsCommand)
@model_options
@click.option(
    "--data",
    metavar="NAME",
    default=DEFAULT_DATA,
    show_default=True,
    help="Labelled texts to edit: a built-in data set, a file or hub:owner/name.",
)
@probe_file_option(DEFAULT_DATA)
@features_option
@reading_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the pairs there (.csv .parquet .json); `sweep --pairs FILE` traces them.",
)
@progress_option
def pairs(
    name: str | None,
    device: str | None,
    dtype: str,
    data: str,
    probe_file: Path | None,
    features: Features,
    reading: FileReading,
    out: Path | None,
    progress: bool | None,
) -> None:
    """Make pairs of texts that say the opposite, by antonyms and negation.

    Kept are those of which VADER's lexicon and the probe both say that the sentiment turned.
    """
    if out is not None:
        check_out(out, TABLES)
    from ..exporting.table_files import export_table
    from ..probes.probe import Probe
    from ..probes.turned_pairs import make_pairs
    from ..prompts.counterfactuals import EDITS

    texts = open_texts(data, reading)
    model = open_model(name, device, dtype, progress)
    if probe_file is not None:
        probe = Probe.load(probe_file)
    else:
        learned = texts if data == DEFAULT_DATA else open_texts(DEFAULT_DATA)
        probe = probe_of(model, DEFAULT_DATA, learned.frame, features, progress)
    with progress_bar("Reading edited texts", progress) as show:
        found = make_pairs(
            model, probe, texts.frame, progress=lambda done, total: show(done / total)
        )
    table: list[Sequence[str]] = [
        ("edit", "texts", "lexicon turned", "probe turned too", "in equally many tokens")
    ]
    for row in found.counts.to_dict("records"):
        edit = EDITS.get(str(row["edit"]), "any of these")
        numbers = [int(row[name]) for name in ("texts", "lexicon", "kept", "same_length")]
        table.append((edit, *(f"{number:,}" for number in numbers)))
    print_table(table, right=(1, 2, 3, 4))
    click.echo(found.describe())
    if out is not None:
        with writing(out):
            export_table(found.frame, out)
        click.echo(f"Saved {out}")
