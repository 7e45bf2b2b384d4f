"""CD-T: the parts sum to the whole, follow the published rules, and patch where all is linear."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture.ablation import trial
from circuits_jax.methods import discover, method_options
from circuits_jax.methods.cdt import cdt, decomposed, whole_pass
from circuits_jax.methods.edges import product_edges
from circuits_jax.methods.exact_patching import exact_patching
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import metric_values
from tests.circuits import cdt_reference, tiny

KEY = jax.random.key(0)
PLAIN = {"n_layers": 2, "layer_kinds": (), "windows": ()}
GPT = dataclasses.replace(
    tiny.CONFIG,
    **PLAIN,
    n_kv_heads=4,
    norm="layer",
    activation="gelu_tanh",
    gated_mlp=False,
    qkv_bias=True,
    mlp_bias=True,
    learned_positions=True,
    rotary_width=0,
    rotary_frequencies=((),),
)
GEMMA = dataclasses.replace(
    tiny.CONFIG, **PLAIN, post_norms=True, qk_norm=True, logit_softcap=2.0, parallel=True
)
LINEAR = dataclasses.replace(tiny.CONFIG, **PLAIN, d_mlp=0, norm="none")


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2)


@functools.cache
def parts_of_all_heads(config):
    """Logits [L, H, 2, B, V] of relevant and irrelevant parts; the prompts; plain logits."""
    model = tiny.model(config)
    prepared = trial(model, tiny.task(n=2).learn, "mean")

    @jax.jit
    def run(params):
        recorded = whole_pass(config, params, prepared)
        split = functools.partial(decomposed, config, params, prepared, recorded)

        def of_layer(layer):
            return jax.vmap(lambda head: split((layer, head), "published"))(
                jnp.arange(config.n_heads)
            )

        return jax.lax.map(of_layer, jnp.arange(config.n_layers))

    plain = interpose.last_logits(config, model.params, prepared.batch)
    return np.asarray(run(model.params)), prepared, np.asarray(plain)


@pytest.mark.parametrize("config", [GPT, GEMMA], ids=["gpt", "gemma"])
def test_parts_sum_to_the_plain_logits(config):
    parts, _, plain = parts_of_all_heads(config)
    total = parts.sum(axis=2)
    np.testing.assert_allclose(total, np.broadcast_to(plain, total.shape), rtol=1e-3, atol=1e-3)
    sizes = np.abs(parts).mean(axis=(0, 1, 3, 4))
    assert (sizes > 0.01).all()


def test_parts_are_those_of_the_published_rules():
    parts, prepared, _ = parts_of_all_heads(GPT)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), tiny.model(GPT).params)
    for prompt, layer, head in ((0, 0, 1), (1, 0, 3), (1, 1, 2)):
        n = int(prepared.batch.mask[prompt].sum())
        tokens = np.asarray(prepared.batch.tokens[prompt, :n])
        irrelevant = np.asarray(prepared.replacement[layer, 0, :n, head], np.float64)
        wanted = cdt_reference.decomposition(GPT, params, tokens, (layer, head), irrelevant)
        np.testing.assert_allclose(parts[layer, head, :, prompt], wanted, rtol=2e-3, atol=2e-3)


def test_scores_are_what_the_metric_loses_with_the_relevant_part(task):
    parts, prepared, plain = parts_of_all_heads(GEMMA)
    irrelevant = parts[:, :, 1].reshape(-1, *plain.shape)
    whole, *left = (
        np.mean(metric_values(jnp.asarray(logits), prepared.targets, "logit_diff"))
        for logits in (plain, *irrelevant)
    )
    published = {"rules": "published", "replacement": "mean"}
    found = discover(tiny.model(GEMMA), task, "cdt", **published, heads_at_once=2)
    effects = np.asarray(found.details["effects"])
    np.testing.assert_allclose(effects.reshape(-1), whole - np.array(left), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found.head_scores, np.abs(effects))
    np.testing.assert_allclose(found.edge_scores, product_edges(found.head_scores), rtol=1e-6)
    assert np.abs(effects).min() > 0


def test_linear_rules_patch_exactly_where_patterns_stay(task):
    """Queries of 0 spread attention evenly; no norms, no MLPs: heads are exact."""
    model = tiny.model(LINEAR)
    q = jnp.zeros_like(model.params["layers"]["attention"]["q"])
    model = tiny.with_attention(model, q=q)
    exact = exact_patching(model, task, KEY).details["effects"]
    found = cdt(model, task, KEY).details["effects"]
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)
    assert np.abs(exact).max() > 0.1


def test_no_heads_at_once_are_refused():
    with pytest.raises(InputError, match="heads_at_once is 0; allowed"):
        method_options("cdt", heads_at_once=0)
