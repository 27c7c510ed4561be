"""The same sweep on many machines: a Ray cluster traces, this process alone writes the store.

Actors hold the model, one on each GPU, or one for every few cores where there is no GPU. Each gets
one batch of the plan at a time and sends back what `core.sweeps.sweep.trace_batch` makes of it.
Where an actor is lost (its node went down, its process was killed), its current batch
goes to another one; all that was written before stays as it is. Nodes that join are put to work.

The store is the same as without Ray, so a sweep can begin on one machine and go on on a cluster,
or be watched, paused and stopped from anywhere that sees the store.

Ray is an extra: `pip install -r requirements-ray.txt`. Start a cluster with `ray start --head` on
one machine and `ray start --address=HOST:PORT` on the others, with SentiTrace's requirements
installed on each and the model on its disk (`python -m core setup`, or a folder that all see);
`core` itself is sent along.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .record import Failure, Task
from .store import Claims, ModelName, Status, Store
from .sweep import check_model, trace_batch

if TYPE_CHECKING:
    import pyarrow as pa

CORES = 4
"""Cores of one actor, where there is no GPU."""

MOST_LOSSES = 3
"""A batch that was in hand when this many actors were lost is taken to be their undoing."""

_LOOK_SECONDS = 2.0  # how often new nodes are looked for
_WAIT_SECONDS = 0.5  # how long a wish to pause or stop may go unnoticed

_ANSWER_SECONDS = 10.0

log = logging.getLogger(__name__)


def run_on_ray(
    store: Store,
    address: str = "auto",
    *,
    device: str | None = None,
    cores: int = CORES,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Status]:
    """Work at a sweep on a Ray cluster until nothing is left, or `pause` or `stop` is asked for.

    Args:
        address: of the cluster's head; "auto" finds the cluster of this machine, and where there
            is none starts one of this machine alone.
        device: "cpu" leaves GPUs alone.
        cores: of one actor, where there is no GPU.
        progress: as in `core.sweeps.sweep.run`.

    Yields:
        The store's status, at most every half second.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or an actor cannot load
            the model.
    """
    if cores < 1:
        raise UserError(f"An actor needs at least 1 core, not {cores}.")
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    try:
        with store.claims() as claims:
            store.wish("run")
            crew = _Crew(ray, store, claims, device, cores)
            try:
                yield from crew.work(progress)
            finally:
                crew.dismiss()
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(
            "Ray is not installed; install it (requirements-ray.txt, or sentitrace[ray]), or leave "
            "out --ray."
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    # Actors on other machines need not have this folder: the package travels.
    options = {
        "runtime_env": {"py_modules": [str(Path(__file__).parents[1])]},
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        if address != "auto":
            raise _no_cluster(address) from error
        ray.init(include_dashboard=False, **options)


def _check_reachable(address: str) -> None:
    """Refuse at once an address where nobody listens; Ray itself would ask for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise UserError(
            f"The address {address!r} is not understood; give 'auto', or HOST:PORT as "
            "`ray start --head` prints it."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address: str) -> UserError:
    return UserError(
        f"There is no Ray cluster at {address!r}; start one with `ray start --head`, and give the "
        "address that it prints."
    )


class Tracer:
    """The actor: a model in memory, that traces the batches which it is given."""

    def __init__(self, name: ModelName, task: Task, device: str | None, threads: int | None):
        """Load the model; where it is not the sweep's, say so instead of tracing."""
        import torch

        from ..models.loading import load_model

        self._model = load_model(
            name.name, device=device, dtype=name.dtype, untrained=name.untrained
        )
        if threads is not None:
            torch.set_num_threads(threads)
        check_model(self._model, name)
        self._task = task

    def ready(self) -> None:
        """Answer once the model is loaded."""

    def trace(self, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[Failure]]:
        """Trace one batch."""
        return trace_batch(self._model, self._task, rows)


@dataclass
class _Crew:
    """The actors of one sweep, and what each has in hand."""

    ray: Any
    store: Store
    claims: Claims
    device: str | None
    cores: int
    actors: list[Any] = field(default_factory=list)  # that hold the model
    hired: dict[Any, Any] = field(default_factory=dict)  # that load it, by reference
    in_hand: dict[Any, tuple[Any, int, float]] = field(default_factory=dict)  # by reference
    again: deque[int] = field(default_factory=deque)  # batches of actors that were lost
    losses: Counter[int] = field(default_factory=Counter)

    def work(self, progress: Callable[[float], None] | None) -> Iterator[Status]:
        """Hand out batches and write what comes back."""
        looked = told = -float("inf")
        yield self.store.status()
        while True:
            wanted = self.store.wanted
            if wanted == "stop":
                return
            if wanted == "run" and time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                self._hire()
            if wanted == "run":
                self._hand_out()
            asked = [*self.hired, *self.in_hand]
            if not self.in_hand and (wanted == "pause" or self._all_done()):
                yield self.store.status()
                return
            if not asked:
                time.sleep(_WAIT_SECONDS)  # another process has the rest in hand
            else:
                ready, _ = self.ray.wait(asked, timeout=_WAIT_SECONDS)
                for reference in ready:
                    if reference in self.hired:
                        self._welcome(reference)
                    else:
                        self._take_back(reference)
            if time.monotonic() - told > _WAIT_SECONDS:
                told = time.monotonic()
                status = self.store.status()
                if progress is not None:
                    progress(status.fraction)
                yield status

    def dismiss(self) -> None:
        """Let go of all actors."""
        for actor in (*self.actors, *self.hired.values()):
            self.ray.kill(actor)
        self.actors.clear()
        self.hired.clear()
        self.in_hand.clear()

    def _all_done(self) -> bool:
        return not self.again and len(self.store.finished()) == len(self.store.weights)

    def _hire(self) -> None:
        """Make an actor for every GPU, or every few cores, that has none."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = 0 if self.device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
        if gpus:
            options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1}
            places, threads, device = gpus, None, self.device
        else:
            most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
            threads = max(1, min(self.cores, most))
            options = {"num_cpus": threads}
            places = sum(int(node.get("CPU", 0)) // threads for node in nodes)
            device = "cpu"
        actor = self.ray.remote(**options)(Tracer)
        waiting = len(self.store.weights) - len(self.store.finished())
        for _ in range(min(places, waiting) - len(self.actors) - len(self.hired)):
            hired = actor.remote(self.store.model, self.store.task, device, threads)
            self.hired[hired.ready.remote()] = hired

    def _welcome(self, reference: Any) -> None:
        """Count an actor among those that work, once it holds the model."""
        actor = self.hired.pop(reference)
        errors = self.ray.exceptions
        try:
            self.ray.get(reference)
        except errors.RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise UserError(
                    f"An actor could not load {self.store.model.name!r}: {_last_line(error)}"
                ) from error
            log.warning("An actor was lost before it could work")
            return
        self.actors.append(actor)

    def _hand_out(self) -> None:
        """Give each actor without work a batch."""
        busy = {actor for actor, _, _ in self.in_hand.values()}
        for actor in self.actors:
            if actor in busy:
                continue
            batch = self.again.popleft() if self.again else self.claims.take()
            if batch is None:
                return
            reference = actor.trace.remote(self.store.batch(batch))
            self.in_hand[reference] = (actor, batch, time.monotonic())

    def _take_back(self, reference: Any) -> None:
        """Write what an actor brought; where it was lost, put its batch first in line."""
        actor, batch, began = self.in_hand.pop(reference)
        errors = self.ray.exceptions
        try:
            table, failures = self.ray.get(reference)
        except errors.RayTaskError:
            raise  # a fault of the program: another actor would fail as well
        except errors.RayError:
            log.warning("An actor was lost; batch %d goes to another one", batch)
            self.actors.remove(actor)
            self.losses[batch] += 1
            if self.losses[batch] < MOST_LOSSES:
                self.again.appendleft(batch)
                return
            reason = f"The process that traced it was lost {MOST_LOSSES} times."
            failures = [
                Failure(int(row["number"]), int(row["row"]), reason)
                for row in self.store.batch(batch)
            ]
            table = None
        self.store.write(batch, table, failures)
        # Actors work side by side, so a batch costs the sweep its share of the time.
        self.claims.done(batch, (time.monotonic() - began) / max(1, len(self.actors)))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
