"""`python -m core pairs` makes pairs, and `sweep --pairs` traces them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shell import refused, run
from tiny_models import save_folder
from tiny_world import keep_forty_tweets, keep_probe

import core
from core.prompts.counterfactuals import antonyms
from core.sweeps.store import sweeps

IMDB = (
    "Sentiment\tText\tbatch_id\n"
    "Negative\tA bad day.\t1\nPositive\tA really good day.\t1\n"
    "Positive\tI love waiting.\t2\nNegative\tI hate waiting.\t2\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny-model"), layers=3)


@pytest.fixture
def trained(own_home, folder):
    keep_forty_tweets()
    keep_probe(folder)
    return own_home


def test_pairs_are_made_counted_saved_and_swept(trained, folder, tmp_path):
    out = tmp_path / "pairs.csv"
    made = run("pairs", "--model", folder, "--out", out, "--no-progress")
    assert made.exit_code == 0, made.output
    assert "sentiment words exchanged for their opposites" in made.stdout
    kept = core.load_pairs(out)
    said = re.search(r"(\d+) of 40 texts have a counterfactual .* (\d+) pairs in all", made.stdout)
    assert said is not None
    assert (int(said[1]), int(said[2])) == (kept["text"].nunique(), len(kept))
    for text, other in zip(kept["text"], kept["counterfactual"], strict=True):
        word, _, rest = text.partition(" ")
        assert other in [f"{opposite} {rest}" for opposite in antonyms()[word]]
    swept = run(
        *("sweep", "--model", folder, "--pairs", out, "--processes", "1", "--every", "2"),
        *("--n", "3", "--edited", "all", "--no-progress"),
    )
    assert swept.exit_code == 0, swept.output
    assert "a row a pair, 'text' and 'counterfactual'" in swept.stderr
    (store,) = sweeps()
    assert store.task.settings.corruption == "counterfactual"
    assert store.task.settings.edited == "all"
    assert all(
        record.result.settings.counterfactual in set(kept["counterfactual"]) for record in store
    )
    averaged = run("average", store.id, "--no-progress")
    assert averaged.exit_code == 0, averaged.output
    assert "noise" not in averaged.stdout


def test_published_pairs_are_swept_without_a_question(trained, folder, tmp_path):
    path = tmp_path / "train_paired.tsv"
    path.write_text(IMDB, encoding="utf-8")
    done = run("sweep", "--model", folder, "--pairs", path, "--processes", "1", "--no-progress")
    assert done.exit_code == 0, done.output
    (store,) = sweeps()
    assert len(store) == 2
    assert any(record.result.alignment is not None for record in store)


def test_a_file_without_pairs_is_one_sentence(trained, folder, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "good day", "label": 1}\n{"text": "bad day", "label": 0}\n')
    said = refused("sweep", "--model", folder, "--pairs", path)
    assert said.endswith(
        "Name the columns of the two texts text and counterfactual, or that of the id pair_id."
    )
