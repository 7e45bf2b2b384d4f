"""Circuits of the whole graph against an independent model in which every part reads its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.circuits.graph import graph_of
from tests.circuits import graph_reference as reference
from tests.circuits import tiny
from tests.circuits.methods.test_features import CONFIGS, by_config

GRAPH = graph_of(tiny.CONFIG)
replace_graph = jax.jit(interpose.replace_graph, static_argnums=0)
writes = jax.jit(interpose.writes, static_argnums=0)


def by_an_independent_loop(model, positives, negatives, keep):
    """Logits of the circuit: writers in order, each run on what its edges give it."""
    other, _ = reference.run(model, negatives)
    place = {name: r for r, name in enumerate(GRAPH.readers)}
    added = {}
    for w, writer in enumerate(GRAPH.writers):  # a writer's output is known once all before are
        out, _ = reference.run(model, positives, added)
        for reader in GRAPH.readers:
            if GRAPH.is_edge[w, place[reader]]:
                lacks = (1 - keep[w, place[reader]]) * (other[writer] - out[writer])
                added[reader] = added.get(reader, 0) + lacks
    return reference.run(model, positives, added)[1]


def sides(model):
    pairs = tiny.task().learn
    return [model.tokenize(prompts) for prompts in (pairs.positives, pairs.negatives)]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_a_circuit_of_edges_is_that_of_an_independent_loop(share):
    model = tiny.model()
    positive, negative = sides(model)
    rng = np.random.default_rng(int(100 * share))
    keep = (rng.random(GRAPH.is_edge.shape) < share).astype(np.float32)
    of_others = writes(model.config, model.params, negative)
    found = replace_graph(model.config, model.params, positive, jnp.asarray(keep), of_others)
    length = int(positive.mask[0].sum())
    tokens = [np.asarray(batch.tokens)[:, :length] for batch in (positive, negative)]
    wanted = by_an_independent_loop(model, *tokens, keep)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


@by_config
def test_all_edges_are_the_model_and_no_edges_the_other_prompt(name):
    model = tiny.model(CONFIGS[name])
    positive, negative = sides(model)
    graph = graph_of(model.config)
    of_others = writes(model.config, model.params, negative)
    for keep, batch in ((1.0, positive), (0.0, negative)):
        mask = jnp.full(graph.is_edge.shape, keep)
        found = replace_graph(model.config, model.params, positive, mask, of_others)
        wanted = interpose.last_logits(model.config, model.params, batch)
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)
