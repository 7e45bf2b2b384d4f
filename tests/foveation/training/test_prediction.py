"""Logits of many images by many runs, and the scores they give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveation_jax.networks import normalise
from foveation_jax.runs.errors import InputError
from foveation_jax.training.prediction import delay, predict, run_logits, score
from foveation_jax.training.step import init_state
from tests.foveation import tiny_training as tiny


@pytest.fixture(scope="module")
def variables():
    return init_state(tiny.setup()).variables


def test_predictions_are_each_run_s_own_whatever_the_batch(variables):
    network, images = tiny.TinyNetwork(), tiny.images(7).images
    logits = predict(network, variables, images, batch_size=4)
    assert logits.shape == (tiny.RUNS, 7, tiny.CLASSES)
    for run in range(tiny.RUNS):
        one = jax.tree.map(lambda v: np.asarray(v)[run], variables)  # noqa: B023
        alone, _ = network.apply(one, normalise(jnp.asarray(images / np.float32(255))))
        np.testing.assert_allclose(logits[run], alone, atol=1e-5)
    np.testing.assert_allclose(predict(network, variables, images[4:], 4), logits[:, 4:], atol=1e-5)
    levels = images[:4] / np.float32(255)
    within = jax.jit(lambda v, x: run_logits(network, v, x))(variables, levels)
    np.testing.assert_allclose(within, logits[:, :4], atol=1e-5)


def test_weights_of_another_network_are_refused(variables):
    images = tiny.images(2).images
    with pytest.raises(
        InputError,
        match=r"^weights: batch_stats/.* has shape \(6,\), and TinyNetwork on 16 x 16 ",
    ):
        predict(tiny.TinyNetwork(features=5), variables, images)
    lacking = {"params": {"fc": variables["params"]["fc"]}}
    with pytest.raises(InputError, match=r"BatchNorm_0/mean has shape none, and .* has \(6,\)"):
        predict(tiny.TinyNetwork(), lacking, images)


def test_no_images_are_refused(variables):
    with pytest.raises(InputError, match="images is empty"):
        predict(tiny.TinyNetwork(), variables, tiny.images(2).images[:0])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 9))
def test_accuracy_is_that_of_the_classes_weighted_by_size(labels, seed):
    labels = np.asarray(labels)
    logits = np.random.default_rng(seed).normal(size=(2, len(labels), 6)).astype(np.float32)
    found = score(logits, labels)
    sizes = np.bincount(labels, minlength=6)
    np.testing.assert_array_equal(np.isnan(found.class_accuracy), [sizes == 0] * 2)
    weighted = (np.nan_to_num(found.class_accuracy) * sizes).sum(1) / len(labels)
    np.testing.assert_allclose(found.accuracy, weighted, atol=1e-12)
    likelihood = np.exp(logits.astype(float))
    likelihood /= likelihood.sum(-1, keepdims=True)
    expected = -np.log(likelihood[:, np.arange(len(labels)), labels]).mean(1)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-6)


@given(st.integers(0, 9), st.integers(0, 4))
def test_delay_keeps_the_order_and_asks_ahead(count, ahead):
    asked = []
    given_out = []
    for item in delay((asked.append(i) or i for i in range(count)), ahead):
        given_out.append(item)
        assert len(asked) == min(count, item + ahead + 1)
    assert given_out == list(range(count))
