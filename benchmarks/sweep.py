"""What does a sweep gain over tracing one by one, what does an average need, and does killing hurt?

Run: python -m benchmarks.sweep            (about twenty minutes on two quiet cores)
     python -m benchmarks.sweep --only kill --tweets 60

Four parts, all on the embedded model and built-in tweets (`python -m core setup`):

- throughput: the same tweets, drawn by a seed, traced one by one by `core.tracing.tracer`; by a
  sweep in one process; in one process with two tokens of each role at most, which is less work for
  the same averages; and in as many processes as there are cores, of one thread each. Seconds count
  from the moment the model is loaded; of several processes, from the first finished batch to the
  last. The ways follow one another in one run, and what the first two found is compared.
- width: what a sweep saves for the same width of the intervals of an average's cells: one noise
  sample, two tokens of each role at most, all cores; over whole traces of ten samples, one by one.
  Widths fall with the square root of the number of tweets, so the gain is the ratio of the times
  over the square of the ratio of the widths. Every sixth layer, both ways, of the same tweets.
- memory: peak memory of `core.sweeps.average` over 100, 1,000 and 10,000 stored tweets of GPT-2's
  shape whose numbers are drawn, each in a process of its own.
- kill: a sweep of every third layer is killed with SIGKILL at ten random moments and resumed; what
  it holds is compared, bit for bit, with an undisturbed one.

Writes benchmarks/results/sweep.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import core
from benchmarks.machine import RESULTS, describe, load, physical_cores, save, say
from core.models.loading import load_model
from core.models.registry import EMBEDDED
from core.prompts.prompt import build_prompt
from core.storage import cache
from core.sweeps import sweep
from core.sweeps.record import Record, row_of, schema
from core.sweeps.store import Store
from core.tracing.result import Reads, TraceResult, TraceSettings

KILLS = 10
EVERY = 3  # layers, of the sweep that is killed: it takes a third of the time
LAYERS, TOKENS = 12, 24  # GPT-2's shape, and the mean tweet of the built-in ones


@contextmanager
def own_home() -> Iterator[Path]:
    """A cache folder for stores, with the models, data and probes of the usual one."""
    usual = cache.home()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("models", "datasets", "probes", "features"):
            if (usual / name).is_dir():
                (Path(folder) / name).symlink_to(usual / name)
        os.environ["SENTITRACE_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ["SENTITRACE_HOME"] = str(usual)


def prepared(tweets: int, seed: int, *, every: int = 1, **options: Any) -> tuple[Any, Any, Store]:
    """The embedded model, its probe, and a new store of some tweets."""
    from core.probes.library import probe_for

    model = load_model(EMBEDDED)
    data = core.load_dataset("vader-tweets")
    probe = probe_for(model, data, dataset="vader-tweets")
    store = sweep.create(
        model,
        probe,
        data,
        TraceSettings(samples=1, every=every),
        selection=sweep.Selection(n=tweets, seed=seed),
        **options,
    )
    return model, probe, store


# --- throughput -------------------------------------------------------------------------------


def throughput(tweets: int) -> dict[str, Any]:
    """Seconds a tweet of each way, and how far what they found lies apart."""
    from core.tracing.tracer import trace

    with own_home():
        model, probe, store = prepared(tweets, seed=0)
        say(f"{tweets} tweets, {store.tweets['tokens'].mean():.1f} tokens on average")
        trace(model, probe, "terrible service", TraceSettings(samples=1))  # warm
        texts = store.tweets.set_index("number")["text"]
        alone: dict[int, TraceResult] = {}
        began = time.perf_counter()
        for number, text in texts.items():
            alone[int(str(number))] = trace(model, probe, text, TraceSettings(samples=1))
        one_by_one = (time.perf_counter() - began) / tweets
        say(f"one by one: {one_by_one:.2f} s a tweet")
        began = time.perf_counter()
        for _ in sweep.run(model, store):
            pass
        batched = (time.perf_counter() - began) / tweets
        say(f"a sweep in one process: {batched:.2f} s a tweet")
        apart = max(
            float(np.nanmax(np.abs(record.result.effects[kind] - effects)))
            for record in store
            for kind, effects in alone[record.number].effects.items()
        )
    with own_home():
        model, probe, store = prepared(tweets, seed=0, most_tokens=2)
        began = time.perf_counter()
        for _ in sweep.run(model, store):
            pass
        few = (time.perf_counter() - began) / tweets
        say(f"a sweep of two tokens of each role: {few:.2f} s a tweet")
    processes = max(2, physical_cores())
    with own_home():
        _, _, store = prepared(tweets, seed=0)
        shared = seconds_in_processes(store, processes)
    say(f"a sweep in {processes} processes: {shared:.2f} s a tweet")
    return {
        "tweets": tweets,
        "tokens": float(store.tweets["tokens"].mean()),
        "samples": 1,
        "seconds": {
            "one by one": one_by_one,
            "sweep": batched,
            "sweep, processes": shared,
            "sweep, two tokens of each role": few,
        },
        "processes": processes,
        "gain": one_by_one / batched,
        "gain_processes": one_by_one / shared,
        "largest_difference": apart,
    }


def seconds_in_processes(store: Store, processes: int) -> float:
    """Seconds a tweet of a whole sweep, from its first batch on, so without loading the model."""
    store.start(processes=processes, nice=0)
    while (status := store.status()).state == "running":
        time.sleep(0.5)
    if status.state != "done":
        raise RuntimeError((store.folder / "log.txt").read_text())
    times = {int(path.stem): path.stat().st_mtime for path in (store.folder / "parts").iterdir()}
    first = min(times.values())
    after = sum(len(store.batch(batch)) for batch, at in times.items() if at > first)
    return (max(times.values()) - first) / after


# --- width ------------------------------------------------------------------------------------

COARSE = 6  # layers from one to the next


def width(tweets: int) -> dict[str, Any]:
    """Seconds a tweet and intervals of an average, by whole traces and by a sweep."""
    from core.sweeps.average import average, difference
    from core.tracing.tracer import trace

    options: dict[str, Any] = {"interval": "normal", "towards": "label"}
    with own_home():
        model, probe, store = prepared(tweets, seed=0, every=COARSE, most_tokens=2)
        whole = TraceSettings(samples=10, every=COARSE)
        trace(model, probe, "terrible service", whole)  # warm
        rows = store.tweets[["number", "row", "label", "text"]].to_dict("records")
        records = []
        began = time.perf_counter()
        for row in rows:
            result = trace(model, probe, row.pop("text"), whole)
            records.append(Record(**row, result=result))
        one_by_one = (time.perf_counter() - began) / tweets
        say(f"whole traces of ten samples: {one_by_one:.2f} s a tweet")
        del model
        processes = max(2, physical_cores())
        swept = seconds_in_processes(store, processes)
        say(f"a sweep in {processes} processes: {swept:.2f} s a tweet")
        first, second = average(records, **options), average(store, **options)
    cells = first.frame.merge(second.frame, on=["kind", "layer", "role"])
    cells = cells[~cells["trivial_x"] & (cells["n_x"] > 2)]
    widths = (cells["upper_y"] - cells["lower_y"]) / (cells["upper_x"] - cells["lower_x"])
    apart = difference(second, first)
    apart = apart.merge(cells[["kind", "layer", "role"]])
    differ = (apart["lower"] > 0) | (apart["upper"] < 0)
    found = {
        "tweets": tweets,
        "processes": processes,
        "seconds": {"one by one": one_by_one, "sweep": swept},
        "cells": len(cells),
        "width": float(widths.median()),
        "gain": float(one_by_one / swept / (widths**2).median()),
        "differ": float(differ.mean()),
    }
    say(f"{found}")
    return found


# --- memory -----------------------------------------------------------------------------------


def synthetic(folder: Path, count: int) -> None:
    """Fill a store with traces of GPT-2's shape whose numbers are drawn."""
    import pyarrow as pa

    model = load_model(EMBEDDED)
    store = Store(folder)
    text = "My flight got cancelled and I love waiting here for hours, terrible service"
    prompt = build_prompt(model, text, store.probe.template)
    draw = np.random.default_rng(0)
    for batch in range(0, count, 50):
        rows = []
        for number in range(batch, min(batch + 50, count)):
            shape = (1, LAYERS, len(prompt), 2)
            reads = Reads(
                draw.normal(-5, 1, 2),
                draw.normal(-5, 1, (1, 2)),
                {kind: draw.normal(-5, 1, shape) for kind in ("hidden", "mlp", "attn")},
            )
            result = TraceResult(
                prompt=prompt,
                probe=store.probe,
                settings=store.task.settings,
                model_name="synthetic",
                model_identity="synthetic",
                corrupted_span=prompt.tweet_span,
                window=2,
                noise=1.0,
                reads=reads,
                seconds=1.0,
            )
            rows.append(row_of({"number": number, "row": number, "label": 1}, result))
        store.write(batch // 50, pa.Table.from_pylist(rows, schema=schema()), [])


AVERAGE = """
import json, sys, time
from pathlib import Path
from core.sweeps.average import average
from core.sweeps.store import Store

def peak():  # not getrusage: its peak is that of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

store = Store(Path(sys.argv[1]))
before = peak()
began = time.perf_counter()
found = average(store)
seconds = time.perf_counter() - began
print(json.dumps({"tweets": found.n, "peak_kib": peak(), "before_kib": before, "seconds": seconds}))
"""


def memory(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Peak memory and seconds of an average over so many stored tweets."""
    found = []
    for count in counts:
        with own_home():
            _, _, store = prepared(1, seed=0)
            synthetic(store.folder, count)
            done = subprocess.run(
                [sys.executable, "-c", AVERAGE, str(store.folder)],
                capture_output=True,
                text=True,
                check=True,
            )
            size = sum(path.stat().st_size for path in (store.folder / "parts").iterdir())
            found.append(json.loads(done.stdout.splitlines()[-1]) | {"bytes": size})
            say(
                f"{count:,} stored tweets: {found[-1]['peak_kib'] / 1024:.0f} MiB at most, "
                f"{found[-1]['seconds']:.1f} s, {size / count:,.0f} bytes a tweet on disk"
            )
    return found


# --- kill -------------------------------------------------------------------------------------


def worker(store: Store) -> subprocess.Popen[bytes]:
    """Work at a store in a process of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "core", "sweep", "--resume", store.id),
            *("--processes", "1", "--no-progress"),
        ],
        stdout=subprocess.DEVNULL,
    )


def numbers_of(store: Store) -> dict[int, list[bytes]]:
    """All that was read, as bytes."""
    return {
        record.number: [
            record.result.reads.clean.tobytes(),
            record.result.reads.corrupted.tobytes(),
            *(values.tobytes() for values in record.result.reads.restored.values()),
        ]
        for record in store
    }


def kill(tweets: int) -> dict[str, Any]:
    """Kill a sweep ten times, resume it, and compare it with an undisturbed one."""
    draw = random.Random(0)
    with own_home():
        _, _, store = prepared(tweets, seed=1, every=EVERY)
        process = worker(store)
        kills: list[int] = []
        began = time.perf_counter()
        while len(kills) < KILLS:
            wanted = len(store.finished()) + draw.randint(0, 1)
            while len(store.finished()) < wanted and process.poll() is None:
                time.sleep(0.05)
            while store.status().workers == 0 and process.poll() is None:
                time.sleep(0.05)  # the model is being loaded
            time.sleep(draw.uniform(0.0, 3.0))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills.append(len(store.finished()))
            say(f"killed with {kills[-1]} batches done")
            process = worker(store)
        process.wait()
        disturbed, status = numbers_of(store), store.status()
        seconds = time.perf_counter() - began
    with own_home():
        model, _, other = prepared(tweets, seed=1, every=EVERY)
        assert other.id == store.id
        for _ in sweep.run(model, other):
            pass
        same = numbers_of(other) == disturbed
    say(f"killed {KILLS} times: {status.done} of {tweets} tweets, equal bit for bit: {same}")
    return {"tweets": tweets, "done": status.done, "kills": kills, "equal": same} | {
        "seconds": seconds
    }


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=["throughput", "width", "memory", "kill"])
    parser.add_argument("--tweets", type=int, default=24, help="of all parts but memory")
    options = parser.parse_args()
    found = load("sweep") or {}
    found["machine"] = describe() | {"load": os.getloadavg()[0], "date": time.strftime("%Y-%m-%d")}
    if options.only in (None, "throughput"):
        found["throughput"] = throughput(options.tweets)
    if options.only in (None, "width"):
        found["width"] = width(options.tweets)
    if options.only in (None, "memory"):
        found["memory"] = memory((100, 1000, 10000))
    if options.only in (None, "kill"):
        found["kill"] = kill(options.tweets)
    save(RESULTS / "sweep.json", found)


if __name__ == "__main__":
    main()
