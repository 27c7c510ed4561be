"""Labelled texts as one tidy frame, whatever they come from.

The built-in sets are the four of Hutto & Gilbert (2014), "VADER: A Parsimonious Rule-based Model
for Sentiment Analysis of Social Media Text", ICWSM: tweets and three kinds of snippets, each text
with the mean rating that twenty people gave it between -4 (extremely negative) and 4 (extremely
positive). The label is the sign of the rating; texts that people found close to neutral are left
out, because a sign says nothing there. ``core.setup`` fetches them once.

A person's own file is read by ``core.data.read_file``. A data set of the Hugging Face hub is
streamed by the library `datasets`, which runs no code of the hub; where a data set is a script, the
hub's own conversion of it to Parquet is taken.
"""

import hashlib
import html
import math
import os
import queue
import random
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..distribution import COMMAND
from ..errors import UserError
from ..models.hub import ANSWER_SECONDS, HubError, HubUnreachable, hub_error
from ..settings import described
from ..storage.cache import home
from . import labelling, read_file, tables
from . import text_encoding as encodings
from .delimited import Quoting
from .labels import Label

if TYPE_CHECKING:
    import pandas as pd

MAX_RATING = 4.0

HUB_ROWS = 20_000
"""Rows that are taken of a data set of the hub, drawn from all of it: some are sorted by label."""

SILENT_SECONDS = 20.0  # how long a hub that has answered may then bring nothing
DEFAULT_SPLIT = "train"
CONVERTED = "refs/convert/parquet"  # the branch in which the hub keeps its conversions

_BATCH = 500
_FILE_ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".gz")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+){0,2}", re.ASCII)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuiltIn:
    """A data set that set-up prepares: what it is and which file of the VADER archive holds it."""

    key: str
    title: str
    member: str  # file name within the archive's folder
    rows: int  # texts before any is left out by its rating
    licence: str = "MIT (vaderSentiment)"
    citation: str = "Hutto & Gilbert (2014), ICWSM"


BUILT_IN: dict[str, BuiltIn] = {
    entry.key: entry
    for entry in (
        BuiltIn("vader-tweets", "Tweets", "tweets_GroundTruth.txt", 4200),
        BuiltIn(
            "vader-movies", "Movie review snippets", "movieReviewSnippets_GroundTruth.txt", 10605
        ),
        BuiltIn(
            "vader-products",
            "Product review snippets",
            "amazonReviewSnippets_GroundTruth.txt",
            3708,
        ),
        BuiltIn(
            "vader-news",
            "Newspaper editorial snippets",
            "nytEditorialSnippets_GroundTruth.txt",
            5190,
        ),
    )
}


@dataclass(frozen=True)
class FileReading:
    """What a person says of a file: how it is written, and where its texts and labels are.

    The fields are arguments of ``load_dataset``, None where that is left to be found.
    """

    text: str | None = described(
        None, "Of a file: where its texts are.", option="--text-column", metavar="NAME"
    )
    label: str | None = described(
        None, "Of a file: where its labels are.", option="--label-column", metavar="NAME"
    )
    mapping: tuple[tuple[str, Label | None], ...] | None = described(
        None,
        "What a label of a file means: positive, negative or neutral (left out). For each label "
        "that counts.",
        option="--map",
        metavar="VALUE=SENTIMENT",
    )
    neutral: tuple[float, float] | None = described(
        None, "Of ratings in a file: up to LOW negative, from HIGH positive.", metavar="LOW HIGH"
    )
    encoding: str | None = described(None, "Of a file.", metavar="NAME", unset="detected")
    delimiter: str | None = described(
        None, "Of a file: one character.", metavar="CHARACTER", unset="detected"
    )
    quoting: Quoting | None = described(None, "How a file quotes.", unset="detected")
    header: bool | None = described(
        None, "Whether a file's first row names the columns.", unset="detected"
    )

    def of_table(self) -> dict[str, Any]:
        """The arguments of ``load_table``."""
        return {
            "encoding": self.encoding,
            "delimiter": self.delimiter,
            "quoting": self.quoting,
            "header": self.header,
        }

    def of_labels(self) -> dict[str, Any]:
        """The arguments of ``labelling.label_rows``."""
        return {
            "text": self.text,
            "label": self.label,
            "mapping": None if self.mapping is None else dict(self.mapping),
            "neutral": self.neutral,
        }


def dataset_file(key: str) -> Path:
    """Return where the prepared texts of the built-in data set ``key`` lie, there or not."""
    return home() / "datasets" / f"{key}.parquet"


def load_dataset(
    name: str | Path,
    *,
    min_rating: float = 0.5,
    text: str | None = None,
    label: str | None = None,
    mapping: Mapping[str, Label | None] | None = None,
    neutral: tuple[float, float] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    header: bool | None = None,
    split: str = DEFAULT_SPLIT,
    limit: int = HUB_ROWS,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Return labelled texts: of a built-in data set, a file, or a data set of the hub.

    The frame has one row a text, in the order of the source, and the columns text (str), label
    (1 positive, 0 negative), rating (float, where there is one) and row (zero-based row of the
    source); of a file or the hub also group, which repeated texts share.

    Args:
        name: a key of ``BUILT_IN``; a file (CSV, TSV, JSONL, Parquet, .gz of these, or tweet_eval's
            ..._text.txt beside its ..._labels.txt); or "hub:owner/name" or "hub:owner/name/config".
        min_rating: built-in only. Texts with ``abs(rating) < min_rating`` are left out, and those
            rated exactly 0, which have no sign.
        text: and ``label``, ``mapping``, ``neutral``, see ``labelling.label_rows``.
        encoding: and ``delimiter``, ``quoting``, ``header`` of a file, see ``read_table``.
        split: and ``limit``, ``progress``, see ``stream_table``.

    Raises:
        ValueError: there is no such data set, it has not been fetched, a column or the meaning of
            its labels must be chosen, or the hub cannot be reached (HubUnreachable).

    Warns:
        UserWarning: rows of a file or of the hub cannot be used; ``load_labelled`` lists them.
    """
    if name in BUILT_IN:
        return _built_in(str(name), min_rating)
    labelled = load_labelled(
        name,
        text=text,
        label=label,
        mapping=mapping,
        neutral=neutral,
        encoding=encoding,
        delimiter=delimiter,
        quoting=quoting,
        header=header,
        split=split,
        limit=limit,
        progress=progress,
    )
    if labelled.refused:
        warnings.warn(f"{name}: {labelled.describe()}", stacklevel=2)
    return labelled.frame


def load_labelled(
    name: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    mapping: Mapping[str, Label | None] | None = None,
    neutral: tuple[float, float] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    header: bool | None = None,
    split: str = DEFAULT_SPLIT,
    limit: int = HUB_ROWS,
    progress: Progress | None = None,
) -> labelling.LabelledTable:
    """Return the labelled texts of a file or of the hub, with the rows that cannot be used.

    Arguments and errors are those of ``load_dataset`` and ``labelling.label_rows``.
    """
    table = load_table(
        name,
        encoding=encoding,
        delimiter=delimiter,
        quoting=quoting,
        header=header,
        split=split,
        limit=limit,
        progress=progress,
    )
    return labelling.label_rows(table, text=text, label=label, mapping=mapping, neutral=neutral)


def load_table(
    name: str | Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    header: bool | None = None,
    split: str = DEFAULT_SPLIT,
    limit: int = HUB_ROWS,
    progress: Progress | None = None,
) -> tables.Table:
    """Return a file or a data set of the hub as it is found, before labels are read.

    Args:
        encoding: and ``delimiter``, ``quoting``, ``header`` of a file, see ``read_table``.
        split: and ``limit``, ``progress``, see ``stream_table``.
    """
    told = str(name)
    written = {
        "encoding": encoding,
        "delimiter": delimiter,
        "quoting": quoting,
        "header": header,
    }
    if not told.startswith("hub:"):
        path = Path(name).expanduser()
        if path.is_file():
            return _read_file(path, written)
        if isinstance(name, Path) or path.suffix.lower() in _FILE_ENDINGS:
            raise UserError(f"There is no file {told!r}: check the name and the folder.")
    hub_id = told.removeprefix("hub:")
    if not _HUB_ID.fullmatch(hub_id) or (hub_id == told and "/" not in told):
        raise UserError(
            f"There is no data set {told!r}: choose one of {', '.join(BUILT_IN)}, or give a file "
            "or an id of the hub such as hub:cardiffnlp/tweet_eval/sentiment."
        )
    owner, _, rest = hub_id.partition("/")
    short, _, config = rest.partition("/")
    return stream_table(
        f"{owner}/{short}" if short else owner,
        config=config or None,
        split=split,
        limit=limit,
        progress=progress,
    )


def _built_in(name: str, min_rating: float) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa

    if not (math.isfinite(min_rating) and 0 <= min_rating <= MAX_RATING):
        raise UserError(
            f"min_rating is {min_rating!r}, but ratings reach from 0 (neutral) to {MAX_RATING:g}: "
            "choose a number between those."
        )
    file = dataset_file(name)
    if not file.is_file():
        raise UserError(
            f"The data set {name!r} has not been fetched yet: run `{COMMAND} setup` first."
        )
    try:
        everything = pd.read_parquet(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"The data set {name!r} in {file} is damaged: remove that file and run "
            f"`{COMMAND} setup`."
        ) from error
    rated = everything["rating"].abs()
    rated_apart = everything[(rated >= min_rating) & (rated > 0)].reset_index(drop=True)
    rated_apart.insert(1, "label", (rated_apart["rating"] > 0).astype("int64"))
    return rated_apart


def _read_file(path: Path, written: Mapping[str, Any]) -> tables.Table:
    """Read a file; tweet_eval's texts together with the labels that lie beside them."""
    if path.name.endswith("_text.txt"):
        labels = path.with_name(path.name.removesuffix("_text.txt") + "_labels.txt")
        if labels.is_file():
            texts, classes = (
                read_file.read_table(p, **{**written, "delimiter": "", "header": False})
                for p in (path, labels)
            )
            return tables.pair(texts, classes, class_names=_mapping_beside(path))
    return read_file.read_table(path, **written)


def _mapping_beside(path: Path) -> list[str]:
    """Return the names of the classes that tweet_eval has in a file beside, by their numbers."""
    file = path.with_name("mapping.txt")
    if not file.is_file():
        return []
    lines = encodings.read_source(file, file.name).decode("utf-8", "replace").splitlines()
    numbered = [line.split("\t") for line in lines if line.strip()]
    if [fields[0].strip() for fields in numbered] != [str(n) for n in range(len(numbered))]:
        return []
    return [fields[-1].strip() for fields in numbered]


def read_ratings(raw: bytes) -> "pd.DataFrame":
    """Read one file of the VADER archive: a line a text, of id, mean rating and text between tabs.

    Returns the columns text (HTML entities and surrounding white space removed), rating and row.
    The bytes are read as UTF-8 ("español"), and as Latin-1 where they are not UTF-8. Raises
    ValueError when a line is not of this form.
    """
    import pandas as pd

    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError:
        content = raw.decode("latin-1")
    texts, ratings = [], []
    # Not splitlines(), which also splits at characters that a text may hold.
    for number, line in enumerate(content.replace("\r\n", "\n").rstrip("\n").split("\n"), start=1):
        fields = line.split("\t", maxsplit=2)
        if len(fields) != 3:
            raise UserError(
                f"Line {number} has {len(fields)} fields between tabs, not 3: {line!r}."
            )
        ratings.append(float(fields[1]))
        # Twice, because a few texts were escaped twice on their way ("&amp;#39;").
        texts.append(html.unescape(html.unescape(fields[2])).strip())
    return pd.DataFrame({"text": texts, "rating": ratings, "row": range(len(texts))})


def fingerprint(frame: "pd.DataFrame") -> str:
    """Return a SHA-256 over the texts and labels of ``frame``, in order: 64 hexadecimal digits.

    It depends on nothing but the columns text and label, so it stays the same over versions of
    pandas and Python. Lengths go in with the texts, so no two frames run together into one.

    Raises ValueError where a row has no text or no label.
    """
    labelling.check_frame(frame)
    digest = hashlib.sha256()
    for text, label in zip(frame["text"], frame["label"], strict=True):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:{int(label)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()


# --- the hub -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """What is known of a stream before its first row."""

    rows: int  # 0 where that is not known
    class_names: dict[str, list[str]]


def stream_table(
    hub_id: str,
    *,
    config: str | None = None,
    split: str = DEFAULT_SPLIT,
    limit: int = HUB_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> tables.Table:
    """Stream a data set of the Hugging Face hub, and keep ``limit`` rows drawn from all of it.

    ``progress(done, total)`` is told rows, with total 0 where the hub does not say how many there
    are; an exception that it raises ends the work. Raises HubUnreachable when the hub does not
    answer within seconds or falls silent, and HubError when it has no such data set, config or
    split, or sends what cannot be read.
    """
    name = f"hub:{hub_id}{f'/{config}' if config else ''}"
    events = _watched(hub_id, _hub_events(hub_id, config, split))
    return _collect(events, name, limit, seed, progress)


def table_of_stream(
    stream: Any,
    name: str,
    *,
    limit: int = HUB_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> tables.Table:
    """Keep ``limit`` rows drawn from an ``IterableDataset`` of the library `datasets`."""
    return _collect(_stream_events(stream), name, limit, seed, progress)


def _collect(
    events: Iterator[Any], name: str, limit: int, seed: int, progress: Progress | None
) -> tables.Table:
    """Draw rows evenly while they pass by, each with the same chance (reservoir sampling)."""
    if limit < 1:
        raise UserError(f"The limit is {limit!r} rows: give at least 1.")
    draw = random.Random(seed)
    opened = _Opened(0, {})
    drawn: list[tuple[int, dict[str, Any]]] = []
    seen = 0
    for event in events:
        if isinstance(event, _Opened):
            opened = event
            continue
        for record in event:
            if seen < limit:
                drawn.append((seen, record))
            elif (place := draw.randrange(seen + 1)) < limit:
                drawn[place] = (seen, record)
            seen += 1
        if progress is not None and event:
            progress(seen, max(opened.rows, seen) if opened.rows else 0)
        if seen >= tables.MAX_ROWS:
            break
    if not drawn:
        raise HubError(f"{name} has no rows.")
    drawn.sort(key=lambda item: item[0])
    return tables.from_records(
        (record for _, record in drawn),
        name,
        class_names=opened.class_names,
        rows=[row for row, _ in drawn],
    )


def _stream_events(stream: Any) -> Iterator[Any]:
    """Yield what is known of a stream, then lists of its rows."""
    features = stream.features or {}
    names = {
        str(column): [str(name) for name in feature.names]
        for column, feature in features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    splits = stream.info.splits or {}
    stated = splits[stream.split].num_examples if stream.split in splits else 0
    yield _Opened(int(stated or 0), names)
    for batch in stream.iter(batch_size=_BATCH):
        columns = list(batch)
        yield [
            dict(zip(columns, values, strict=True)) for values in zip(*batch.values(), strict=True)
        ]


def _hub_events(hub_id: str, config: str | None, split: str) -> Iterator[Any]:
    """Ask the hub what it has, open a stream of it, and yield its rows."""
    from datasets import load_dataset as open_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    # The library `datasets` asks a hub that is away for half a minute; this asks once.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    info = api.dataset_info(hub_id, timeout=ANSWER_SECONDS)
    yield []
    # The prefix keeps a folder of the same name on this machine from standing in for the hub.
    path = f"hf://datasets/{hub_id}"
    script = f"{hub_id.rpartition('/')[2]}.py"
    if all(sibling.rfilename != script for sibling in info.siblings or []):
        stream = open_dataset(path, config, split=split, revision=info.sha, streaming=True)
    else:
        try:
            converted = api.dataset_info(hub_id, revision=CONVERTED, timeout=ANSWER_SECONDS)
        except (RevisionNotFoundError, RepositoryNotFoundError) as error:
            raise HubError(_not_converted(hub_id)) from error
        files = [sibling.rfilename for sibling in converted.siblings or []]
        folder = _converted_config(hub_id, config, split, files)
        stream = open_dataset(
            path,
            data_files={split: f"{folder}/{split}/*.parquet"},
            split=split,
            revision=converted.sha,
            streaming=True,
        )
    yield from _stream_events(stream)


def _converted_config(hub_id: str, config: str | None, split: str, files: list[str]) -> str:
    """Choose the folder of the hub's conversion, of files named config/split/0000.parquet."""
    splits: dict[str, set[str]] = {}
    for file in files:
        parts = file.split("/")
        if len(parts) == 3 and parts[2].endswith(".parquet"):
            splits.setdefault(parts[0], set()).add(parts[1])
    if not splits:
        raise HubError(_not_converted(hub_id))
    if config is None and len(splits) > 1:
        raise HubError(_choose_config(hub_id, sorted(splits)))
    chosen = next(iter(splits)) if config is None else config
    if chosen not in splits:
        raise HubError(f"{hub_id!r} has no config {chosen!r}: choose one of {_sorted(splits)}.")
    if split not in splits[chosen]:
        raise HubError(
            f"{hub_id!r} has no split {split!r}: choose one of {_sorted(splits[chosen])}."
        )
    return chosen


def _not_converted(hub_id: str) -> str:
    return f"The hub has no tables of {hub_id!r}, which is a script: it is not run."


def _choose_config(hub_id: str, configs: list[str]) -> str:
    return (
        f"{hub_id!r} has several configs, {', '.join(configs)}: write one after the name, as in "
        f"hub:{hub_id}/{configs[0]}."
    )


def _sorted(names: Any) -> str:
    return ", ".join(sorted(names))


_END = object()


def _watched(hub_id: str, events: Iterator[Any]) -> Iterator[Any]:
    """Pass on events that a thread fetches; give up when it is silent for too long.

    No time-out of the libraries covers looking up a name, an answer in drops and their own many
    attempts, so the thread is left behind where it does not come back.
    """
    from datasets.exceptions import DatasetsError
    from httpx2 import HTTPError
    from pyarrow import ArrowException

    expected: tuple[type[Exception], ...] = (
        *(HTTPError, OSError, DatasetsError, ArrowException),
        *(ValueError, KeyError, TypeError, RuntimeError),
    )
    fetched: queue.Queue[Any] = queue.Queue(maxsize=20)
    given_up = threading.Event()

    def put(item: Any) -> None:
        while not given_up.is_set():
            try:
                fetched.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def fetch() -> None:
        last: Any = HubError(f"{hub_id!r} cannot be read: the stream broke off.")
        try:
            for event in events:
                if given_up.is_set():
                    return
                put(event)
            last = _END
        except expected as error:
            last = error
        finally:
            put(last)

    threading.Thread(target=fetch, daemon=True).start()
    patience = ANSWER_SECONDS
    try:
        while True:
            try:
                event = fetched.get(timeout=patience)
            except queue.Empty:
                raise HubUnreachable(
                    f"{hub_id!r} cannot be fetched: the hub was silent for {patience:g} s."
                ) from None
            if event is _END:
                return
            if isinstance(event, Exception):
                raise _in_a_sentence(hub_id, event) from event
            patience = SILENT_SECONDS
            yield event
    finally:
        given_up.set()


def _in_a_sentence(hub_id: str, error: Exception) -> HubError:
    """Say what an error of the hub or of the library `datasets` means for a person."""
    if isinstance(error, HubError):
        return error
    if known := hub_error(hub_id, "data set", error):
        return known
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    configs = re.search(r"available configs: \[(.*?)\]", reason)
    if isinstance(error, ValueError) and configs:
        return HubError(_choose_config(hub_id, re.findall(r"'([^']+)'", configs[1])))
    return HubError(f"{hub_id!r} cannot be read: {reason}.")
