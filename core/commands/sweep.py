"""`python -m core sweep`: trace many tweets into a store that survives whatever ends the work."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from core.commands.shared import (
    DEFAULT_DATA,
    model_options,
    one_line,
    open_model,
    print_table,
    probe_of,
    progress_bar,
    progress_option,
)

if TYPE_CHECKING:
    import pandas as pd

    from core.models import Model
    from core.probes import Features, Probe
    from core.results import Corruption, Direction
    from core.runs import Kind
    from core.store import Status, Store

ALL = "hidden,mlp,attn"
LABELS = {"positive": 1, "negative": 0}


@click.command()
@model_options
@click.option(
    "--data",
    metavar="NAME",
    default=DEFAULT_DATA,
    show_default=True,
    help="Tweets to trace: a built-in data set, a file or hub:owner/name.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Rows to take of a data set of the hub, drawn from all of it.  [default: 20,000]",
)
@click.option(
    "--probe",
    "probe_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="A probe that `probe` wrote.  [default: trained once on --probe-data, then kept]",
)
@click.option("--probe-data", default=DEFAULT_DATA, show_default=True, metavar="NAME")
@click.option("--features", default="logit_pair", show_default=True, help="What that probe reads.")
@click.option("--n", type=int, help="How many tweets, drawn by --seed.  [default: all]")
@click.option(
    "--which",
    type=click.Choice(["all", "correct"]),
    default="all",
    show_default=True,
    help="Or only tweets of which the probe says what their label says.",
)
@click.option("--label", type=click.Choice(list(LABELS)), help="Tweets of one sentiment alone.")
@click.option("--shortest", type=int, default=1, show_default=True, help="In tokens of the tweet.")
@click.option("--longest", type=int, help="In tokens of the tweet.")
@click.option("--containing", default="", metavar="TEXT", help="Tweets that hold this text.")
@click.option("--kinds", default=ALL, show_default=True, metavar="LIST", help="Sites to restore.")
@click.option("--samples", default=1, show_default=True, help="Noise samples of each tweet.")
@click.option("--noise", default=3.0, show_default=True, help="In standard deviations.")
@click.option("--seed", default=0, show_default=True, help="Of the drawn tweets and the noise.")
@click.option("--window", type=int, help="Layers over which mlp and attn are restored.")
@click.option("--every", default=1, show_default=True, help="Trace every n-th layer only.")
@click.option(
    "--corruption",
    type=click.Choice(["noise", "uniform", "mean"]),
    default="noise",
    show_default=True,
)
@click.option("--reverse", is_flag=True, help="Put corrupted states into the clean run instead.")
@click.option("--roles", metavar="LIST", help="Trace only tokens of these roles (core/roles.py).")
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
@click.option("--resume", metavar="ID", help="Go on with this sweep; other settings are its own.")
@click.option("--retry-failed", is_flag=True, help="With --resume: try failed tweets once more.")
@click.option("--list", "listing", is_flag=True, help="Show every sweep on this disk.")
@click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Trace on a Ray cluster (requirements-ray.txt); auto finds or starts one.",
)
@click.option("--nice", type=int, default=0, show_default=True, help="Make way for other work.")
@progress_option
def sweep(
    name: str | None,
    device: str | None,
    dtype: str,
    data: str,
    rows: int | None,
    probe_file: Path | None,
    probe_data: str,
    features: Features,
    n: int | None,
    which: Literal["all", "correct"],
    label: str | None,
    shortest: int,
    longest: int | None,
    containing: str,
    kinds: str,
    samples: int,
    noise: float,
    seed: int,
    window: int | None,
    every: int,
    corruption: Corruption,
    reverse: bool,
    roles: str | None,
    most_tokens: int | None,
    together: int | None,
    processes: int | None,
    resume: str | None,
    retry_failed: bool,
    listing: bool,
    ray: str | None,
    nice: int,
    progress: bool | None,
) -> None:
    """Trace many tweets for an average; go on where the same sweep was ended, by whatever.

    Ctrl-C, a crash or a power cut loses nothing but the batch in hand. `average` reads the result.
    """
    from core import sweep as sweeping
    from core.results import TraceSettings
    from core.store import open_store, sweeps

    if listing:
        _list(sweeps())
        return
    if nice:
        import psutil

        psutil.Process().nice(nice)
    direction: Direction = "corrupt" if reverse else "restore"
    settings = TraceSettings(
        kinds=cast("tuple[Kind, ...]", tuple(part.strip() for part in kinds.split(","))),
        samples=samples,
        noise_scale=noise,
        seed=seed,
        window=window,
        every=every,
        corruption=corruption,
        direction=direction,
    )
    selection = sweeping.Selection(
        which=which,
        label=None if label is None else LABELS[label],
        shortest=shortest,
        longest=longest,
        containing=containing,
        n=n,
        seed=seed,
    )
    model: Model | None = None
    if resume is not None:
        store = open_store(resume)
        if retry_failed:
            store.retry_failed()
    else:
        model = open_model(name, device, dtype, progress)
        probe = _probe(model, probe_file, probe_data, features, progress)
        with progress_bar("Choosing tweets", progress) as show:
            store = sweeping.create(
                model,
                probe,
                _tweets(data, rows),
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
        from core.cluster import run_on_ray

        _follow(run_on_ray(store, ray, device=device), progress)
        _say(store)
        return
    if processes is None:
        processes = store.fitting_processes() if device in (None, "cpu") else 1
    if processes > 1:
        del model
        _watch(store, processes, nice, progress)
    else:
        model = model or _model_of(store, device, progress)
        # Progress within a batch would need the count of the whole at every look.
        _follow(sweeping.run(model, store), progress)
    _say(store)


def _model_of(store: Store, device: str | None, progress: bool | None) -> Model:
    wanted = store.model
    if not wanted.untrained:
        return open_model(wanted.name, device, wanted.dtype, progress)
    from core.models import load_model

    return load_model(wanted.name, device=device, dtype=wanted.dtype, untrained=True)


def _probe(
    model: Model, file: Path | None, data: str, features: Features, progress: bool | None
) -> Probe:
    from core.probes import Probe

    if file is not None:
        return Probe.load(file)
    return probe_of(model, data, _tweets(data), features, progress)


def _tweets(data: str, rows: int | None = None) -> pd.DataFrame:
    """Labelled texts; says on standard error how many rows of a file cannot be used."""
    from core import datasets

    if data in datasets.BUILT_IN:
        return datasets.load_dataset(data)
    found = datasets.load_labelled(data, limit=rows or datasets.HUB_ROWS)
    if found.refused:
        click.echo(f"{data}: {found.describe()}", err=True)
    return found.frame


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


def _say(store: Store) -> None:
    status = store.status()
    click.echo(f"{status.done} of {status.total} tweets traced in {store.folder}")
    for failure in store.failures().to_dict("records")[:5]:
        click.echo(f"  row {failure['row']} failed: {one_line(str(failure['reason']))}", err=True)
    if status.failed > 5:
        click.echo(f"  and {status.failed - 5} others", err=True)
    if status.state == "done":
        click.echo(f"python -m core average {store.id} --out average.csv")
    else:
        click.echo(f"python -m core sweep --resume {store.id}")


def _list(stores: Sequence[Store]) -> None:
    table: list[Sequence[str]] = [("sweep", "model", "data", "done", "state", "created")]
    for store in stores:
        status, origin = store.status(), store.manifest["origin"]
        row: list[Any] = [store.id, origin["model"], origin["data"]]
        row += [f"{status.done}/{status.total}", status.state, origin["created"]]
        table.append([one_line(str(cell)) for cell in row])
    print_table(table, right=(3,))
