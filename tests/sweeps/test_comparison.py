"""Traces side by side: rows that all models share, relative depth, differences and intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from byte_model import byte_model
from scipy.stats import ttest_ind
from tiny_models import make_model, make_tokenizer
from tiny_probes import make_probe

from core.sweeps.comparison import align, cells, difference, same_shape, sites, summary
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace

TWEETS = [
    "terrible service \U0001f621\U0001f621, bad day",
    "caf\u00e9 \U0001f468\u200d\U0001f469\u200d\U0001f467 so good!!",
    "\u2764\ufe0f great day @name \U0001f1e9\U0001f1ea",
    "bad\U0001f62d.\U0001f62dgood",
]
SETTINGS = TraceSettings(samples=3)


@pytest.fixture(scope="module")
def gpt2():
    return make_model("gpt2", layers=3)


@pytest.fixture(scope="module")
def small():
    return byte_model()


def traced(model, text, **changes):
    return trace(model, make_probe(model), text, replace(SETTINGS, **changes))


@pytest.mark.parametrize("text", TWEETS)
def test_rows_are_the_same_characters_for_every_tokenizer(gpt2, small, text):
    results = [traced(model, text) for model in (gpt2, small)]
    aligned = align(results)
    assert not aligned.by_token
    whole = results[0].prompt.text
    reached = 0
    for unit in aligned.units:
        assert whole[reached : unit.start].strip() == ""  # nothing but white space between rows
        assert unit.text == whole[unit.start : unit.end]
        reached = unit.end
        for result, positions in zip(results, unit.positions, strict=True):
            tokens = [result.prompt.tokens[position] for position in positions]
            assert tokens
            # A row's tokens cover its characters, and reach into no other row.
            assert min(token.start for token in tokens) <= unit.start
            assert max(token.end for token in tokens) >= unit.end
            for token in tokens:
                assert whole[token.start : unit.start].strip() == ""
                assert whole[unit.end : token.end].strip() == ""
    assert whole[reached:].strip() == ""
    for number, result in enumerate(results):
        held = [position for unit in aligned.units for position in unit.positions[number]]
        assert held == sorted(set(held))
        assert len(held) == len(result.prompt)


def test_an_emoji_is_one_row_however_it_is_cut(gpt2, small):
    text = "bad \U0001f468\u200d\U0001f469\u200d\U0001f467 day"
    aligned = align([traced(model, text) for model in (gpt2, small)])
    texts = [unit.text for unit in aligned.units]
    assert texts == [
        *("bad", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "day", "I", "am", "feeling"),
    ]
    family = aligned.units[1]
    assert len(family.positions[1]) == 19  # a space and 18 bytes


def test_words_that_share_a_token_in_one_model_are_one_row(small):
    """A token that reaches across two words binds them, in the other model too."""
    binding = byte_model(words=(" good", " bad", "d!"))
    text = "so odd! day"
    results = [traced(small, text), traced(binding, text)]
    assert {"odd", "!"} <= {word.text for word in results[0].prompt.words}
    aligned = align(results)
    assert [unit.text for unit in aligned.units] == ["so", "odd!", "day", "I", "am", "feeling"]
    assert [len(positions) for positions in aligned.units[1].positions] == [5, 4]


def test_the_same_tokens_stay_tokens(gpt2):
    other = make_model("gpt2", layers=3, seed=1)
    results = [traced(model, TWEETS[0]) for model in (gpt2, other)]
    aligned = align(results)
    assert aligned.by_token
    assert [unit.text for unit in aligned.units] == list(results[0].tokens)


def test_other_texts_are_refused(gpt2):
    with pytest.raises(ValueError, match="Only traces of one text can stand side by side"):
        align([traced(gpt2, "good day"), traced(gpt2, "bad day")])
    with pytest.raises(ValueError, match="no trace to compare"):
        align([])


def test_cells_are_those_of_the_last_token_at_relative_depth(gpt2, small):
    results = [traced(model, TWEETS[0]) for model in (gpt2, small)]
    frame = cells(results, ["a", "b"], share=False)
    aligned = align(results)
    for number, (name, result) in enumerate(zip("ab", results, strict=True)):
        own = frame[(frame["trace"] == name) & (frame["kind"] == "mlp")]
        effects = own.pivot(index="layer", columns="position", values="effect").to_numpy()
        last = [unit.positions[number][-1] for unit in aligned.units]
        np.testing.assert_allclose(effects, result.effects["mlp"][:, last])
        assert own["depth"].min() == 0
        assert own["upto"].max() == 1
        assert own["upto"].sub(own["depth"]).to_numpy() == pytest.approx(1 / result.layers)
        starred = set(own.loc[own["corrupted"], "token"])
        assert "feeling" not in starred
        assert "terrible" in starred


def test_shares_are_percent_of_the_own_total_effect(gpt2):
    result = traced(gpt2, TWEETS[0])
    frame = cells([result], ["a"], share=True)
    hidden = frame[frame["kind"] == "hidden"]
    effects = hidden.pivot(index="layer", columns="position", values="effect").to_numpy()
    np.testing.assert_allclose(effects, 100 * result.effects["hidden"] / result.total_effect)
    assert effects[-1, -1] == pytest.approx(100)


def test_a_difference_has_welchs_interval(gpt2):
    other = make_model("gpt2", layers=3, seed=1)
    first, second = (traced(model, TWEETS[0], samples=n) for model, n in ((gpt2, 4), (other, 6)))
    frame = difference(first, second, share=False)
    cell = frame[(frame.kind == "attn") & (frame.layer == 1) & (frame.position == 2)].iloc[0]
    test = ttest_ind(
        first.sample_effects["attn"][:, 1, 2], second.sample_effects["attn"][:, 1, 2],
        equal_var=False,
    )  # fmt: skip
    low, high = test.confidence_interval()
    assert (cell["lower"], cell["upper"]) == pytest.approx((low, high))
    assert cell["effect"] == pytest.approx(
        first.effects["attn"][1, 2] - second.effects["attn"][1, 2]
    )


def test_a_trace_less_itself_is_nothing(gpt2):
    result = traced(gpt2, TWEETS[0])
    frame = difference(result, result)
    assert frame["effect"].abs().max() == 0
    assert frame.loc[~frame["trivial"], "faded"].all()


def test_other_shapes_cannot_be_subtracted(gpt2, small):
    deeper = make_model("gpt2", layers=4)
    first = traced(gpt2, TWEETS[0])
    for other in (traced(deeper, TWEETS[0]), traced(small, TWEETS[0])):
        assert not same_shape(first, other)
        with pytest.raises(
            ValueError, match="subtracted only where tokens and layers are the same"
        ):
            difference(first, other)
    assert not same_shape(first, first.under("log_ratio"))


def test_the_summary_says_how_good_the_probe_is_and_what_the_corruption_did(gpt2):
    result = traced(gpt2, TWEETS[0])
    row = summary([result], ["a"]).iloc[0]
    assert (row["accuracy"], row["texts"], row["layers"]) == (0.8, 100, 3)
    assert row["total_effect"] == pytest.approx(result.total_effect)
    assert row["upper"] - row["lower"] == pytest.approx(2 * result.low_reach)
    assert row["samples"] == 3


def test_sites_lie_between_the_ends_of_the_depth(gpt2):
    results = [traced(gpt2, text, samples=6) for text in TWEETS[:2]]
    frame = sites(results[:1], ["a"])
    assert list(frame.columns[:4]) == ["trace", "site", "kind", "token"]
    assert frame["depth"].between(0, 1).all()
    assert (frame["depth_from"] < frame["depth_upto"]).all()


def test_the_tokenizers_of_this_test_do_differ():
    text = TWEETS[1]
    assert make_tokenizer()(text).input_ids != byte_model().tokenizer(text).input_ids
