"""Controls: what each must find, and that a probe is held against the same texts and folds."""

import numpy as np
import pandas as pd
import pytest
from tiny_models import make_model

from core.models.loading import load_model
from core.models.model import Model
from core.probes import controls
from core.probes.controls import deal_labels, with_controls
from core.probes.encoding import encode
from core.probes.training import groups_of, split, train_probe
from core.prompts.prompt import word_token

pytestmark = pytest.mark.usefixtures("own_home")

NAMES = ["the majority class", "the raw rule", "shuffled labels", "the untrained twin"]
NAMES += ["bag of words", "the VADER lexicon"]


@pytest.fixture(scope="module")
def tweets() -> pd.DataFrame:
    """Texts whose label is in one word."""
    places = ("here", "there", "at home", "in town", "on the train", "by the sea", "at work", "off")
    texts = [
        f"{what} {word} {where}"
        for what in ("a day", "food", "we had")
        for where in places
        for word in ("great", "awful")
    ]
    frame = pd.DataFrame({"text": texts, "label": [1, 0] * 24})
    # 24 positive and 16 negative ones
    return frame[(frame.label == 1) | ~frame.text.str.startswith("we had")].reset_index(drop=True)


def make_twin() -> Model:
    twin = make_model("gpt2", seed=9)
    twin.untrained = True
    return twin


@pytest.fixture(scope="module")
def judged(tweets, tmp_path_factory):
    model = make_model("gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTITRACE_HOME", str(tmp_path_factory.mktemp("judged")))
        return with_controls(train_probe(model, tweets), model, tweets, twin=make_twin())


def test_every_control_is_there_and_scores_what_it_must(judged, tweets):
    by_name = {control.name: control for control in judged.report.controls}
    assert list(by_name) == NAMES
    accuracy = {name: control.scores["accuracy"].value for name, control in by_name.items()}
    assert accuracy["the majority class"] == 0.6
    assert accuracy["bag of words"] == 1
    assert accuracy["the VADER lexicon"] == 1
    assert by_name["the majority class"].scores["brier"].value == pytest.approx(0.24, abs=0.002)
    model = make_model("gpt2")
    log_probs = encode(model, tweets.text).log_probs(
        model, [word_token(model, word) for word in (" good", " bad")]
    )
    rule = (log_probs[:, 0] > log_probs[:, 1]) == (tweets.label == 1)
    assert accuracy["the raw rule"] == pytest.approx(rule.mean())


def test_the_gain_is_the_difference_of_the_accuracies(judged):
    for control in judged.report.controls:
        expected = judged.report.accuracy - control.scores["accuracy"].value
        assert control.gain.value == pytest.approx(expected)
        assert control.gain.low <= control.gain.value <= control.gain.high


def test_a_random_model_is_said_not_to_beat_the_words(judged):
    assert "does not beat" in judged.report.verdict
    assert "bag of words" in judged.report.verdict
    assert judged.from_json(judged.to_json()) == judged


def test_the_twin_is_left_out_without_one_and_the_rest_stays(tweets, judged):
    model = make_model("gpt2")
    probe = train_probe(model, tweets)
    without = with_controls(probe, model, tweets)
    names = [control.name for control in without.report.controls]
    assert names == [name for name in NAMES if name != "the untrained twin"]
    assert without.report.controls[0] == judged.report.controls[0]
    assert probe.report.controls == ()


def test_shuffled_labels_are_dealt_to_whole_groups():
    groups = np.repeat(np.arange(50), 2)
    labels = np.repeat(np.arange(50) % 2, 2)
    dealt = deal_labels(labels, groups, 0)
    assert (dealt[::2] == dealt[1::2]).all()
    assert dealt.sum() == labels.sum()
    assert (dealt == labels).mean() == pytest.approx(0.5, abs=0.2)
    np.testing.assert_array_equal(dealt, deal_labels(labels, groups, 0))
    assert (dealt != deal_labels(labels, groups, 1)).any()


def test_words_seen_in_training_alone_are_what_a_bag_knows(tweets):
    labels = tweets["label"].to_numpy()
    splits = split(labels, groups_of(tweets), 5, 0)
    assert ((controls.bag_of_words(tweets, labels, splits) > 0) == labels).all()
    unknown = tweets.assign(text=[f"word{n}" for n in range(40)])
    assert len(set(controls.bag_of_words(unknown, labels, splits).round(9))) <= 5  # a prior a fold


@pytest.mark.parametrize("features", ["hidden", "hidden:1", "verbalizers", "probabilities"])
def test_every_kind_of_probe_can_be_held_against_controls(tweets, features):
    model = make_model("gpt2")
    words = ([" good", " happy"], [" bad", " sad"]) if features == "verbalizers" else None
    probe = train_probe(model, tweets, features=features, words=words)
    report = with_controls(probe, model, tweets, twin=make_twin()).report
    assert len(report.controls) == 6
    shuffled = report.controls[2].scores["accuracy"]
    assert shuffled.low < 0.65


def test_what_does_not_belong_together_is_refused(tweets):
    model = make_model("gpt2")
    probe = train_probe(model, tweets)
    with pytest.raises(ValueError, match="was trained on 'tiny-gpt2', not on 'tiny-llama'"):
        with_controls(probe, make_model("llama"), tweets)
    with pytest.raises(ValueError, match="not the texts"):
        with_controls(probe, model, tweets[::-1])
    with pytest.raises(ValueError, match="not an untrained twin"):
        with_controls(probe, model, tweets, twin=model)


class Enough(Exception):
    pass


def test_controls_can_be_stopped(tweets):
    model = make_model("gpt2")

    def stop(done: int, total: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        with_controls(train_probe(model, tweets), model, tweets, progress=stop)


@pytest.mark.embedded
def test_controls_of_the_embedded_model_on_tweets(
    embedded_home, embedded_model, few_tweets, monkeypatch
):
    monkeypatch.setenv("SENTITRACE_HOME", str(embedded_home))
    probe = train_probe(embedded_model, few_tweets, features="hidden:18", by_layer=False)
    twin = load_model(embedded_model.name, untrained=True)
    report = with_controls(probe, embedded_model, few_tweets, twin=twin).report
    gain = {control.name: control.gain for control in report.controls}
    for name in set(NAMES) - {"the VADER lexicon"}:
        assert gain[name].low > 0.01, name
    # The lexicon is by the people who had these tweets rated.
    assert gain["the VADER lexicon"].high < 0
    assert report.verdict.startswith("This proxy does not beat the VADER lexicon")
