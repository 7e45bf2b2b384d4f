"""What every method must do, a new one from its first day: one sign, shapes, the known heads."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import circuits_jax as cj
from circuits_jax import main
from circuits_jax.methods import METHODS

# They need not find them: chance, where prompts differ whether or not the answer depends on it, and
# the published autoencoders, whose codes change with rounding (shared by all heads, 500 steps).
BLIND = ("random", "mean_difference", "sae_codes_published")


@pytest.fixture(scope="module")
def planted():
    model = cj.load_model("planted:3x4:induction")
    return model, cj.make_task("planted", model.tokenizer, n=3)


def test_the_command_names_every_method():
    words = main.__doc__.replace(",", " ").replace("=", " ").split()
    assert set(METHODS) <= set(words)


@pytest.mark.parametrize("method", METHODS)
def test_heads_that_do_the_task_score_highest(planted, method):
    model, task = planted
    scores = cj.discover(model, task, method)
    layers, heads = model.config.heads
    assert scores.head_scores.shape == (layers, heads)
    assert scores.edge_scores.shape == (layers * heads,) * 2
    edges = np.asarray(scores.edge_scores)
    layer = np.arange(layers * heads) // heads
    assert not edges[layer[:, None] >= layer].any()
    truth = np.zeros((layers, heads), bool)
    truth[tuple(np.array(sorted(task.truths[0].heads)).T)] = True
    if method not in BLIND:
        assert roc_auc_score(truth.ravel(), np.asarray(scores.head_scores).ravel()) > 0.8
