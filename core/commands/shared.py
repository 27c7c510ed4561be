"""What the commands share: options, progress, tables on the terminal, files."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

    from core.models import Model
    from core.probes import Features, Probe, Words
    from core.results import TraceResult

DEFAULT_DATA = "vader-tweets"
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


# --- options --------------------------------------------------------------------------------

Command = Callable[..., Any]


def model_options(command: Command) -> Command:
    """Which model, where and in which numbers."""
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


def probe_options(command: Command) -> Command:
    """What a probe learns from and reads."""
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


proxy_option = click.option(
    "--proxy",
    type=click.Choice(["log_odds", "probability", "log_ratio", "good", "bad"]),
    default="log_odds",
    show_default=True,
    help="The number whose change is the effect.",
)


def out_option(table: str) -> Callable[[Command], Command]:
    """Where figure and table go; `table` says which table."""
    return click.option(
        "--out",
        "outs",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Write the figure (.png .svg .pdf .html) or the table{table} (.csv .parquet .json); "
        "may be given several times.",
    )


progress_option = click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress and the time left.  [default: on a terminal]",
)


# --- files --------------------------------------------------------------------------------


def check_out(path: Path, endings: Sequence[str]) -> None:
    """Refuse, before any work, a file whose ending names no form."""
    if path.suffix.lower().removeprefix(".") not in endings:
        raise ValueError(
            f"The file {str(path)!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{ending}' for ending in endings)}."
        )
    if path.is_dir():
        raise ValueError(f"There is a folder at {str(path)!r}; give another name for the file.")


def save_traces(
    results: Sequence[TraceResult], out: Path, *, precision: str = "float32"
) -> list[Path]:
    """Save traces with what makes them again, in the form that the ending names.

    A figure for each trace, the second one as NAME-2; or one table of all cells.
    """
    import pandas as pd

    from core.export import export_figure, export_table
    from core.figures import trace_heatmaps
    from core.recipes import Recipe, Recipes

    recipes = [Recipe.of(result, precision=precision) for result in results]
    with writing(out):
        if out.suffix.lower().removeprefix(".") in FIGURES:
            paths = []
            for number, (result, recipe) in enumerate(zip(results, recipes, strict=True), start=1):
                path = out if number == 1 else out.with_stem(f"{out.stem}-{number}")
                chart = trace_heatmaps(result)
                paths.append(export_figure(chart, path, recipe=recipe.to_json()))
            return paths
        if len(results) == 1:
            return [export_table(results[0].frame(), out, recipe=recipes[0].to_json())]
        frames = []
        for result in results:
            frame = result.frame()
            frame.insert(0, "model", result.model_name)
            frames.append(frame)
        together = pd.concat(frames, ignore_index=True)
        return [export_table(together, out, recipe=Recipes(tuple(recipes)).to_json())]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"The file {str(path)!r} cannot be written ({error.strerror}); choose another place."
        ) from error


# --- models, words, progress ------------------------------------------------------------


def default_name() -> str:
    """The model that is taken when none is named."""
    from core.registry import default_model

    return default_model()[0]


def open_model(name: str | None, device: str | None, dtype: str, progress: bool | None) -> Model:
    """Load a model, showing how far a download is."""
    from transformers.utils import logging

    from core.models import load_model

    # Progress and errors are said by us; the library's own bars and hints would run into them.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    name = name or default_name()
    with progress_bar(f"Fetching {name}", progress) as show:
        return load_model(
            name,
            device=device,
            dtype=dtype,
            progress=lambda done, total: show(done / max(total, 1)),
        )


def probe_of(
    model: Model,
    data: str,
    frame: pd.DataFrame,
    features: Features,
    progress: bool | None,
    *,
    suffix: str | None = None,
    words: Words | None = None,
) -> Probe:
    """The kept probe of a model on these texts, trained the first time."""
    from core.probes import probe_for

    with progress_bar(f"Training a probe on {data}, once for this model", progress) as show:
        return probe_for(
            model,
            frame,
            features=features,
            suffix=suffix_or_default(suffix),
            words=words,
            dataset=data,
            progress=lambda done, total: show(done / total),
        )


def suffix_or_default(written: str | None) -> str:
    """The suffix asked for, or the usual one."""
    from core.prompts import DEFAULT_SUFFIX

    return DEFAULT_SUFFIX if written is None else written


def words_or_default(good: tuple[str, ...], bad: tuple[str, ...]) -> Words | None:
    """The words asked for; None where none is, so that the features' own are taken."""
    from core.prompts import DEFAULT_WORDS

    if not (good or bad):
        return None
    return good or (DEFAULT_WORDS[0],), bad or (DEFAULT_WORDS[1],)


@contextmanager
def progress_bar(title: str, shown: bool | None) -> Iterator[Callable[[float], None]]:
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


def print_table(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> None:
    """Print columns under their titles, those in `right` aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def plus_minus(error: float) -> str:
    """A standard error behind its number; nothing where it is not known."""
    return f" ± {error:.2g}" if math.isfinite(error) else ""


def one_line(text: str) -> str:
    """Text that cannot move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def without_nan(value: Any) -> Any:
    """A JSON value with null for each number that JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
