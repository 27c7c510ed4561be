"""The probe: what it reads, its fit and report, and its way to a file and back."""

import json
import os
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import make_model
from tiny_probes import make_probe

from core.data.datasets import fingerprint, load_dataset
from core.errors import UserError
from core.probes import training
from core.probes.encoding import encode, tweet_embedding_std
from core.probes.library import default_probes, forget, keep, kept_folder, kept_probes, probe_for
from core.probes.probe import FEATURES, Probe, word_features
from core.probes.training import (
    INNER_FOLDS,
    LAYER_PENALTY,
    Choice,
    Readings,
    choose,
    groups_of,
    predict_held_out,
    split,
    train_probe,
    with_layers,
)
from core.prompts.prompt import build_prompt, word_token

TEXTS = ["good day", "terrible service, bad bad", "I love waiting", "great!", "@name awful #tag"]

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture(scope="module")
def tweets() -> pd.DataFrame:
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS]
    return pd.DataFrame({"text": texts, "label": [1, 0, 1, 1, 0] * 8, "row": range(100, 140)})


def ids(model, *words: str) -> list[int]:
    return [word_token(model, word) for word in words]


# --- what it reads and how it is fitted ----------------------------------------------------------


@pytest.mark.parametrize("features", ["logit_pair", "probabilities"])
def test_a_trained_probe_gives_the_log_odds_of_scikit_learn(tweets, features):
    model = make_model("llama")
    probe = train_probe(model, tweets, features=features)
    log_probs = encode(model, tweets.text).log_probs(model, ids(model, " good", " bad"))
    values = np.exp(log_probs) if features == "probabilities" else log_probs
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fitted.fit(values, tweets.label)
    np.testing.assert_allclose(
        probe.log_odds(log_probs), fitted.decision_function(values), rtol=1e-6
    )
    assert (probe.reads, probe.layer, probe.words) == ("words", None, (" good", " bad"))
    with pytest.raises(UserError, match="This probe reads words .*: use `log_odds`"):
        probe.log_odds_of_states(log_probs)


def test_a_probe_of_states_gives_the_log_odds_of_scikit_learn(tweets):
    model = make_model("llama")
    probe = train_probe(model, tweets, features="hidden:2")
    states = encode(model, tweets.text).states(2)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=probe.penalty, max_iter=1000))
    fitted.fit(states.astype(float), tweets.label)
    np.testing.assert_allclose(
        probe.log_odds_of_states(states), fitted.decision_function(states), rtol=1e-5, atol=1e-5
    )
    assert (probe.reads, probe.layer, probe.features) == ("states", 2, "hidden:2")
    with pytest.raises(UserError, match="This probe reads states .*: use `log_odds_of_states`"):
        probe.log_odds(states)
    assert [point.layer for point in probe.report.layers] == [0, 1, 2, 3]


def test_the_accuracy_of_every_layer_is_the_same_whatever_the_probe_itself_reads(tweets):
    model = make_model("llama")
    states = train_probe(model, tweets, features="hidden:2").report.layers
    pair = train_probe(model, tweets).report.layers
    assert [point.layer for point in pair] == [0, 1, 2, 3]
    assert pair == states
    # Plainly: a regression on one layer's states, judged on the same folds.
    labels, groups = tweets.label.to_numpy(), groups_of(tweets)
    right = np.zeros(len(labels))
    values = encode(model, tweets.text).states(1).astype(float)
    for train, held_out in split(labels, groups, 5, 0):
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=LAYER_PENALTY, max_iter=1000))
        fitted.fit(values[train], labels[train])
        right[held_out] = fitted.predict(values[held_out]) == labels[held_out]
    assert pair[1].accuracy.value == pytest.approx(right.mean())


def test_the_accuracy_of_every_layer_can_be_asked_for_later(tweets):
    model = make_model("gpt2")
    whole = train_probe(model, tweets, seed=3)
    bare = train_probe(model, tweets, seed=3, by_layer=False)
    assert bare.report.layers == ()
    seen = []
    assert with_layers(bare, model, tweets, progress=lambda *at: seen.append(at)) == whole
    assert seen == [(layer, model.layers) for layer in range(model.layers)]
    with pytest.raises(ValueError, match="not the texts"):
        with_layers(bare, model, tweets.iloc[:-1])
    with pytest.raises(ValueError, match="was trained on"):
        with_layers(bare, make_model("llama"), tweets)


def test_one_word_a_side_makes_verbalizers_the_logit_pair(tweets):
    model = make_model("gpt2")
    pair = train_probe(model, tweets)
    lists = train_probe(model, tweets, features="verbalizers", words=([" good"], [" bad"]))
    assert lists.coefficients == pytest.approx(pair.coefficients)
    assert lists.report.log_odds == pytest.approx(pair.report.log_odds)


def test_verbalizers_sum_the_probabilities_of_each_side(tweets):
    model = make_model("gpt2")
    words = ([" good", " great", " happy"], [" bad", " sad"])
    try:
        token_ids = ids(model, *words[0], *words[1])
    except ValueError:
        words = ([" good", " happy", " good"], [" bad", " sad"])
        token_ids = ids(model, " good", " happy", " bad", " sad")
    probe = train_probe(model, tweets, features="verbalizers", words=words)
    many = len(probe.words_positive)
    log_probs = encode(model, tweets.text).log_probs(model, token_ids)
    sums = np.stack([np.exp(log_probs[:, :many]).sum(1), np.exp(log_probs[:, many:]).sum(1)], 1)
    np.testing.assert_allclose(np.exp(word_features("verbalizers", log_probs, many)), sums)
    assert probe.words == (" good", " bad")
    assert np.isfinite(probe.log_odds(log_probs)).all()


# --- cross-validation ----------------------------------------------------------------------------


def noise(layers: int, texts: int = 120) -> tuple[Readings, np.ndarray]:
    """Layers of pure noise and labels that have nothing to do with them."""
    random = np.random.default_rng(0)
    values = random.normal(size=(layers, texts, 8))
    return (
        Readings(lambda layer: values[layer], tuple(range(layers)), (0.01, 1.0)),
        random.integers(0, 2, texts),
    )


def test_choosing_among_many_layers_of_noise_finds_nothing():
    readings, labels = noise(40)
    readings = replace(readings, penalties=(0.01,))
    groups = np.arange(len(labels))
    splits = split(labels, groups, 5, 0)
    odds = predict_held_out(readings, labels, groups, splits, 0)
    assert np.mean((odds > 0) == labels) == pytest.approx(0.5, abs=0.12)
    # ... where the best of the layers by its own folds looks like a finding.
    flattered = max(
        np.mean(
            (predict_held_out(replace(readings, layers=(layer,)), labels, groups, splits, 0) > 0)
            == labels
        )
        for layer in readings.layers
    )
    assert flattered > 0.6


def test_the_layer_that_knows_the_label_is_chosen():
    readings, labels = noise(6)
    groups = np.arange(len(labels))

    def values(layer: int) -> np.ndarray:
        found = readings.values(layer).copy()
        if layer == 4:
            found[:, 0] += 3 * labels
        return found

    informed = Readings(values, readings.layers, (0.001, 1.0))
    assert choose(informed, labels, groups, 0) == Choice(4, 1.0)
    odds = predict_held_out(informed, labels, groups, split(labels, groups, 5, 0), 0)
    assert np.mean((odds > 0) == labels) > 0.85


def test_held_out_predictions_never_see_their_own_fold():
    readings, labels = noise(3)
    groups = np.arange(len(labels))
    splits = split(labels, groups, 4, 0)
    odds = predict_held_out(readings, labels, groups, splits, 0)
    train, held_out = splits[0]
    turned = labels.copy()
    turned[held_out] = 1 - turned[held_out]
    again = predict_held_out(readings, turned, groups, splits, 0)
    np.testing.assert_array_equal(again[held_out], odds[held_out])
    assert (again[train] != odds[train]).any()


def test_texts_that_say_the_same_never_straddle_folds():
    texts = [f"text {n}" for n in range(30)] + [f"TEXT  {n}" for n in range(30)]
    frame = pd.DataFrame({"text": texts, "label": [n % 2 for n in range(30)] * 2})
    groups = groups_of(frame)
    assert (groups[:30] == groups[30:]).all()
    for folds in (3, INNER_FOLDS, 5):
        for train, held_out in split(frame.label.to_numpy(), groups, folds, 0):
            assert not set(groups[train]) & set(groups[held_out])
    named = groups_of(frame.assign(group=[f"g{n // 4}" for n in range(60)]))
    assert (
        named.tolist()
        == np.unique([f"g{n // 4}" for n in range(60)], return_inverse=True)[1].tolist()
    )


def test_folds_that_would_learn_from_one_label_are_refused():
    labels = np.array([0] * 10 + [1] * 10)
    groups = np.array([*range(10), *([10] * 10)])  # all positive texts say the same
    with pytest.raises(ValueError, match="both labels"):
        split(labels, groups, 5, 0)


# --- the report ----------------------------------------------------------------------------------


def test_the_report_is_of_held_out_predictions(tweets):
    report = train_probe(make_model("llama"), tweets, features="hidden").report
    assert (report.n, report.folds) == (40, 5)
    assert report.majority == pytest.approx(0.6)
    assert report.rows == tuple(range(100, 140))
    assert report.labels == tuple(tweets.label)
    right = (np.array(report.log_odds) > 0) == tweets.label
    assert report.accuracy == pytest.approx(right.mean())
    assert report.accuracy_low <= report.accuracy <= report.accuracy_high
    texts = [point.texts for point in report.learning]
    assert texts == sorted(texts)
    assert texts[-1] == 32
    assert set(report.tables()) >= {
        *("scores", "confusion", "calibration", "roc", "learning", "layers"),
    }


def test_another_seed_makes_other_folds(tweets):
    model = make_model("gpt2")
    first, same, other = (train_probe(model, tweets, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first.coefficients == other.coefficients
    assert first.report.log_odds != other.report.log_odds


def test_progress_counts_every_tweet(tweets):
    seen: list[tuple[int, int]] = []
    train_probe(make_model("gpt2"), tweets, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(tweets), len(tweets))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_probe_is_trained_once_and_then_kept(tweets):
    model = make_model("gpt2")
    first = probe_for(model, tweets, dataset="made by hand")
    calls = model.block_calls
    assert probe_for(model, tweets, dataset="made by hand") == first
    assert model.block_calls == calls
    other = probe_for(model, tweets, features="probabilities")
    assert {probe.features for probe in kept_probes(model.identity)} == {
        "logit_pair",
        "probabilities",
    }
    assert other != first
    assert kept_probes("another model") == []
    (kept_folder() / "broken.json").write_text("{")
    assert len(kept_probes(model.identity)) == 2
    forget(other)
    assert kept_probes(model.identity) == [first]


@pytest.mark.parametrize("features", [*FEATURES, "hidden:1"])
def test_a_trained_probe_returns_from_json_unchanged(tweets, features, monkeypatch):
    words = ([" good", " happy"], [" bad", " sad"]) if features == "verbalizers" else None
    probe = train_probe(make_model("gpt2"), tweets, features=features, words=words, name="mine")
    assert Probe.from_json(probe.to_json()) == probe
    assert probe.title == "mine"
    assert replace(probe, name="", dataset="tweets").title.startswith(features)


def test_a_probe_returns_from_its_file_unchanged(tmp_path):
    probe = make_probe(make_model("gpt2"))
    (tmp_path / "at").mkdir()
    tmp_path = tmp_path / "at"
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json") == probe
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, "format"),
        ({"features": "magic"}, "features"),
        ({"words_positive": []}, "words"),
        ({"words_positive": [" good", " great"]}, "words"),
        ({"layer": 2}, "layer"),
        ({"features": "hidden"}, "layer"),
        ({"features": "hidden:3", "layer": 2}, "layer"),
        ({"features": "hidden", "layer": -1}, "layer"),
        ({"scale": [1.0, 2.0, 3.0]}, "scale"),
        ({"scale": [1.0, 0.0]}, "scale"),
        ({"coefficients": [1.0, "2"]}, "coefficients"),
        ({"coefficients": [1.0, None]}, "coefficients"),
        ({"mean": [1.0]}, "mean"),
        ({"intercept": [0.0]}, "intercept"),
        ({"report": {}}, "report"),
        ({"penalty": 0.0}, "penalty"),
        ({"name": None}, "name"),
        ({"scale": [1.0]}, "scale"),
        ({"mean": [], "scale": [], "coefficients": []}, "mean"),
        ({"report": None}, "report"),
        ({"seed": 1.5}, "seed"),
        ({"versions": {"torch": 2}}, "versions"),
        ({"embedding_std": -1.0}, "embedding_std"),
        ({"suffix": 3}, "suffix"),
    ],
)
def test_a_file_with_a_wrong_field_is_refused_by_name(tmp_path, change, words):
    path = tmp_path / "probe.json"
    make_probe(make_model("gpt2")).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words) as refused:
        Probe.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', "\x80", "NaN"])
def test_a_file_that_is_no_probe_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "probe.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"probe\.json") as refused:
        Probe.load(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        Probe.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([2] * 40, "2"),
        ([1] * 40, "0 different negative"),
        ([0] * 3 + [1] * 37, "3 different negative"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(tweets, labels, words):
    with pytest.raises(ValueError, match=words):
        train_probe(make_model("gpt2"), tweets.assign(label=labels))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": "attention"}, "attention"),
        ({"features": "hidden:"}, "name no layer"),
        ({"features": "hidden:two"}, "name no layer"),
        ({"features": "hidden:-1"}, "name no layer"),
        ({"features": "hidden:4"}, "layers 0 to 3"),
        ({"features": "logit_pair:1"}, "not known"),
        ({"words": ([" good", " happy"], " bad")}, "verbalizers"),
        ({"words": ([], " bad")}, "at least one of each"),
        ({"words": (" good", " good")}, "both sentiments"),
        ({"words": (" unbelievable", " bad")}, "unbelievable"),
        ({"folds": 1}, "2 folds"),
        ({"folds": 30}, "too few for 30 folds"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_encoding(tweets, options, words):
    model = make_model("gpt2")
    with pytest.raises(ValueError, match=words) as refused:
        train_probe(model, tweets, **options)
    assert "\n" not in str(refused.value)


# --- the real model and tweets -------------------------------------------------------------------


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("features", "least"),
    [("logit_pair", 0.83), ("probabilities", 0.81), ("verbalizers", 0.83), ("hidden", 0.86)],
)
def test_the_embedded_model_knows_the_sentiment_of_tweets(
    embedded_home, embedded_model, few_tweets, features, least, monkeypatch
):
    """SENTITRACE_EXACT=1 trains on all tweets, and finds the default probes again."""
    exact = os.environ.get("SENTITRACE_EXACT") == "1"
    monkeypatch.setenv("SENTITRACE_HOME", str(embedded_home))  # encoded once for all tests
    texts = load_dataset("vader-tweets") if exact else few_tweets
    trained = train_probe(
        embedded_model,
        texts,
        features=features,
        dataset="vader-tweets",
        by_layer=features == "hidden",
    )
    report = trained.report
    assert report.accuracy >= least
    assert report.n == len(texts)
    assert report.majority == pytest.approx(0.69, abs=0.01)
    if features == "hidden":
        accuracies = [point.accuracy.value for point in report.layers]
        assert accuracies[0] < 0.8  # the middle layers know what the first does not
        assert max(accuracies[10:25]) > max(accuracies[:3]) + 0.1
    for default in default_probes():
        if exact and default.features == features:
            assert_same(trained, default)


@pytest.mark.embedded
def test_the_default_probes_are_of_this_model_and_these_tweets(
    embedded_home, embedded_model, few_tweets, monkeypatch
):
    """Held against every 8th tweet, as this code reads it in this model."""
    monkeypatch.setenv("SENTITRACE_HOME", str(embedded_home))
    tweets = load_dataset("vader-tweets")
    encoding = encode(embedded_model, few_tweets["text"])
    prompts = [build_prompt(embedded_model, text) for text in tweets["text"]]
    noise = tweet_embedding_std(embedded_model, prompts)
    assert {probe.features for probe in default_probes()} == {"logit_pair", "hidden"}
    for probe in default_probes():
        assert probe.model_identity == embedded_model.identity
        assert probe.dataset_hash == fingerprint(tweets)
        assert probe.report.rows == tuple(tweets["row"])
        assert probe.report.labels == tuple(tweets["label"])
        assert probe.embedding_std == pytest.approx(noise, rel=1e-4)
        assert probe.report.controls
        assert len(probe.report.layers) == embedded_model.layers
        if probe.reads == "words":
            read = encoding.log_probs(embedded_model, ids(embedded_model, *probe.words))
            said = probe.log_odds(read)
        else:
            read = encoding.states(probe.layer)
            said = probe.log_odds_of_states(read)
        # Fitted on all tweets; the report has those that a fit on four fifths of them foretold.
        held_out = np.array(probe.report.log_odds)[:: len(tweets) // len(few_tweets)]
        assert np.corrcoef(said, held_out)[0, 1] > (0.999 if probe.reads == "words" else 0.95)
        away = (read.mean(axis=0) - probe.mean) / np.array(probe.scale)
        assert np.abs(away).max() < 5 / np.sqrt(len(few_tweets))
        np.testing.assert_allclose(read.std(axis=0), probe.scale, rtol=0.4)


def assert_same(trained: Probe, default: Probe) -> None:
    """Equal but for the order of sums on another machine, and for what only the default has."""
    bare = {"report", "versions", "mean", "scale", "coefficients", "intercept", "embedding_std"}
    for field in fields(trained):
        if field.name not in bare:
            assert getattr(trained, field.name) == getattr(default, field.name), field.name
    for name in ("mean", "scale", "coefficients", "intercept", "embedding_std"):
        np.testing.assert_allclose(
            getattr(trained, name), getattr(default, name), rtol=1e-3, atol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(trained.report.log_odds, default.report.log_odds, atol=1e-2)
    assert trained.report.labels == default.report.labels
    assert trained.report.accuracy == pytest.approx(default.report.accuracy, abs=1e-3)
    assert default.report.controls
    assert len(default.report.layers) == 30


@pytest.mark.embedded
@pytest.mark.parametrize("features", ["logit_pair", "hidden"])
def test_the_embedded_models_default_probes_need_no_training(
    embedded_home, embedded_model, features, monkeypatch, tmp_path
):
    monkeypatch.setenv("SENTITRACE_HOME", str(embedded_home))
    texts = load_dataset("vader-tweets")
    monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path))  # where nothing is kept
    monkeypatch.setattr(training, "encode", None)  # training would fail
    probe = probe_for(embedded_model, texts, features=features, dataset="vader-tweets")
    assert probe in default_probes()
    assert probe in kept_probes(embedded_model.identity)
    # A person's own name for it takes its place, and goes again.
    keep(replace(probe, name="mine"))
    assert [one.name for one in kept_probes(embedded_model.identity)].count("mine") == 1
    assert len(kept_probes(embedded_model.identity)) == len(default_probes())
    forget(probe)
    assert probe in kept_probes(embedded_model.identity)
