"""The probe: its features, its fit, and its way to a file and back."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import VARIANTS, make_model
from tiny_probes import make_probe

from core import probes
from core.probes import Probe, next_token_log_probs, train_probe, tweet_embedding_std
from core.prompts import build_prompt

TEXTS = ["good day", "terrible service, bad bad", "I love waiting", "great!", "@name awful #tag"]


@pytest.fixture(scope="module")
def tweets() -> pd.DataFrame:
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS]
    return pd.DataFrame({"text": texts, "label": [1, 0, 1, 1, 0] * 8})


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probs_equal_one_plain_forward_pass_per_prompt(variant, monkeypatch):
    monkeypatch.setattr(probes, "TOKENS_PER_BATCH", 40)  # several batches
    model = make_model(variant)
    prompts = [build_prompt(model, text) for text in TEXTS * 2]
    found = next_token_log_probs(model, prompts, [17, 290])
    for prompt, row in zip(prompts, found, strict=True):
        logits = model.network(torch.tensor([prompt.ids])).logits[0, -1]
        np.testing.assert_allclose(row, logits.log_softmax(-1)[[17, 290]], rtol=1e-4)


def test_the_embedding_deviation_is_that_of_all_tweet_tokens_together():
    model = make_model("gpt2")
    prompts = [build_prompt(model, text) for text in TEXTS]
    embedded = [model.embed(prompt.ids)[list(prompt.tweet_span)] for prompt in prompts]
    expected = torch.cat(embedded).double().std(correction=0)
    assert tweet_embedding_std(model, prompts) == pytest.approx(float(expected))


@pytest.mark.parametrize("features", ["logit_pair", "probabilities"])
def test_a_trained_probe_gives_the_log_odds_of_scikit_learn(tweets, features):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_model("llama")
    probe = train_probe(model, tweets, features=features)
    prompts = [build_prompt(model, text) for text in tweets.text]
    log_probs = next_token_log_probs(
        model,
        prompts,
        [model.tokenizer(" good").input_ids[0], model.tokenizer(" bad").input_ids[0]],
    )
    values = np.exp(log_probs) if features == "probabilities" else log_probs
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fitted.fit(values, tweets.label)
    np.testing.assert_allclose(
        probe.log_odds(log_probs), fitted.decision_function(values), rtol=1e-6
    )
    assert probe.report.n == len(tweets)
    assert probe.report.majority == pytest.approx(0.6)
    assert probe.report.accuracy_low < probe.report.accuracy < probe.report.accuracy_high


def test_progress_counts_every_tweet(tweets):
    seen: list[tuple[int, int]] = []
    train_probe(make_model("gpt2"), tweets, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(tweets), len(tweets))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_probe_is_trained_once_and_then_kept(tweets, tmp_path, monkeypatch):
    monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path))
    model = make_model("gpt2")
    first = probes.probe_for(model, tweets, dataset="made by hand")
    calls = model.block_calls
    assert probes.probe_for(model, tweets, dataset="made by hand") == first
    assert model.block_calls == calls
    other = probes.probe_for(model, tweets, features="probabilities")
    assert {probe.features for probe in probes.kept_probes(model.identity)} == {
        "logit_pair",
        "probabilities",
    }
    assert other != first
    assert probes.kept_probes("another model") == []
    (probes.kept_folder() / "broken.json").write_text("{")
    assert len(probes.kept_probes(model.identity)) == 2


def test_a_probe_returns_from_its_file_unchanged(tmp_path):
    probe = make_probe(make_model("gpt2"))
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
    [([2] * 40, "2"), ([1] * 40, "0 negative"), ([0] * 3 + [1] * 37, "3 negative")],
)
def test_labels_that_cannot_be_learned_from_are_refused(tweets, labels, words):
    with pytest.raises(ValueError, match=words):
        train_probe(make_model("gpt2"), tweets.assign(label=labels))


def test_unknown_features_are_refused(tweets):
    with pytest.raises(ValueError, match="attention"):
        train_probe(make_model("gpt2"), tweets, features="attention")
