"""The experiment on the real model and the real tweets: is the expected picture there?"""

import numpy as np
import pytest

import core
from core.probes.library import probe_for
from core.tracing.result import TraceSettings

pytestmark = pytest.mark.embedded

TWEET = "My flight got cancelled and I love waiting here for hours, terrible service"


@pytest.fixture(scope="module")
def probe(embedded_model, tweets):
    return probe_for(embedded_model, tweets, dataset="vader-tweets")


@pytest.fixture(scope="module")
def result(embedded_model, probe):
    settings = TraceSettings(kinds=("hidden",), samples=3)
    return core.trace(embedded_model, probe, TWEET, settings)


def test_the_early_site_is_at_the_last_sentiment_bearing_word(result):
    share = result.effects["hidden"] / result.total_effect
    share[result.trivial["hidden"]] = -np.inf
    inside = share[:, list(result.corrupted_span)]
    layer, position = np.unravel_index(inside.argmax(), inside.shape)
    assert result.tokens[result.corrupted_span[position]].endswith("terrible")
    assert layer < 2 / 3 * result.layers
    assert inside[layer, position] > 0.2


def test_the_late_site_is_at_the_last_position(result):
    share = result.effects["hidden"] / result.total_effect
    late = share[2 * result.layers // 3 :]
    assert result.tokens[-1].endswith("feeling")
    mean = late.mean(axis=0)
    assert mean.argmax() == len(mean) - 1
    assert mean[-1] > 2 * mean[:-1].max()
    assert (late[1:, -1] > late[1:, :-1].max(axis=1)).all()


def test_the_prediction_turns_from_negative_towards_the_middle(result):
    assert result.clean_probability < 0.1
    assert result.corrupted_probability > result.clean_probability
    assert result.distinguishable
