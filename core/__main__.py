"""The same work without a browser: `python -m core setup | models | probe | trace`.

What a command finds goes to standard output, progress and errors to standard error. A mistake of
the user's ends with one sentence and exit code 2, Ctrl-C with 130; files are whole or not there.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from core import cache

if TYPE_CHECKING:
    import pandas as pd

    from core.models import Model
    from core.probes import Features, Probe, Words
    from core.results import Proxy, TraceResult
    from core.runs import Kind

DEFAULT_DATA = "vader-tweets"
TOP_CELLS = 2  # of each kind, inside the corrupted span and outside
FIGURES = ("png", "svg", "pdf", "html")
TABLES = ("csv", "parquet", "json")


class UserMistake(click.ClickException):
    """One sentence on standard error, and no traceback."""

    exit_code = 2


class Commands(click.Group):
    """Commands whose `ValueError`s are sentences for the user, as everywhere in core."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what ends it early into a sentence and an exit code."""
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character gets its number instead of a crash.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raise UserMistake(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Find out where a language model stores and uses the sentiment of a tweet."""


# --- setup ---------------------------------------------------------------------------------------


@main.command()
@click.option("--hub/--no-hub", default=True, help="Fetch gpt2 as well if the hub answers.")
def setup(hub: bool) -> None:
    """Fetch and prepare the embedded model and the tweets; quick when nothing is missing."""
    from core.setup import prepare

    prepare(echo=click.echo, hub=hub)


# --- models --------------------------------------------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(as_json: bool) -> None:
    """List the models that can be named, and which of them are on this disk."""
    from core.models import FAMILIES, REGISTRY, availability, default_model

    default, reason = default_model()
    if as_json:
        rows = [
            {
                "key": entry.key,
                "hub_id": entry.hub_id,
                "family": entry.family,
                "layers": entry.layers,
                "parameters": entry.parameters,
                "download_bytes": entry.download_bytes,
                "licence": entry.licence,
                "availability": availability(entry.key),
                "default": entry.key == default,
                "note": entry.note,
            }
            for entry in REGISTRY.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = [("model", "family", "layers", "parameters", "download", "licence", "", "note")]
    for entry in REGISTRY.values():
        table.append(
            (
                f"{entry.key}{' *' if entry.key == default else ''}",
                entry.family,
                str(entry.layers),
                f"{entry.parameters / 1e6:,.0f} M",
                f"{entry.download_bytes / 1e6:,.0f} MB",
                entry.licence,
                availability(entry.key),
                entry.note,
            )
        )
    _print_table(table, right=(2, 3, 4))
    click.echo(f"\n* The default. {reason}")
    click.echo(
        "Any other model can be named by its hub id or its folder when its family is one of "
        f"{', '.join(sorted(FAMILIES))}."
    )


# --- options that commands share -----------------------------------------------------------------

Command = Callable[..., Any]


def _model_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "--model",
                "name",
                metavar="KEY",
                help="Key (see `models`), hub id or folder.  [default: gpt2 if it is on this "
                "disk, else the embedded model]",
            ),
            click.option("--device", metavar="NAME", help='For example "cpu" or "cuda:1".'),
            click.option("--dtype", default="float32", show_default=True, metavar="NAME"),
        )
    ):
        command = option(command)
    return command


def _probe_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "--data",
                metavar="NAME",
                help=f"Labelled texts that the probe learns from.  [default: {DEFAULT_DATA}]",
            ),
            click.option(
                "--features",
                metavar="NAME",
                help="What the probe reads: logit_pair, probabilities, verbalizers, hidden (the "
                "best layer) or hidden:LAYER.  [default: logit_pair]",
            ),
            click.option("--suffix", help='Put after the tweet.  [default: " I am feeling"]'),
            click.option(
                "--good",
                multiple=True,
                help='The positive word, one token; verbalizers take several.  [default: " good"]',
            ),
            click.option(
                "--bad",
                multiple=True,
                help='The negative word, one token; verbalizers take several.  [default: " bad"]',
            ),
        )
    ):
        command = option(command)
    return command


_progress_option = click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress and the time left.  [default: on a terminal]",
)


# --- probe ---------------------------------------------------------------------------------------


@main.command()
@_model_options
@_probe_options
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
    help="Hold the probe against controls; the untrained twin has to encode the texts as well.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the probe as JSON.")
@_progress_option
def probe(
    name: str | None,
    device: str | None,
    dtype: str,
    data: str | None,
    features: Features | None,
    suffix: str | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
    folds: int,
    seed: int,
    out: Path | None,
    report_folder: Path | None,
    controls: bool,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Train a probe that reads a tweet's sentiment from the model, and judge it."""
    if out is not None:
        _check_out(out, ("json",))
    from core.probes import keep, train_probe

    data = data or DEFAULT_DATA
    labelled = _labelled(data)
    model = _load(name, device, dtype, progress)
    tweets = labelled(model, _suffix(suffix))
    with _bar(f"Encoding {len(tweets):,} texts", progress) as show:
        trained = train_probe(
            model,
            tweets,
            features=features or "logit_pair",
            suffix=_suffix(suffix),
            words=_words(good, bad),
            folds=folds,
            seed=seed,
            dataset=data,
            progress=lambda done, total: show(done / total),
        )
    if controls:
        from core.controls import with_controls
        from core.models import load_model

        twin = load_model(name or _default_name(), device=device, dtype=dtype, untrained=True)
        with _bar(f"Encoding {len(tweets):,} texts by the untrained twin", progress) as show:
            trained = with_controls(
                trained,
                model,
                tweets,
                twin=twin,
                progress=lambda done, total: show(done / total),
            )
    if out is not None:
        with _writing(out):
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


def _labelled(data: str) -> Callable[[Model, str], pd.DataFrame]:
    """Open labelled texts; what is returned leaves out, and counts, those a model cannot read."""
    from core import datasets, tables
    from core.prompts import build_prompt

    if data in datasets.BUILT_IN:
        built_in = datasets.load_dataset(data)
        return lambda model, suffix: built_in
    table = datasets.load_table(data)

    def read(model: Model, suffix: str) -> pd.DataFrame:
        def problem(text: str) -> str:
            try:
                build_prompt(model, text, suffix)
            except ValueError as error:
                return str(error)
            return ""

        found = tables.label_rows(table, check=problem)
        if found.refused:
            click.echo(f"{data}: {found.describe()}", err=True)
        return found.frame

    return read


def _print_probe(trained: Probe) -> None:
    from core.scores import METRICS

    report = trained.report
    at = "" if trained.layer is None else f", layer {trained.layer}"
    click.echo(
        f"Probe of {trained.model_name} ({trained.features}{at}) on {report.n:,} texts"
        f"{f' of {trained.dataset}' if trained.dataset else ''}:"
    )
    click.echo(
        f"  accuracy  {report.accuracy:.1%} (95% interval {report.accuracy_low:.1%} to "
        f"{report.accuracy_high:.1%}), {report.folds}-fold cross-validation\n"
        f"  macro-F1  {report.macro_f1:.1%}\n"
        f"  majority  {report.majority:.1%} (the accuracy of always saying the same)\n"
    )
    table: list[Sequence[str]] = [("", *(name.partition(" (")[0] for name in METRICS.values()))]
    for name, scores in (
        ("the probe", report.scores),
        *((control.name, control.scores) for control in report.controls),
    ):
        table.append((name, *(f"{scores[metric].value:.3f}" for metric in METRICS)))
    _print_table(table, right=range(1, len(METRICS) + 1))
    if report.verdict is not None:
        click.echo(f"\n{report.verdict}")


def _write_report(trained: Probe, folder: Path) -> None:
    """Write the probe, and every table of its report, into a folder."""
    with _writing(folder):
        trained.save(folder / "probe.json")
        for name, table in trained.report.tables().items():
            _write_table(table, folder / f"{name}.csv")


# --- trace ---------------------------------------------------------------------------------------


@main.command()
@click.argument("text")
@_model_options
@click.option(
    "--untrained", is_flag=True, help="Trace the randomly initialised twin instead, as a control."
)
@click.option(
    "--probe",
    "probe_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="A probe that `probe` wrote.  [default: trained once on --data, then kept]",
)
@_probe_options
@click.option(
    "--kinds",
    default="hidden,mlp,attn",
    show_default=True,
    metavar="LIST",
    help="Sites to restore.",
)
@click.option("--samples", default=10, show_default=True, help="Samples of the noise.")
@click.option(
    "--noise",
    default=3.0,
    show_default=True,
    help="In standard deviations of the token embeddings.",
)
@click.option("--seconds", type=float, help="End early, with the samples so far, after this time.")
@click.option(
    "--stable-for",
    type=int,
    help="End early when the largest cell of every kind has stayed for this many samples.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MB",
    help="What a trace may need beyond the model's weights.  [default: half of what is free]",
)
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option(
    "--window",
    type=int,
    help="Layers over which mlp and attn are restored.  [default: the paper's 10 of 48, scaled]",
)
@click.option(
    "--corrupt",
    default="tweet",
    show_default=True,
    help='"tweet", the N-th word as "word:N" (from 0), or token positions as "3,4".',
)
@click.option(
    "--proxy",
    type=click.Choice(["log_odds", "probability", "log_ratio", "good", "bad"]),
    default="log_odds",
    show_default=True,
    help="The number whose change is the effect.",
)
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the figure (.png .svg .pdf .html) or the table of all cells (.csv .parquet "
    ".json); may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result, all cells, as JSON.")
@_progress_option
def trace(
    text: str,
    name: str | None,
    device: str | None,
    dtype: str,
    untrained: bool,
    probe_file: Path | None,
    data: str | None,
    features: Features | None,
    suffix: str | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
    kinds: str,
    samples: int,
    noise: float,
    seconds: float | None,
    stable_for: int | None,
    memory: int | None,
    seed: int,
    window: int | None,
    corrupt: str,
    proxy: Proxy,
    outs: tuple[Path, ...],
    as_json: bool,
    progress: bool | None,
) -> None:
    """Trace TEXT: which sites of the model carry its sentiment?

    Put -- before a text that begins with a dash.
    """
    for out in outs:
        _check_out(out, (*FIGURES, *TABLES))
    from core.datasets import load_dataset
    from core.models import load_model
    from core.probes import Probe, probe_for
    from core.prompts import build_prompt, resolve_span
    from core.results import TraceSettings
    from core.trace import trace_progressively

    settings = TraceSettings(
        kinds=cast("tuple[Kind, ...]", tuple(part.strip() for part in kinds.split(","))),
        samples=samples,
        noise_scale=noise,
        seed=seed,
        window=window,
        corrupt=_corrupt(corrupt),
        proxy=proxy,
        seconds=seconds,
        stable_for=stable_for,
    )
    given = None
    if probe_file is not None:
        given = Probe.load(probe_file)
        _check_given(given, probe_file, data, features, suffix, good, bad)
    model = _load(name, device, dtype, progress)
    # A tweet or span that cannot be used is refused before a probe is trained.
    prompt = build_prompt(model, text, given.suffix if given else _suffix(suffix))
    resolve_span(prompt, settings.corrupt)
    if given is None:
        data = data or DEFAULT_DATA
        with _bar(f"Training a probe on {data}, once for this model", progress) as show:
            given = probe_for(
                model,
                load_dataset(data),
                features=features or "logit_pair",
                suffix=_suffix(suffix),
                words=_words(good, bad),
                dataset=data,
                progress=lambda done, total: show(done / total),
            )
    if untrained:
        model = load_model(name or _default_name(), device=device, dtype=dtype, untrained=True)
    with _bar(f"Tracing {len(prompt)} tokens x {model.layers} layers", progress) as show:
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
        _write(result, out)
    if as_json:
        click.echo(json.dumps(_as_json(result), ensure_ascii=False))
        return
    _print_trace(result)
    for out in outs:
        click.echo(f"Saved {out}")


def _corrupt(written: str) -> str | tuple[int, ...]:
    parts = [part.strip() for part in written.split(",")]
    if all(part.removeprefix("-").isdecimal() for part in parts):
        return tuple(int(part) for part in parts)
    return written


def _check_given(
    given: Probe,
    file: Path,
    data: str | None,
    features: str | None,
    suffix: str | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
) -> None:
    """A probe from a file brings its data, features, suffix and words; options may only agree."""
    for option, asked, has in (
        ("--data", data, given.dataset),
        ("--features", features, given.features),
        ("--suffix", suffix, given.suffix),
        ("--good", good or None, given.words_positive),
        ("--bad", bad or None, given.words_negative),
    ):
        if asked is not None and asked != has:
            raise ValueError(
                f"The probe {file} was trained with {option} {has!r}, not {asked!r}; "
                f"leave out {option}, or train another probe."
            )


def _print_trace(result: TraceResult) -> None:
    from core import figures
    from core.results import PROXIES

    report = result.probe.report
    click.echo(f"Prompt      {_one_line(result.prompt.text)}")
    click.echo(
        f"Model       {result.model_name}, {result.layers} layers, {len(result.prompt)} tokens, "
        f"{len(result.corrupted_span)} of them corrupted"
    )
    click.echo(
        f"Probe       {result.probe.features}, accuracy {report.accuracy:.1%} "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}) on {report.n:,} texts"
    )
    click.echo(f"Prediction  {figures.headline(result)}")
    click.echo(f"Proxy       {PROXIES[result.settings.proxy]}")
    click.echo(f"            clean      {result.high:+.4g}")
    click.echo(
        f"            corrupted  {result.low:+.4g}{_error(result.low_error)}   "
        f"(P(positive) = {result.corrupted_probability:.2f}; {result.samples_done} "
        f"sample{'s' if result.samples_done != 1 else ''} of noise, sd {result.noise:.3g})"
    )
    click.echo(f"            total      {result.total_effect:+.4g}{_error(result.low_error)}")
    found = result.distinguishable
    if found is None:
        click.echo("            One sample of noise gives no error; take more to trust it.")
    elif not found:
        click.echo(
            "            The total effect is not distinguishable from zero, so the effects below "
            "mean nothing."
        )
    click.echo(
        f"\nLargest effects ({TOP_CELLS} of each kind among the corrupted tokens, *, and "
        f"{TOP_CELLS} among the others)"
    )
    table: list[Sequence[str]] = [("kind", "layer", "position", "token", "effect", "of total")]
    for cell in _top_cells(result):
        table.append(
            (
                figures.KINDS[cell["kind"]],
                str(cell["layer"]),
                str(cell["position"]),
                f"{cell['token']}{' *' if cell['corrupted'] else ''}",
                f"{cell['effect']:+.4g}{_error(cell['standard_error'])}",
                "" if found is False else f"{cell['normalised']:.0%}",
            )
        )
    _print_table(table, right=(1, 2, 5))
    if found is not None:
        click.echo("\u00b1 is the standard error over the samples of noise.")
    windowed = [kind for kind in result.settings.kinds if kind != "hidden"]
    if windowed:
        click.echo(
            f"{' and '.join(figures.KINDS[kind] for kind in windowed)} cells restore "
            f"{result.window} layer{'s' if result.window != 1 else ''} around the one named."
        )


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
    return _without_nan(
        {
            "tweet": result.prompt.tweet,
            "suffix": result.prompt.suffix,
            "model": result.model_name,
            "model_identity": result.model_identity,
            "layers": result.layers,
            "tokens": list(result.tokens),
            "token_ids": list(result.prompt.ids),
            "corrupted_span": list(result.corrupted_span),
            "settings": {
                "kinds": list(settings.kinds),
                "samples": settings.samples,
                "noise_scale": settings.noise_scale,
                "seed": settings.seed,
                "window": result.window,
                "corrupt": settings.corrupt,
                "proxy": settings.proxy,
                "seconds": settings.seconds,
                "stable_for": settings.stable_for,
            },
            "samples": result.samples_done,
            "noise": result.noise,
            "probe": {
                "features": result.probe.features,
                "words": list(result.probe.words),
                "layer": result.probe.layer,
                "dataset": result.probe.dataset,
                "accuracy": report.accuracy,
                "accuracy_low": report.accuracy_low,
                "accuracy_high": report.accuracy_high,
            },
            "prediction": "positive" if result.clean_probability >= 0.5 else "negative",
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


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- files ---------------------------------------------------------------------------------------


def _check_out(path: Path, endings: Sequence[str]) -> None:
    if path.suffix.lower().removeprefix(".") not in endings:
        raise ValueError(
            f"The file {str(path)!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{ending}' for ending in endings)}."
        )
    if path.is_dir():
        raise ValueError(f"There is a folder at {str(path)!r}; give another name for the file.")


def _write(result: TraceResult, path: Path) -> None:
    with _writing(path):
        if path.suffix.lower().removeprefix(".") in FIGURES:
            from core.export import export_figure
            from core.figures import trace_heatmaps

            export_figure(trace_heatmaps(result), path)
        else:
            _write_table(result.frame(), path)


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    form = path.suffix.lower()
    with cache.write_beside(path) as beside:
        if form == ".csv":
            frame.to_csv(beside, index=False)
        elif form == ".parquet":
            frame.to_parquet(beside, index=False)
        else:
            frame.to_json(beside, orient="records", indent=1)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"The file {str(path)!r} cannot be written ({error.strerror}); choose another place."
        ) from error


# --- shared parts --------------------------------------------------------------------------------


def _default_name() -> str:
    from core.models import default_model

    return default_model()[0]


def _load(name: str | None, device: str | None, dtype: str, progress: bool | None) -> Model:
    from transformers.utils import logging

    from core.models import load_model

    # Progress and errors are said by us; the library's own bars and hints would run into them.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    name = name or _default_name()
    with _bar(f"Fetching {name}", progress) as show:
        return load_model(
            name,
            device=device,
            dtype=dtype,
            progress=lambda done, total: show(done / max(total, 1)),
        )


def _suffix(written: str | None) -> str:
    from core.prompts import DEFAULT_SUFFIX

    return DEFAULT_SUFFIX if written is None else written


def _words(good: tuple[str, ...], bad: tuple[str, ...]) -> Words | None:
    """The words asked for; None where none is, so that the features' own are taken."""
    from core.prompts import DEFAULT_WORDS

    if not (good or bad):
        return None
    return good or (DEFAULT_WORDS[0],), bad or (DEFAULT_WORDS[1],)


@contextmanager
def _bar(title: str, shown: bool | None) -> Iterator[Callable[[float], None]]:
    """Yield a function of the share that is done, which draws a bar from its first call on.

    Args:
        shown: None shows it on a terminal only.
    """
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def show(share: float) -> None:
        if not bars:
            bars.append(
                tqdm(
                    total=1.0,
                    desc=title,
                    file=sys.stderr,
                    disable=None if shown is None else not shown,
                    bar_format="{desc}: {percentage:3.0f}% |{bar:24}| {remaining} left",
                )
            )
        bars[0].update(share - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _print_table(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> None:
    """Print columns under their titles, those in `right` aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _error(error: float) -> str:
    return f" ± {error:.2g}" if math.isfinite(error) else ""


def _one_line(text: str) -> str:
    """Text that cannot move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if __name__ == "__main__":
    main(prog_name="python -m core")
