"""Every interval, test and correction against scipy's own, or against a known answer."""

import numpy as np
import pytest
from paths import ROOT
from scipy import stats

from core import statistics


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(0.3, 1.0, (12, 5))


def test_a_mean_has_the_t_interval_of_scipy(values):
    reach = statistics.t_quantile(11) * statistics.standard_error(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval()
    np.testing.assert_allclose(values.mean(axis=0) - reach, expected.low)
    np.testing.assert_allclose(values.mean(axis=0) + reach, expected.high)


def test_one_value_has_no_interval():
    assert np.isnan(statistics.standard_error(np.ones((1, 3)))).all()
    found = statistics.t_quantile(np.array([-1, 0, 1]))
    np.testing.assert_allclose(found, [np.nan, np.nan, stats.t.ppf(0.975, 1)])


def test_p_values_are_those_of_the_t_test_and_of_the_z_test(values):
    mean, error = values.mean(axis=0), statistics.standard_error(values)
    nowhere = np.zeros(5, bool)
    found = statistics.p_values(mean, error, 11, nowhere)
    np.testing.assert_allclose(found, stats.ttest_1samp(values, 0.0).pvalue)
    found = statistics.p_values(mean, error, None, nowhere)
    np.testing.assert_allclose(found, stats.chi2.sf((mean / error) ** 2, 1))


def test_a_mean_without_spread_is_what_it_is():
    mean, error = np.array([0.0, 1e-17, 2.0, 2.0]), np.array([0.0, 0.0, 0.0, np.nan])
    found = statistics.p_values(mean, error, 3, np.abs(mean) < 1e-9)
    np.testing.assert_array_equal(found, [1.0, 1.0, 0.0, np.nan])


def test_what_is_not_tested_does_not_count_in_the_correction():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    found = statistics.adjusted(p)
    np.testing.assert_allclose(found, [[0.03, np.nan], [0.04, 0.04]])
    known = p[~np.isnan(p)]
    np.testing.assert_allclose(found[~np.isnan(p)], stats.false_discovery_control(known))
    assert np.isnan(statistics.adjusted(np.full(3, np.nan))).all()


def test_a_test_that_stands_for_several_counts_as_so_many():
    p, weights = np.array([0.01, 0.04, 0.3, np.nan]), np.array([3, 1, 6, 5])
    found = statistics.adjusted(p, weights)
    assert found[:3] == pytest.approx([0.01 * 10 / 3, 0.04 * 10 / 4, 0.3])
    assert np.isnan(found[3])
    ones = statistics.adjusted(p, np.ones(4, dtype=int))
    np.testing.assert_array_equal(ones, statistics.adjusted(p))


def test_a_difference_of_means_is_tested_by_welch(values):
    other = np.random.default_rng(1).normal(0.0, 3.0, (7, 5))
    error, freedom = statistics.welch(
        statistics.standard_error(values), 12, statistics.standard_error(other), 7
    )
    change = values.mean(axis=0) - other.mean(axis=0)
    expected = stats.ttest_ind(values, other, equal_var=False)
    np.testing.assert_allclose(freedom, expected.df)
    found = statistics.p_values(change, error, freedom, np.zeros(5, bool))
    np.testing.assert_allclose(found, expected.pvalue)
    reach = statistics.t_quantile(freedom) * error
    np.testing.assert_allclose(change + reach, expected.confidence_interval().high)


def test_normal_errors_and_quantiles_go_together():
    reach = statistics.bonferroni_quantile(1)
    assert reach == pytest.approx(stats.norm.ppf(0.975))
    assert statistics.normal_error(1 - 2 * reach, 1 + 2 * reach) == pytest.approx(2, abs=1e-4)
    assert 2 * stats.norm.sf(statistics.bonferroni_quantile(4)) == pytest.approx(0.05 / 4)
    assert statistics.bonferroni_quantile(0) == reach


def test_wilsons_interval_is_that_of_his_paper():
    assert statistics.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = statistics.wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4)


def test_ranks_correlate_as_in_scipy(values):
    first, second = values[:, 0], values[:, 1].round()  # with ties
    assert statistics.spearman(first, second) == pytest.approx(
        stats.spearmanr(first, second).statistic
    )
    assert np.isnan(statistics.spearman(first, np.ones(12)))


def test_the_bootstrap_is_that_of_scipy(values):
    column = values[:, 0]
    lower, upper = statistics.bootstrap(lambda rows: float(column[rows].mean()), 12, draws=4000)
    expected = stats.bootstrap(
        (column,), np.mean, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    assert (lower, upper) == pytest.approx((expected.low, expected.high), abs=0.05)
    again = statistics.bootstrap(lambda rows: float(column[rows].mean()), 12, draws=4000)
    assert again == (lower, upper)


def test_a_statistic_that_most_draws_do_not_define_has_no_interval():
    assert np.isnan(statistics.bootstrap(lambda rows: 1.0, 1, draws=10)).all()

    def seldom(rows: np.ndarray) -> float:
        return 1.0 if rows[0] == 0 else float("nan")

    assert np.isnan(statistics.bootstrap(seldom, 4, draws=200)).all()
    assert statistics.bootstrap(lambda rows: float(rows[0] > 0) or np.nan, 4, draws=200) == (1, 1)


def test_draws_that_are_not_defined_are_left_out_of_the_percentiles():
    drawn = np.column_stack([np.arange(101.0), np.arange(101.0)])
    drawn[51:, 1] = np.nan
    lower, upper = statistics.percentile_interval(drawn)
    np.testing.assert_allclose(lower, [2.5, 1.25])
    np.testing.assert_allclose(upper, [97.5, 48.75])


def test_resamples_draw_whole_groups_and_are_the_same_in_blocks(monkeypatch):
    groups = np.array([0, 0, 1, 2, 2, 2])
    (weights,) = statistics.group_resamples(groups, 50)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    monkeypatch.setattr(statistics, "NUMBERS_AT_ONCE", 6 * 7)
    blocks = list(statistics.group_resamples(groups, 50))
    np.testing.assert_array_equal(np.concatenate(blocks), weights)


def test_nothing_else_calls_scipys_statistics():
    callers = [path for path in (ROOT / "core").rglob("*.py") if "scipy.stats" in path.read_text()]
    assert callers == [ROOT / "core" / "statistics.py"]
