"""Which piece of slow work runs next, how far it is, and how to stop it; without Streamlit.

A server has one set of cores, and two traces at once would only take them from each other, so one
worker thread runs one job at a time. Owners take turns: whoever asks for five things does not keep
the others waiting for all five. And a job whose first result comes quickly does not wait for one
that takes long: where that one gives way, it is worked out between two of its reports.

A job is a generator that yields `(fraction, partial)`: the share of the work that is done, and a
whole result that may be shown already. Work that is not a generator reports through
`Job.report`, which also is where a stop reaches it.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UserError
from ..storage import cache
from . import logs

State = Literal["waiting", "running", "done", "stopped", "failed"]
Step = tuple[float, Any]
Work = Callable[["Job"], Iterator[Step]]

UNEXPECTED = "Something went wrong inside SentiTrace; the server's log has the details"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of the system that a person mends on the disk."""

OUT_OF_MEMORY = (
    "The computer ran out of memory; a smaller model, a shorter tweet or fewer noise samples "
    "need less."
)

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Raised by `Job.report` inside the work, so that it unwinds after a stop."""


@dataclass(frozen=True)
class Look:
    """One consistent look at a queue.

    running is the slot of the job under way, empty where there is none, and seconds how long it
    has run. ended counts the jobs by how they ended; waited and ran are their seconds in all.
    """

    running: str
    seconds: float
    waiting: int
    owners: int
    ended: dict[State, int]
    waited: float
    ran: float


@dataclass(frozen=True)
class Progress:
    """One consistent look at a job.

    place is 1 for the job that runs next, and 0 once it no longer waits. version counts the
    partial results, so that a page redraws only when there is a newer one. fraction and
    seconds_left belong to the phase that note names.
    """

    state: State
    place: int
    fraction: float
    note: str
    seconds: float
    seconds_left: float | None
    version: int
    partial: Any
    error: str
    stopping: bool

    @property
    def active(self) -> bool:
        return self.state in ("waiting", "running")


class Job:
    """A piece of work in a queue; made by `Queue.submit`."""

    def __init__(
        self,
        queue: Queue,
        owner: str,
        work: Work,
        slot: str,
        wanted: Callable[[], bool],
        prompt: bool,
        gives_way: bool,
    ) -> None:
        self.id = secrets.token_hex(4)  # names the request in the log
        self.owner = owner
        self.slot = slot
        self._queue = queue
        self._changed = queue._changed
        self._work = work
        self._wanted = wanted
        self._prompt = prompt
        self._gives_way = gives_way
        self._steps: Iterator[Step] | None = None
        self._state: State = "waiting"
        self._fraction = 0.0
        self._note = ""
        self._version = 0
        self._partial: Any = None
        self._error = ""
        self._stop = False
        self._asked = time.monotonic()
        self._started = self._phase_started = self._ended = self._ran = 0.0

    def progress(self) -> Progress:
        with self._changed:
            now = self._ended or time.monotonic()
            left = None
            if self._state == "running" and self._fraction > 0:
                left = (now - self._phase_started) * (1 - self._fraction) / self._fraction
            return Progress(
                state=self._state,
                place=self._queue._place(self),
                fraction=self._fraction,
                note=self._note,
                seconds=now - self._started if self._started else 0.0,
                seconds_left=left,
                version=self._version,
                partial=self._partial,
                error=self._error,
                stopping=self._stop and self._state == "running",
            )

    def stop(self) -> None:
        """End the job: at once if it waits, after its present step if it runs."""
        with self._changed:
            self._stop = True
            if self._state == "waiting":
                self._queue._remove(self)
                self._end("stopped")

    def wait(self, timeout: float | None = None) -> Progress:
        """Block until the job has ended or the timeout (in seconds) is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._state not in ("waiting", "running"), timeout)
            return self.progress()

    def wait_for_partial(self, timeout: float) -> Progress:
        """Block until there is something to show, or the timeout (in seconds) is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > 0 or self._ended > 0, timeout)
            return self.progress()

    def report(self, fraction: float, note: str | None = None) -> None:
        """For the work: say how far it is. A new note begins a phase with a time of its own.

        Raises Stopped when the job has been stopped or nobody wants it any more.
        """
        with self._changed:
            if note is not None and note != self._note:
                self._note, self._phase_started = note, time.monotonic()
            self._fraction = min(max(fraction, 0.0), 1.0)
            self._changed.notify_all()
        if self._stop or not self._wanted():
            raise Stopped
        if self._gives_way:
            self._queue._give_way()

    # What follows runs in the worker thread.

    def _run(self, *, first_alone: bool = False) -> None:
        """Do the work, or, before its turn, as much as it takes to have a first result."""
        with self._changed:
            if self._state != "waiting":
                return
            self._state = "running"
            began = self._phase_started = time.monotonic()
            begins = not self._started
            self._started = self._started or began
            self._changed.notify_all()
        whose: dict[str, Any] = {"request": self.id, "slot": self.slot}
        waited = round(self._started - self._asked, 3)
        if begins:
            log.info("request begins", extra=logs.fields(**whose, waited=waited))
        error = ""
        try:
            state = self._exhaust(first_alone)
        except Stopped:
            state = "stopped"
        except UserError as mistake:  # the library's way to tell the user what to mend
            state, error = "failed", str(mistake)
        except OSError as raised:
            log.exception("request failed", extra=logs.fields(**whose))
            state, error = "failed", self._unexpected(raised)
        except MemoryError:
            log.exception("request ran out of memory", extra=logs.fields(**whose))
            state, error = "failed", OUT_OF_MEMORY
        except Exception:  # the edge of the thread: it must live on for the other owners
            log.exception("request failed", extra=logs.fields(**whose))
            state, error = "failed", self._unexpected()
        with self._changed:
            self._ran += time.monotonic() - began
            if state == "waiting" and self._stop:
                state = "stopped"
            if state == "waiting":
                self._state = state
                self._changed.notify_all()
                return
            self._error = error
            self._end(state)
        done: dict[str, Any] = {"state": state, "waited": waited, "ran": round(self._ran, 3)}
        log.info("request ends", extra=logs.fields(**whose, **done))

    def _unexpected(self, raised: OSError | None = None) -> str:
        """The sentence of a failure that is not the user's mistake."""
        if raised is not None and raised.errno in DISK:
            return str(cache.cannot_keep(cache.home(), raised))
        return f"{UNEXPECTED} (request {self.id})."

    def _exhaust(self, first_alone: bool) -> State:
        """Go on with the work; "waiting" where it stands still after its first result."""
        if self._steps is None:
            self._steps = self._work(self)
        try:
            for fraction, partial in self._steps:
                with self._changed:
                    self._partial = partial
                    self._version += 1
                    self._changed.notify_all()
                self.report(fraction)
                if first_alone:
                    return "waiting"
        except BaseException:
            close = getattr(self._steps, "close", None)
            if close is not None:
                close()
            raise
        return "done"

    def _end(self, state: State) -> None:
        self._state = state
        self._ended = time.monotonic()
        self._queue._note(self)
        # What the work closed over (a model, say) must not live as long as the result.
        self._work, self._steps = _nothing, None
        self._wanted = _always
        self._changed.notify_all()


class Queue:
    """Jobs of many owners, run one at a time in one thread, owners taking turns."""

    def __init__(self) -> None:
        # Re-entrant: a progress report is read while the queue's state is held.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # the next owner stands first
        self._running: Job | None = None
        self._thread: threading.Thread | None = None
        self._giving_way = False
        self._closed = False
        self._ended: Counter[State] = Counter()
        self._waited = self._ran = 0.0

    def look(self) -> Look:
        """What the queue is doing."""
        with self._changed:
            running = self._running
            if running is not None and running._state != "running":
                running = None  # it has just ended
            began = running._started if running is not None else 0.0
            return Look(
                running=(running.slot or "a job") if running is not None else "",
                seconds=time.monotonic() - began if began else 0.0,
                waiting=sum(map(len, self._waiting.values())),
                owners=len(self._waiting),
                ended=dict(self._ended),
                waited=self._waited,
                ran=self._ran,
            )

    def _note(self, job: Job) -> None:
        """Add a job that has ended to what was done."""
        self._ended[job._state] += 1
        self._waited += (job._started or job._ended) - job._asked
        self._ran += job._ran

    def submit(
        self,
        owner: str,
        work: Work,
        *,
        slot: str = "",
        wanted: Callable[[], bool] | None = None,
        prompt: bool = False,
        gives_way: bool = False,
    ) -> Job:
        """Put work in line for an owner.

        Args:
            slot: a waiting job of the same owner and slot is stopped and this one takes its place;
                the empty slot never replaces.
            wanted: asked between steps; once it says no (the browser tab is closed), the job is
                stopped.
            prompt: its first result comes quickly, and is worked out before its turn as soon as a
                job that gives way reports.
            gives_way: between two of its reports the first results of other jobs may be worked out,
                in its thread; not for work that has changed a model for a while.
        """
        job = Job(self, owner, work, slot, wanted or _always, prompt, gives_way)
        with self._changed:
            if self._closed:
                raise RuntimeError("This queue is closed.")
            line = self._waiting.setdefault(owner, deque())
            older = next((other for other in line if slot and other.slot == slot), None)
            if older is None:
                line.append(job)
            else:
                line[line.index(older)] = job
                older._stop = True
                if older._state == "waiting":  # otherwise its first result is being worked out
                    older._end("stopped")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def close(self, patience: float = 0.0) -> None:
        """Stop everything and take nothing more; wait up to `patience` seconds for the thread."""
        with self._changed:
            self._closed = True
            for job in [job for line in self._waiting.values() for job in line]:
                job.stop()
            if self._running is not None:
                self._running.stop()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and patience > 0:
            thread.join(patience)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._running = self._next()
            if job._wanted():
                job._run()
            else:
                with self._changed:
                    if job._state == "waiting":
                        job._end("stopped")
            # The thread must not keep the last result alive while it waits.
            self._running = None
            del job

    def _give_way(self) -> None:
        """Work out the first results that others wait for."""
        if self._giving_way or threading.current_thread() is not self._thread:
            return
        self._giving_way = True
        try:
            while (job := self._unbegun()) is not None:
                if job._wanted():
                    job._run(first_alone=True)
                else:
                    job.stop()
                with self._changed:
                    if job._state != "waiting":
                        self._remove(job)
        finally:
            self._giving_way = False

    def _unbegun(self) -> Job | None:
        with self._changed:
            for line in self._waiting.values():
                for job in line:
                    if job._prompt and not job._started and job._state == "waiting":
                        return job
        return None

    def _next(self) -> Job:
        owner, line = self._waiting.popitem(last=False)
        job = line.popleft()
        if line:
            self._waiting[owner] = line  # to the end: the other owners come first
        return job

    def _remove(self, job: Job) -> None:
        line = self._waiting.get(job.owner)
        if line and job in line:
            line.remove(job)
            if not line:
                del self._waiting[job.owner]

    def _place(self, job: Job) -> int:
        """How many turns until this job's: 1 when it is next, 0 when it is not waiting."""
        if job._state != "waiting":
            return 0
        line = self._waiting.get(job.owner)
        if not line or job not in line:
            return 0  # taken out by the worker a moment ago
        turn = line.index(job)  # full rounds before it
        before = True
        place = 1
        for owner, other in self._waiting.items():
            if owner == job.owner:
                place += turn
                before = False
            else:
                place += min(len(other), turn + 1 if before else turn)
        return place


def _always() -> bool:
    return True


def _nothing(job: Job) -> Iterator[Step]:
    return iter(())
