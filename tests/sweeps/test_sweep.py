"""Sweeps: what is stored is what was traced, and nothing that happens to a process loses any."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from itertools import zip_longest
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from processes import start
from tiny_models import make_model, save_folder
from tiny_probes import make_probe
from tiny_sweeps import PAIRS, as_pairs, assert_equal, made_in, make_tweets, reads_of, times_of

from core.errors import UserError
from core.models import cpu_kernels
from core.models.loading import load_model
from core.models.model import Model
from core.patching.sites import KINDS
from core.probes.probe import Probe
from core.sweeps import store as stores
from core.sweeps import sweep
from core.sweeps.store import open_store, sweeps
from core.sweeps.sweep import Selection
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace

PATIENCE = 600.0  # seconds until what hangs is called failed


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model("gpt2", layers=3)


@pytest.fixture
def probe(model: Model) -> Probe:
    return make_probe(model)


@pytest.mark.parametrize(
    "settings",
    [
        TraceSettings(samples=2),
        TraceSettings(kinds=("mlp",), samples=1, every=2),
        TraceSettings(direction="corrupt", corruption="mean"),
        TraceSettings(kinds=("hidden",), samples=1, severed="mlp", corrupt="word:1"),
    ],
)
def test_a_record_is_the_trace_itself(own_home, model, probe, settings):
    tweets = make_tweets(6)
    store = sweep.create(model, probe, tweets, settings)
    *_, last = sweep.run(model, store)
    assert (last.state, last.done, last.failed) == ("done", 6, 0)
    records = list(store)
    assert sorted(record.row for record in records) == list(range(6))
    for record in records:
        alone = trace(model, probe, tweets["text"][record.row], settings)
        stored = record.result
        assert stored.prompt == alone.prompt
        assert record.label == tweets["label"][record.row]
        assert stored.corrupted_span == alone.corrupted_span
        assert (stored.window, stored.noise) == (alone.window, alone.noise)
        for proxy in ("log_odds", "probability", "bad"):
            for kind in settings.kinds:
                np.testing.assert_allclose(
                    stored.under(proxy).effects[kind], alone.under(proxy).effects[kind], atol=2e-5
                )
        assert stored.top_cells.keys() == alone.top_cells.keys()
        assert store.record(record.number).result.prompt == alone.prompt


def test_only_some_roles_and_few_tokens_of_each(own_home, model, probe):
    tweets = pd.DataFrame({"text": ["my flight my day my service is good"], "label": [1]})
    store = sweep.create(
        model, probe, tweets, roles=["middle", "sentiment_last", "suffix"], most_tokens=2
    )
    assert [s.done for s in sweep.run(model, store)][-1] == 1
    (record,) = store
    whole = trace(model, probe, record.result.prompt.tweet, TraceSettings(samples=1))
    effects = record.result.effects["mlp"]
    traced = np.flatnonzero(~np.isnan(effects[0]))
    labels = [whole.tokens[position] for position in traced]
    # Two of the other tokens, the sentiment word, and the suffix without its last token.
    assert labels[-3:] == ["·good", "·I", "·am"]
    assert len(labels) == 5
    np.testing.assert_allclose(effects[:, traced], whole.effects["mlp"][:, traced], atol=2e-5)


def test_a_tweet_that_fails_is_recorded_and_the_rest_goes_on(own_home, model, probe):
    tweets = make_tweets(5)
    tweets.loc[2, "text"] = "\u200b"
    tweets.loc[4, "text"] = "good " * 200
    store = sweep.create(model, probe, tweets)
    *_, last = sweep.run(model, store)
    assert (last.state, last.done, last.failed, last.fraction) == ("done", 3, 2, 1.0)
    failures = store.failures().set_index("row")["reason"]
    assert failures.index.tolist() == [2, 4] or failures.index.tolist() == [4, 2]
    assert "invisible" in failures[2]
    assert "shorten the tweet" in failures[4]
    number = int(store.tweets.set_index("row")["number"][2])
    with pytest.raises(ValueError, match="could not be traced: The tweet"):
        store.record(number)
    assert store.retry_failed() >= 1
    assert store.status().state == "stopped"
    *_, last = sweep.run(model, store)
    assert (last.done, last.failed) == (3, 2)


def test_one_bad_tweet_does_not_take_its_batch_along(own_home, model, probe, monkeypatch):
    tweets = pd.DataFrame({"text": ["great day", "bad day"], "label": [1, 0]})
    store = sweep.create(model, probe, tweets)
    assert store.tweets["batch"].nunique() == 1
    real = sweep.trace_together

    def breaks(model, probe, texts, *arguments, **options):
        if "bad day" in texts:
            raise UserError("This tweet cannot be traced.")
        return real(model, probe, texts, *arguments, **options)

    monkeypatch.setattr(sweep, "trace_together", breaks)
    *_, last = sweep.run(model, store)
    assert (last.done, last.failed) == (1, 1)
    assert store.failures()["reason"].tolist() == ["This tweet cannot be traced."]


def test_a_fault_of_the_program_is_not_filed_as_a_tweets_own(own_home, model, probe, monkeypatch):
    store = sweep.create(model, probe, make_tweets(4))

    def breaks(*_, **__):
        return np.zeros(3) + np.zeros(4)

    with monkeypatch.context() as broken:
        broken.setattr(sweep, "trace_together", breaks)
        with pytest.raises(ValueError, match="could not be broadcast") as raised:
            list(sweep.run(model, store))
    assert not isinstance(raised.value, UserError)
    assert store.failures().empty
    assert store.status().done == 0
    *_, last = sweep.run(model, store)  # nothing stands in the way of the mended program
    assert (last.done, last.failed) == (4, 0)


def test_other_settings_are_another_store(own_home, model, probe):
    tweets = make_tweets(4)

    def name(tweets=tweets, probe=probe, model=model, **options) -> str:
        settings = TraceSettings(**{"samples": 1} | options.pop("settings", {}))
        return sweep.create(model, probe, tweets, settings, **options).id

    first = name()
    others = [
        name(settings={"samples": 2}),
        name(settings={"seed": 1}),
        name(settings={"every": 2}),
        name(settings={"kinds": ("mlp",)}),
        name(selection=Selection(n=3)),
        name(roles=["last"]),
        name(most_tokens=1),
        name(tweets=tweets.assign(label=1 - tweets["label"])),
        name(probe=dataclasses.replace(probe, intercept=0.4)),
        name(
            model=make_model("gpt2", layers=3, seed=1),
            probe=make_probe(make_model("gpt2", layers=3, seed=1)),
        ),
    ]
    assert len({first, *others}) == 1 + len(others)
    # What is only read later, or is a name, is no other sweep.
    assert name(settings={"proxy": "bad", "seconds": 3.0}) == first
    assert name(data="called so") == first
    assert name(probe=dataclasses.replace(probe, name="mine")) == first
    assert len(sweeps()) == 1 + len(others)
    assert open_store(first[:10]).id == first


def test_size_of_a_batch_is_no_other_sweep(own_home, model, probe):
    tweets = make_tweets(30, longest=3)
    store = sweep.create(model, probe, tweets, together=5)
    groups = store.tweets.groupby("batch")
    assert groups.size().max() == 5
    assert (groups["tokens"].nunique() == 1).all()
    assert sorted(store.tweets["number"]) == list(range(30))
    assert sweep.create(model, probe, tweets).id == store.id


def test_more_tweets_take_over_what_is_traced(own_home, model, probe, monkeypatch):
    tweets = make_tweets(40, longest=12)
    tweets.loc[:3, "text"] = "\u200b"  # some fail
    small = sweep.create(model, probe, tweets, selection=Selection(n=20))
    steps = sweep.run(model, small)
    while next(steps).done < 5:
        pass
    steps.close()
    before = reads_of(small)
    assert 5 <= len(before) < 16
    large = sweep.create(model, probe, tweets, selection=Selection(n=30))
    assert (large.id != small.id, len(large)) == (True, len(before))
    assert large.status().failed == small.status().failed
    traced: list[str] = []
    real = sweep.trace_together

    def watched(model, probe, texts, *arguments, **options):
        traced.extend(texts)
        return real(model, probe, texts, *arguments, **options)

    monkeypatch.setattr(sweep, "trace_together", watched)
    *_, last = sweep.run(model, large)
    assert last.done + last.failed == 30
    found = reads_of(large)
    for number, arrays in before.items():
        for own, other in zip(arrays, found[number], strict=True):
            np.testing.assert_array_equal(own, other)
    for record in small:
        assert record.result.prompt.tweet not in traced
        assert large.record(record.number).result.prompt == record.result.prompt
    fresh = sweep.create(model, probe, tweets, selection=Selection(n=30, seed=1))
    assert len(fresh) == 0  # other tweets


def test_a_full_disk_and_a_damaged_part_are_told(own_home, model, probe, monkeypatch):
    import pyarrow.parquet as pq

    store = sweep.create(model, probe, make_tweets(3))

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(ValueError, match="No space left on device"):
            list(sweep.run(model, store))
    assert store.finished() == []
    *_, last = sweep.run(model, store)
    assert last.done == 3
    part = next((store.folder / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged; delete"):
        list(store)


def test_another_model_cannot_go_on(own_home, model, probe):
    store = sweep.create(model, probe, make_tweets(2))
    other = make_model("gpt2", layers=3, seed=1)
    with pytest.raises(ValueError, match="begin another sweep"):
        next(sweep.run(other, store))


def test_selection(own_home, model, probe):
    tweets = make_tweets(60)

    def chosen(**options) -> pd.DataFrame:
        return sweep.choose(model, probe, tweets, Selection(**options))

    few, many = chosen(n=10, seed=3), chosen(n=25, seed=3)
    assert many["row"].tolist()[:10] == few["row"].tolist()
    assert few["row"].tolist() != chosen(n=10, seed=4)["row"].tolist()
    assert few["row"].tolist() != sorted(few["row"])
    assert sorted(chosen()["row"]) == list(range(60))
    assert set(chosen(label=0)["label"]) == {0}
    assert all("FLIGHT" in text.upper() for text in chosen(containing="Flight")["text"])
    suffix = 3
    assert chosen(shortest=4, longest=6)["tokens"].between(4 + suffix, 6 + suffix).all()
    right = chosen(which="correct")
    for row, label in zip(right["row"], right["label"], strict=True):
        assert (
            trace(model, probe, tweets["text"][row], TraceSettings(samples=1)).high >= 0
        ) == label
    assert 0 < len(right) < 60
    with pytest.raises(ValueError, match="No tweet"):
        chosen(containing="zebra")


def test_held_out_predictions_are_preferred(own_home, model, probe):
    from core.data.datasets import fingerprint

    tweets = make_tweets(100)
    report = probe.report
    own = dataclasses.replace(probe, dataset_hash=fingerprint(tweets))
    found = sweep.choose(model, own, tweets, Selection(which="correct"))
    said = np.array(report.log_odds) >= 0
    assert sorted(found["row"]) == np.flatnonzero(said == (tweets["label"] == 1)).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": ["subject"]}, "subject"),
        ({"roles": []}, "choose from"),
        ({"most_tokens": 0}, "At least 1 token"),
        ({"together": 0}, "At least 1 tweet"),
        ({"settings": TraceSettings(corrupt=(1, 2))}, "Positions"),
        (
            {"settings": TraceSettings(corruption="counterfactual", counterfactual="a")},
            "counterfactual",
        ),
    ],
)
def test_mistakes_are_told(own_home, model, probe, options, message):
    settings = options.pop("settings", None)
    with pytest.raises(ValueError, match=message):
        sweep.create(model, probe, make_tweets(2), settings, **options)


# --- whatever ends the work -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", layers=3)


def work(ids: Sequence[str], folder: Path, home: Path, line: Connection | None = None) -> None:
    """Work at stores, a batch of each in turn; on a line, do so many turns as are allowed there."""
    os.environ["SENTITRACE_HOME"] = str(home)
    model = load_model(folder, device="cpu")
    allowed = 0
    for _ in zip_longest(*(sweep.run(model, open_store(id)) for id in ids)):
        if line is not None:
            line.send("ready")
            while not allowed:
                allowed = line.recv()
            allowed -= 1


def both_made_in(folder: Path, home: Path, monkeypatch, tweets: pd.DataFrame):
    """The model, and the sweeps of the tweets by noise and of as many pairs."""
    model, noise = made_in(folder, home, monkeypatch, tweets)
    return model, [noise, made_in(folder, home, monkeypatch, as_pairs(tweets), PAIRS)[1]]


def test_killed_at_ten_random_moments(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(sweep, "MOST_TOGETHER", 1)  # 26 batches
    tweets = make_tweets(26)
    home = tmp_path / "killed"
    _, killed = both_made_in(folder, home, monkeypatch, tweets)
    ids = [store.id for store in killed]
    draw = random.Random(0)
    seen: list[dict[str, int]] = [{}, {}]
    for _ in range(10):
        line, theirs = Pipe()
        process = start(work, ids, folder, home, theirs)
        theirs.close()
        turns = draw.randint(1, 2)
        line.send(turns)
        for _ in range(turns):
            assert line.recv() == "ready"
        time.sleep(draw.uniform(0, 0.05))  # it is at the last of them, or waits after it
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for number, (each, before) in enumerate(zip(killed, seen, strict=True)):
            now = times_of(each)
            assert now == now | before  # what was finished is still there, and was not made again
            assert len(before) + turns - 1 <= len(now) <= len(before) + turns
            seen[number] = now
    process = start(work, ids, folder, home)
    process.join()
    assert process.exitcode == 0
    for each, before in zip(killed, seen, strict=True):
        assert times_of(each) == times_of(each) | before
        status = each.status()
        assert (status.state, status.done, status.failed, status.workers) == ("done", 26, 0, 0)
        numbers = [record.number for record in each]
        assert sorted(numbers) == list(range(26))  # each once

    model, undisturbed = both_made_in(folder, tmp_path / "undisturbed", monkeypatch, tweets)
    for each, alone in zip(killed, undisturbed, strict=True):
        assert alone.id == each.id
        *_, last = sweep.run(model, alone)
        assert last.done == 26
        assert_equal(each, alone)


def test_two_processes_share_a_store(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(sweep, "MOST_TOGETHER", 1)
    tweets = make_tweets(30, longest=12)
    home = tmp_path / "shared"
    _, store = made_in(folder, home, monkeypatch, as_pairs(tweets), PAIRS)
    lines, processes = [], []
    for _ in range(2):
        line, theirs = Pipe()
        processes.append(start(work, [store.id], folder, home, theirs))
        theirs.close()
        lines.append(line)
    for line in lines:
        assert line.recv() == "ready"
    assert store.status().workers == 2
    for line in lines:  # each does one batch, and then what the other leaves
        line.send(1)
    for line in lines:
        assert line.recv() == "ready"
    assert len(store.finished()) == 2
    for line in lines:
        line.send(1000)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(record.number for record in store) == list(range(30))
    model, alone = made_in(folder, tmp_path / "alone", monkeypatch, as_pairs(tweets), PAIRS)
    list(sweep.run(model, alone))
    assert_equal(store, alone)


def test_as_many_processes_as_fit_and_are_worth_their_start(own_home, model, probe, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "physical_cores", lambda: 3)
    monkeypatch.setattr(stores, "default_device", lambda: torch.device("cpu"))
    store = sweep.create(model, probe, make_tweets(25, longest=4))
    assert store.fitting_processes() == 2
    assert [store.fitting_processes(tweets) for tweets in (5, 19, 30, 1000)] == [1, 1, 3, 3]
    store.manifest["origin"]["bytes"] = 2**50
    assert store.fitting_processes(1000) == 1
    del store.manifest["origin"]["bytes"]  # as in a store that was made before it was noted
    assert store.fitting_processes(1000) == 1


def test_a_batch_is_claimed_by_one_and_freed_by_death(own_home, model, probe):
    store = sweep.create(model, probe, make_tweets(30, longest=12))
    with store.claims() as first:
        with store.claims() as second:
            taken = [claims.take() for claims in (first, second, second)]
            assert len(set(taken)) == 3
            assert store.status().workers == 2
        again = {first.take(), first.take()}
        assert again == set(taken[1:])  # what the second let go
        assert first.take() not in taken


@pytest.mark.parametrize("held", ["pause", "stop"])
def test_a_process_that_is_begun_does_not_undo_what_was_wished_meanwhile(
    own_home, model, probe, held
):
    store = sweep.create(model, probe, make_tweets(5, longest=4))
    store.wish("start")
    getattr(store, held)()
    assert len(list(sweep.run(model, store, asked=False))) == 1  # a look, and no batch
    assert (store.wanted, store.finished()) == (held, [])
    store.wish("start")
    *_, last = sweep.run(model, store, asked=False)
    assert last.state == "done"


def test_pause_and_stop(own_home, model, probe):
    store = sweep.create(model, probe, make_tweets(30, longest=12))
    steps = sweep.run(model, store)
    next(steps)
    assert store.status().state == "running"
    next(steps)
    assert store.status().seconds_left > 0
    with pytest.raises(ValueError, match="running"):
        store.remove()
    store.pause()
    assert list(steps) == []
    assert store.status().state == "paused"
    assert len(store.finished()) == 1
    steps = sweep.run(model, store)  # goes on
    next(steps)
    store.stop()
    assert list(steps) == []
    assert (store.status().state, len(store.finished())) == ("stopped", 1)
    store.remove()
    assert sweeps() == []


def test_stop_ends_a_batch_within(own_home, model, probe, monkeypatch):
    monkeypatch.setattr(sweep, "_CONTROL_SECONDS", 0.0)
    store = sweep.create(model, probe, make_tweets(5))
    told: list[float] = []

    def progress(share: float) -> None:
        told.append(share)
        store.stop()

    assert len(list(sweep.run(model, store, progress=progress))) == 1
    assert store.finished() == []
    assert len(told) <= 2


def test_runs_as_a_job(own_home, model, probe):
    from core.server.job_queue import Queue

    store = sweep.create(model, probe, make_tweets(5))
    queue = Queue()

    def work(job):
        return ((s.fraction, s) for s in sweep.run(model, store, progress=job.report))

    job = queue.submit("someone", work)
    done = job.wait(PATIENCE)
    assert (done.state, done.partial.done) == ("done", 5), done
    queue.close(PATIENCE)


def test_goes_on_in_a_process_of_its_own(tmp_path, folder, monkeypatch):
    _, store = made_in(folder, tmp_path / "home", monkeypatch, make_tweets(4))
    store.start(nice=1)
    assert store.status().state == "running"  # before it has claimed anything
    deadline = time.monotonic() + PATIENCE
    while store.status().state != "done" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert store.status().done == 4, (store.folder / "log.txt").read_text()


def test_nothing_in_a_store_runs_code(own_home, model, probe):
    store = sweep.create(model, probe, make_tweets(2))
    list(sweep.run(model, store))
    endings = {path.suffix for path in store.folder.rglob("*") if path.is_file()}
    assert endings == {".json", ".parquet", ""}
    assert json.loads((store.folder / "manifest.json").read_bytes())["determines"]["form"] == 1


# --- from the command line ----------------------------------------------------------------------


def test_from_tweets_to_an_average(own_home, folder, tmp_path):
    from click.testing import CliRunner

    from core.__main__ import main
    from core.sweeps import study

    tweets, probe, table, summary = (
        tmp_path / name for name in ("tweets.csv", "probe.json", "average.csv", "summary.json")
    )
    make_tweets(30).to_csv(tweets, index=False)
    make_probe(load_model(folder, device="cpu")).save(probe)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, [*arguments, "--no-progress"])
        assert done.exit_code == 0, done.output
        return done.output

    options = ["--model", str(folder), "--data", str(tweets), "--probe", str(probe)]
    options += ["--n", "12", "--every", "2", "--device", "cpu"]
    said = run("sweep", *options)
    (store,) = sweeps()
    assert "12 of 12 tweets traced" in said
    assert f"Sweep {store.id}: 12 of 12" in run("sweep", *options)  # nothing is done again
    listed = run("sweep", "--list")
    assert "12/12" in listed
    assert "done" in listed

    said = run("average", store.id[:6], "--out", str(table), "--summary", str(summary))
    assert "Average total effect" in said
    frame = pd.read_csv(table)
    assert set(frame["layer"]) == {0, 2}
    assert set(frame["kind"]) == set(KINDS)
    kept = study.load(summary)
    assert kept.average.n == 12
    written = summary.read_text()
    for text in store.tweets["text"]:
        assert text not in written
    assert str(tmp_path) not in written  # where model and tweets lie on this machine
    found = json.loads(run("average", store.id, "--json", "--normalised", "--label", "positive"))
    assert found["about"]["normalised"] is True
    assert found["total"]["n"] == int((store.tweets["label"] == 1).sum())
    done = CliRunner().invoke(main, ["average", "zzz"])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
