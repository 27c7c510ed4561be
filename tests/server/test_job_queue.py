"""The queue of background work: order, fairness, stopping, errors; with real threads."""

import gc
import logging
import threading
import weakref

import pytest

from core.errors import UserError
from core.server.job_queue import OUT_OF_MEMORY, UNEXPECTED, Queue

PATIENCE = 120.0  # seconds until a test that hangs is called failed


@pytest.fixture
def queue():
    queue = Queue()
    yield queue
    queue.close()


class Held:
    """Work that takes a step only when the test lets it."""

    def __init__(self, steps=3, then=None):
        self.steps, self.then = steps, then
        self.started = threading.Event()
        self.turns = threading.Semaphore(0)
        self.closed = threading.Event()

    def __call__(self, job):
        self.started.set()
        try:
            for step in range(1, self.steps + 1):
                assert self.turns.acquire(timeout=PATIENCE)
                yield step / self.steps, f"partial {step}"
            if self.then is not None:
                raise self.then
        finally:
            self.closed.set()

    def go(self, steps=1):
        self.turns.release(steps)


def until(job, condition):
    """Wait until a job's progress meets a condition, woken by the queue and not by a clock."""
    with job._changed:
        assert job._changed.wait_for(lambda: condition(job.progress()), PATIENCE)
    return job.progress()


def test_partials_arrive_one_by_one_and_the_last_one_stays(queue):
    work = Held(steps=4)
    job = queue.submit("ann", work)
    assert work.started.wait(PATIENCE)
    work.go()
    seen = until(job, lambda p: p.version == 1 and p.fraction > 0)
    assert (seen.state, seen.partial, seen.fraction) == ("running", "partial 1", 0.25)
    assert seen.seconds_left >= 0
    work.go(3)
    seen = job.wait(PATIENCE)
    assert (seen.state, seen.partial, seen.version) == ("done", "partial 4", 4)
    assert (seen.fraction, seen.seconds_left, seen.active) == (1, None, False)


def test_what_can_be_shown_first_is_waited_for_and_no_longer_than_is_said(queue):
    go_on = threading.Event()

    def work(job):
        assert go_on.wait(PATIENCE)
        yield 0.5, "first"
        assert end.wait(PATIENCE)

    end = threading.Event()
    job = queue.submit("a", work)
    assert job.wait_for_partial(0.01).partial is None
    go_on.set()
    seen = job.wait_for_partial(PATIENCE)
    assert (seen.partial, seen.state) == ("first", "running")
    end.set()
    job.wait(PATIENCE)
    nothing = queue.submit("a", lambda job: iter(()))
    assert nothing.wait_for_partial(PATIENCE).state == "done"


def test_owners_take_turns(queue):
    first = Held()
    queue.submit("ann", first)
    assert first.started.wait(PATIENCE)
    order = []

    def noted(name):
        def work(job):
            order.append(name)
            yield 1.0, name

        return work

    jobs = [queue.submit("ann", noted(f"ann {i}")) for i in range(3)]
    jobs += [queue.submit("bob", noted(f"bob {i}")) for i in range(2)]
    jobs += [queue.submit("eve", noted("eve 0"))]
    # ann 0, bob 0, eve 0, ann 1, bob 1, ann 2
    assert [job.progress().place for job in jobs] == [1, 4, 6, 2, 5, 3]
    first.go(3)
    assert all(job.wait(PATIENCE).state == "done" for job in jobs)
    assert order == ["ann 0", "bob 0", "eve 0", "ann 1", "bob 1", "ann 2"]
    assert all(job.progress().place == 0 for job in jobs)


def test_a_newer_job_takes_the_place_of_the_owners_waiting_one(queue):
    running = Held()
    queue.submit("ann", running)
    assert running.started.wait(PATIENCE)
    old = queue.submit("ann", Held(), slot="trace")
    other = queue.submit("bob", Held(), slot="trace")
    new = queue.submit("ann", Held(), slot="trace")
    assert old.progress().state == "stopped"
    assert [new.progress().place, other.progress().place] == [1, 2]


def test_stop_keeps_the_last_partial_and_closes_the_generator(queue):
    work = Held(steps=3)
    job = queue.submit("ann", work)
    work.go()
    until(job, lambda p: p.version == 1)
    job.stop()
    assert job.progress().stopping
    work.go()  # the step under way is finished, then no further one begins
    seen = job.wait(PATIENCE)
    assert (seen.state, seen.partial) == ("stopped", "partial 2")
    assert work.closed.is_set()


def test_stop_while_waiting_is_immediate(queue):
    running, waiting = Held(), Held()
    queue.submit("ann", running)
    assert running.started.wait(PATIENCE)
    job = queue.submit("ann", waiting)
    job.stop()
    assert job.progress().state == "stopped"
    running.go(3)
    assert queue.submit("bob", lambda job: iter([(1.0, 1)])).wait(PATIENCE).state == "done"
    assert not waiting.started.is_set()


def test_report_reaches_work_that_is_no_generator(queue):
    here, go_on = threading.Event(), threading.Event()

    def train(job):
        for done in range(100):
            job.report(done / 100, "Reading tweets")
            if done == 10:
                here.set()
                assert go_on.wait(PATIENCE)
        yield 1.0, "never"

    job = queue.submit("ann", train)
    assert here.wait(PATIENCE)
    seen = job.progress()
    assert (seen.note, seen.fraction) == ("Reading tweets", 0.1)
    job.stop()
    go_on.set()
    seen = job.wait(PATIENCE)
    assert (seen.state, seen.partial) == ("stopped", None)


def test_time_left_starts_again_with_a_new_phase(queue):
    gate = threading.Semaphore(0)

    def two_phases(job):
        job.report(0.5, "first")
        assert gate.acquire(timeout=PATIENCE)
        job.report(0.0, "second")
        assert gate.acquire(timeout=PATIENCE)
        yield 1.0, "whole"

    job = queue.submit("ann", two_phases)
    assert until(job, lambda p: p.note == "first").seconds_left is not None
    gate.release()
    assert until(job, lambda p: p.note == "second").seconds_left is None
    gate.release()
    assert job.wait(PATIENCE).state == "done"


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (UserError("The tweet is empty; type a few words."), "The tweet is empty"),
        (ValueError("operands could not be broadcast together"), UNEXPECTED),
        (RuntimeError("secret internals"), UNEXPECTED),
        (MemoryError(), OUT_OF_MEMORY),
    ],
)
def test_a_failure_becomes_one_sentence_and_the_queue_lives_on(queue, failure, sentence, caplog):
    work = Held(steps=1, then=failure)
    job = queue.submit("ann", work)
    with caplog.at_level(logging.ERROR):
        work.go()
        seen = job.wait(PATIENCE)
    assert seen.state == "failed"
    assert seen.error.startswith(sentence)
    assert seen.partial == "partial 1"
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(logged) is not isinstance(failure, UserError)
    assert queue.submit("bob", lambda job: iter([(1.0, 1)])).wait(PATIENCE).state == "done"


def test_work_that_nobody_wants_any_more_is_stopped(queue):
    open_tab = threading.Event()
    open_tab.set()
    work = Held()
    running = queue.submit("ann", work, wanted=open_tab.is_set)
    waiting = queue.submit("ann", Held(), wanted=open_tab.is_set)
    work.go()
    until(running, lambda p: p.version == 1)
    open_tab.clear()
    work.go()
    assert running.wait(PATIENCE).state == "stopped"
    assert waiting.wait(PATIENCE).state == "stopped"


def test_a_finished_job_lets_go_of_what_it_worked_on(queue):
    class Model:
        pass

    model = Model()
    gone = weakref.ref(model)

    def work(job, model=model):
        yield 1.0, "result"

    job = queue.submit("ann", work)
    job.wait(PATIENCE)
    # A later job moves the worker past the first one's frame.
    queue.submit("ann", lambda job: iter([(1.0, 1)])).wait(PATIENCE)
    del model, work
    gc.collect()
    assert gone() is None
    assert job.progress().partial == "result"


def test_many_threads_may_submit_and_stop_at_once(queue):
    def quick(job):
        yield 0.5, 1
        yield 1.0, 2

    jobs, lock = [], threading.Lock()

    def user(name):
        for number in range(20):
            job = queue.submit(name, quick, slot="trace")
            if number % 3 == 0:
                job.stop()
            with lock:
                jobs.append(job)

    threads = [threading.Thread(target=user, args=(f"user {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(jobs) == 160
    ends = [job.wait(PATIENCE) for job in jobs]
    assert {end.state for end in ends} <= {"done", "stopped"}
    assert all(end.partial == 2 for end in ends if end.state == "done")


def test_a_closed_queue_takes_no_more_work():
    queue = Queue()
    queue.close()
    with pytest.raises(RuntimeError, match="closed"):
        queue.submit("ann", Held())


def test_closing_stops_the_job_that_runs_and_waits_for_the_thread():
    queue = Queue()
    work = Held()
    job, waiting = queue.submit("ann", work), queue.submit("bob", Held())
    assert work.started.wait(PATIENCE)
    work.go(3)
    queue.close(patience=PATIENCE)
    assert not queue._thread.is_alive()
    assert waiting.progress().state == "stopped"
    assert job.progress().state in ("stopped", "done")
    assert work.closed.is_set()


# --- first results before their turn --------------------------------------------------------------


class Long:
    """Work that reports between its steps when the test lets it."""

    def __init__(self):
        self.turns = threading.Semaphore(0)
        self.started = threading.Event()
        self.seen = []

    def __call__(self, job):
        self.started.set()
        for step in range(1, 4):
            assert self.turns.acquire(timeout=PATIENCE)
            job.report(step / 4)
            self.seen.append(step)
        yield 1.0, "long"


def verdict_then_cells(log, name, during=None):
    def work(job):
        log.append(f"{name} begins")
        if during is not None:
            during()
        yield 0.0, f"{name}: verdict"
        log.append(f"{name} goes on")
        yield 1.0, f"{name}: cells"

    return work


def test_first_results_are_worked_out_while_a_long_job_gives_way(queue):
    long, log = Long(), []
    first = queue.submit("ann", long, gives_way=True)
    assert long.started.wait(PATIENCE)
    others = [
        queue.submit(owner, verdict_then_cells(log, owner), prompt=True) for owner in ("ben", "eve")
    ]
    plain = queue.submit("joe", verdict_then_cells(log, "joe"))
    long.turns.release()
    for job, owner in zip(others, ("ben", "eve"), strict=True):
        seen = until(job, lambda p: p.version == 1 and p.state == "waiting")
        assert (seen.partial, seen.place > 0) == (f"{owner}: verdict", True)
    assert first.progress().state == "running"
    assert plain.progress().partial is None
    assert log == ["ben begins", "eve begins"]
    long.turns.release(2)
    for job in (first, *others, plain):
        assert job.wait(PATIENCE).state == "done"
    assert log[2:] == ["ben goes on", "eve goes on", "joe begins", "joe goes on"]
    assert [job.progress().partial for job in others] == ["ben: cells", "eve: cells"]


def test_work_that_does_not_give_way_is_not_interrupted(queue):
    long, log = Long(), []
    queue.submit("ann", long)
    assert long.started.wait(PATIENCE)
    other = queue.submit("ben", verdict_then_cells(log, "ben"), prompt=True)
    long.turns.release(3)
    assert other.wait(PATIENCE).state == "done"
    assert long.seen == [1, 2, 3]
    assert log == ["ben begins", "ben goes on"]


def test_a_first_result_that_fails_or_is_stopped_leaves_the_long_job_alone(queue):
    long, log = Long(), []
    first = queue.submit("ann", long, gives_way=True)
    assert long.started.wait(PATIENCE)

    def fails(job):
        raise UserError("The tweet is empty.")
        yield

    failed = queue.submit("ben", fails, prompt=True)
    stopped = queue.submit(
        "eve",
        verdict_then_cells(log, "eve", during=lambda: stopped.stop()),
        prompt=True,
    )
    gone = queue.submit("joe", verdict_then_cells(log, "joe"), prompt=True, wanted=lambda: False)
    long.turns.release(3)
    assert failed.wait(PATIENCE).error == "The tweet is empty."
    assert stopped.wait(PATIENCE).state == "stopped"
    assert gone.wait(PATIENCE).state == "stopped"
    assert first.wait(PATIENCE).state == "done"
    assert log == ["eve begins"]
    assert queue.look().waiting == 0


def test_a_job_that_stands_still_after_its_first_result_can_be_stopped_or_replaced(queue):
    long, log, closed = Long(), [], threading.Event()

    def stands(job):
        try:
            yield 0.0, "verdict"
        finally:
            closed.set()

    first = queue.submit("ann", long, gives_way=True)
    assert long.started.wait(PATIENCE)
    old = queue.submit("ben", stands, slot="trace", prompt=True)
    long.turns.release()
    until(old, lambda p: p.version == 1 and p.state == "waiting")
    new = queue.submit("ben", verdict_then_cells(log, "ben"), slot="trace", prompt=True)
    assert old.wait(PATIENCE).state == "stopped"
    assert old.progress().partial == "verdict"
    assert closed.wait(PATIENCE)
    long.turns.release(2)
    assert new.wait(PATIENCE).partial == "ben: cells"
    assert first.wait(PATIENCE).state == "done"


def test_a_job_replaced_while_its_first_result_is_worked_out_ends_stopped(queue):
    long, log = Long(), []
    queue.submit("ann", long, gives_way=True)
    assert long.started.wait(PATIENCE)

    def replace():
        jobs.append(queue.submit("ben", verdict_then_cells(log, "new"), slot="trace", prompt=True))

    jobs = []
    old = queue.submit(
        "ben", verdict_then_cells(log, "old", during=replace), slot="trace", prompt=True
    )
    long.turns.release(3)
    assert old.wait(PATIENCE).state == "stopped"
    assert jobs[0].wait(PATIENCE).partial == "new: cells"
    assert log == ["old begins", "new begins", "new goes on"]
