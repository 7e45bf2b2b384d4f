"""ACDC against a plain loop over heads, one whole forward pass for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from circuits_jax import interpose
from circuits_jax.ablation import trial
from circuits_jax.circuit import Scores
from circuits_jax.errors import InputError
from circuits_jax.methods import discover, method_options
from circuits_jax.methods.acdc import Acdc, acdc
from tests.circuits import tiny

KEY = jax.random.key(0)
L, H = tiny.CONFIG.heads
THRESHOLDS = (0, 0.01, 0.03, 0.1, np.inf)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2)


@pytest.fixture(scope="module")
def found(model, task):
    return acdc(model, task, KEY, Acdc(THRESHOLDS))


@pytest.fixture(scope="module")
def logits_under(model, task):
    """Logits with some heads replaced by those of the negative."""
    prepared = trial(model, task.learn, "resample")

    @jax.jit
    def run(keep):
        batch, replacement = prepared.batch, prepared.replacement
        return interpose.replace(model.config, model.params, batch, keep, replacement)

    return lambda keep: np.asarray(run(jnp.asarray(keep, jnp.float32)), np.float64)


def kl(whole, logits, pairs):
    whole, logits = log_softmax(whole, axis=-1), log_softmax(logits, axis=-1)
    return (np.exp(whole) * (whole - logits)).sum(axis=-1).mean()


def moved(whole, logits, pairs):
    def logit_diff(x):
        rows = np.arange(len(pairs))
        return x[rows, np.ravel(pairs.answers)] - x[rows, np.ravel(pairs.foils)]

    return np.abs(logit_diff(whole) - logit_diff(logits)).mean()


def loop(logits_under, pairs, threshold, divergence):
    """(which heads are left, the divergence with those)."""
    keep, left = np.ones((L, H)), 0.0
    whole = logits_under(keep)
    for layer in reversed(range(L)):
        for head in reversed(range(H)):
            fewer = keep.copy()
            fewer[layer, head] = 0
            now = divergence(whole, logits_under(fewer), pairs)
            if now - left < threshold:
                keep, left = fewer, now
    return keep, left


@pytest.mark.parametrize("at", [1, 2, 3])
def test_circuits_are_those_of_a_plain_loop(found, logits_under, task, at):
    keep, left = loop(logits_under, task.learn, THRESHOLDS[at], kl)
    np.testing.assert_array_equal(found.details["kept"][at], keep)
    np.testing.assert_allclose(found.details["divergences"][at], left, rtol=1e-3, atol=1e-5)
    assert 0 < keep.sum() < L * H


def test_circuits_by_the_metric_are_those_of_a_plain_loop(model, logits_under, task):
    keep, left = loop(logits_under, task.learn, 0.3, moved)
    found = discover(model, task, "acdc", thresholds=(0.3,), divergence="metric").details
    np.testing.assert_array_equal(found["kept"][0], keep)
    np.testing.assert_allclose(found["divergences"][0], left, rtol=1e-3, atol=1e-4)
    assert 0 < keep.sum() < L * H


def test_threshold_0_keeps_everything_and_infinity_nothing(found):
    kept, left = (np.asarray(found.details[name]) for name in ("kept", "divergences"))
    assert kept[0].all()
    assert left[0] == 0
    assert not kept[-1].any()
    assert left[-1] > 0


@pytest.mark.parametrize("thresholds", [(0,), (0, 1e-6)])
def test_a_head_without_any_effect_stays_at_0_only(model, task, thresholds):
    """Nothing tells the prompts of a pair apart, so no divergence ever moves."""
    learn = dataclasses.replace(task.learn, negatives=task.learn.positives)
    o = jnp.zeros_like(model.params["layers"]["attention"]["o"])
    silent = tiny.with_attention(model, o=o)
    for one, pairs in ((model, learn), (silent, task.learn)):
        found = acdc(one, dataclasses.replace(task, learn=pairs), KEY, Acdc(thresholds))
        kept = np.asarray(found.details["kept"])
        assert kept[0].all()
        assert not kept[1:].any()
        assert (np.asarray(found.head_scores) <= 1e-6).all()


def test_scores_rank_by_the_largest_threshold_survived(found):
    scores, kept = np.asarray(found.head_scores), np.asarray(found.details["kept"])
    for at, threshold in enumerate(THRESHOLDS[:-1]):
        np.testing.assert_array_equal(scores >= threshold, kept[at:].any(axis=0))
    last = np.array([np.flatnonzero(column)[-1] for column in kept.reshape(len(kept), -1).T])
    rises = np.asarray(found.details["rises"]).reshape(len(kept), -1)
    within = scores.reshape(-1) == rises[last, np.arange(L * H)]
    assert within.mean() > 0.5  # others were clipped to the next threshold
    just_below = float(np.nextafter(np.float32(0.03), np.float32(0)))
    circuit = Scores(scores, found.edge_scores).circuit(threshold=just_below)
    np.testing.assert_array_equal(circuit.heads, kept[2:].any(axis=0))


def test_thresholds_that_share_a_pass_change_nothing(model, task, found):
    alone = acdc(model, task, KEY, Acdc(THRESHOLDS, thresholds_at_once=1))
    np.testing.assert_array_equal(alone.details["kept"], found.details["kept"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("thresholds", ()),
        ("thresholds", (0.1, 0.1)),
        ("thresholds", (-1.0, 0.1)),
        ("thresholds", (float("nan"),)),
        ("thresholds_at_once", 0),
    ],
)
def test_values_that_are_not_allowed_are_refused(option, value):
    with pytest.raises(InputError, match=f"{option} is .*; allowed"):
        method_options("acdc", **{option: value})
