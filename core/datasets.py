"""Labelled texts as one tidy frame, whatever they come from.

The built-in sets are the four of Hutto & Gilbert (2014), "VADER: A Parsimonious Rule-based Model
for Sentiment Analysis of Social Media Text", ICWSM: tweets and three kinds of snippets, each text
with the mean rating that twenty people gave it between -4 (extremely negative) and 4 (extremely
positive). The label is the sign of the rating; texts that people found close to neutral are left
out, because a sign says nothing there. ``core.setup`` fetches them once.

A person's own file is read by ``core.readers``. A data set of the Hugging Face hub is streamed by
the library `datasets`, which runs no code of the hub; where a data set is a script, the hub's own
conversion of it to Parquet is taken.
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

from core import labelling, readers, tables
from core.cache import home
from core.hub import ANSWER_SECONDS, HubError, HubUnreachable
from core.labels import Label

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
    split: str = DEFAULT_SPLIT,
    limit: int = HUB_ROWS,
    progress: Progress | None = None,
    check: Callable[[str], str] | None = None,
) -> labelling.LabelledTable:
    """Return the labelled texts of a file or of the hub, with the rows that cannot be used.

    Arguments and errors are those of ``load_dataset`` and ``labelling.label_rows``.
    """
    table = load_table(name, split=split, limit=limit, progress=progress)
    return labelling.label_rows(
        table, text=text, label=label, mapping=mapping, neutral=neutral, check=check
    )


def load_table(
    name: str | Path,
    *,
    split: str = DEFAULT_SPLIT,
    limit: int = HUB_ROWS,
    progress: Progress | None = None,
) -> tables.Table:
    """Return a file or a data set of the hub as it is found, before labels are read."""
    told = str(name)
    if not told.startswith("hub:"):
        path = Path(name).expanduser()
        if path.is_file():
            return _read_file(path)
        if isinstance(name, Path) or path.suffix.lower() in _FILE_ENDINGS:
            raise ValueError(f"There is no file {told!r}: check the name and the folder.")
    hub_id = told.removeprefix("hub:")
    if not _HUB_ID.fullmatch(hub_id) or (hub_id == told and "/" not in told):
        raise ValueError(
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
        raise ValueError(
            f"min_rating is {min_rating!r}, but ratings reach from 0 (neutral) to {MAX_RATING:g}: "
            "choose a number between those."
        )
    file = dataset_file(name)
    if not file.is_file():
        raise ValueError(
            f"The data set {name!r} has not been fetched yet: run `python -m core setup` first."
        )
    try:
        everything = pd.read_parquet(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"The data set {name!r} in {file} is damaged: remove that file and run "
            "`python -m core setup`."
        ) from error
    rated = everything["rating"].abs()
    kept = everything[(rated >= min_rating) & (rated > 0)].reset_index(drop=True)
    kept.insert(1, "label", (kept["rating"] > 0).astype("int64"))
    return kept


def _read_file(path: Path) -> tables.Table:
    """Read a file; tweet_eval's texts together with the labels that lie beside them."""
    if path.name.endswith("_text.txt"):
        labels = path.with_name(path.name.removesuffix("_text.txt") + "_labels.txt")
        if labels.is_file():
            read = [readers.read_table(p, delimiter="", header=False) for p in (path, labels)]
            return tables.pair(*read)
    return readers.read_table(path)


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
            raise ValueError(
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
    """
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
        raise ValueError(f"The limit is {limit!r} rows: give at least 1.")
    draw = random.Random(seed)
    opened = _Opened(0, {})
    kept: list[tuple[int, dict[str, Any]]] = []
    seen = 0
    for event in events:
        if isinstance(event, _Opened):
            opened = event
            continue
        for record in event:
            if seen < limit:
                kept.append((seen, record))
            elif (place := draw.randrange(seen + 1)) < limit:
                kept[place] = (seen, record)
            seen += 1
        if progress is not None and event:
            progress(seen, max(opened.rows, seen) if opened.rows else 0)
        if seen >= tables.MAX_ROWS:
            break
    if not kept:
        raise HubError(f"{name} has no rows.")
    kept.sort(key=lambda item: item[0])
    return tables.from_records(
        (record for _, record in kept),
        name,
        class_names=opened.class_names,
        rows=[row for row, _ in kept],
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
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    configs = re.search(r"available configs: \[(.*?)\]", reason)
    match error:
        case HubError():
            return error
        case OfflineModeIsEnabled():
            return HubUnreachable(f"{hub_id!r} cannot be fetched: HF_HUB_OFFLINE forbids it.")
        case GatedRepoError():
            return HubError(f"{hub_id!r} asks for an agreement on the hub: log in there first.")
        case RepositoryNotFoundError() | HFValidationError():
            return HubError(f"The hub has no data set {hub_id!r}: check the name.")
        case HfHubHTTPError() if error.response.status_code < 500:
            return HubError(f"The hub refused {hub_id!r} with status {error.response.status_code}.")
        case HTTPError() | ConnectionError():
            return HubUnreachable(
                f"{hub_id!r} cannot be fetched: the hub was not reached ({reason})."
            )
        case ValueError() if configs:
            return HubError(_choose_config(hub_id, re.findall(r"'([^']+)'", configs[1])))
    return HubError(f"{hub_id!r} cannot be read: {reason}.")
