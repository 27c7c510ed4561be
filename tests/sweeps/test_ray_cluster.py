"""A sweep on a Ray cluster: two nodes on this machine, one of which is killed in mid-sweep."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Ray's workers make way for everything else by default, on a busy machine for ever. Ray reads this
# when it is imported.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray.cluster_utils import Cluster
from tiny_models import save_folder
from tiny_sweeps import PAIRS, as_pairs, assert_equal, made_in, make_tweets, times_of

from core.sweeps import ray_cluster, sweep
from core.sweeps.ray_cluster import run_on_ray

TWEETS = 30
MEMORY = 80 * 2**20  # bytes of a node's object store; the least that Ray takes is about that
PATIENCE = 600.0  # seconds until what hangs is called failed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", layers=3)


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster on this machine: a head that does not work, and nodes as a test adds them."""
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    try:
        # Now, while there is no other node of this machine that it could take for its own: a driver
        # does not outlive its node.
        ray_cluster._connect(ray, found.address)
        yield found
    finally:
        if ray.is_initialized():
            ray.shutdown()
        found.shutdown()


def test_a_node_is_killed_in_mid_sweep(tmp_path, folder, monkeypatch, nodes, caplog):
    monkeypatch.setattr(sweep, "MOST_TOGETHER", 1)
    monkeypatch.setattr(ray_cluster, "_WAIT_SECONDS", 0.05)
    tweets = make_tweets(TWEETS, longest=12)
    _, store = made_in(folder, tmp_path / "cluster", monkeypatch, tweets)
    nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
    victim = nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
    nodes.wait_for_nodes(timeout=PATIENCE)

    before: dict[str, int] = {}
    deadline = time.monotonic() + PATIENCE
    with caplog.at_level(logging.WARNING, "core.sweeps.ray_cluster"):
        for status in run_on_ray(store, nodes.address, cores=1):
            assert time.monotonic() < deadline, store.status()
            if not before and status.done >= 6:
                assert len(ray.nodes()) == 3
                before = times_of(store)
                nodes.remove_node(victim, allow_graceful=False)
    assert before
    assert status.state == "done"
    assert (status.done, status.failed) == (TWEETS, 0)
    lost = [record for record in caplog.records if "was lost" in record.message]
    assert len(lost) <= 1  # each actor has one batch in hand
    assert times_of(store) == times_of(store) | before  # nothing finished was done again
    assert sorted(record.number for record in store) == list(range(TWEETS))

    model, alone = made_in(folder, tmp_path / "alone", monkeypatch, tweets)
    assert alone.id == store.id
    list(sweep.run(model, alone))
    assert_equal(store, alone)

    # Pairs, on the node that is left.
    pairs = as_pairs(tweets[:8])
    _, store = made_in(folder, tmp_path / "cluster", monkeypatch, pairs, PAIRS)
    *_, status = run_on_ray(store, nodes.address, cores=1)
    assert (status.state, status.done, status.failed) == ("done", 8, 0)
    model, alone = made_in(folder, tmp_path / "alone", monkeypatch, pairs, PAIRS)
    list(sweep.run(model, alone))
    assert_equal(store, alone)


def test_an_actor_that_cannot_load_the_model_says_so(tmp_path, folder, monkeypatch, nodes):
    _, store = made_in(folder, tmp_path / "home", monkeypatch, make_tweets(3))
    nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="could not load"):
        list(run_on_ray(store, nodes.address, cores=1))
    assert store.status().workers == 0


def test_an_address_without_a_cluster(tmp_path, folder, monkeypatch):
    _, store = made_in(folder, tmp_path / "home", monkeypatch, make_tweets(2))
    with pytest.raises(ValueError, match="no Ray cluster at '127.0.0.1:9'"):
        list(run_on_ray(store, "127.0.0.1:9"))
    with pytest.raises(ValueError, match="HOST:PORT"):
        list(run_on_ray(store, "somewhere"))


def test_without_ray_it_says_what_to_install(own_home, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="requirements-ray"):
        next(run_on_ray(None))
