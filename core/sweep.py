"""Many tweets, traced into a store on disk that survives whatever ends the work.

A store is a folder whose name is made of all that determines its numbers, so that other settings
never mix with them:

    manifest.json      what is traced: settings, model, probe, selection, data
    probe.json         the probe, so that any proxy can be read later
    tweets.parquet     the plan: which tweets, in which batch
    parts/000012.parquet    what was read of one finished batch, and the tweets' tokens
    failures/000012.json    tweets of that batch which could not be traced, and why
    claims/0.json      what a process is working at

The plan is made once. A batch (tweets whose prompts have equally many tokens) is done when its part
is there, and a part is there only when it is whole (`core.cache.write_beside`). So a process can be
killed at any instant: nothing finished is lost, nothing finished is done again, and what was in
flight is done anew by whoever comes next. Any number of processes may work at one store: each takes
batches that no living other has claimed, where living means holding a lock that the system lets go
at death.

Between tweets the effects vary more than between noise samples of one tweet (what an average wants
is many tweets), so a sweep takes one or two samples.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import filelock
import numpy as np

from core import cache, datasets, kept
from core.cases import default_window
from core.features import encode
from core.models import Model
from core.probes import Probe, key_of
from core.prompts import Prompt, Token, Word, build_prompt, word_token
from core.results import Reads, TraceResult, TraceSettings
from core.roles import TWEET, roles_of
from core.runs import Array, Batches, EngineError, Kind
from core.trace import trace_together

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORM = 1
"""Version of a store's files; it is part of the name."""

DEFAULT_SAMPLES = 1
MOST_TOGETHER = 64  # tweets of one batch: what is lost at most when a process is killed
_CONTROL_SECONDS = 1.0  # how long a wish to stop may go unnoticed within a batch
_STARTING_SECONDS = 120.0  # how long a started process may take until it claims a batch
_CHUNK = 256  # tweets asked at once whether the probe is right about them
_NOT_DETERMINING = ("proxy", "seconds", "stable_for")  # read later, or not for sweeps

State = Literal["running", "paused", "stopped", "done"]


@dataclass(frozen=True)
class Selection:
    """Which tweets of a data set are traced.

    They are drawn in an order that the seed gives, so a larger n only adds tweets.

    Attributes:
        which: "all", or "correct": those of which the probe says what their label says, by its
            cross-validation where it was trained on these very texts, else by itself.
        label: 1 or 0 for one sentiment alone.
        shortest, longest: tokens of the tweet, its suffix not counted.
        containing: text that the tweet must hold, in upper or lower case.
        n: how many; None takes all.
        seed: of the order.
    """

    which: Literal["all", "correct"] = "all"
    label: int | None = None
    shortest: int = 1
    longest: int | None = None
    containing: str = ""
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.which not in ("all", "correct"):
            raise ValueError(f"Tweets are 'all' or those 'correct', not {self.which!r}.")
        if self.label not in (None, 0, 1):
            raise ValueError(f"The label is 1 (positive), 0 (negative) or None, not {self.label}.")
        if self.n is not None and self.n < 1:
            raise ValueError(f"At least 1 tweet must be traced, not {self.n}.")
        if self.shortest < 1 or (self.longest is not None and self.longest < self.shortest):
            raise ValueError(
                f"No tweet has {self.shortest} to {self.longest} tokens; give a range from 1 on."
            )
        if self.seed < 0:
            raise ValueError(f"The seed must be 0 or more, not {self.seed}.")


@dataclass(frozen=True)
class Record:
    """One traced tweet of a sweep.

    Attributes:
        number: of the tweet in the sweep, from 0.
        row: of the source that it was taken from.
        label: 1 positive, 0 negative, None where it has none.
        result: its trace.
    """

    number: int
    row: int
    label: int | None
    result: TraceResult


@dataclass(frozen=True)
class Failure:
    """A tweet that could not be traced, and why."""

    number: int
    row: int
    reason: str


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    seconds_left is None where it cannot be told. workers counts the processes that are at it.
    """

    state: State
    done: int  # tweets traced
    failed: int
    total: int
    workers: int = 0
    seconds_left: float | None = None

    @property
    def fraction(self) -> float:
        """Share of the tweets that need no more work."""
        return (self.done + self.failed) / max(self.total, 1)


@dataclass(frozen=True)
class ModelName:
    """What `core.models.load_model` needs to load a sweep's model, and the weights' identity."""

    name: str
    dtype: str
    identity: str
    untrained: bool


@dataclass(frozen=True)
class Task:
    """What is asked of every tweet: all that a worker needs besides model and tweets."""

    probe: Probe
    settings: TraceSettings
    roles: tuple[str, ...] | None  # of `core.roles.TWEET`; None traces every token
    most_tokens: int | None  # of one role in one tweet
    seed: int


class Store:
    """A sweep on disk; made by `create` or `open_store`. Iterating yields its `Record`s."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest of a store that is there."""
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())

    @property
    def id(self) -> str:
        """Its name: 16 hexadecimal digits."""
        return self.folder.name

    @cached_property
    def probe(self) -> Probe:
        """The probe that the sweep reads."""
        return Probe.load(self.folder / "probe.json")

    @cached_property
    def task(self) -> Task:
        """What is asked of every tweet."""
        determines = self.manifest["determines"]
        settings = dict(determines["settings"])
        settings["kinds"] = tuple(settings["kinds"])
        roles = determines["roles"]
        return Task(
            self.probe,
            TraceSettings(**settings),
            None if roles is None else tuple(roles),
            determines["most_tokens"],
            determines["selection"]["seed"],
        )

    @cached_property
    def tweets(self) -> pd.DataFrame:
        """The plan: number, row, text, label, tokens (of the prompt; 0 where it has none), batch.

        A column rating as well, where the data set has one.
        """
        import pandas as pd

        return pd.read_parquet(self.folder / "tweets.parquet")

    def finished(self) -> list[int]:
        """Numbers of the batches that are done."""
        with suppress(FileNotFoundError):
            names = (entry.name for entry in os.scandir(self.folder / "parts"))
            return sorted(int(name[:-8]) for name in names if name.endswith(".parquet"))
        return []

    def __len__(self) -> int:
        """Count the tweets that were traced."""
        status = self.status()
        return status.done

    def __iter__(self) -> Iterator[Record]:
        """Yield every traced tweet, batch by batch; one batch is in memory at a time."""
        for batch in self.finished():
            yield from self._records(batch)

    def record(self, number: int) -> Record:
        """Give one traced tweet.

        Raises:
            ValueError: there is no such tweet, or it is not traced yet or could not be.
        """
        plan = self.tweets
        found = plan.loc[plan["number"] == number, "batch"]
        if len(found) and self._part(int(found.iloc[0])).is_file():
            for record in self._records(int(found.iloc[0])):
                if record.number == number:
                    return record
        reasons = self.failures()
        reason = reasons.loc[reasons["number"] == number, "reason"]
        why = f" could not be traced: {reason.iloc[0]}" if len(reason) else " is not traced (yet)."
        raise ValueError(f"The tweet {number} of the sweep {self.id}{why}")

    def failures(self) -> pd.DataFrame:
        """Tweets that could not be traced: number, row, reason."""
        import pandas as pd

        rows = []
        for path in sorted((self.folder / "failures").glob("*.json")):
            if self._part(int(path.stem)).is_file():
                rows += json.loads(path.read_bytes())
        return pd.DataFrame(rows, columns=["number", "row", "reason"])

    def status(self) -> Status:
        """How far the sweep is; asked of the disk, whichever process works at it."""
        weights = self._weights
        done = set(self.finished())
        failed = len(self.failures())
        total = len(self.tweets)
        touched = sum(weights[batch][0] for batch in done)
        with self._lock():
            claims = self._living_claims()
        left = sum(weight for batch, (_, weight) in weights.items() if batch not in done)
        speed = sum(c["weight"] / c["seconds"] for c in claims.values() if c.get("seconds"))
        wish, since = self._wish()
        state: State = "stopped"
        if len(done) == len(weights):
            state = "done"
        elif claims or (wish == "start" and time.time() - since < _STARTING_SECONDS):
            state = "running"
        elif wish == "pause":
            state = "paused"
        return Status(
            state=state,
            done=touched - failed,
            failed=failed,
            total=total,
            workers=len(claims),
            seconds_left=left / speed if speed and state == "running" else None,
        )

    def pause(self) -> None:
        """Ask every process that works at this store to end after its batch."""
        self._wish("pause")

    def stop(self) -> None:
        """Ask every process that works at this store to end at once; its batch is done anew."""
        self._wish("stop")

    def start(self, *, processes: int = 1, nice: int = 10) -> list[int]:
        """Go on in processes of their own, which outlive this one; gives their process ids.

        They write to log.txt in the store's folder. `nice` makes way for other work.
        """
        self._wish("start")
        command = [sys.executable, "-m", "core", "sweep", "--resume", self.id, "--no-progress"]
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment = os.environ | {"SENTITRACE_HOME": str(cache.home())}
        if processes > 1:
            environment["OMP_NUM_THREADS"] = str(threads)
        found = []
        with open(self.folder / "log.txt", "ab") as log:
            for _ in range(processes):
                started = subprocess.Popen(
                    [*command, "--nice", str(nice)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parent.parent,
                    env=environment,
                    start_new_session=True,
                )
                _started.append(started)
                found.append(started.pid)
        return found

    def retry_failed(self) -> int:
        """Take back batches in which a tweet failed, so that they are traced anew; counts them."""
        count = 0
        with self._lock():
            for path in (self.folder / "failures").glob("*.json"):
                self._part(int(path.stem)).unlink(missing_ok=True)
                path.unlink()
                count += 1
        return count

    def remove(self) -> None:
        """Delete the sweep and all its results.

        Raises:
            ValueError: a process works at it.
        """
        with self._lock():
            if self._living_claims():
                raise ValueError(f"The sweep {self.id} is running; stop it before removing it.")
            shutil.rmtree(self.folder)

    def write(self, batch: int, table: pa.Table | None, failures: Sequence[Failure]) -> None:
        """Keep a finished batch: first its failures, then its part, which says that it is done."""
        import pyarrow.parquet as pq

        if table is None:
            table = _schema().empty_table()
        try:
            if failures:
                path = self.folder / "failures" / f"{batch:06}.json"
                with cache.write_beside(path) as beside:
                    beside.write_text(json.dumps([asdict(f) for f in failures]), encoding="utf-8")
            with cache.write_beside(self._part(batch)) as beside:
                pq.write_table(table, beside, compression="zstd")
        except OSError as error:
            raise ValueError(
                f"The sweep {self.id} cannot be written ({error.strerror or error}); make room on "
                "the disk and resume it: nothing but the batch in hand is lost."
            ) from error

    def batch(self, number: int) -> list[dict[str, Any]]:
        """The plan's rows of one batch."""
        start, end = self._places[number]
        rows = self.tweets.iloc[start:end].to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in rows]

    # --- batches and who is at them ---

    @contextmanager
    def claims(self) -> Iterator[Claims]:
        """Take part in the work: hold a slot while the block runs.

        Raises:
            ValueError: the engine's numbers have changed since the sweep began.
        """
        if self.manifest["determines"]["engine"] != kept.ENGINE:
            raise ValueError(
                f"The sweep {self.id} was made by an earlier engine, whose numbers differ; "
                "begin it anew."
            )
        with self._lock():
            slot = 0
            while True:
                lock = self._slot_lock(slot)
                try:
                    lock.acquire()
                    break
                except filelock.Timeout:
                    slot += 1
        claims = Claims(self, slot)
        try:
            yield claims
        finally:
            with suppress(FileNotFoundError):
                self._claim_file(slot).unlink()
            lock.release()

    @property
    def model(self) -> ModelName:
        """The model that the sweep is of."""
        origin, weights = self.manifest["origin"], self.manifest["determines"]["model"]
        name = str(origin["model"]).removesuffix(" (untrained)")
        return ModelName(name, weights["precision"], weights["identity"], origin["untrained"])

    @property
    def wanted(self) -> str:
        """The last wish: "start" (of processes that do not work yet), "run", "pause" or "stop"."""
        return self._wish()[0]

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """The plan's rows [start, end) of each batch; batches stand one after another."""
        numbers = self.tweets["batch"].to_numpy()
        batches, starts = np.unique(numbers, return_index=True)
        ends = [*starts[1:].tolist(), len(numbers)]
        return dict(zip(batches.tolist(), zip(starts.tolist(), ends, strict=True), strict=True))

    @cached_property
    def _weights(self) -> dict[int, tuple[int, float]]:
        """Tweets of each batch, and how much work it is in arbitrary units."""
        plan = self.tweets
        # A token's rows are recomputed for the tokens from it on, so work grows with the square.
        work = (plan["tokens"] + 1).astype(float) ** 2
        grouped = work.groupby(plan["batch"])
        counts, sums = grouped.count(), grouped.sum()
        return {int(b): (int(counts[b]), float(sums[b])) for b in counts.index}

    def _living_claims(self) -> dict[int, dict[str, Any]]:
        """Claims by slot, of processes that live. Call it with the store's lock held."""
        found = {}
        for path in (self.folder / "claims").glob("*.json"):
            slot = int(path.stem)
            lock = self._slot_lock(slot)
            try:
                lock.acquire()
            except filelock.Timeout:
                with suppress(FileNotFoundError, ValueError):
                    found[slot] = json.loads(path.read_bytes())
            else:
                path.unlink(missing_ok=True)  # its process died
                lock.release()
        return found

    def _lock(self) -> filelock.BaseFileLock:
        return cache.lock(f"sweep-{self.id}")

    def _slot_lock(self, slot: int) -> filelock.BaseFileLock:
        return cache.lock(f"sweep-{self.id}-{slot}", timeout=0)

    def _claim_file(self, slot: int) -> Path:
        return self.folder / "claims" / f"{slot}.json"

    def _wish(self, wish: str | None = None) -> tuple[str, float]:
        path = self.folder / "wish"
        if wish is not None:
            with cache.write_beside(path) as beside:
                beside.write_text(wish)
        try:
            return path.read_text(), path.stat().st_mtime
        except FileNotFoundError:
            return "", 0.0

    # --- parts ---

    def _part(self, batch: int) -> Path:
        return self.folder / "parts" / f"{batch:06}.parquet"

    def _records(self, batch: int) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        origin = self.manifest["origin"]
        identity = self.manifest["determines"]["model"]["identity"]
        try:
            rows = pq.read_table(self._part(batch)).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(
                f"The part {batch:06} of the sweep {self.id} is damaged; delete "
                f"{self._part(batch)} and resume the sweep."
            ) from error
        for row in rows:
            result = _result_of(row, self.task, origin["model"], identity)
            yield Record(row["number"], row["row"], row["label"], result)


_started: list[subprocess.Popen[bytes]] = []  # kept, so that none is reported as forgotten


class Claims:
    """A process's part in a sweep: which batches it is at, and how fast it was."""

    def __init__(self, store: Store, slot: int) -> None:
        """Hold a slot of the store; made by `Store.claims`."""
        self._store = store
        self._slot = slot
        self._batches: list[int] = []
        self._done = set(store.finished())
        self._shared = False  # was another at the store when a batch was last claimed?
        self._seconds = 0.0
        self._weight = 0.0
        self._write()

    def take(self) -> int | None:
        """Claim one more batch that nobody has done or claimed; None where there is none."""
        store = self._store
        with store._lock():
            claims = store._living_claims()
            others = [claim for slot, claim in claims.items() if slot != self._slot]
            if others or self._shared:
                self._done = set(store.finished())
            self._shared = bool(others)
            taken = {batch for claim in others for batch in claim["batches"]}
            free = (
                batch
                for batch in store._places
                if batch not in self._done and batch not in taken and batch not in self._batches
            )
            batch = next(free, None)
            if batch is not None:
                self._batches.append(batch)
                self._write()
            return batch

    def done(self, batch: int, seconds: float) -> None:
        """Let go of a batch that was written, and note how long it took, for the time left."""
        self._batches.remove(batch)
        self._done.add(batch)
        self._seconds += seconds
        self._weight += self._store._weights[batch][1]
        self._write()

    def _write(self) -> None:
        # Need not outlive a power cut: claims count only while their process lives.
        state = {"batches": self._batches, "seconds": self._seconds, "weight": self._weight}
        path = self._store._claim_file(self._slot)
        path.write_text(json.dumps(state | {"pid": os.getpid()}))


# --- making and finding stores --------------------------------------------------------------------


def sweeps_folder() -> Path:
    """Where sweeps are kept."""
    return cache.home() / "sweeps"


def sweeps() -> list[Store]:
    """Every sweep on this disk, the newest first."""
    found = []
    for path in sweeps_folder().glob("*/manifest.json"):
        store = Store(path.parent)
        if store.manifest["determines"]["form"] == FORM:
            found.append(store)
    return sorted(found, key=lambda store: str(store.manifest["origin"]["created"]), reverse=True)


def open_store(id: str) -> Store:
    """Open a sweep by its name or by the beginning of it.

    Raises:
        ValueError: there is none, or several begin so.
    """
    found = [store for store in sweeps() if id and store.id.startswith(id)]
    if len(found) != 1:
        raise ValueError(
            f"{'Several sweeps begin' if found else 'No sweep begins'} with {id!r}; "
            "see `python -m core sweep --list`."
        )
    return found[0]


def create(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    settings: TraceSettings | None = None,
    *,
    selection: Selection | None = None,
    roles: Sequence[str] | None = None,
    most_tokens: int | None = None,
    together: int | None = None,
    data: str = "",
    progress: Callable[[float], None] | None = None,
) -> Store:
    """Make the store of a sweep, or open it where just this sweep is there already.

    Where a sweep is there that differs only in having fewer of the same tweets, what it has traced
    is taken over: more tweets cost no more than those that are new.

    Args:
        tweets: columns text and label; row and rating where there are any.
        settings: of each trace; by default one noise sample.
        selection: which of the tweets.
        roles: trace only tokens that play these parts (keys of `core.roles.TWEET`); None: all.
        most_tokens: trace at most so many tokens of one role in a tweet, drawn at random. Their
            mean stands for the role's, so an average stays right, with a wider interval; a tweet's
            peak is then looked for among the traced tokens only.
        together: tweets of one batch, at most; by default as many as fill the model's device. Where
            other devices will do the work (a cluster), say `MOST_TOGETHER`.
        data: what a person calls the data.
        progress: called with the share of the tweets that were looked at.

    Raises:
        ValueError: no tweet is left, or settings that a sweep cannot use.
    """
    settings = settings or TraceSettings(samples=DEFAULT_SAMPLES)
    selection = selection or Selection()
    _check(settings, roles, most_tokens, together)
    chosen = choose(model, probe, tweets, selection, progress)
    settings = replace(settings, seconds=None, stable_for=None, proxy="log_odds")
    determines = {
        "form": FORM,
        "engine": kept.ENGINE,
        "model": {"identity": model.identity, "precision": model.precision},
        "probe": _fingerprint_of(probe),
        "settings": {k: v for k, v in asdict(settings).items() if k not in _NOT_DETERMINING},
        "roles": None if roles is None else sorted(set(roles)),
        "most_tokens": most_tokens,
        "selection": asdict(selection),
        "data": datasets.fingerprint(chosen),
    }
    name = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]
    folder = sweeps_folder() / name
    with cache.lock(f"sweep-{name}"):
        if not (folder / "manifest.json").is_file():
            smaller = _smaller_sweep(determines, chosen)
            done = [] if smaller is None else smaller.finished()
            batches = [] if smaller is None else [smaller.batch(batch) for batch in done]
            plan = _planned(
                model,
                settings,
                chosen,
                selection.seed,
                together,
                [[int(row["number"]) for row in rows] for rows in batches],
            )
            where = Path(model.name)
            origin = {
                "model": str(where.absolute()) if where.is_dir() else model.name,
                "untrained": model.untrained,
                "data": data,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": _versions(),
            }
            with cache.write_folder_beside(folder) as beside:
                plan.to_parquet(beside / "tweets.parquet", index=False)
                (beside / "probe.json").write_bytes(probe.to_json())
                manifest = json.dumps({"determines": determines, "origin": origin}, indent=1)
                (beside / "manifest.json").write_text(manifest, encoding="utf-8")
                for part in ("parts", "failures", "claims"):
                    (beside / part).mkdir()
                for place, batch in enumerate(done):
                    assert smaller is not None
                    for name in ("parts/{:06}.parquet", "failures/{:06}.json"):
                        if (there := smaller.folder / name.format(batch)).is_file():
                            shutil.copyfile(there, beside / name.format(place))
    return Store(folder)


def choose(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    selection: Selection,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Draw the tweets of a selection: columns number, row, text, label (and rating), tokens.

    Raises:
        ValueError: no tweet fits the selection.
    """
    order = np.random.default_rng(selection.seed).permutation(len(tweets))
    whole = tweets.reset_index(drop=True)
    if "row" not in whole:
        whole = whole.assign(row=np.arange(len(whole)))
    held_out = _held_out(probe, whole) if selection.which == "correct" else None
    wanted = selection.n or len(whole)
    taken: dict[int, int] = {}  # index -> tokens of its prompt
    for start in range(0, len(order), _CHUNK):
        part: dict[int, int] = {}
        for index in order[start : start + _CHUNK].tolist():
            text = whole["text"][index]
            tokens, of_tweet = _tokens(model, text, probe.suffix)
            # What makes no prompt fails when it is traced, with its reason, instead of vanishing.
            fits = (of_tweet or selection.shortest) >= selection.shortest and (
                selection.longest is None or of_tweet <= selection.longest
            )
            if (
                fits
                and (selection.label is None or whole["label"][index] == selection.label)
                and selection.containing.lower() in str(text).lower()
            ):
                part[index] = tokens
        if selection.which == "correct":
            part = {index: part[index] for index in _right(model, probe, whole, part, held_out)}
        taken |= part
        if progress is not None:
            progress(min(1.0, max(len(taken) / wanted, (start + _CHUNK) / len(order))))
        if len(taken) >= wanted:
            break
    if not taken:
        raise ValueError("No tweet of the data fits this selection; choose fewer conditions.")
    indices = list(taken)[:wanted]
    columns = [name for name in ("row", "text", "label", "rating") if name in whole]
    chosen = whole.loc[indices, columns].reset_index(drop=True)
    chosen.insert(0, "number", np.arange(len(chosen)))
    return chosen.assign(tokens=[taken[index] for index in indices])


# --- working ----------------------------------------------------------------------------------


def run(
    model: Model,
    store: Store,
    *,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Status]:
    """Work at a sweep until nothing is left, or `pause` or `stop` is asked for.

    Other processes may do the same. Yields after each batch. `core.jobs` can run it:
    `queue.submit(owner, lambda job: ((s.fraction, s) for s in run(model, store,
    progress=job.report)))`.

    Args:
        model: the model that the manifest names, on any device.
        memory: as in `core.trace.trace`.
        progress: called with the share of the sweep that is done, several times a batch. An
            exception that it raises ends the work; the batch in hand is done anew later.

    Raises:
        ValueError: the model is not the store's.
    """
    check_model(model, store.model)
    weights = store._weights
    total = sum(weight for _, weight in weights.values())
    with store.claims() as claims:
        store._wish("run")
        yield store.status()
        while store.wanted == "run":
            batch = claims.take()
            if batch is None:
                if len(store.finished()) == len(weights):
                    return
                # Another has the rest in hand; should it die, the rest is ours.
                time.sleep(_CONTROL_SECONDS)
                yield store.status()
                continue
            done = sum(weights[number][1] for number in store.finished())
            looked = time.monotonic()

            def report(share: float, done: float = done, batch: int = batch) -> None:
                nonlocal looked
                if time.monotonic() - looked > _CONTROL_SECONDS:
                    looked = time.monotonic()
                    if store.wanted == "stop":
                        raise _Stopped
                if progress is not None:
                    progress((done + share * weights[batch][1]) / total)

            began = time.monotonic()
            try:
                table, failures = trace_batch(
                    model, store.task, store.batch(batch), memory=memory, progress=report
                )
            except _Stopped:
                return
            store.write(batch, table, failures)
            claims.done(batch, time.monotonic() - began)
            yield store.status()


class _Stopped(Exception):
    """Ends a batch after `Store.stop`."""


def check_model(model: Model, name: ModelName) -> None:
    """Refuse another model, or other numbers, than a sweep's.

    Raises:
        ValueError: it is another one.
    """
    if (model.identity, model.precision) != (name.identity, name.dtype):
        raise ValueError(
            f"The sweep is of {name.name!r} in {name.dtype}, not of these weights of "
            f"{model.name!r} in {model.precision}; load that model or begin another sweep."
        )


def trace_batch(
    model: Model,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[pa.Table, list[Failure]]:
    """Trace one batch of a plan; what a worker does, wherever it runs.

    Args:
        rows: the plan's rows, of prompts with equally many tokens.

    Returns:
        What `Store.write` takes: a table of the tweets that were traced, and the others.
    """
    import pyarrow as pa

    try:
        results: list[TraceResult | Failure] = list(
            _trace(model, task, rows, memory=memory, progress=progress)
        )
    except (ValueError, EngineError):
        # One of them is at fault: find out which.
        results = []
        for row in rows:
            try:
                results += _trace(model, task, [row], memory=memory, progress=progress)
            except (ValueError, EngineError) as error:
                results.append(Failure(int(row["number"]), int(row["row"]), str(error)))
    traced = [
        _row_of(row, result)
        for row, result in zip(rows, results, strict=True)
        if isinstance(result, TraceResult)
    ]
    failures = [result for result in results if isinstance(result, Failure)]
    return pa.Table.from_pylist(traced, schema=_schema()), failures


def _trace(
    model: Model,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    memory: int | None,
    progress: Callable[[float], None] | None,
) -> list[TraceResult]:
    texts = [str(row["text"]) for row in rows]
    positions = None
    if task.roles is not None or task.most_tokens is not None:
        prompts = [build_prompt(model, text, task.probe.suffix) for text in texts]
        positions = [
            traced_positions(prompt, task, int(row["number"]))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
    # Tweets in one pass share their positions. A processor gains less from sharing a pass than it
    # loses by tracing each tweet where another one has a wanted token.
    if positions is None or model.device.type != "cpu":
        return trace_together(
            model,
            task.probe,
            texts,
            task.settings,
            positions=positions,
            memory=memory,
            progress=progress,
        )
    return [
        result
        for number, (text, traced) in enumerate(zip(texts, positions, strict=True))
        for result in trace_together(
            model,
            task.probe,
            [text],
            task.settings,
            positions=[traced],
            memory=memory,
            progress=_part_of(progress, number, len(texts)),
        )
    ]


def _part_of(
    progress: Callable[[float], None] | None, number: int, count: int
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress((number + share) / count)


def traced_positions(prompt: Prompt, task: Task, number: int) -> list[int]:
    """Positions of a tweet's prompt that a sweep of some roles, or few tokens of each, traces.

    Raises:
        ValueError: the tweet has no token of these roles.
    """
    by_role: dict[str, list[int]] = {}
    for position, role in enumerate(roles_of(prompt)):
        if role is not None and (task.roles is None or role.partition(":")[0] in task.roles):
            by_role.setdefault(role, []).append(position)
    draw = np.random.default_rng([task.seed, number])
    found: list[int] = []
    for positions in by_role.values():
        count = min(len(positions), task.most_tokens or len(positions))
        found += draw.choice(positions, count, replace=False).tolist()
    if not found:
        raise ValueError(f"The tweet has no token of the roles {', '.join(task.roles or ())}.")
    return sorted(found)


# --- the plan ---------------------------------------------------------------------------------


def _check(
    settings: TraceSettings,
    roles: Sequence[str] | None,
    most: int | None,
    together: int | None,
) -> None:
    unknown = [role for role in roles or () if role not in TWEET]
    if unknown or (roles is not None and not roles):
        raise ValueError(
            f"The roles {', '.join(unknown) or 'given'} are not known; "
            f"choose from {', '.join(TWEET)}."
        )
    if together is not None and together < 1:
        raise ValueError(f"At least 1 tweet makes a batch, not {together}.")
    if most is not None and most < 1:
        raise ValueError(f"At least 1 token of each role must be traced, not {most}.")
    if settings.counterfactual is not None:
        raise ValueError(
            "A counterfactual tweet belongs to one tweet; sweep with noise, uniform noise or the "
            "mean embedding."
        )
    if not isinstance(settings.corrupt, str):
        raise ValueError(
            "Positions of tokens mean something else in every tweet; "
            f"corrupt the whole 'tweet' or one word by its number, not {settings.corrupt!r}."
        )


def _fingerprint_of(probe: Probe) -> str:
    """SHA-256 over what a probe reads and how."""
    numbers = [probe.mean, probe.scale, probe.coefficients, probe.intercept, probe.embedding_std]
    return hashlib.sha256(json.dumps([key_of(probe), *numbers]).encode()).hexdigest()


def _tokens(model: Model, text: object, suffix: str) -> tuple[int, int]:
    """Tokens of a tweet's prompt and of the tweet in it; 0 where it makes no prompt."""
    try:
        prompt = build_prompt(model, text, suffix)  # type: ignore[arg-type]  # it checks
    except ValueError:
        return 0, 0
    return len(prompt), len(prompt.tweet_span)


def _held_out(probe: Probe, tweets: pd.DataFrame) -> Array | None:
    """What the probe's cross-validation says of each of its own texts; None for other texts."""
    if datasets.fingerprint(tweets) != probe.dataset_hash:
        return None
    found = np.array(probe.report.log_odds)
    return found if len(found) == len(tweets) else None


def _right(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    part: Mapping[int, int],
    held_out: Array | None,
) -> list[int]:
    """Those of which the probe says what the label says."""
    readable = [index for index, tokens in part.items() if tokens]
    if not readable:
        return []
    if held_out is not None:
        odds = held_out[readable]
    else:
        encoding = encode(model, tweets["text"][readable], suffix=probe.suffix)
        if probe.layer is None:
            words = [word_token(model, w) for w in (*probe.words_positive, *probe.words_negative)]
            odds = probe.log_odds(encoding.log_probs(model, words))
        else:
            odds = probe.log_odds_of_states(encoding.states(probe.layer).astype(np.float64))
    right = (odds >= 0) == (tweets["label"].to_numpy()[readable] == 1)
    return [index for index, yes in zip(readable, right, strict=True) if yes]


def _planned(
    model: Model,
    settings: TraceSettings,
    chosen: pd.DataFrame,
    seed: int,
    together: int | None,
    done: list[list[int]],
) -> pd.DataFrame:
    """Give each tweet a batch of prompts of its length; batches stand in random order, so that an
    unfinished sweep is a fair sample and the time left can be told."""
    batches: list[list[int]] = []
    left = chosen[~chosen["number"].isin([number for batch in done for number in batch])]
    for length, group in left.groupby("tokens", sort=True):
        size = together or 1
        if together is None and int(str(length)):
            fitting = Batches.within(
                model,
                int(str(length)),
                kinds=settings.kinds,
                window=min(settings.window or default_window(model.layers), model.layers),
                every=settings.every,
                samples=MOST_TOGETHER * settings.draws,
                budget=2**31,
            )
            size = max(1, fitting.samples // settings.draws)
        numbers = group["number"].tolist()
        batches += [numbers[at : at + size] for at in range(0, len(numbers), size)]
    order = np.random.default_rng(seed).permutation(len(batches))
    batch = np.empty(len(chosen), dtype=np.int64)
    for place, numbers in enumerate([*done, *(batches[index] for index in order)]):
        batch[numbers] = place
    planned = chosen.assign(batch=batch)
    return planned.sort_values(["batch", "number"], ignore_index=True)


def _smaller_sweep(determines: Mapping[str, Any], chosen: pd.DataFrame) -> Store | None:
    """The sweep that differs only in having fewer of the same tweets, and has traced most."""

    def but_its_size(of: Mapping[str, Any]) -> str:
        alike = {**of, "data": "", "selection": {**of["selection"], "n": None}}
        return json.dumps(alike, sort_keys=True)

    def columns(of: pd.DataFrame) -> list[list[Any]]:
        return [of[name].tolist() for name in ("number", "row", "text", "label")]

    found: list[Store] = []
    for store in sweeps():
        if but_its_size(store.manifest["determines"]) != but_its_size(determines):
            continue
        tweets = store.tweets.sort_values("number")
        if len(tweets) < len(chosen) and columns(tweets) == columns(chosen[: len(tweets)]):
            found.append(store)
    return max(found, key=lambda store: len(store.finished()), default=None)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


# --- records ----------------------------------------------------------------------------------


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers, texts = pa.list_(pa.int32()), pa.list_(pa.string())
    values = pa.list_(pa.float32())
    return pa.schema(
        [
            ("number", pa.int32()),
            ("row", pa.int64()),
            ("label", pa.int8()),
            ("tweet", pa.string()),
            ("token_id", numbers),
            ("token_label", texts),
            ("token_start", numbers),  # characters of tweet + suffix
            ("token_end", numbers),
            ("token_word", numbers),
            ("tweet_span", numbers),  # positions
            ("word_start", numbers),
            ("word_end", numbers),
            ("word_in_tweet", pa.list_(pa.bool_())),
            ("corrupted_span", numbers),
            ("layers", pa.int32()),  # of the model
            ("window", pa.int32()),
            ("noise", pa.float64()),
            ("seconds", pa.float32()),
            ("samples", pa.int32()),
            ("positions", numbers),  # that were traced
            ("clean", values),  # (C,)
            ("corrupted", values),  # (S, C)
            ("hidden", values),  # (S, traced layers, traced positions, C), null where not traced
            ("mlp", values),
            ("attn", values),
        ]
    )


def _row_of(row: Mapping[str, Any], result: TraceResult) -> dict[str, Any]:
    """A trace as one row of a part."""
    prompt, reads = result.prompt, result.reads
    every = result.settings.every
    some = next(iter(reads.restored.values()))
    traced = np.flatnonzero(~np.isnan(some[0, 0, :, 0])).tolist()
    label = row.get("label")
    found: dict[str, Any] = {
        "number": int(row["number"]),
        "row": int(row["row"]),
        "label": None if label is None or label != label else int(label),
        "tweet": prompt.tweet,
        "token_id": list(prompt.ids),
        "token_label": list(prompt.labels),
        "token_start": [token.start for token in prompt.tokens],
        "token_end": [token.end for token in prompt.tokens],
        "token_word": [token.word for token in prompt.tokens],
        "tweet_span": list(prompt.tweet_span),
        "word_start": [word.start for word in prompt.words],
        "word_end": [word.end for word in prompt.words],
        "word_in_tweet": [word.in_tweet for word in prompt.words],
        "corrupted_span": list(result.corrupted_span),
        "layers": result.layers,
        "window": result.window,
        "noise": result.noise,
        "seconds": result.seconds,
        "samples": result.samples_done,
        "positions": traced,
        "clean": reads.clean.astype(np.float32),
        "corrupted": reads.corrupted.astype(np.float32).ravel(),
    }
    for kind, values in reads.restored.items():
        found[kind] = values[:, ::every][:, :, traced].astype(np.float32).ravel()
    return found


def _result_of(row: Mapping[str, Any], task: Task, name: str, identity: str) -> TraceResult:
    """The trace that `_row_of` made a row of."""
    text = row["tweet"] + task.probe.suffix
    words = row["token_word"]
    tokens = zip(
        row["token_id"],
        row["token_label"],
        row["token_start"],
        row["token_end"],
        words,
        strict=True,
    )
    places = zip(row["word_start"], row["word_end"], row["word_in_tweet"], strict=True)
    prompt = Prompt(
        tweet=row["tweet"],
        suffix=task.probe.suffix,
        text=text,
        tokens=tuple(Token(*token) for token in tokens),
        words=tuple(
            Word(
                text[start:end],
                start,
                end,
                tuple(t for t, owner in enumerate(words) if owner == index),
                in_tweet,
            )
            for index, (start, end, in_tweet) in enumerate(places)
        ),
        tweet_span=tuple(row["tweet_span"]),
    )
    clean = np.array(row["clean"], dtype=np.float64)
    samples, columns, every = row["samples"], len(clean), task.settings.every
    positions = row["positions"]
    restored: dict[Kind, Array] = {}
    for kind in task.settings.kinds:
        values = np.full((samples, row["layers"], len(prompt), columns), np.nan)
        stored = np.array(row[kind], dtype=np.float64)
        traced = -(-row["layers"] // every)
        values[:, ::every, positions] = stored.reshape(samples, traced, len(positions), columns)
        restored[kind] = values
    corrupted = np.array(row["corrupted"], dtype=np.float64).reshape(samples, columns)
    return TraceResult(
        prompt=prompt,
        probe=task.probe,
        settings=task.settings,
        model_name=name,
        model_identity=identity,
        corrupted_span=tuple(row["corrupted_span"]),
        window=row["window"],
        noise=row["noise"],
        reads=Reads(clean, corrupted, restored),
        seconds=row["seconds"],
    )
