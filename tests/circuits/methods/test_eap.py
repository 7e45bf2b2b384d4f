"""Edge attribution patching against finite differences, and the sums that theory asks for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.capture.ablation import trial
from circuits_jax.circuits.graph import graph_of
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.methods import method_options
from circuits_jax.methods.attribution import attribution
from circuits_jax.methods.eap import EapIg, activations_lines, eap, eap_ig, inputs_line
from circuits_jax.methods.edges import positive_point
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import metric_values, targets
from tests.circuits import graph_reference as reference
from tests.circuits import tiny
from tests.circuits.methods.test_edges import logit_diff

L, H, G = 3, 4, 12
KEY = jax.random.key(0)
GRAPH = graph_of(tiny.CONFIG)
STEPS = 64
GEMMA = dataclasses.replace(tiny.CONFIG, post_norms=True, qk_norm=True, windows=(3, NO_WINDOW, 3))


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task()


@pytest.fixture(scope="module")
def found(model, task):
    return eap(model, task, KEY)


@pytest.fixture(scope="module")
def written(model, task):
    """Token ids of the positives, and what every part writes on both sides."""
    sides = [
        np.array([model.tokenizer(text).input_ids for text in prompts])
        for prompts in (task.learn.positives, task.learn.negatives)
    ]
    return sides[0], *(reference.run(model, tokens)[0] for tokens in sides)


def slope(model, task, tokens, readers, direction, step=1e-4):
    """Central difference of the mean metric as `readers` see the stream move along `direction`."""
    ends = [
        logit_diff(
            reference.run(model, tokens, dict.fromkeys(readers, sign * step * direction))[1],
            task.learn,
        ).mean()
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * step)


def test_effects_are_slopes_of_an_edge_in_the_reference(model, task, found, written):
    tokens, positive, negative = written
    effects = np.asarray(found.details["graph_effects"])
    rng = np.random.default_rng(0)
    edges = rng.permutation(np.argwhere(GRAPH.is_edge))[:30]
    largest = np.argsort(-np.abs(effects).ravel())[:10]
    edges = np.concatenate([edges, np.stack(np.divmod(largest, effects.shape[1]), axis=1)])
    for w, r in edges:
        writer, reader = GRAPH.writers[w], GRAPH.readers[r]
        direction = positive[writer] - negative[writer]
        wanted = slope(model, task, tokens, [reader], direction)
        np.testing.assert_allclose(effects[w, r], wanted, rtol=2e-3, atol=2e-4)
    assert (effects[~GRAPH.is_edge] == 0).all()


def test_scores_are_absolute_sums_over_what_a_head_reads(found):
    details = {name: np.asarray(value) for name, value in found.details.items()}
    by_name = {name: index for index, name in enumerate(GRAPH.readers)}
    row = details["graph_effects"][GRAPH.writers.index("a0.h2")]
    wanted = sum(row[by_name[f"a1.h3<{part}>"]] for part in "qkv")
    np.testing.assert_allclose(details["edge_effects"][2, 7], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found.edge_scores, np.abs(details["edge_effects"]))
    np.testing.assert_array_equal(found.head_scores, np.abs(details["effects"]))
    layer = np.arange(G) // H
    np.testing.assert_array_equal(
        np.asarray(found.edge_scores) > 0, layer[:, None] < layer[None, :]
    )


def test_edges_out_of_a_head_sum_to_its_attribution(model, task, found):
    wanted = attribution(model, task, KEY).details["effects"]
    np.testing.assert_allclose(found.details["effects"], wanted, 1e-3, 1e-5)


def test_and_so_they_do_with_norms_after_attention_and_prompts_of_different_lengths(task):
    model = tiny.model(GEMMA)
    negatives = ("when Cid gave it to", *task.learn.negatives[1:])
    uneven = dataclasses.replace(task.learn, negatives=negatives)
    task = dataclasses.replace(task, learn=uneven, metric="prob_diff")
    wanted = attribution(model, task, KEY).details["effects"]
    np.testing.assert_allclose(eap(model, task, KEY).details["effects"], wanted, 1e-3, 1e-5)


def difference(model, pairs):
    """Mean m(positive) - m(negative)."""
    goal = targets(pairs)
    positive, negative = (
        np.asarray(metric_values(model.logits(prompts), goal, "logit_diff")).mean()
        for prompts in (pairs.positives, pairs.negatives)
    )
    return positive - negative


@pytest.fixture(scope="module")
def integrated(model, task):
    """Along the inputs' line, with as many points as the activations' lines have together."""
    steps = STEPS * (1 + 2 * L)
    return eap_ig(model, task, KEY, EapIg(steps=steps)).details["graph_effects"]


def test_inputs_integrated_sum_to_the_total_effect(model, task, found, integrated):
    """Out of the embedding; the plain gradient's do not."""
    wanted = difference(model, task.learn)
    np.testing.assert_allclose(integrated[0].sum(), wanted, rtol=0.01)
    plain = float(found.details["graph_effects"][0].sum())
    assert abs(plain - wanted) > 0.3 * abs(wanted)


def test_activations_integrated_sum_to_replacing_the_group(model, task, integrated):
    """A layer's heads together, as judged by masks; for the embedding the two variants are one."""
    options = EapIg(variant="activations", steps=STEPS)
    effects = np.asarray(eap_ig(model, task, KEY, options).details["graph_effects"])
    np.testing.assert_allclose(effects[0].sum(), integrated[0].sum(), rtol=0.04)
    keep = np.ones((1 + L, L, H), np.float32)
    keep[1 + np.arange(L), np.arange(L)] = 0
    prepared = trial(model, task.learn, "resample")
    values = metric_under(model.config, model.params, prepared, jnp.asarray(keep), "logit_diff")
    whole, *without = np.asarray(values).mean(axis=1)
    by_layer = effects.sum(axis=1)[GRAPH.head_writers].reshape(L, H).sum(axis=1)
    np.testing.assert_allclose(by_layer, whole - np.array(without), rtol=0.04, atol=0.02)


def steepest(model, tokens, goal, shift, step=1e-4):
    """Slope of |p - goal|^2 by the embedding of one prompt, moved by a shift: differences."""
    both = step * np.eye(shift.size).reshape(-1, *shift.shape)
    both = shift + np.concatenate([both, -both])
    logits = reference.run(model, np.tile(tokens, (len(both), 1)), moved={"input": both})[1]
    ends = np.square(reference.softmax(logits) - goal).sum(axis=-1)
    return np.subtract(*np.split(ends, 2)).reshape(shift.shape) / (2 * step)


def test_descent_is_that_of_a_plain_loop(model):
    """Points by steepest descent, and edges' slopes there, all by differences of the reference."""
    steps, task = 2, tiny.task(n=1)
    sides = [
        np.array([model.tokenizer(text).input_ids for text in prompts])
        for prompts in (task.learn.positives, task.learn.negatives)
    ]
    (positive, _), (negative, logits) = (reference.run(model, tokens) for tokens in sides)
    size = np.linalg.norm(positive["input"] - negative["input"]) / steps
    shifts = [np.zeros_like(positive["input"])]
    for _ in range(steps - 1):
        down = steepest(model, sides[0], reference.softmax(logits), shifts[-1][0])
        shifts.append(shifts[-1] - size * down / np.linalg.norm(down))
    options = EapIg(variant="descent", steps=steps)
    effects = np.asarray(eap_ig(model, task, KEY, options).details["graph_effects"])
    largest = np.argsort(-np.abs(effects).ravel())[:6]
    for w, r in np.stack(np.divmod(largest, effects.shape[1]), axis=1):
        writer, reader = GRAPH.writers[w], GRAPH.readers[r]
        direction = 1e-4 * (positive[writer] - negative[writer])
        ends = [
            [
                logit_diff(
                    reference.run(model, sides[0], {reader: end * direction}, {"input": shift})[1],
                    task.learn,
                ).mean()
                for end in (1, -1)
            ]
            for shift in shifts
        ]
        wanted = -np.diff(ends, axis=1).mean() / 2e-4
        np.testing.assert_allclose(effects[w, r], wanted, rtol=5e-3, atol=2e-4)
    assert (effects[~GRAPH.is_edge] == 0).all()


def test_lines_end_at_the_positive_prompt():
    for line in (inputs_line, activations_lines):
        points = line(GRAPH, 4)
        np.testing.assert_allclose(points.rows.sum(axis=0), 1)
        distances = np.concatenate([points.embedding[:, None], points.heads, points.mlps], axis=1)
        assert distances.min() == 0
        assert distances.max() == 0.75
        assert ((distances > 0).sum(axis=1) <= 1).all()
    both = (jax.tree.leaves(points) for points in (inputs_line(GRAPH, 1), positive_point(GRAPH)))
    for one, positive in zip(*both, strict=True):
        np.testing.assert_array_equal(one, positive)


@pytest.mark.parametrize(
    ("method", "option"),
    [("eap", "prompts_at_once"), ("eap_ig", "steps"), ("relp", "prompts_at_once")],
)
def test_values_that_are_not_allowed_are_refused(method, option):
    with pytest.raises(InputError, match=f"{option} is 0; allowed"):
        method_options(method, **{option: 0})
