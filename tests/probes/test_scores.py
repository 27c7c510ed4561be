"""Scores: equal to scikit-learn's, their intervals, and the tables and verdict of a report."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from tiny_probes import make_report

from core.probes.scores import (
    METRICS,
    Control,
    Report,
    Score,
    _metrics,
    mean_score,
    probability_of,
    score,
)


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    labels = (random.random(300) < 0.7).astype(np.int64)
    return labels, (random.normal(size=300) + labels).round(1)  # with ties


def test_every_metric_is_that_of_scikit_learn_under_any_weights(predictions):
    labels, log_odds = predictions
    weights = np.random.default_rng(2).integers(0, 4, (5, 300)).astype(float)
    found = _metrics(labels, log_odds, weights)
    assert set(found) == set(METRICS)
    for row, weight in enumerate(weights):
        w = {"sample_weight": weight}
        said = log_odds > 0
        expected = {
            "accuracy": metrics.accuracy_score(labels, said, **w),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, said, **w),
            "macro_f1": metrics.f1_score(labels, said, average="macro", **w),
            "roc_auc": metrics.roc_auc_score(labels, log_odds, **w),
            "brier": metrics.brier_score_loss(labels, probability_of(log_odds), **w),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value), name


def test_the_interval_of_an_accuracy_is_as_wide_as_the_binomial_one(predictions):
    from scipy.stats import binomtest

    labels, log_odds = predictions
    accuracy = score(labels, log_odds, np.arange(300))["accuracy"]
    interval = binomtest(round(300 * accuracy.value), 300).proportion_ci(0.95, method="wilson")
    assert (accuracy.low, accuracy.high) == pytest.approx((interval.low, interval.high), abs=0.012)


def test_repeated_texts_widen_the_interval(predictions):
    labels, log_odds = (np.repeat(part[:75], 4) for part in predictions)
    alone = score(labels, log_odds, np.arange(300))["accuracy"]
    together = score(labels, log_odds, np.repeat(np.arange(75), 4))["accuracy"]
    assert together.value == alone.value
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2, rel=0.15)  # a quarter of the texts, twice the width


def test_a_sure_thing_has_no_width():
    assert mean_score(np.ones(9), np.arange(9)) == Score(1, 1, 1)
    perfect = score(np.array([0, 1, 1]), np.array([-1.0, 2, 900]), np.arange(3))
    assert perfect["roc_auc"] == Score(1, 1, 1)
    assert perfect["accuracy"] == Score(1, 1, 1)


def test_tables_are_those_of_scikit_learn():
    report = make_report()
    tables = report.tables()
    assert set(tables) == {"scores", "confusion", "calibration", "roc", "mistakes"}
    assert report.n == 100
    assert report.majority == 0.6
    confusion = tables["confusion"].set_index(["label", "predicted"])["texts"]
    assert confusion.to_dict() == {(0, 0): 32, (0, 1): 8, (1, 0): 12, (1, 1): 48}
    mistakes = tables["mistakes"]
    assert len(mistakes) == 20
    assert mistakes.iloc[0].to_dict() == {"row": 99, "label": 0, "log_odds": 0.5 + 0.99}
    assert mistakes["log_odds"].abs().is_monotonic_decreasing
    roc = tables["roc"]
    area = metrics.auc(roc["false_positive_rate"], roc["true_positive_rate"])
    assert area == pytest.approx(metrics.roc_auc_score(report.labels, report.log_odds))
    calibration = tables["calibration"]
    assert calibration["texts"].sum() == 100
    assert (calibration["observed"] * calibration["texts"]).sum() == pytest.approx(60)
    assert tables["scores"].loc[0].to_dict() == {
        "metric": "accuracy",
        "value": 0.8,
        "low": 0.7,
        "high": 0.9,
    }


def with_gains(report: Report, **gains: Score) -> Report:
    return replace(
        report,
        controls=tuple(
            Control(name.replace("_", " "), "", report.scores, gain) for name, gain in gains.items()
        ),
    )


def test_the_verdict_names_what_the_proxy_does_not_beat():
    report = make_report()
    assert report.verdict is None
    good = with_gains(report, guessing=Score(0.2, 0.1, 0.3), words=Score(0.05, 0.01, 0.09))
    assert good.verdict == (
        "This proxy beats all of its controls; at the least, its accuracy is 5.0 points higher "
        "than that of words (95% interval of the difference +1.0 to +9.0)."
    )
    bad = with_gains(
        report,
        guessing=Score(0.2, 0.1, 0.3),
        words=Score(0.01, 0, 0.02),
        the_lexicon=Score(-0.1, -0.2, -0.05),
    )
    assert bad.verdict.startswith(
        "This proxy does not beat words and the lexicon: its accuracy is 10.0 points lower than "
        "that of the lexicon"
    )
    tables = bad.tables()
    assert list(tables["gains"]["control"]) == ["guessing", "words", "the lexicon"]
    assert list(tables["controls"]["control"].unique()) == [
        "probe",
        "guessing",
        "words",
        "the lexicon",
    ]
    assert isinstance(tables["controls"], pd.DataFrame)


@pytest.mark.parametrize("change", [{"rows": (1,)}, {"scores": {}}, {"labels": ()}])
def test_a_report_that_does_not_fit_together_is_refused(change):
    with pytest.raises(ValueError, match="scores|length"):
        replace(make_report(), **change)
