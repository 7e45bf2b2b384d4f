"""Bootstraps: what each says is what the method says of the pairs that it drew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.circuits.circuit import NOISE, above_noise
from circuits_jax.codes import fit, sae
from circuits_jax.evaluation import stability
from circuits_jax.evaluation.captured import captured_outputs
from circuits_jax.methods.sae_codes import PUBLISHED, SaeCodes, sae_codes
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

L, H, B, N = 3, 4, 4, 12
PEAK = SaeCodes(n_codes=6, steps=20)
OPTIONS = dataclasses.replace(PEAK, position="mean")  # the same rows, captured with less ado
SHARED = dataclasses.replace(PUBLISHED, n_codes=6, steps=20)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=B)


@pytest.fixture(scope="module")
def found(model, task):
    return stability.bootstrap(model, task, jax.random.key(0), OPTIONS, n=N, n_seeds=2, size=4)


@pytest.mark.parametrize("options", [PEAK, SHARED], ids=["ours", "published"])
def test_all_pairs_once_give_the_scores_of_the_method(model, task, options):
    key = jax.random.key(3)
    captured = captured_outputs(model, task.learn, options)
    settings = sae.Settings(options.l1, options.learning_rate)
    params, _ = fit.fit(key, captured.x, options.sae_config, settings, d_model=captured.d_model)
    rows = np.stack([np.arange(B), np.arange(B)[::-1]])  # the order of pairs does not matter
    scores = stability.resampled_scores(params, captured, np.zeros(2, int), rows, options)
    wanted = sae_codes(model, task, key, options).head_scores
    np.testing.assert_allclose(scores, np.stack([wanted, wanted]), rtol=1e-4, atol=1e-5)


def test_rows_of_pairs_keep_both_prompts_of_a_pair(model, task):
    captured = captured_outputs(model, task.learn, OPTIONS)
    some = captured.of_pairs(jnp.array([3, 3, 1])).x
    np.testing.assert_array_equal(some, captured.x[:, jnp.array([3, 3, 1, B + 3, B + 3, B + 1])])


def test_scores_of_ours_are_means_over_the_pairs_that_were_drawn(found, model, task):
    """Evidence is a mean over pairs, so scores are linear in how often each was drawn."""
    fit_key, _ = jax.random.split(jax.random.key(0))
    captured = captured_outputs(model, task.learn, OPTIONS)
    settings = sae.Settings(OPTIONS.l1, OPTIONS.learning_rate)
    params, _ = fit.fit(
        fit_key, captured.x, OPTIONS.sae_config, settings, d_model=captured.d_model, n_seeds=2
    )
    single = np.arange(B)[:, None]  # resamples of one pair alone
    for seed in (0, 1):
        alone = stability.resampled_scores(
            params, captured, np.full(B, seed), np.repeat(single, B, axis=1), OPTIONS
        )
        inside = found.seed == seed
        weights = np.stack([np.bincount(rows, minlength=B) for rows in found.rows[inside]]) / B
        wanted = np.einsum("nb,blh->nlh", weights, np.asarray(alone))
        np.testing.assert_allclose(found.head_scores[inside], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_summed_up(found):
    assert found.head_scores.shape == (N, L, H)
    assert found.seed.tolist() == [0, 1] * (N // 2)
    sizes = [min(4, int(above_noise(one).sum())) for one in found.head_scores]
    assert max(sizes) == 4
    assert found.circuits.sum((1, 2)).tolist() == sizes
    np.testing.assert_allclose(found.frequency.sum(), np.mean(sizes))
    low, high = found.interval
    assert (low <= np.median(found.head_scores, 0)).all()
    assert (np.median(found.head_scores, 0) <= high).all()
    assert (high - low).max() > 0
    assert 0 < found.jaccard <= 1
    assert (found.core(1.0) <= found.core(0.8)).all()
    np.testing.assert_array_equal(found.core(1.0), found.circuits.all(0))
    np.testing.assert_array_equal(found.core(0), np.ones((L, H), bool))


def test_a_file_gives_it_back(found, tmp_path):
    stability.save(tmp_path / "stability.npz", found)
    again = stability.load(tmp_path / "stability.npz")
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_one_bootstrap_after_another_key(found, model, task):
    again = stability.bootstrap(model, task, jax.random.key(0), OPTIONS, n=N, n_seeds=2, size=4)
    np.testing.assert_array_equal(again.head_scores, found.head_scores)
    other = stability.bootstrap(model, task, jax.random.key(1), OPTIONS, n=N, n_seeds=2)
    assert not np.array_equal(other.rows, found.rows)
    says = other.head_scores > NOISE * other.head_scores.max((1, 2), keepdims=True)
    wanted = np.minimum(says.sum((1, 2)), 3)  # a quarter, but no head whose score is noise
    np.testing.assert_array_equal(other.circuits.sum((1, 2)), wanted)
    assert not (other.circuits & ~says).any()
    assert wanted.max() == 3


def test_resamples_are_draws_with_replacement():
    rows = stability.resamples(jax.random.key(0), 6, 400)
    assert rows.shape == (400, 6)
    assert set(rows.ravel()) == set(range(6))
    distinct = np.mean([len(set(row)) for row in rows])
    assert distinct == pytest.approx(6 * (1 - (5 / 6) ** 6), abs=0.15)


def test_jaccard_by_hand():
    a, b, c = [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0]
    circuits = np.array([a, b, c], bool).reshape(3, 2, 2)
    assert stability.mean_jaccard(circuits) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert stability.mean_jaccard(circuits[[0, 2]]) == 1
    assert stability.mean_jaccard(circuits[:1]) == 1


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n_seeds", 0), ("size", 0), ("size", 13)])
def test_numbers_out_of_range(model, task, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}; allowed is 1"):
        stability.bootstrap(model, task, jax.random.key(0), OPTIONS, **{name: value})
