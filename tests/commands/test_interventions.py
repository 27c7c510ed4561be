"""`python -m core edit | steer | ablate`: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from shell import refused, run
from tiny_held import tweets_with_neutral_ones
from tiny_models import save_folder
from tiny_world import keep_probe, keep_tweets

from core.interventions.plan import Plan

TWEET = "My flight got cancelled, terrible service"
QUICK = ("--samples", 2, "--texts", 4, "--controls", 1, "--no-progress")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny-model"), layers=3)


@pytest.fixture(autouse=True)
def world(own_home, folder):
    """A cache folder with labelled tweets and neutral ones, and the model's probe of them."""
    keep_tweets(*tweets_with_neutral_ones())
    keep_probe(folder)


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("edit", ("--steps", 2, "--prefixes", 1, "--sweep", "layer"), "edit '"),
        ("steer", ("--layer", 1, "--sweep", "strength"), "steer means at layer 1"),
        ("steer", ("--like", "great day", "--direction", "probe"), "patch probe at layer"),
        ("ablate", ("--layer", 1, "--onwards", "--fill", "mean"), "at layers 1 to 2"),
        ("ablate", ("--sites", "head", "--count", 2), "zero at head"),
    ],
)
def test_each_command_says_what_was_done_and_how_it_is_judged(folder, command, options, expected):
    result = run(command, TWEET, "--model", folder, *QUICK, *options)
    assert result.exit_code == 0, result.output
    assert expected in result.stdout
    assert "Log-odds" in result.stdout
    assert "random" in result.stdout
    assert ("By layer" in result.stdout) == ("layer" in options)
    assert ("By strength" in result.stdout) == ("strength" in options)


def test_json_holds_the_plan_and_the_outcome(folder):
    result = run("steer", TWEET, "--model", folder, *QUICK, "--layer", 1, "--json")
    found = json.loads(result.stdout)
    assert found["plan"]["layer"] == found["layer"] == 1
    assert found["before"]["log_odds"] != found["after"]["log_odds"]
    assert {row["arm"] for row in found["judged"]} == {"chosen", "random"}


def test_settings_make_the_same_numbers_again(folder, tmp_path):
    first, second = tmp_path / "one.csv", tmp_path / "two.csv"
    saved = tmp_path / "settings.json"
    options = ("--layer", 1, "--strength", 0.5, "--save-settings", saved, "--out", first)
    assert run("steer", TWEET, "--model", folder, *QUICK, *options).exit_code == 0
    plan = Plan.from_json(saved.read_bytes())
    assert (plan.text, plan.layer, plan.strength) == (TWEET, 1, 0.5)
    result = run("steer", "--settings", saved, "--no-progress", "--out", second)
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(pd.read_csv(first), pd.read_csv(second))
    figure = tmp_path / "figure.svg"
    result = run("steer", "--settings", saved, "--no-progress", "--out", figure)
    assert result.exit_code == 0, result.output
    for held in (saved, figure):
        result = run("run", held, "--no-progress")
        assert result.exit_code == 0, result.output
        assert "steer means at layer 1" in result.stdout
    # Options come before the file.
    result = run("steer", "--settings", saved, "--no-progress", "--strength", 2, "--json")
    assert json.loads(result.stdout)["plan"]["strength"] == 2


def test_mistakes_are_one_sentence(folder, tmp_path):
    assert "There is no text" in refused("edit", "--model", folder)
    assert "layers 0 to 2" in refused("steer", TWEET, "--model", folder, *QUICK, "--layer", 9)
    assert "cannot be read" in refused("edit", "--settings", tmp_path / "none.json")
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    assert "not those of an intervention" in refused("edit", "--settings", wrong)
    wrong.write_text(Plan("steer", TWEET).to_json())
    assert "those of `steer`" in refused("edit", "--settings", wrong)
    assert "no ending" in refused("edit", TWEET, "--out", "table.xyz")
    assert "tokens" in refused(
        "edit", TWEET, "--model", folder, *QUICK, "--target", " unlikely", "--steps", 1
    )
