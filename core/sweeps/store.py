"""What has a sweep on disk, how far is it, and who works at it?

A store is a folder whose name is made of all that determines its numbers, so that other settings
never mix with them:

    manifest.json      what is traced: settings, model, probe, selection, data
    probe.json         the probe, so that any proxy can be read later
    tweets.parquet     the plan: which tweets, in which batch
    parts/000012.parquet    what was read of one finished batch, and the tweets' tokens
    failures/000012.json    tweets of that batch which could not be traced, and why
    claims/0.json      what a process is working at

The plan is made once (`core.sweeps.sweep.create`). A batch is done when its part is there, and a
part is there only when it is whole (`core.storage.cache.write_beside`). So a process can be killed
at any
instant: nothing finished is lost, nothing finished is done again, and what was in flight is done
anew by whoever comes next. Any number of processes may work at one store: each takes batches that
no living other has claimed, where living means holding a lock that the system lets go at death.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import filelock
import numpy as np

from ..data.pairs import PAIRED
from ..distribution import COMMAND, PACKAGE
from ..errors import UserError
from ..models import cpu_kernels
from ..models.identity import ENGINE
from ..models.loading import default_device
from ..probes.probe import Probe
from ..storage import cache
from ..tracing.result import TraceSettings
from .record import Failure, Record, Task, result_of, schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMAT = 1
"""Version of a store's files; it is part of the name."""

_WORKING_SPACE = 2**30  # bytes of a process, besides its model
_WORTH_A_PROCESS = 10  # tweets: for fewer, starting a process takes longer than it saves
_ALONE = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(
    subprocess, "CREATE_NO_WINDOW", 0
)  # on Windows, where there are no sessions: no Ctrl-C of this one's terminal reaches it
_STARTING_SECONDS = 120.0  # how long a started process may take until it claims a batch

State = Literal["running", "paused", "stopped", "done"]


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
    """What `core.models.loading.load_model` needs to load a sweep's model, and its identity."""

    name: str
    dtype: str
    identity: str
    untrained: bool


class Store:
    """A sweep on disk; made by `sweep.create` or `open_store`. Iterating yields `Record`s."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest of a store that is there."""
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())

    @property
    def id(self) -> str:
        """Its name: 16 hexadecimal digits."""
        return self.folder.name

    @property
    def owner(self) -> str:
        """Who made it, where a server has many visitors: nothing that names a person; or ""."""
        return str(self.manifest["origin"].get("owner", ""))

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
        settings["edited"] = determines.get("edited", "last")
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

        A column rating as well, where the data set has one; of pairs also counterfactual and
        counterfactual_label.
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
        finished = self.finished()
        pairs = self._pairs_by_text(finished)
        for batch in finished:
            for record in self._records(batch):
                yield replace(record, pairs=pairs.get(record.result.prompt.tweet))

    def record(self, number: int) -> Record:
        """Give one traced tweet.

        Raises:
            UserError: there is no such tweet, or it is not traced yet or could not be.
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
        raise UserError(f"The tweet {number} of the sweep {self.id}{why}")

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
        weights = self.weights
        done = set(self.finished())
        failed = len(self.failures())
        total = len(self.tweets)
        touched = sum(weights[batch][0] for batch in done)
        with self._lock():
            claims = self._living_claims()
        left = sum(weight for batch, (_, weight) in weights.items() if batch not in done)
        speed = sum(c["weight"] / c["seconds"] for c in claims.values() if c.get("seconds"))
        wish, since = self.wish()
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
        self.wish("pause")

    def stop(self) -> None:
        """Ask every process that works at this store to end at once; its batch is done anew."""
        self.wish("stop")

    def fitting_processes(self, tweets: int | None = None) -> int:
        """How many processes of one thread each should trace so many tweets on this machine.

        By default those tweets that are left.

        On a processor they leave it idle less than the threads of one process do
        (`benchmarks/sweep.py`); but each holds the model, and has to be started.
        """
        import psutil

        size = self.manifest["origin"].get("bytes")
        if size is None or default_device().type != "cpu":
            return 1
        fit = psutil.virtual_memory().available // 2 // (_WORKING_SPACE + 2 * size)
        left = len(self.tweets) - len(self) if tweets is None else tweets
        return int(max(1, min(cpu_kernels.physical_cores(), fit, left // _WORTH_A_PROCESS)))

    def start(self, *, processes: int | None = None, nice: int = 10) -> list[int]:
        """Go on in processes of their own, which outlive this one; gives their process ids.

        They write to log.txt in the store's folder. `nice` makes way for other work. As many
        processes as fit, where no number is given.
        """
        processes = processes or self.fitting_processes()
        self.wish("start")
        command = [sys.executable, "-m", PACKAGE, "sweep", "--resume", self.id, "--no-progress"]
        command += ["--processes", "1", "--nice", str(nice), "--started"]
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment = os.environ | {"SENTITRACE_HOME": str(cache.home())}
        if processes > 1:
            environment["OMP_NUM_THREADS"] = str(threads)
        found = []
        with open(self.folder / "log.txt", "ab") as log:
            for _ in range(processes):
                started = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    env=environment,
                    start_new_session=True,
                    creationflags=_ALONE,
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
            UserError: a process works at it.
        """
        with self._lock():
            if self._living_claims():
                raise UserError(f"The sweep {self.id} is running; stop it before removing it.")
            shutil.rmtree(self.folder)

    def write(self, batch: int, table: pa.Table | None, failures: Sequence[Failure]) -> None:
        """Keep a finished batch: first its failures, then its part, which says that it is done."""
        import pyarrow.parquet as pq

        if table is None:
            table = schema().empty_table()
        try:
            if failures:
                path = self.folder / "failures" / f"{batch:06}.json"
                with cache.write_beside(path) as beside:
                    beside.write_text(json.dumps([asdict(f) for f in failures]), encoding="utf-8")
            with cache.write_beside(self._part(batch)) as beside:
                pq.write_table(table, beside, compression="zstd")
        except OSError as error:
            raise UserError(
                f"The sweep {self.id} cannot be written ({error.strerror or error}); make room on "
                "the disk and resume it: only the current batch is lost."
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
            UserError: the engine's numbers have changed since the sweep began.
        """
        if self.manifest["determines"]["engine"] != ENGINE:
            raise UserError(
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
            # Where another process reads it (Windows), it is left behind as one of a dead process.
            with suppress(FileNotFoundError, PermissionError):
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
        return self.wish()[0]

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """The plan's rows [start, end) of each batch; batches stand one after another."""
        numbers = self.tweets["batch"].to_numpy()
        batches, starts = np.unique(numbers, return_index=True)
        ends = [*starts[1:].tolist(), len(numbers)]
        return dict(zip(batches.tolist(), zip(starts.tolist(), ends, strict=True), strict=True))

    @cached_property
    def weights(self) -> dict[int, tuple[int, float]]:
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

    def wish(self, wish: str | None = None) -> tuple[str, float]:
        """Say what the processes should do; gives what was wished last, and when."""
        path = self.folder / "wish"
        if wish is not None:
            with cache.write_beside(path) as beside:
                beside.write_text(wish, encoding="utf-8")
        try:
            return path.read_text(encoding="utf-8"), path.stat().st_mtime
        except FileNotFoundError:
            return "", 0.0

    # --- parts ---

    def _part(self, batch: int) -> Path:
        return self.folder / "parts" / f"{batch:06}.parquet"

    def _pairs_by_text(self, batches: Sequence[int]) -> dict[str, int]:
        """How many pairs of each text were traced in some batches; empty of single tweets."""
        plan = self.tweets
        if PAIRED[0] not in plan:
            return {}
        traced = plan["batch"].isin(batches) & ~plan["number"].isin(self.failures()["number"])
        counts = plan.loc[traced, "text"].str.strip().value_counts()
        return {str(text): int(count) for text, count in counts.items()}

    def _records(self, batch: int) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        origin = self.manifest["origin"]
        identity = self.manifest["determines"]["model"]["identity"]
        try:
            rows = pq.read_table(self._part(batch)).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"The part {batch:06} of the sweep {self.id} is damaged; delete "
                f"{self._part(batch)} and resume the sweep."
            ) from error
        for row in rows:
            result = result_of(row, self.task, origin["model"], identity)
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
        self._weight += self._store.weights[batch][1]
        self._write()

    def _write(self) -> None:
        # Need not outlive a power cut: claims count only while their process lives.
        state = {"batches": self._batches, "seconds": self._seconds, "weight": self._weight}
        path = self._store._claim_file(self._slot)
        path.write_text(json.dumps(state | {"pid": os.getpid()}), encoding="utf-8")


def sweeps_folder() -> Path:
    """Where sweeps are kept."""
    return cache.home() / "sweeps"


def sweeps() -> list[Store]:
    """Every sweep on this disk, the newest first."""
    found = []
    for path in sweeps_folder().glob("*/manifest.json"):
        store = Store(path.parent)
        if store.manifest["determines"]["form"] == FORMAT:
            found.append(store)
    return sorted(found, key=lambda store: str(store.manifest["origin"]["created"]), reverse=True)


def open_store(id: str) -> Store:
    """Open a sweep by its name or by the beginning of it.

    Raises:
        UserError: there is none, or several begin so.
    """
    found = [store for store in sweeps() if id and store.id.startswith(id)]
    if len(found) != 1:
        raise UserError(
            f"{'Several sweeps begin' if found else 'No sweep begins'} with {id!r}; "
            f"see `{COMMAND} sweep --list`."
        )
    return found[0]
