"""Subnetwork probing: the distribution of its masks, and its descent step by step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from circuits_jax import TaskWarning, interpose
from circuits_jax.capture.ablation import trial
from circuits_jax.methods import method_options
from circuits_jax.methods.edges import product_edges
from circuits_jax.methods.subnetwork_probing import (
    SubnetworkProbing,
    hard_concrete,
    probability,
    subnetwork_probing,
)
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

KEY = jax.random.key(0)
L, H = tiny.CONFIG.heads
OPTIONS = SubnetworkProbing(l0=0.5, steps=20, learning_rate=0.2, n_seeds=2)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2)


@pytest.fixture(scope="module")
def found(model, task):
    return subnetwork_probing(model, task, KEY, OPTIONS)


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 2.0])
def test_masks_are_hard_concrete(log_alpha):
    """Shares of masks at 0, at 1 and in all, against the distribution's integrals."""
    uniform = jnp.asarray((np.arange(100_000) + 0.5) / 100_000, jnp.float32)
    keep = np.asarray(hard_concrete(jnp.full(uniform.shape, log_alpha), uniform))
    assert keep.min() >= 0
    assert keep.max() <= 1
    np.testing.assert_allclose((keep > 0).mean(), probability(jnp.float32(log_alpha)), atol=1e-4)
    ends = expit(2 / 3 * logit(np.array([0.1, 1.1]) / 1.2) - log_alpha)  # s = 0.1/1.2, 1.1/1.2
    np.testing.assert_allclose([(keep == 0).mean(), 1 - (keep == 1).mean()], ends, atol=1e-4)
    assert (np.diff(keep) >= 0).all()
    assert (
        np.asarray(hard_concrete(jnp.full(uniform.shape, log_alpha + 1), uniform)) >= keep
    ).all()


def test_descent_is_adam_on_divergence_and_size(model, task, found):
    """The first steps of the second seed, written out anew over whole batches."""
    prepared = trial(model, task.learn, "resample")
    batch, replacement = prepared.batch, prepared.replacement
    whole = jax.nn.log_softmax(interpose.last_logits(model.config, model.params, batch))

    @jax.jit
    def slope(log_alpha, uniform):
        def loss(log_alpha):
            s = jax.nn.sigmoid((jnp.log(uniform / (1 - uniform)) + log_alpha) * 1.5)
            keep = jnp.clip(1.2 * s - 0.1, 0, 1)
            logits = interpose.replace(model.config, model.params, batch, keep, replacement)
            rows = jnp.exp(whole) * (whole - jax.nn.log_softmax(logits))
            lost = rows.sum(axis=-1).mean()
            kept = jax.nn.sigmoid(log_alpha + 2 / 3 * jnp.log(11.0)).mean()
            return lost + 0.5 * kept, (lost, kept)

        return jax.grad(loss, has_aux=True)(log_alpha)

    log_alpha = np.full((L, H), np.log(9) - 2 / 3 * np.log(11))
    mean, square = np.zeros((L, H)), np.zeros((L, H))
    keys = jax.random.split(jax.random.split(KEY, 2)[1], OPTIONS.steps)
    for step in range(5):
        uniform = jax.random.uniform(keys[step], (L * H,), minval=1e-6).reshape(L, H)
        by_alpha, (lost, kept) = slope(jnp.asarray(log_alpha, jnp.float32), uniform)
        np.testing.assert_allclose(found.details["divergences"][1, step], lost, rtol=2e-3)
        np.testing.assert_allclose(found.details["kept"][1, step], kept, rtol=1e-4)
        mean = 0.9 * mean + 0.1 * np.asarray(by_alpha)
        square = 0.999 * square + 0.001 * np.asarray(by_alpha) ** 2
        right = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
        log_alpha = log_alpha - 0.2 * mean / (1 - 0.9 ** (step + 1)) / right


def test_scores_are_probabilities_averaged_over_seeds(found):
    log_alpha = np.asarray(found.details["log_alpha"])
    assert log_alpha.shape == (2, L, H)
    wanted = expit(log_alpha + 2 / 3 * np.log(11)).mean(axis=0)
    np.testing.assert_allclose(found.head_scores, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.edge_scores, product_edges(found.head_scores), rtol=1e-6)
    assert np.abs(log_alpha[0] - log_alpha[1]).max() > 0.01


def test_heads_that_say_nothing_are_not_worth_their_price(model, task, found):
    again = subnetwork_probing(model, task, KEY, OPTIONS)
    np.testing.assert_array_equal(again.head_scores, found.head_scores)
    o = model.params["layers"]["attention"]["o"]
    silent = tiny.with_attention(model, o=o.at[1].multiply(0.01))
    scores = np.asarray(subnetwork_probing(silent, task, KEY, OPTIONS).head_scores)
    assert scores[1].max() < 0.2
    assert scores[[0, 2]].max() > 0.8


@pytest.mark.parametrize("l0", [0.5, 0.0])
def test_heads_that_move_rounding_alone_are_in_no_circuit(model, task, l0):
    """Adam makes as much of the slope of rounding as of any other, where nothing else pulls."""
    o = model.params["layers"]["attention"]["o"]
    silent = tiny.with_attention(model, o=o.at[1].multiply(1e-7))
    options = dataclasses.replace(OPTIONS, l0=l0, steps=20)
    scores = subnetwork_probing(silent, task, KEY, options)
    assert not np.asarray(scores.head_scores)[1].any()
    with pytest.warns(TaskWarning, match="rounding noise"):
        heads = scores.circuit(size=L * H).heads
    assert not heads[1].any()
    assert heads[[0, 2]].all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("l0", -1.0), ("l0", float("nan")), ("steps", 0), ("n_seeds", 0), ("prompts_at_once", 0)],
)
def test_values_that_are_not_allowed_are_refused(option, value):
    with pytest.raises(InputError, match=f"{option} is {value}; allowed"):
        method_options("subnetwork_probing", **{option: value})
