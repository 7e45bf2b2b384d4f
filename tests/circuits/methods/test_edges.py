"""Edges against their definitions: a model in which every part has a residual stream of its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.circuits.graph import Graph, head_edges
from circuits_jax.decoder.decoder import Decoder
from circuits_jax.methods.edges import product_edges, ungrouped
from circuits_jax.methods.exact_patching import ExactPatching, exact_patching
from circuits_jax.runs.errors import InputError
from tests.circuits import graph_reference as reference
from tests.circuits import tiny

L, H, G = 3, 4, 12
KEY = jax.random.key(0)
TWO_LAYERS = dataclasses.replace(
    tiny.CONFIG, n_layers=2, d_mlp=0, norm="none", layer_kinds=(), windows=()
)
EVERYTHING = ExactPatching(positions="each", edges="path", n_edges=H * H)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task()


def logit_diff(logits, pairs):
    rows = np.arange(len(pairs))
    return logits[rows, np.ravel(pairs.answers)] - logits[rows, np.ravel(pairs.foils)]


def test_graph_by_hand():
    graph = Graph(n_layers=2, n_heads=1)
    assert graph.writers == ("input", "a0.h0", "m0", "a1.h0", "m1")
    heads = [[f"a{at}.h0<{part}>" for part in "qkv"] for at in (0, 1)]
    assert graph.readers == (*heads[0], "m0", *heads[1], "m1", "logits")
    first, second = [1, 1, 1], [0, 0, 0]
    wanted = [
        [*first, 1, 1, 1, 1, 1, 1],
        [*second, 1, 1, 1, 1, 1, 1],
        [*second, 0, 1, 1, 1, 1, 1],
        [*second, 0, *second, 1, 1],
        [*second, 0, *second, 0, 1],
    ]
    np.testing.assert_array_equal(graph.is_edge, wanted)
    parallel = dataclasses.replace(graph, parallel=True).is_edge
    np.testing.assert_array_equal(np.argwhere(graph.is_edge ^ parallel), [[1, 3], [3, 7]])


def test_indices_of_heads_are_those_of_their_names():
    graph = Graph(n_layers=L, n_heads=H)
    names = [f"a{layer}.h{head}" for layer in range(L) for head in range(H)]
    assert [graph.writers[index] for index in graph.head_writers] == names
    for part, indices in zip("qkv", graph.head_readers, strict=True):
        assert [graph.readers[index] for index in indices] == [f"{n}<{part}>" for n in names]
    layer = np.arange(G) // H
    edges = head_edges(graph, graph.is_edge.astype(np.float32))
    np.testing.assert_array_equal(edges, 3 * (layer[:, None] < layer[None]))


def test_layers_in_a_row_are_the_plain_pass_and_write_what_the_reference_writes(model, task):
    config, params = ungrouped(model.config, model.params)
    batch = model.tokenize(task.learn.positives)
    plain = interpose.last_logits(model.config, model.params, batch)

    @jax.jit
    def row(params):
        stream = Decoder(config).apply({"params": params}, batch, method="embed")
        run_layer = functools.partial(interpose.run_layer, config, params, batch)
        stream, written = jax.lax.scan(lambda s, layer: run_layer(layer, s), stream, jnp.arange(L))
        return interpose.final_logits(config, params, batch, stream), written

    logits, written = row(params)
    np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-4)
    out, wanted = reference.run(model, np.asarray(batch.tokens)[:, : int(batch.mask[0].sum())])
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)
    length = out["input"].shape[1]
    for layer in range(L):
        parts = jax.tree.map(lambda x, at=layer: x[at], written)
        o = model.params["layers"]["attention"]["o"][layer]
        heads = jnp.einsum("bthk,hkd->hbtd", parts.z, o)[:, :, :length]
        for head in range(H):
            np.testing.assert_allclose(heads[head], out[f"a{layer}.h{head}"], rtol=1e-2, atol=2e-3)
        np.testing.assert_allclose(parts.mlp[:, :length], out[f"m{layer}"], rtol=1e-2, atol=2e-3)


def test_path_patching_is_an_edge_of_the_reference(model, task):
    pairs, n_edges = task.learn, 7
    options = ExactPatching(edges="path", n_edges=n_edges, heads_at_once=2)
    found = exact_patching(model, task, KEY, options)
    positives, negatives = (
        np.array([model.tokenizer(text).input_ids for text in prompts])
        for prompts in (pairs.positives, pairs.negatives)
    )
    out, plain = reference.run(model, positives)
    other, _ = reference.run(model, negatives)

    def dropped(name, readers):
        added = dict.fromkeys(readers, other[name] - out[name])
        return logit_diff(plain - reference.run(model, positives, added)[1], pairs).mean()

    names = [f"a{layer}.h{head}" for layer in range(L) for head in range(H)]
    edges, effects = found.details["edges"], found.details["edge_effects"]
    for g, reader in edges:
        wanted = dropped(names[g], [f"{names[reader]}<{part}>" for part in "qkv"])
        np.testing.assert_allclose(effects[g, reader], wanted, rtol=1e-3, atol=1e-4)
    for g in (0, 6, 11):
        direct = found.details["direct_effects"].flat[g]
        np.testing.assert_allclose(direct, dropped(names[g], ["logits"]), rtol=1e-3, atol=1e-4)
    assert np.abs(effects).max() > 0.01
    candidates = product_edges(found.head_scores)
    best = np.argsort(-np.ravel(candidates))[:n_edges]
    np.testing.assert_array_equal(np.flatnonzero(found.edge_scores), np.sort(best))
    np.testing.assert_array_equal(found.edge_scores, np.abs(effects))


@pytest.fixture(scope="module")
def two_layers(task):
    return exact_patching(tiny.model(TWO_LAYERS), task, KEY, EVERYTHING)


def test_paths_out_of_a_head_sum_to_its_effect_where_nothing_interacts_after(two_layers):
    """Two layers of heads alone: the second layer's heads add up, whatever each does inside."""
    details = two_layers.details
    assert len(details["edges"]) == H * H
    sums = details["edge_effects"].sum(axis=1).reshape(2, H) + details["direct_effects"]
    np.testing.assert_allclose(sums, details["effects"], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(two_layers.edge_scores, np.abs(details["edge_effects"]))
    paths = np.abs(details["edge_effects"][:H, H:])
    assert (paths > 1e-3).sum() > 8


def test_only_the_last_token_of_the_last_layer_matters_and_there_it_is_all(two_layers, task):
    by_token = np.asarray(two_layers.details["position_effects"])
    assert by_token.shape[0] % 4 == 0  # the padded length
    np.testing.assert_allclose(by_token[:-1, 1], 0, atol=1e-4)
    np.testing.assert_allclose(by_token[-1, 1], two_layers.details["effects"][1], rtol=1e-4)
    length = len(task.learn.positives[0].split())
    np.testing.assert_allclose(by_token[:-length], 0, atol=1e-5)  # there is no such token
    same = 7  # "when A and B went out then": the pair differs from there on
    np.testing.assert_allclose(by_token[-length : same - length, 0], 0, atol=1e-4)
    assert np.abs(by_token[same - length :, 0]).max() > 0.01


@pytest.mark.parametrize("option", ["n_edges", "heads_at_once"])
def test_values_that_are_not_allowed_are_refused(option):
    with pytest.raises(InputError, match=f"{option} is 0; allowed"):
        ExactPatching(**{option: 0})
