"""Head importance scores against differences of the metric as heads are scaled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.capture.ablation import trial
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.methods import discover, method_options
from circuits_jax.methods.edges import product_edges
from circuits_jax.methods.hisp import Hisp, hisp
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

KEY = jax.random.key(0)
L, H = tiny.CONFIG.heads
ONE_HEAD = np.eye(L * H, dtype=np.float32).reshape(L * H, L, H)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2)


@pytest.mark.parametrize("replacement", ["zero", "resample"])
def test_importance_is_the_slope_as_a_head_is_scaled(model, task, replacement):
    """Central differences for every prompt, whose sizes are averaged."""
    step = 0.01
    keep = jnp.asarray(np.concatenate([1 + step * ONE_HEAD, 1 - step * ONE_HEAD]))
    prepared = trial(model, task.learn, replacement)
    metric = metric_under(model.config, model.params, prepared, keep, "logit_diff")
    above, below = np.split(np.asarray(metric, np.float64), 2)
    wanted = np.abs((above - below) / (2 * step)).mean(axis=1).reshape(L, H)
    found = hisp(model, task, KEY, Hisp(replacement, prompts_at_once=2))
    np.testing.assert_allclose(found.details["importance"], wanted, rtol=0.01, atol=2e-3)
    assert wanted.max() > 0.1


def test_scores_of_a_layer_have_norm_one_or_are_as_they_are(model, task):
    found = discover(model, task, "hisp", prompts_at_once=2)
    importance = np.asarray(found.details["importance"])
    assert (importance > 0).all()
    norm = np.sqrt((importance**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.head_scores, importance / norm, rtol=1e-5)
    np.testing.assert_allclose(found.edge_scores, product_edges(found.head_scores), rtol=1e-6)
    plain = hisp(model, task, KEY, Hisp(normalise="none", prompts_at_once=2))
    np.testing.assert_allclose(plain.head_scores, importance, rtol=1e-5)


def test_heads_that_write_nothing_score_nothing(model, task):
    o = model.params["layers"]["attention"]["o"].at[1].set(0)
    found = hisp(tiny.with_attention(model, o=o), task, KEY, Hisp(prompts_at_once=2))
    assert (np.asarray(found.head_scores)[1] == 0).all()
    assert (np.asarray(found.head_scores)[0] > 0).all()


def test_nothing_to_replace_is_of_no_importance(model, task):
    learn = dataclasses.replace(task.learn, negatives=task.learn.positives)
    same = dataclasses.replace(task, learn=learn)
    found = hisp(model, same, KEY, Hisp("resample", "none", 2))
    np.testing.assert_allclose(found.head_scores, 0, atol=1e-4)


def test_no_prompts_at_once_are_refused():
    with pytest.raises(InputError, match="prompts_at_once is 0; allowed"):
        method_options("hisp", prompts_at_once=0)
