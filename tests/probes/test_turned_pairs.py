"""Pairs are kept where lexicon and probe both say that the edit turned the sentiment."""

import numpy as np
import pandas as pd
import pytest
from reference import record
from tiny_models import make_model
from tiny_probes import make_probe

from core.data.pairs import load_pairs
from core.errors import UserError
from core.exporting.table_files import export_table
from core.probes.turned_pairs import make_pairs
from core.prompts.prompt import build_prompt, word_token

pytestmark = pytest.mark.usefixtures("own_home")

TEXTS = [
    ("What a great day", 1),
    ("I love this great day", 1),
    ("a terrible service", 0),
    ("My flight was awful", 0),
    ("This is not good", 0),
    ("I hate waiting", 0),
    ("so happy", 1),
    ("good day for a walk", 0),  # the lexicon does not agree with the label
    ("waiting for hours", 1),  # nothing to edit
]


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


def log_odds(model, probe, text: str) -> float:
    """By a plain forward pass."""
    words = [word_token(model, word) for word in (*probe.words_positive, *probe.words_negative)]
    embeddings = model.embed(build_prompt(model, text, probe.suffix).ids)
    return float(probe.log_odds(record(model, "hidden", embeddings, words)[1].double().numpy()))


def test_what_is_kept_is_what_both_judges_say(model):
    tweets = pd.DataFrame(TEXTS, columns=["text", "label"]).assign(row=range(100, 109))
    probe = make_probe(model)
    found = make_pairs(model, probe, tweets)
    frame = found.frame
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    compound = lambda text: SentimentIntensityAnalyzer().polarity_scores(text)["compound"]  # noqa: E731
    for row in frame.itertuples():
        assert tweets.set_index("row").loc[row.row, "text"] == row.text
        sign = 1 if row.label else -1
        assert row.counterfactual_label == 1 - row.label
        assert compound(row.text) * sign > 0.05
        assert compound(row.counterfactual) * sign < -0.05
        assert log_odds(model, probe, row.text) * sign > 0
        assert log_odds(model, probe, row.counterfactual) * sign < 0
        lengths = [len(build_prompt(model, t)) for t in (row.text, row.counterfactual)]
        assert row.same_length == (lengths[0] == lengths[1])
    assert 107 not in frame["row"].tolist()
    assert 108 not in frame["row"].tolist()
    # Where the lexicon agrees, the probe alone decides.
    for text, other, label, row in (
        ("What a great day", "What a terrible day", 1, 100),
        ("a terrible service", "a great service", 0, 102),
    ):
        sign = 1 if label else -1
        odds = np.array([log_odds(model, probe, each) * sign for each in (text, other)])
        if odds[0] > 0 > odds[1]:
            kept = frame[(frame["row"] == row) & (frame["edit"] == "antonym")]
            assert kept["counterfactual"].tolist() == [other]
    counts = found.counts.set_index("edit")
    assert counts.loc["any", "kept"] == frame["row"].nunique() > 0
    assert counts.loc["any", "texts"] == 8
    assert (counts["texts"] >= counts["lexicon"]).all()
    assert (counts["lexicon"] >= counts["kept"]).all()
    assert (counts["kept"] >= counts["same_length"]).all()
    assert found.describe().startswith(f"{frame['row'].nunique()} of 9 texts have a counterfactual")


def test_the_probe_has_the_last_word(model):
    tweets = pd.DataFrame(TEXTS, columns=["text", "label"])
    from dataclasses import replace

    always = replace(make_probe(model), coefficients=(0.0, 0.0), intercept=1.0)
    with pytest.raises(UserError, match="None of 9 texts has a counterfactual that turns"):
        make_pairs(model, always, tweets)


def test_what_is_saved_is_loaded_again(model, tmp_path):
    # A spreadsheet would take a name at the beginning for a formula, so CSV has it quoted.
    texts = [*TEXTS, *((f"@name {text}", label) for text, label in TEXTS)]
    found = make_pairs(model, make_probe(model), pd.DataFrame(texts, columns=["text", "label"]))
    assert found.frame["text"].str.startswith("@").any()
    path = export_table(found.frame, tmp_path / "pairs.csv")
    columns = ["text", "label", "counterfactual", "counterfactual_label"]
    again = load_pairs(path)
    assert again[columns].values.tolist() == found.frame[columns].values.tolist()
