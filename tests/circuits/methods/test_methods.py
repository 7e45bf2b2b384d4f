"""The rival methods against their definitions, on a tiny model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture.ablation import trial
from circuits_jax.capture.head_outputs import head_outputs
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.methods import discover, method_options
from circuits_jax.methods.attribution import Attribution, attribution
from circuits_jax.methods.edges import product_edges
from circuits_jax.methods.exact_patching import ExactPatching, exact_patching
from circuits_jax.methods.mean_difference import MeanDifference, mean_difference
from circuits_jax.methods.random import random
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import PromptPairs, metric_values
from tests.circuits import tiny

L, H, G = 3, 4, 12
KEY = jax.random.key(0)
ONE_HEAD_AWAY = 1 - np.eye(G, dtype=np.float32).reshape(G, L, H)
GEMMA = dataclasses.replace(
    tiny.CONFIG, post_norms=True, qk_norm=True, out_bias=False, windows=(3, NO_WINDOW, 3)
)
NAMES = ("attribution", "attribution_ig", "exact_patching", "mean_difference", "random")
LENGTHS = PromptPairs(
    positives=("when Ann and Bob went out", "Ann and Bob", "then Cid gave it to"),
    negatives=("Cid and Dee out", "when Eve and Fay went to Gus", "then Gus gave it to"),
    answers=((9,), (10, 12), (13,)),
    foils=((10,), (11,), (9, 14)),
)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task()


@pytest.fixture(scope="module")
def uneven(task):
    """Prompts of different lengths, several answers, probabilities."""
    return dataclasses.replace(task, learn=LENGTHS, metric="prob_diff")


def metric(model, pairs, keep, name):
    """Mean metric under each mask, by whole forward passes."""
    keep = jnp.asarray(keep, jnp.float32)
    prepared = trial(model, pairs, "resample")
    return np.asarray(metric_under(model.config, model.params, prepared, keep, name)).mean(axis=1)


def dropped(model, pairs, name):
    """Noising by the definition: `interpose.replace` for one head after another, [L, H]."""
    whole, *patched = metric(model, pairs, [np.ones((L, H)), *ONE_HEAD_AWAY], name)
    return (whole - np.array(patched)).reshape(L, H)


def swapped(pairs):
    return dataclasses.replace(pairs, positives=pairs.negatives, negatives=pairs.positives)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_through_discover(model, task, name):
    found = discover(model, task, name)
    assert found.head_scores.shape == (L, H)
    assert found.edge_scores.shape == (G, G)
    scores, edges = np.asarray(found.head_scores), np.asarray(found.edge_scores)
    assert np.isfinite(scores).all()
    assert (scores > 0).all()  # no head of a random model is without effect
    layer = np.arange(G) // H
    np.testing.assert_array_equal(edges > 0, layer[:, None] < layer[None, :])
    np.testing.assert_array_equal(discover(model, task, name).head_scores, scores)
    blind = dataclasses.replace(task, held_out=tiny.prompt_pairs(tiny.pairs(2, seed=9)))
    np.testing.assert_array_equal(discover(model, blind, name).head_scores, scores)
    if name != "random":
        np.testing.assert_allclose(edges, product_edges(jnp.asarray(scores)), rtol=1e-6)


def test_product_edges_by_hand():
    found = product_edges(jnp.array([[1.0, 2.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(found, [[0, 0, 3, 5], [0, 0, 6, 10], [0] * 4, [0] * 4])


def test_random_is_seeded_and_uniform(model, task):
    one, same, other = (random(model, task, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.head_scores, same.head_scores)
    np.testing.assert_array_equal(one.edge_scores, same.edge_scores)
    assert not np.any(np.asarray(one.head_scores) == other.head_scores)
    drawn = np.stack([random(model, task, key).head_scores for key in jax.random.split(KEY, 50)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.05)  # 4 standard errors
    between_layers = np.asarray(one.edge_scores)[:H, H:].ravel()
    assert len(set(between_layers.tolist())) == between_layers.size


@pytest.mark.parametrize("position", ["mean", "last"])
def test_mean_difference_by_hand(model, uneven, position):
    found = mean_difference(model, uneven, KEY, MeanDifference(position))
    # Of "when Ann and Bob went out" and "Cid and Dee out", and so on: the tokens with a partner.
    every = [0, 1, 2, 3, 4]
    shared = ([1, 2, 4, 5], [0, 1, 2], every), ([0, 1, 2, 3], [0, 2, 6], every)
    means = []
    for prompts, tokens in zip((LENGTHS.positives, LENGTHS.negatives), shared, strict=True):
        outputs = [np.asarray(head_outputs(model, [p], "all")[0]) for p in prompts]  # [T L H D]
        rows = [
            out[at].mean(0) if position == "mean" else out[at[-1]]
            for out, at in zip(outputs, tokens, strict=True)
        ]
        means.append(np.mean(rows, axis=0))
    wanted = np.sqrt(((means[0] - means[1]) ** 2).sum(-1))
    np.testing.assert_allclose(found.head_scores, wanted, rtol=1e-4)


@pytest.mark.parametrize("config", [tiny.CONFIG, GEMMA], ids=["llama", "gemma"])
def test_exact_patching_is_a_loop_over_replace(config, uneven):
    model = tiny.model(config)
    found = exact_patching(model, uneven, KEY)
    wanted = dropped(model, LENGTHS, "prob_diff")
    np.testing.assert_allclose(found.details["effects"], wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.head_scores, np.abs(found.details["effects"]))
    assert np.abs(wanted).max() > 1e-3


def test_denoising_is_noising_with_prompts_swapped_and_the_gain_counted(model, task):
    found = exact_patching(model, task, KEY, ExactPatching("denoising"))
    wanted = -dropped(model, swapped(task.learn), "logit_diff")
    np.testing.assert_allclose(found.details["effects"], wanted, rtol=1e-3, atol=1e-4)
    noising = exact_patching(model, task, KEY).details["effects"]
    assert np.abs(noising - wanted).max() > 0.01


@pytest.mark.parametrize("heads_at_once", [1, 3])
def test_heads_that_share_a_pass_change_nothing(model, task, heads_at_once):
    found = exact_patching(model, task, KEY, ExactPatching(heads_at_once=heads_at_once))
    wanted = exact_patching(model, task, KEY).details["effects"]
    np.testing.assert_allclose(found.details["effects"], wanted, rtol=1e-3, atol=1e-5)


def test_patching_without_output_weights_or_difference_does_nothing(model, task):
    o = model.params["layers"]["attention"]["o"].at[1, 2].set(0)
    effects = exact_patching(tiny.with_attention(model, o=o), task, KEY).details["effects"]
    np.testing.assert_allclose(effects[1, 2], 0, atol=1e-5)
    learn = dataclasses.replace(task.learn, negatives=task.learn.positives)
    same = dataclasses.replace(task, learn=learn)
    for method in (exact_patching, attribution):
        np.testing.assert_allclose(method(model, same, KEY).head_scores, 0, atol=1e-4)


@pytest.mark.parametrize("config", [tiny.CONFIG, GEMMA], ids=["llama", "gemma"])
def test_residual_streams_resume_to_the_plain_pass(config):
    model = tiny.model(config)
    batch = model.tokenize(LENGTHS.positives)

    @jax.jit
    def passes(params):
        plain, z = interpose.capture(config, params, batch)
        logits, streams = interpose.residual_streams(config, params, batch)

        def put_back(layer):
            arguments = layer, streams[layer], jnp.array(1), z[layer, :, :, 1]
            return interpose.resume(config, params, batch, *arguments)

        return plain, logits, jax.lax.map(put_back, jnp.arange(L))

    plain, logits, resumed = passes(model.params)
    np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(resumed, np.stack([plain] * L), rtol=1e-3, atol=1e-4)


def test_attribution_is_the_slope_of_patching(model, uneven):
    """Central differences of the metric as each head moves a little towards the negative."""
    found = np.asarray(attribution(model, uneven, KEY).details["effects"])

    def slope(step):
        moved = np.concatenate([1 - s * (1 - ONE_HEAD_AWAY) for s in (step, -step)])
        towards, away = np.split(metric(model, LENGTHS, moved, "prob_diff"), 2)
        return ((away - towards) / (2 * step)).reshape(L, H)

    far, near = slope(0.1), slope(0.005)
    np.testing.assert_allclose(found, near, rtol=0.01, atol=0.002 * np.abs(near).max())
    assert np.abs(found - near).max() < 0.1 * np.abs(found - far).max()


def test_attribution_is_the_gradient_by_z_times_the_difference(model, task):
    """The textbook form: the metric's derivative as z itself moves along z - z'."""
    prepared = trial(model, task.learn, "resample")
    batch, config = prepared.batch, model.config

    @jax.jit
    def slopes(params):
        _, z = interpose.capture(config, params, batch)
        _, streams = interpose.residual_streams(config, params, batch)

        def slope(head):
            def value(z_head):
                arguments = jnp.array(1), streams[1], head, z_head
                logits = interpose.resume(config, params, batch, *arguments)
                return jnp.mean(metric_values(logits, prepared.targets, "logit_diff"))

            own = z[1, :, :, head]
            return jax.jvp(value, (own,), (own - prepared.replacement[1, :, :, head],))[1]

        return jax.lax.map(slope, jnp.arange(H))

    found = attribution(model, task, KEY).details["effects"]
    np.testing.assert_allclose(found[1], slopes(model.params), rtol=1e-3, atol=1e-4)


def test_attribution_is_exact_where_the_metric_is_linear_in_z(task):
    """One layer, no norm, no MLP: effects of heads add up, whatever the number of steps."""
    config = dataclasses.replace(
        tiny.CONFIG, n_layers=1, d_mlp=0, norm="none", layer_kinds=(), windows=()
    )
    model = tiny.model(config)
    exact = exact_patching(model, task, KEY).details["effects"]
    for steps in (1, 3):
        found = attribution(model, task, KEY, Attribution(steps)).details["effects"]
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


def test_integrated_gradients_sum_to_the_effect_of_all_heads(model, task):
    full, nothing = metric(model, task.learn, [np.ones((L, H)), np.zeros((L, H))], "logit_diff")

    def error(steps):
        effects = attribution(model, task, KEY, Attribution(steps)).details["effects"]
        return abs(float(np.sum(effects)) - (full - nothing)) / abs(full - nothing)

    assert error(400) < min(0.01, error(20))


def test_prompts_that_share_a_backward_pass_change_nothing(model, uneven):
    found = attribution(model, uneven, KEY, Attribution(prompts_at_once=1)).details["effects"]
    wanted = attribution(model, uneven, KEY).details["effects"]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_default_steps_of_the_two_attributions():
    assert method_options("attribution") == Attribution(steps=1)
    assert method_options("attribution_ig").steps > 1


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("exact_patching", "heads_at_once", 0),
        ("attribution", "steps", 0),
        ("attribution_ig", "prompts_at_once", -1),
    ],
)
def test_values_that_are_not_allowed_are_refused(method, option, value):
    with pytest.raises(InputError, match=f"{option} is {value!r}; allowed"):
        method_options(method, **{option: value})
