"""Agreement with exact effects, and CPR and CMD, by hand and by definition."""

import numpy as np
import pytest

from circuits_jax.circuits.circuit import Scores
from circuits_jax.evaluation.agreement import against_exact, heads_that_matter
from circuits_jax.evaluation.cpr_cmd import SIZES, area_masks, cmd, cpr

EFFECTS = np.array([[1.0, -0.5], [0.01, 0.0]])


def scores(values, **details):
    values = np.array(values, np.float32)
    return Scores(values, np.zeros((values.size, values.size), np.float32), details)


def test_heads_that_matter_are_above_two_percent_of_the_gap_either_way():
    assert heads_that_matter(EFFECTS, 2.0).tolist() == [[True, True], [False, False]]
    assert heads_that_matter(EFFECTS, -0.4).tolist() == [[True, True], [True, False]]
    assert heads_that_matter(EFFECTS, 30.0).tolist() == [[True, False], [False, False]]


def test_the_exact_effects_agree_with_themselves():
    found = against_exact(scores(np.abs(EFFECTS), effects=EFFECTS), EFFECTS, 2.0)
    assert found.roc_auc == found.average_precision == 1
    assert found.pearson == pytest.approx(1)
    assert found.spearman == pytest.approx(1)


def test_signed_effects_are_compared_with_signed_ones():
    flipped = against_exact(scores(np.abs(EFFECTS), effects=-EFFECTS), EFFECTS, 2.0)
    assert flipped.pearson == pytest.approx(-1)
    assert flipped.roc_auc == 1  # a head that works against the task is of the circuit too


def test_without_a_sign_sizes_are_compared():
    values = [[4.0, 3.0], [1.0, 2.0]]
    found = against_exact(scores(values), EFFECTS, 2.0)
    sizes = np.abs(EFFECTS).ravel()
    assert found.pearson == pytest.approx(np.corrcoef(np.ravel(values), sizes)[0, 1])
    assert found.spearman == pytest.approx(0.8)  # ranks 4 3 1 2 against 4 3 2 1


def test_what_is_not_defined_is_not_a_number():
    same = against_exact(scores(np.ones((2, 2))), EFFECTS, 2.0)
    assert (same.roc_auc, np.isnan(same.pearson), np.isnan(same.spearman)) == (0.5, True, True)
    all_matter = against_exact(scores(EFFECTS), EFFECTS + 1, 0.1)
    assert np.isnan(all_matter.roc_auc)
    assert np.isnan(all_matter.average_precision)


def test_area_masks_keep_signed_and_absolute_tops():
    rng = np.random.default_rng(0)
    effects = rng.standard_normal((20, 50))
    signed, absolute = area_masks(scores(np.abs(effects), effects=effects))
    counts = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert signed.sum((1, 2)).tolist() == absolute.sum((1, 2)).tolist() == counts
    assert signed[0].reshape(-1)[np.argmax(effects)]
    assert absolute[0].reshape(-1)[np.argmax(np.abs(effects))]
    assert effects[signed[8]].min() > effects[~signed[8]].max()
    assert np.abs(effects)[absolute[8]].min() > np.abs(effects)[~absolute[8]].max()
    assert (signed[:-1] <= signed[1:]).all()


def test_without_signed_effects_the_two_are_the_same():
    signed, absolute = area_masks(scores(np.arange(12.0).reshape(3, 4)))
    np.testing.assert_array_equal(signed, absolute)


def test_areas_of_perfect_and_of_empty_circuits():
    ones, zeros = np.ones(len(SIZES)), np.zeros(len(SIZES))
    assert (cpr(ones), cmd(ones)) == (pytest.approx(0.999), 0)
    assert (cpr(zeros), cmd(zeros)) == (0, pytest.approx(0.999))


def test_areas_are_trapezoids_on_the_sizes_themselves():
    """Faithfulness 0 up to 50 % and 3 with all heads: one trapezoid of width one half."""
    curve = np.array([0.0] * 9 + [3.0])
    assert cpr(curve) == pytest.approx(0.5 * 3 / 2)
    assert cmd(curve) == pytest.approx(0.499 + 0.5 * (1 + 2) / 2)
