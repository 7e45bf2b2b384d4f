"""What passes through edges: exact where the model is linear, and a writer's edges are its flow."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture import slope_attribution
from circuits_jax.capture.forked import fork
from circuits_jax.capture.writers import all_writers, along
from circuits_jax.circuits.graph import graph_of
from circuits_jax.decoder.decoder import stacked
from circuits_jax.tasks import PromptPairs, metric_values, targets
from tests.accelerators.test_lowering import inside
from tests.circuits import tiny
from tests.circuits.capture.test_slope_attribution import (
    CONFIGS,
    LINEAR,
    NEGATIVES,
    POSITIVES,
    flows,
    linear_model,
    sides,
)

GOAL = targets(
    PromptPairs(POSITIVES, NEGATIVES, ((3, 4), (5,)), ((6,), (7, 8)))  # of several answers or foils
)


@functools.partial(jax.jit, static_argnames=("config", "metric"))
def graph_flows_of(config, params, forked, goal, metric):
    return slope_attribution.graph_flows(config, params, forked, goal, metric)


def graph_flows(model, metric=""):
    both = fork(stacked(sides(model)), 12)
    return graph_flows_of(model.config, model.params, both, GOAL if metric else None, metric)


@functools.partial(jax.jit, static_argnames=("config", "metric"))
def cut(config, params, positives, negatives, keep, metric):
    """What < logits, p+ - p- > or a metric loses, for each of some masks of edges and each pair."""
    other = interpose.writes(config, params, negatives)
    logits, base = (interpose.last_logits(config, params, side) for side in (positives, negatives))
    direction = jax.nn.softmax(logits) - jax.nn.softmax(base)

    def lost(keep):
        cut = interpose.replace_graph(config, params, positives, keep, other)
        if metric:
            return metric_values(logits, GOAL, metric) - metric_values(cut, GOAL, metric)
        return jnp.sum((logits - cut) * direction, axis=-1)

    return jax.lax.map(lost, keep)


@pytest.mark.parametrize(
    ("name", "metric"), [*((name, "") for name in LINEAR), ("mlp", "logit_diff")]
)
def test_in_a_linear_model_what_passes_is_the_exact_effect_of_cutting_the_edge(name, metric):
    model = linear_model(LINEAR[name])
    graph = graph_of(model.config)
    found = np.asarray(graph_flows(model, metric).passes) * graph.is_edge
    kinds = np.array([name[0] for name in graph.readers])  # heads, MLPs, logits
    largest = [
        np.argsort(-np.where(kinds == kind, np.abs(found).max(axis=0), 0).ravel())[:20]
        for kind in "aml"
    ]
    some = np.random.default_rng(0).permutation(np.flatnonzero(graph.is_edge))[:20]
    places = np.concatenate([*largest, some])
    edges = np.stack(np.unravel_index(places, graph.is_edge.shape), axis=1)
    keep = np.ones((len(edges), *graph.is_edge.shape), np.float32)
    keep[np.arange(len(edges)), *edges.T] = 0
    wanted = cut(model.config, model.params, *sides(model), jnp.asarray(keep), metric)
    found = found[:, *edges.T].T
    np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=1e-4 * np.abs(wanted).max())
    for kind in "aml":
        of_kind = np.abs(wanted)[kinds[edges[:, 1]] == kind].max()
        assert of_kind > 10 * 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_edges_of_a_writer_sum_to_its_flow(name):
    """And heads flow as they do where edges are not asked for."""
    model = tiny.model(CONFIGS[name])
    graph = graph_of(model.config)
    flow, alone = graph_flows(model), flows(model, *sides(model))
    for field in ("moved", "distance", "read"):
        mine, theirs = getattr(flow.heads, field), getattr(alone, field)
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    sums = np.sum(np.asarray(flow.passes) * graph.is_edge, axis=2)  # [B writers]
    scale = np.abs(sums).max()
    heads = np.sum(flow.heads.read, axis=2).swapaxes(0, 1).reshape(len(sums), -1)
    np.testing.assert_allclose(sums[:, graph.head_writers], heads, atol=1e-5 * scale)
    others = np.sum(flow.others.read, axis=2)[..., 0].T
    np.testing.assert_allclose(sums[:, np.append(0, graph.mlp_writers)], others, atol=1e-5 * scale)
    assert (np.abs(others) > 1e-3 * scale).all()
    same = np.asarray(flow.others.distance)[:, 1, :7]  # padding
    assert (same == 0).all()


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff", "log_prob", "kl"])
def test_along_its_direction_logits_differ_by_as_much_as_the_metric(metric):
    """Though it be flat at the positive prompt, as a difference of probabilities is, and kl."""
    logits = 3 * jax.random.normal(jax.random.key(0), (2, 2, 20))
    logits = logits.at[:, 0, 3:6].add(12)  # all but sure
    direction = slope_attribution.metric_direction(logits, GOAL, metric)
    goal = dataclasses.replace(GOAL, reference=logits[:, 0])
    positive, negative = (metric_values(logits[:, side], goal, metric) for side in (0, 1))
    found = jnp.sum((logits[:, 0] - logits[:, 1]) * direction, axis=-1)
    np.testing.assert_allclose(found, positive - negative, rtol=0.05)


def test_towards_a_metric_nodes_flow_as_they_do_without():
    model = tiny.model(CONFIGS["llama"])
    found, alone = graph_flows(model, "prob_diff"), graph_flows(model)
    nodes = [(one.heads, one.others) for one in (found, alone)]
    for mine, theirs in zip(*map(jax.tree.leaves, nodes), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())
    assert not np.allclose(found.passes, alone.passes, rtol=0.1)


PAIRS, LAYERS, TOKENS, HEADS, WIDTH, D, READERS = 2, 3, 8, 9, 4, 40, 5


def moved(embedding, mlps, z, w_o):
    heads_of = functools.partial(jnp.einsum, "bqhk,hkd->hbqd")
    return all_writers(embedding, mlps, lambda layer: heads_of(*layer), (z, w_o), HEADS)


def layer_by_layer(embedding, mlps, z, w_o, directions):
    writers = moved(embedding, mlps, z, w_o)
    return jax.lax.map(lambda one: along(writers, one), directions)


@pytest.fixture(scope="module")
def movements():
    shapes = (
        (PAIRS, TOKENS, D),
        (LAYERS, PAIRS, TOKENS, D),
        (LAYERS, PAIRS, TOKENS, HEADS, WIDTH),
        (LAYERS, HEADS, WIDTH, D),
        (LAYERS, READERS, PAIRS, TOKENS, D),
    )
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def test_writers_pass_what_they_move_in_the_order_of_the_graph(movements):
    embedding, mlps, z, w_o, directions = movements
    heads = np.einsum("lbqhk,lhkd->lhbqd", z, w_o)
    layers = np.concatenate([heads, mlps[:, None]], axis=1).reshape(-1, *embedding.shape)
    writers = np.concatenate([embedding[None], layers])
    wanted = np.einsum("wbqd,lrbqd->lbwr", writers, directions)
    found = jax.jit(layer_by_layer)(*movements)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_writers_are_there_once(movements):
    compiled = jax.jit(layer_by_layer).lower(*movements).compile()
    size = 4 * PAIRS * (1 + LAYERS * (HEADS + 1)) * TOKENS * D
    assert compiled.memory_analysis().temp_size_in_bytes < 1.6 * size


def within(equation):
    """The equations of what one calls, and of what these call."""
    for inner in inside(equation):
        for one in inner.eqns:
            yield one
            yield from within(one)


def test_a_layer_is_written_to_whole_tiles(movements):
    """A TPU keeps the last two axes in tiles; who writes between two makes it move all of them."""
    (scan,) = (e for e in jax.make_jaxpr(moved)(*movements[:4]).eqns if e.primitive.name == "scan")
    written = [e for e in within(scan) if e.primitive.name == "dynamic_update_slice"]
    kept, part = (x.aval.shape for x in written[0].invars[:2])
    assert len(written) == 1
    assert kept[-2:] == part[-2:] == (HEADS, TOKENS * D)
