"""Relevance patching: the model says the same, its gradients are those of a linear model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.circuits.graph import graph_of
from circuits_jax.decoder.decoder import MLP, Decoder
from circuits_jax.interpose import Rules
from circuits_jax.methods import discover
from circuits_jax.methods.exact_patching import exact_patching
from circuits_jax.methods.relp import Relp, relp
from tests.circuits import tiny
from tests.circuits.methods.test_edges import EVERYTHING, TWO_LAYERS

KEY = jax.random.key(0)
ALL = Rules(norms=True, activations=True, gates=True, attention="frozen")
NO_BIAS = dataclasses.replace(tiny.CONFIG, out_bias=False, post_norms=True, qk_norm=True)


@pytest.fixture(scope="module")
def task():
    return tiny.task()


@functools.partial(jax.jit, static_argnames=("config", "rules"))
def logit_and_gradient(config, params, batch, rules):
    """One logit, its gradient by the embedding, and the embedding."""
    embedding = Decoder(config).apply({"params": params}, batch, method="embed")

    def value(stream):
        with interpose.linearised(rules):
            run_layer = functools.partial(interpose.run_layer, config, params, batch)
            last = jax.lax.scan(
                lambda s, layer: (run_layer(layer, s)[0], None), stream, jnp.arange(config.n_layers)
            )[0]
            return interpose.final_logits(config, params, batch, last)[:, 3].sum()

    return *jax.value_and_grad(value)(embedding), embedding


def test_values_stay_and_relevance_is_conserved():
    """With all rules and no bias the logit is linear: it is its gradient times the embedding."""
    model = tiny.model(NO_BIAS)
    batch = model.tokenize(["when Ann and Bob went out then Bob gave it to", "Ann and Bob"])
    plain = interpose.last_logits(model.config, model.params, batch)[:, 3].sum()
    value, gradient, embedding = logit_and_gradient(model.config, model.params, batch, ALL)
    np.testing.assert_allclose(value, plain, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(gradient * embedding), value, rtol=1e-3)
    half = dataclasses.replace(ALL, attention="half")
    value, other, _ = logit_and_gradient(model.config, model.params, batch, half)
    np.testing.assert_allclose(value, plain, rtol=1e-4)
    assert np.abs(other - gradient).max() > 0.01


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_a_held_activation_passes_on_its_ratio(name):
    """At 0, where there is no ratio, its limit; alone in an MLP of width 1."""
    config = dataclasses.replace(tiny.CONFIG, d_model=1, d_mlp=1, gated_mlp=False, activation=name)
    one = jnp.ones((1, 1))
    mlp = MLP(config)

    def slope(x):
        with interpose.linearised(Rules(activations=True)):
            apply = functools.partial(mlp.apply, {"params": {"up": one, "down": one}})
            return jax.value_and_grad(lambda x: apply(x[None, None, None])[0, 0, 0])(x)

    for x in (-2.0, 0.5, 3.0):
        value, ratio = slope(jnp.float32(x))
        np.testing.assert_allclose(ratio, value / x, rtol=1e-5)
    np.testing.assert_allclose(slope(jnp.float32(0.0))[1], 0.0 if name == "relu" else 0.5)


def test_effects_are_exact_where_only_values_are_read(task):
    """Queries of 0 spread attention evenly: all is linear, and heads, edges, paths are exact."""
    model = tiny.model(TWO_LAYERS)
    q = jnp.zeros_like(model.params["layers"]["attention"]["q"])
    model = tiny.with_attention(model, q=q)
    exact = exact_patching(model, task, KEY, EVERYTHING)
    found = relp(model, task, KEY, Relp(attention="frozen"))
    for name in ("effects", "edge_effects"):
        np.testing.assert_allclose(found.details[name], exact.details[name], rtol=1e-3, atol=1e-4)
    assert np.abs(exact.details["edge_effects"]).max() > 0.01


def test_frozen_patterns_leave_queries_and_keys_without_effect(task):
    found = discover(tiny.model(TWO_LAYERS), task, "relp", attention="frozen")
    names = graph_of(TWO_LAYERS).readers
    effects = np.asarray(found.details["graph_effects"])
    unread = [index for index, name in enumerate(names) if name.endswith(("<q>", "<k>"))]
    assert (effects[:, unread] == 0).all()
    assert np.abs(effects).max() > 0.01
