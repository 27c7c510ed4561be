"""`python -m core corruptions`: two sweeps, and what both agree on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import refused, run
from tiny_models import save_folder
from tiny_world import keep_forty_tweets, keep_probe

import core
from core.sweeps import two_corruptions
from core.sweeps.store import sweeps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny-model"), layers=3)


@pytest.fixture
def trained(own_home, folder):
    keep_forty_tweets()
    keep_probe(folder)
    return own_home


def test_both_sweeps_are_made_judged_and_kept_as_numbers(trained, folder, tmp_path):
    out = tmp_path / "two.json"
    options = ("--model", folder, "--tweets", "12", "--number-of-pairs", "11", "--processes", "1")
    done = run("corruptions", *options, "--out", out, "--no-progress")
    assert done.exit_code == 0, done.output
    stores = {store.task.settings.corruption: store for store in sweeps()}
    assert {name: len(store) for name, store in stores.items()} == {
        "noise": 12,
        "counterfactual": 11,
    }
    assert {store.task.settings.every for store in stores.values()} == {2}
    found = two_corruptions.load(out)
    assert (found.noise.n, found.pairs.about["pairs"]) == (12, 11)
    assert found.noise.about["proxy"] == found.pairs.about["proxy"] == "log_ratio"
    for sentence in found.sentences():
        assert sentence in done.stdout
    written = out.read_text()
    assert "day number" not in written
    assert str(folder.parent) not in written
    origin = json.loads(written)["origin"]
    assert origin["pairs"]["data"] == "vader-tweets, pairs"
    assert origin["noise"]["selection"]["which"] == "correct"

    made = {store.id: store.manifest["origin"]["created"] for store in stores.values()}
    again = run("corruptions", *options, "--proxy", "log_odds", "--no-progress")
    assert again.exit_code == 0, again.output
    assert {store.id: store.manifest["origin"]["created"] for store in sweeps()} == made
    assert "probe's log-odds of positive" in again.stdout


def test_pairs_of_a_file_are_taken(trained, folder, tmp_path):
    pairs = tmp_path / "pairs.csv"
    assert run("pairs", "--model", folder, "--out", pairs, "--no-progress").exit_code == 0
    options = ("--model", folder, "--tweets", "3", "--number-of-pairs", "3", "--processes", "1")
    done = run("corruptions", *options, "--pairs", pairs, "--no-progress")
    assert done.exit_code == 0, done.output
    (store,) = [s for s in sweeps() if s.task.settings.corruption == "counterfactual"]
    assert store.manifest["origin"]["data"] == "pairs.csv"
    assert set(store.tweets["counterfactual"]) <= set(core.load_pairs(pairs)["counterfactual"])


def test_another_form_of_file_is_refused_before_any_work(trained, folder, tmp_path):
    said = refused("corruptions", "--model", folder, "--out", tmp_path / "two.csv")
    assert "json" in said
    assert sweeps() == []
