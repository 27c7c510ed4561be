"""Texts that a model cannot read are left out and counted; one of them ends nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from tiny_held import NEUTRAL, make_tweets
from tiny_models import make_model
from tiny_probes import make_probe

from core.data.datasets import fingerprint
from core.data.readable import readable_texts
from core.interventions.judging import hold_out
from core.probes import library
from core.probes.encoding import encode
from core.probes.library import probe_for
from core.probes.training import train_probe, trained_on
from core.prompts.prompt import build_prompt, why_unreadable
from core.sweeps import sweep
from core.sweeps.sweep import Selection

LONG = "far too long for it " * 50
TOO_LONG = "the text and its suffix make more than 128 tokens"
INVISIBLE = "the text is only white space or invisible characters"

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


def with_unreadable(tweets: pd.DataFrame) -> pd.DataFrame:
    """The tweets, with three that cannot be read at their beginning, middle and end."""
    worse = pd.DataFrame({"text": [LONG, "\u200b", LONG + "!"], "label": [1, 0, 1]})
    half = len(tweets) // 2
    parts = (worse[:1], tweets[:half], worse[1:2], tweets[half:], worse[2:])
    whole = pd.concat([part[["text", "label"]] for part in parts], ignore_index=True)
    return whole.assign(row=np.arange(len(whole)) + 1000)


def test_the_rest_keeps_its_columns_and_row_numbers(model):
    tweets = pd.DataFrame(
        {"text": ["good", LONG, "bad", "\u200b"], "label": [1, 1, 0, 0], "group": [0, 1, 2, 3]}
    )
    found = readable_texts(model, tweets)
    assert found.frame.to_dict("list") == {
        "text": ["good", "bad"],
        "label": [1, 0],
        "group": [0, 2],
        "row": [0, 2],
    }
    assert [(one.row, one.reason) for one in found.refused] == [(1, TOO_LONG), (3, INVISIBLE)]
    numbered = readable_texts(model, tweets.assign(row=[7, 5, 3, 1]))
    assert numbered.frame["row"].tolist() == [7, 3]
    assert [one.row for one in numbered.refused] == [5, 1]
    assert found.describe() == (
        f"2 of 4 texts are left out, which {model.name} cannot read: {TOO_LONG} (1), "
        f"{INVISIBLE} (1)."
    )


def test_where_all_can_be_read_nothing_is_changed_or_said(model):
    tweets = make_tweets()
    found = readable_texts(model, tweets)
    assert found.frame is tweets
    assert found.describe() == ""


def test_the_suffix_counts_too(model):
    tweets = pd.DataFrame({"text": ["good", "good day"], "label": [1, 0]})
    suffix = " day" * (128 - len(build_prompt(model, "good", "")))
    assert readable_texts(model, tweets, suffix).frame["text"].tolist() == ["good"]
    assert len(build_prompt(model, "good", suffix)) == 128


@pytest.mark.parametrize(
    "text",
    ["good", "good " * 128, LONG, "", " \t", "\u200b", "half \ud83d", "NUL \0", "\U0001f600"],
)
def test_what_is_left_out_is_what_makes_no_prompt(model, text):
    reason = why_unreadable(model, text)
    if not reason:
        assert build_prompt(model, text).tokens
        return
    with pytest.raises(ValueError, match="^The tweet"):
        build_prompt(model, text)


def test_a_fault_of_the_suffix_is_not_said_of_the_texts(model):
    with pytest.raises(ValueError, match="The suffix holds half a character"):
        readable_texts(model, make_tweets(), " \ud83d")


def test_where_nothing_can_be_read_the_reasons_are_given(model):
    tweets = pd.DataFrame({"text": ["\u200b", LONG, LONG], "label": [1, 0, 1]})
    with pytest.raises(ValueError, match="can read none of 3 texts") as error:
        readable_texts(model, tweets)
    assert f"{TOO_LONG} (2), {INVISIBLE} (1)" in str(error.value)


def test_a_probe_leaves_them_out_says_so_and_is_found_again(model, monkeypatch):
    tweets, said = make_tweets(), []
    whole = with_unreadable(tweets)
    probe = probe_for(model, whole, dataset="mine", say=said.append)
    assert said == [
        f"3 of {len(whole)} texts are left out, which {model.name} cannot read: {TOO_LONG} (2), "
        f"{INVISIBLE} (1)."
    ]
    alone = train_probe(model, tweets, dataset="mine")
    assert probe.report.log_odds == alone.report.log_odds
    assert probe.dataset_hash == fingerprint(tweets)
    own = trained_on(probe, whole)
    assert own is not None
    assert own["row"].tolist() == list(probe.report.rows)
    assert own["text"].tolist() == tweets["text"].tolist()
    assert trained_on(probe, whole.assign(label=1 - whole["label"])) is None
    monkeypatch.setattr(library, "train_probe", None)  # calling it would fail
    assert probe_for(model, whole, dataset="mine", say=said.append) == probe
    assert len(said) == 2


def test_where_they_are_not_left_out_the_sentence_names_the_text_and_the_way_out(model):
    with pytest.raises(ValueError, match=r"^Text 1 of the data, 'far too long") as error:
        encode(model, ["good", LONG])
    assert TOO_LONG in str(error.value)
    assert "readable_texts" in str(error.value)


def test_interventions_are_judged_by_the_rest(model):
    tweets = make_tweets()
    probe = probe_for(model, tweets)
    held = hold_out(model, with_unreadable(tweets), probe, neutral=[*NEUTRAL, LONG])
    assert held.texts == tuple(tweets["text"])
    assert held.neutral == tuple(NEUTRAL)
    assert held.said.startswith(f"3 of {len(tweets) + 3} texts are left out")
    plain = hold_out(model, tweets, probe, neutral=NEUTRAL)
    assert held.probe.report.log_odds == plain.probe.report.log_odds
    assert plain.said == ""


def test_held_out_predictions_are_preferred_where_texts_were_left_out(model):
    # What a probe's cross-validation says of its own texts, and not what it learned by heart.
    made = make_probe(model)
    texts = [f"day {number}" for number in range(100)]
    tweets = pd.DataFrame({"text": texts, "label": made.report.labels, "row": range(100)})
    unreadable = pd.DataFrame({"text": [LONG], "label": [1], "row": [100]})
    whole = pd.concat([unreadable, tweets], ignore_index=True)
    own = dataclasses.replace(made, dataset_hash=fingerprint(tweets))
    found = sweep.choose(model, own, whole, Selection(which="correct"))
    said = np.array(made.report.log_odds) >= 0
    assert sorted(found["row"]) == np.flatnonzero(said == (tweets["label"] == 1)).tolist()
