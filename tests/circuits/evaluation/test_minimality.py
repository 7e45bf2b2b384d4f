"""Minimality: removing a head is judging the circuit without it."""

import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.capture.ablation import trial
from circuits_jax.circuits.circuit import Scores
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.evaluation.minimality import NEEDED, minimality
from tests.circuits import tiny

L, H = 3, 4
SCORES = Scores(
    np.random.default_rng(0).standard_normal((L, H)).astype(np.float32),
    np.zeros((L * H, L * H), np.float32),
)


@pytest.fixture(scope="module")
def found():
    return minimality(tiny.model(), tiny.task(), SCORES.circuit(size=3), "resample")


def test_changes_are_the_definition(found):
    model, task, circuit = tiny.model(), tiny.task(), SCORES.circuit(size=3).heads
    masks = [np.ones((L, H)), np.zeros((L, H)), circuit]
    for layer, head in found.heads:
        without = circuit.copy()
        without[layer, head] = False
        masks.append(without)
    values = metric_under(
        model.config,
        model.params,
        trial(model, task.held_out, "resample"),
        jnp.asarray(np.stack(masks), jnp.float32),
        "logit_diff",
    )
    full, empty, own, *others = np.asarray(values).mean(axis=1)
    wanted = (own - np.array(others)) / (full - empty)
    np.testing.assert_allclose(found.changes, wanted, rtol=1e-3, atol=1e-4)
    assert found.share == np.mean(np.abs(wanted) > NEEDED)


def test_heads_are_those_of_the_circuit(found):
    np.testing.assert_array_equal(found.heads, np.argwhere(SCORES.circuit(size=3).heads))


def test_a_head_that_says_nothing_is_not_needed():
    model = tiny.model()
    o = model.params["layers"]["attention"]["o"]
    silent = tiny.with_attention(model, o=o.at[1, 2].set(0))
    circuit = Scores(np.eye(L, H, 1, dtype=np.float32), SCORES.edge_scores).circuit(size=3)
    assert circuit.heads[1, 2]
    found = minimality(silent, tiny.task(), circuit, "zero")
    row = found.heads.tolist().index([1, 2])
    assert abs(found.changes[row]) < 1e-4
    assert np.abs(np.delete(found.changes, row)).max() > 1e-2
    assert found.share <= 2 / 3


def test_an_empty_circuit_has_no_heads_to_remove():
    found = minimality(tiny.model(), tiny.task(), SCORES.circuit(size=0), "zero")
    assert found.heads.shape == (0, 2)
    assert np.isnan(found.share)
