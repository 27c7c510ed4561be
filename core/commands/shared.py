"""What the commands share: options, progress, tables on the terminal, files."""

from __future__ import annotations

import io
import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.labels import Label, Question
from ..errors import UserError
from .options import Command, settings_options

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from ..data.datasets import FileReading
    from ..exporting.figure_files import Paper
    from ..models.model import Model
    from ..probes.probe import Features, Probe, Words
    from ..prompts.template import Format, Template
    from ..tracing.result import TraceResult

DEFAULT_DATA = "vader-tweets"
FIGURES = ("png", "svg", "pdf", "html")
TABLES = ("csv", "parquet", "json")


ANSWERS = {
    "text": "Name it by --text-column NAME; if the columns are wrong, say how the file is written "
    "by --delimiter and --header or --no-header.",
    "label": "Name it by --label-column NAME; if the columns are wrong, say how the file is "
    "written by --delimiter and --header or --no-header.",
    "meaning": "Say it by --map VALUE=positive --map VALUE=negative, with =neutral for what is "
    "left out, or for ratings by --neutral LOW HIGH.",
    "pair": "Name the columns of the two texts text and counterfactual, or that of the id pair_id.",
}
"""How a question about a file is answered on the command line."""

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " ", "line": ""}
SENTIMENTS: dict[str, Label | None] = {"positive": 1, "negative": 0, "neutral": None}


class UserMistake(click.ClickException):
    """One sentence on standard error, and no traceback."""

    exit_code = 2


class Fault(click.ClickException):
    """One sentence on standard error, below the traceback of what is not the user's mistake."""

    def __init__(self) -> None:
        super().__init__("Something went wrong inside SentiTrace; the traceback above says where.")


class Commands(click.Group):
    """Commands whose `UserError`s are sentences for the user, as everywhere in core."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what ends it early into a sentence and an exit code."""
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character gets its number instead of a crash.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except Question as question:
            answer = ANSWERS[question.about]
            raise UserMistake(f"{' '.join(str(question).split())} {answer}") from question
        except UserError as error:
            raise UserMistake(" ".join(str(error).split())) from error
        except ValueError as fault:
            traceback.print_exc()
            raise Fault from fault
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(130)


# --- options --------------------------------------------------------------------------------


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


def probe_file_option(learned: str) -> Callable[[Command], Command]:
    """A probe from a file.

    Args:
        learned: on what it is trained where there is no file.
    """
    return click.option(
        "--probe",
        "probe_file",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help=f"A probe that `probe` wrote.  [default: trained once on {learned}, then kept]",
    )


def features_option(command: Command) -> Command:
    """What a probe reads that is trained by the way."""
    return click.option(
        "--features", default="logit_pair", show_default=True, help="What that probe reads."
    )(command)


def prompt_options(command: Command) -> Command:
    """In which prompt, and of which words, a probe reads."""
    for option in reversed(
        (
            click.option("--suffix", help='After the tweet.  [default: " I am feeling"]'),
            click.option(
                "--prompt",
                metavar="TEXT",
                help='What stands around the tweet, in place of a suffix: "Review: {tweet} '
                'Sentiment:".',
            ),
            click.option(
                "--format",
                "prompt_format",
                type=click.Choice(("raw", "chat")),
                help="chat: in the model's own chat template, where the tweet, and what stands "
                "before it, is the user's turn and the suffix begins the answer.  [default: raw]",
            ),
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
            prompt_options,
        )
    ):
        command = option(command)
    return command


contrast_option = click.option(
    "--contrast",
    nargs=2,
    metavar="TARGET DISTRACTOR",
    help="Read log P(TARGET) - log P(DISTRACTOR), any two next words, instead of a probe; needs no "
    "labelled texts.",
)


def contrast_of(
    model: Model, words: tuple[str, str], template: Template | None, given: Mapping[str, object]
) -> Probe:
    """The contrast of two words; a word of several tokens is said on standard error.

    Args:
        given: options that go with a trained probe alone, by their names.
    """
    import warnings

    from ..probes.contrast import contrast
    from ..prompts.template import Template

    for option, value in given.items():
        if value:
            raise UserError(f"A contrast is trained on nothing: leave out {option}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = contrast(model, *words, template=template or Template())
    if made.read_as:
        click.echo(one_line(made.read_as), err=True)
    return made


def reading_options(command: Command) -> Command:
    """How a person's own file is read, given to the command as `reading`."""
    return settings_options(
        "reading",
        "data.datasets:FileReading",
        other={
            "mapping": {"multiple": True, "callback": lambda _, __, given: _mapping(given)},
            "delimiter": {
                "help": f"Of a file: one character, or one of {', '.join(DELIMITERS)} (one text a "
                "line).",
                "callback": lambda _, __, given: _delimiter(given),
            },
        },
    )(command)


def _delimiter(written: str | None) -> str | None:
    if written is None:
        return None
    return DELIMITERS.get(written, "\t" if written == "\\t" else written)


def _mapping(written: Sequence[str]) -> tuple[tuple[str, Label | None], ...] | None:
    pairs: list[tuple[str, Label | None]] = []
    for each in written:
        value, equals, sentiment = each.rpartition("=")
        if not equals or sentiment.strip().lower() not in SENTIMENTS:
            raise UserError(
                f"The mapping {each!r} cannot be read: write VALUE=SENTIMENT, where the sentiment "
                "is positive, negative or neutral."
            )
        pairs.append((value, SENTIMENTS[sentiment.strip().lower()]))
    twice = [value for value, count in Counter(value for value, _ in pairs).items() if count > 1]
    if twice:
        raise UserError(f"The label {twice[0]!r} is mapped more than once: map it once.")
    return tuple(pairs) or None


def out_option(table: str) -> Callable[[Command], Command]:
    """Where figure and table go; `table` says which table."""
    return click.option(
        "--out",
        "outs",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Write the figure (.png .svg .pdf .html) or the table{table} (.csv .parquet .json); "
        "may be repeated.",
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
        raise UserError(
            f"The file {str(path)!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{ending}' for ending in endings)}."
        )
    if path.is_dir():
        raise UserError(f"There is a folder at {str(path)!r}; give another name for the file.")


def save_traces(
    results: Sequence[TraceResult], out: Path, *, shown: Mapping[str, Any] | None = None
) -> list[Path]:
    """Save traces with what makes them again, in the form that the ending names.

    A figure for each trace, the second one as NAME-2; or one table of all cells.

    Args:
        shown: fields of the `View` that a figure is of.
    """
    import pandas as pd

    from ..charts.figures import trace_heatmaps
    from ..exporting.recipe import Recipe, Recipes
    from ..exporting.table_files import export_table
    from ..tracing.view import View

    recipes = list(map(Recipe.of, results))
    with writing(out):
        if out.suffix.lower().removeprefix(".") in FIGURES:
            paths = []
            for number, (result, recipe) in enumerate(zip(results, recipes, strict=True), start=1):
                path = out if number == 1 else out.with_stem(f"{out.stem}-{number}")
                chart = trace_heatmaps(View(result, **(shown or {})))
                paths.append(save_figure(chart, path, recipe=recipe.to_json()))
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


def save_figure(
    chart: alt.TopLevelMixin,
    path: Path,
    *,
    paper: Paper | None = None,
    recipe: str | None = None,
) -> Path:
    """Save a figure, and say on standard error which characters it lacks, once a command."""
    from ..exporting.figure_files import boxes, export_figure

    export_figure(chart, path, paper=paper, recipe=recipe)
    is_picture = path.suffix.lower() in (".png", ".pdf")
    sentence = boxes(chart, paper=paper) if is_picture else ""
    said = click.get_current_context().meta.setdefault("core.boxes", set())
    if sentence and sentence not in said:
        said.add(sentence)
        click.echo(sentence, err=True)
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The file {str(path)!r} cannot be written ({error.strerror}); choose another place."
        ) from error


# --- texts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Labelled texts: the frame, and how a person's own were read ("" of built-in ones)."""

    frame: pd.DataFrame
    read_as: str = ""


def open_texts(data: str, reading: FileReading | None = None, *, rows: int | None = None) -> Texts:
    """Open labelled texts, and say on standard error how those of a file or the hub were read.

    What a model cannot read of them is left out later, by `core.data.readable`.

    Args:
        rows: of the hub, at most.

    Raises:
        Question: what has to be asked of a file, before a model is loaded.
    """
    from ..data import datasets, labelling

    reading = reading or datasets.FileReading()
    if data in datasets.BUILT_IN:
        if reading != datasets.FileReading():
            raise UserError(
                f"The data set {data!r} is built in, and how it is read is known: leave out the "
                "options for files."
            )
        return Texts(datasets.load_dataset(data))
    table = datasets.load_table(data, limit=rows or datasets.HUB_ROWS, **reading.of_table())
    found = labelling.label_rows(table, **reading.of_labels())
    click.echo(one_line(f"{table.describe()} {found.describe()}"), err=True)
    return Texts(found.frame, found.read_as())


def open_pairs(name: str, reading: FileReading) -> pd.DataFrame:
    """Open pairs, and say on standard error how they were read."""
    from ..data.pairs import read_pairs

    table, found = read_pairs(name, reading)
    click.echo(one_line(f"{table.describe()} {found.describe()}"), err=True)
    return found.frame


# --- models, words, progress ------------------------------------------------------------


def default_name() -> str:
    """The model that is taken when none is named."""
    from ..models.registry import default_model

    return default_model()[0]


def open_model(name: str | None, device: str | None, dtype: str, progress: bool | None) -> Model:
    """Load a model, showing how far a download is."""
    from transformers.utils import logging

    from ..models.loading import load_model

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
    template: Template | None = None,
    words: Words | None = None,
    read_as: str = "",
) -> Probe:
    """The kept probe of a model on these texts, trained the first time.

    Says on standard error how many of them the model cannot read.
    """
    from ..probes.library import probe_for
    from ..prompts.template import Template

    with progress_bar(f"Training a probe on {data}, once for this model", progress) as show:
        return probe_for(
            model,
            frame,
            features=features,
            template=template or Template(),
            words=words,
            dataset=data,
            read_as=read_as,
            say=lambda said: click.echo(f"{data}: {said}", err=True),
            progress=lambda done, total: show(done / total),
        )


def template_of(
    suffix: str | None, prompt: str | None, prompt_format: Format | None
) -> Template | None:
    """What is to stand around the tweet; None where nothing was asked for."""
    from ..prompts.template import DEFAULT_SUFFIX, TWEET, Template

    if suffix is not None and prompt is not None:
        raise UserError("The suffix is the end of the prompt: give --suffix or --prompt, not both.")
    if prompt is not None and TWEET not in prompt:
        raise UserError(
            f"The prompt {prompt!r} has no place for the tweet; write {TWEET} where it goes."
        )
    if suffix is prompt is prompt_format is None:
        return None
    if prompt is not None:
        template = Template.of(prompt)
    else:
        template = Template(DEFAULT_SUFFIX if suffix is None else suffix)
    return replace(template, format=prompt_format or "raw")


def words_or_default(good: tuple[str, ...], bad: tuple[str, ...]) -> Words | None:
    """The words asked for; None where none is, so that the features' own are taken."""
    from ..prompts.prompt import DEFAULT_WORDS

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
    widths = [max(len(field) for field in column) for column in zip(*rows, strict=True)]
    for row in rows:
        fields = [
            field.rjust(width) if index in right else field.ljust(width)
            for index, (field, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(fields).rstrip())


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
