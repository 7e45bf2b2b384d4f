"""Statistics against closed forms, scipy's own routes and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from foveation_jax.claims import statistics
from foveation_jax.probes import evaluate

UNIT = st.floats(0, 1, width=32)
RUNS = hnp.arrays(np.float64, st.integers(2, 9), elements=UNIT)
X = np.array([0.0, 0.1, 0.4, 1.0])


def test_deviation_is_unbiased_and_unknown_for_one_run():
    values = np.array([[1.0, 2.0], [3.0, 6.0]])
    np.testing.assert_allclose(statistics.deviation(values), [np.sqrt(2), np.sqrt(8)])
    assert np.isnan(statistics.deviation(values[:1])).all()


@given(hnp.arrays(np.float64, (3, 4), elements=UNIT), st.permutations(range(4)))
@settings(max_examples=30, deadline=None)
def test_area_is_linear_within_the_curve_and_blind_to_the_order_of_levels(accuracy, order):
    order = np.array(order)
    area = statistics.area_under(X, accuracy)
    np.testing.assert_allclose(
        statistics.area_under(X[order], accuracy[:, order]), area, atol=1e-12
    )
    np.testing.assert_allclose(statistics.area_under(X, 2 * accuracy + 1), 2 * area + 1, atol=1e-12)
    assert (area >= accuracy.min(1) - 1e-12).all()
    assert (area <= accuracy.max(1) + 1e-12).all()


def test_area_of_a_line_is_its_middle_and_of_one_level_its_value():
    np.testing.assert_allclose(statistics.area_under(X, np.array([1 - X])), 0.5)
    np.testing.assert_array_equal(
        statistics.area_under(X[:1], np.array([[0.3], [0.4]])), [0.3, 0.4]
    )


def test_every_step_of_the_ladder_of_sigmas_counts_the_same():
    levels = np.array([np.inf, 3, 1.5, 0.4])
    np.testing.assert_array_equal(
        statistics.positions("frequency/high_pass_grey", levels), [0, 1, 2, 7]
    )
    np.testing.assert_array_equal(statistics.positions("occlusion/scotoma", X), X)


@pytest.mark.parametrize("every", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["frequency/high_pass_grey", "frequency/low_pass_colour"])
def test_a_straight_line_has_its_area_whichever_levels_are_shown(name, every):
    levels = evaluate.PROBES[name].axis(None)
    shown = evaluate.thin(len(levels), every)
    accuracy = np.linspace(1, 0, len(levels))[None, shown]
    area = statistics.area_under(statistics.positions(name, levels[shown]), accuracy)
    np.testing.assert_allclose(area, 0.5)


@given(st.floats(0.02, 0.98), st.floats(-0.2, 0.2), st.permutations(range(4)))
@settings(max_examples=50, deadline=None)
def test_lines_cross_where_they_meet(where, shift, order):
    order = np.array(order)
    x = X[order]
    centre, periphery = x - where + shift, np.full_like(x, shift)
    found = statistics.crossover(x, centre[None], periphery[None])
    np.testing.assert_allclose(found, [where], atol=1e-9)


def test_curves_that_never_cross_have_no_crossover():
    low, high = np.zeros((1, 4)), np.ones((1, 4))
    rising = np.array([X - 0.25])
    both = statistics.crossover(
        X, np.concatenate([low, high, rising]), np.concatenate([high, low, low])
    )
    assert np.isnan(both[:2]).all()
    np.testing.assert_allclose(both[2], 0.25)


@given(RUNS)
@settings(max_examples=30, deadline=None)
def test_interval_is_that_of_scipys_t_test(values):
    low, high = statistics.mean_interval(values)
    if np.ptp(values) <= 1e-9:
        assert np.isnan([low, high]).all()
        return
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=1e-9, atol=1e-12)


def test_nothing_is_known_of_one_run_or_of_equal_differences():
    for differences in (np.array([0.2]), np.full(5, 0.2), np.array([])):
        found = statistics.paired(differences)
        numbers = [*found.interval, found.p, found.wilcoxon_p, found.cohens_d, *found.bootstrap]
        assert np.isnan(numbers).all()
        assert found.n == len(differences)


def test_paired_numbers():
    differences = np.array([0.01, 0.04, 0.02, 0.03, 0.05, 0.03, 0.06])
    found = statistics.paired(differences)
    assert found.effect == pytest.approx(differences.mean())
    assert found.cohens_d == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert found.hedges_g == pytest.approx(found.cohens_d * (1 - 3 / 23))
    assert found.p == pytest.approx(stats.ttest_rel(differences, np.zeros(7)).pvalue)
    assert found.wilcoxon_p == pytest.approx(2 / 2**7)
    assert found.interval[0] < found.bootstrap[0] < found.effect < found.bootstrap[1]
    few = statistics.paired(differences[:5])
    assert np.isnan([few.wilcoxon_p, *few.bootstrap]).all()


@given(RUNS, st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None)
def test_equivalence_is_the_narrower_interval_within_the_margin(values, margin):
    differences = values - values.mean() + 0.02
    if np.ptp(differences) < 1e-3:
        return
    low, high = statistics.mean_interval(differences, 0.9)
    p = statistics.paired(differences, 0.9, margin).p
    if abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (-margin < low and high < margin)


def test_holm_against_a_worked_example():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(statistics.holm(p), [0.03, np.nan, 0.06, 0.06, 0.02])


@given(hnp.arrays(np.float64, st.integers(1, 8), elements=UNIT))
@settings(max_examples=50, deadline=None)
def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(p):
    corrected = statistics.holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(p * len(p), 1) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


def test_bootstrap_of_the_crossover_holds_the_crossover_and_wants_enough_runs():
    rng = np.random.default_rng(0)
    centre = X + rng.normal(0, 0.02, (8, 1))
    periphery = 0.6 - 0 * centre
    low, high = statistics.crossover_interval(X, centre, periphery)
    assert low < 0.6 < high
    assert high - low < 0.1
    assert np.isnan(statistics.crossover_interval(X, centre[:5], periphery[:5])).all()
    assert np.isnan(statistics.crossover_interval(X, centre + 1, periphery)).all()


def test_interval_over_classes_knows_that_classes_differ():
    classes = np.linspace(-0.3, 0.4, 12)
    differences = classes + np.zeros((4, 1))
    low, high = statistics.class_interval(differences)
    error = classes.std() / np.sqrt(12)
    np.testing.assert_allclose(
        [low, high], classes.mean() + 1.96 * error * np.array([-1, 1]), atol=0.02
    )
    assert np.isnan(statistics.class_interval(differences[:, :5])).all()
