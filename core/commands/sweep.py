"""`python -m core sweep`: trace many tweets into a store that survives whatever ends the work."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..distribution import COMMAND
from .options import SettingsCommand, settings_options
from .shared import (
    DEFAULT_DATA,
    contrast_of,
    contrast_option,
    features_option,
    model_options,
    one_line,
    open_model,
    open_pairs,
    open_texts,
    print_table,
    probe_file_option,
    probe_of,
    progress_bar,
    progress_option,
    prompt_options,
    reading_options,
    template_of,
    words_or_default,
)

if TYPE_CHECKING:
    from ..data.datasets import FileReading
    from ..models.model import Model
    from ..probes.probe import Features, Probe, Words
    from ..prompts.template import Format, Template
    from ..sweeps.store import Status, Store
    from ..sweeps.sweep import Selection
    from ..tracing.result import TraceSettings

TRACED = (
    *("kinds", "samples", "noise_scale", "seed", "window", "every", "corruption", "edited"),
    "direction",
)
"""Settings of a trace that a sweep has."""


@dataclass(frozen=True)
class Reads:
    """What a probe reads that is made by the way: trained, or a contrast of two words."""

    features: Features
    template: Template | None
    words: Words | None
    contrast: tuple[str, str] | None


@click.command(cls=SettingsCommand)
@model_options
@click.option(
    "--data",
    metavar="NAME",
    default=DEFAULT_DATA,
    show_default=True,
    help="Tweets to trace: a built-in data set, a file or hub:owner/name.",
)
@click.option(
    "--pairs",
    "pairs",
    metavar="FILE",
    help="Trace pairs instead, each tweet corrupted by its own counterfactual: what `pairs` wrote, "
    "or a file of two texts a row, of rows that share an id, or ..._original.tsv beside "
    "..._contrast.tsv.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Rows to take of a data set of the hub, drawn from all of it.  [default: 20,000]",
)
@probe_file_option("--probe-data")
@click.option("--probe-data", default=DEFAULT_DATA, show_default=True, metavar="NAME")
@features_option
@prompt_options
@contrast_option
@reading_options
@settings_options("selection", "sweeps.sweep:Selection", but=("seed",))
@settings_options(
    "settings",
    "tracing.result:TraceSettings",
    only=TRACED,
    defaults={"samples": 1},
    other={"seed": {"help": "Seed of the drawn tweets and the noise."}},
)
@click.option(
    "--roles",
    metavar="LIST",
    help="Trace only tokens of these roles (core/prompts/token_roles.py).",
)
@click.option(
    "--most-tokens", type=int, help="Trace at most so many tokens of one role in a tweet."
)
@click.option(
    "--together",
    type=int,
    help="Tweets of one batch, at most.  [default: as many as fill the device; 64 with --ray]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that share the cores; each holds the model.  [default: as many as fit]",
)
@click.option("--resume", metavar="ID", help="Resume this sweep; all other settings are its own.")
@click.option("--retry-failed", is_flag=True, help="With --resume: try failed tweets once more.")
@click.option("--list", "listing", is_flag=True, help="Show every sweep on this disk.")
@click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Trace on a Ray cluster (requirements-ray.txt); auto finds or starts one.",
)
@click.option("--nice", type=int, default=0, show_default=True, help="Niceness of the processes.")
@click.option("--started", is_flag=True, hidden=True, help="Begun by another process of a sweep.")
@progress_option
def sweep(
    name: str | None,
    device: str | None,
    dtype: str,
    data: str,
    pairs: str | None,
    rows: int | None,
    reading: FileReading,
    probe_file: Path | None,
    probe_data: str,
    features: Features,
    suffix: str | None,
    prompt: str | None,
    prompt_format: Format | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
    contrast: tuple[str, str] | None,
    selection: Selection,
    settings: TraceSettings,
    roles: str | None,
    most_tokens: int | None,
    together: int | None,
    processes: int | None,
    resume: str | None,
    retry_failed: bool,
    listing: bool,
    ray: str | None,
    nice: int,
    started: bool,
    progress: bool | None,
) -> None:
    """Trace many tweets for an average; go on where the same sweep was ended, by whatever.

    Ctrl-C, a crash or a power cut loses only the current batch. `average` reads the result.
    """
    from ..data.datasets import BUILT_IN, FileReading
    from ..sweeps import sweep as sweeping
    from ..sweeps.store import open_store, sweeps

    if listing:
        _list(sweeps())
        return
    if nice:
        import psutil

        # Windows knows classes of processes and no numbers.
        below_normal = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", None)
        psutil.Process().nice(nice if below_normal is None else below_normal)
    selection = replace(selection, seed=settings.seed)
    model: Model | None = None
    if resume is not None:
        store = open_store(resume)
        if retry_failed:
            store.retry_failed()
    else:
        # Options for files are of whichever is one; where none is, they are refused.
        of_probe = FileReading() if probe_data in BUILT_IN else reading
        of_data = FileReading() if data in BUILT_IN and of_probe == reading else reading
        if pairs is None:
            frame = open_texts(data, of_data, rows=rows).frame
        else:
            frame = open_pairs(pairs, reading)
            data, settings = pairs, replace(settings, corruption="counterfactual")
            of_probe = FileReading()
        model = open_model(name, device, dtype, progress)
        around = template_of(suffix, prompt, prompt_format)
        reads = Reads(features, around, words_or_default(good, bad), contrast)
        probe = _probe(model, probe_file, probe_data, of_probe, reads, progress)
        with progress_bar("Choosing tweets", progress) as show:
            store = sweeping.create(
                model,
                probe,
                frame,
                settings,
                selection=selection,
                roles=None if roles is None else [part.strip() for part in roles.split(",")],
                most_tokens=most_tokens,
                together=together or (sweeping.MOST_TOGETHER if ray is not None else None),
                data=Path(data).name if Path(data).is_file() else data,
                progress=show,
            )
    status = store.status()
    click.echo(f"Sweep {store.id}: {status.done + status.failed} of {status.total} tweets done")
    if ray is not None:
        from ..sweeps.ray_cluster import run_on_ray

        _follow(run_on_ray(store, ray, device=device), progress)
        say(store)
        return
    processes = processes or processes_for(store, device)
    if processes > 1:
        model = None  # each of them holds its own
    trace_store(
        store,
        model,
        device=device,
        processes=processes,
        nice=nice,
        asked=not started,
        progress=progress,
    )
    say(store)


def processes_for(store: Store, device: str | None) -> int:
    """How many processes should work at a sweep, where nobody says so."""
    return store.fitting_processes() if device in (None, "cpu") else 1


def trace_store(
    store: Store,
    model: Model | None,
    *,
    device: str | None,
    processes: int,
    progress: bool | None,
    nice: int = 0,
    asked: bool = True,
) -> None:
    """Work at a sweep on this machine until it is done or held.

    Args:
        model: the sweep's, if it is loaded; of one process alone.
        asked: see `core.sweeps.sweep.run`.
    """
    from ..sweeps.sweep import run

    if processes > 1:
        _watch(store, processes, nice, progress)
    else:
        model = model or _model_of(store, device, progress)
        # Progress within a batch would need the count of the whole at every look.
        _follow(run(model, store, asked=asked), progress)


def _model_of(store: Store, device: str | None, progress: bool | None) -> Model:
    wanted = store.model
    if not wanted.untrained:
        return open_model(wanted.name, device, wanted.dtype, progress)
    from ..models.loading import load_model

    return load_model(wanted.name, device=device, dtype=wanted.dtype, untrained=True)


def _probe(
    model: Model,
    file: Path | None,
    data: str,
    reading: FileReading,
    reads: Reads,
    progress: bool | None,
) -> Probe:
    from ..probes.probe import Probe

    if file is not None:
        return Probe.load(file)
    if reads.contrast is not None:
        return contrast_of(model, reads.contrast, reads.template, {"--good and --bad": reads.words})
    texts = open_texts(data, reading)
    return probe_of(
        model,
        data,
        texts.frame,
        reads.features,
        progress,
        template=reads.template,
        words=reads.words,
        read_as=texts.read_as,
    )


def _follow(steps: Iterator[Status], progress: bool | None) -> None:
    with progress_bar("Tracing tweets", progress) as show:
        for status in steps:
            show(status.fraction)


def _watch(store: Store, processes: int, nice: int, progress: bool | None) -> None:
    """Start processes and wait for them; what ends this command stops them too."""
    import time

    with _ended_like_ctrl_c():
        store.start(processes=processes, nice=nice)
        try:
            with progress_bar("Tracing tweets", progress) as show:
                while (status := store.status()).state == "running":
                    show(status.fraction)
                    time.sleep(1)
                show(status.fraction)
        except KeyboardInterrupt:
            store.stop()
            raise


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Take a closed terminal and a polite kill for Ctrl-C, unless nohup has them ignored."""
    taken = [
        end
        for end in (getattr(signal, name, None) for name in ("SIGHUP", "SIGTERM"))
        if end is not None and signal.getsignal(end) is signal.SIG_DFL
    ]
    for end in taken:
        signal.signal(end, signal.default_int_handler)
    try:
        yield
    finally:
        for end in taken:
            signal.signal(end, signal.SIG_DFL)


def say(store: Store) -> None:
    """Say how far a sweep is, what failed, and what comes next."""
    status = store.status()
    click.echo(f"{status.done} of {status.total} tweets traced in {store.folder}")
    for failure in store.failures().to_dict("records")[:5]:
        click.echo(f"  row {failure['row']} failed: {one_line(str(failure['reason']))}", err=True)
    if status.failed > 5:
        click.echo(f"  and {status.failed - 5} others", err=True)
    if status.state == "done":
        click.echo(f"{COMMAND} average {store.id} --out average.csv")
    else:
        click.echo(f"{COMMAND} sweep --resume {store.id}")


def _list(stores: Sequence[Store]) -> None:
    table: list[Sequence[str]] = [("sweep", "model", "data", "done", "state", "created")]
    for store in stores:
        status, origin = store.status(), store.manifest["origin"]
        row: list[Any] = [store.id, origin["model"], origin["data"]]
        row += [f"{status.done}/{status.total}", status.state, origin["created"]]
        table.append([one_line(str(field)) for field in row])
    print_table(table, right=(3,))
