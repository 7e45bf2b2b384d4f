"""What families differ in, a few at a time: all methods work, and their identities hold."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture import movement, slope_attribution
from circuits_jax.capture.ablation import trial
from circuits_jax.capture.forked import fork
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.decoder import Attention, layer_data, norm_of, stacked
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.interpose.edges import z_of_each
from circuits_jax.methods import discover
from circuits_jax.methods.cdt import decomposed, whole_pass
from tests.circuits import tiny

L, H, G, K, D = 2, 4, 8, 4, 16
TWO = dataclasses.replace(tiny.CONFIG, n_layers=2, layer_kinds=(), windows=())
CONFIGS = {
    # OLMo's norms and cut, Falcon-RW's ALiBi, Arcee's MLP, Phi's blocks and bias on logits
    "plain": dataclasses.replace(
        TWO,
        norm="layer_plain",
        qkv_clip=0.8,
        alibi=True,
        rotary_width=0,
        rotary_frequencies=((),),
        activation="relu_squared",
        gated_mlp=False,
        parallel=True,
        unembedding_bias=True,
    ),
    # OLMo 2's norms, SmolLM3's layer that is not rotated, Ministral 3's queries, dynamic rope
    "after": dataclasses.replace(
        TWO,
        pre_norms=False,
        post_norms=True,
        qk_norm=True,
        qk_norm_over="all",
        rotary_frequencies=((1.0, 0.1), (0.0, 0.0)),
        rotary_scale=(1.0, 1.0),
        layer_kinds=(0, 1),
        rotary_stretch=3.0,
        rotary_context=8,
        query_growth=0.5,
        query_context=3,
    ),
    # GPT-OSS's experts, sinks and windows, Cohere's norms
    "sinks": dataclasses.replace(
        TWO,
        norm="layer_without_bias",
        qk_norm=True,
        qk_norm_kind="layer_without_bias",
        qk_norm_over="HK",
        sinks=True,
        n_experts=4,
        n_chosen=2,
        experts_sum_to_one=True,
        router_bias=True,
        mlp_bias=True,
        mlp_clip=0.9,
        up_offset=1.0,
        swish=1.7,
        windows=(4, NO_WINDOW),
    ),
    # Qwen2-MoE's shared expert, Phi-3's frequencies of long prompts
    "shared": dataclasses.replace(
        TWO, n_experts=3, n_chosen=2, d_shared=6, rotary_long=((0.5, 0.01),), rotary_context=8
    ),
}
by_config = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2)


@functools.cache
def metric_with(name):
    """Mean metric under masks of heads, compiled once."""
    model = tiny.model(CONFIGS[name])
    prepared = trial(model, tiny.task(n=2).learn, "resample")
    return lambda keep: np.asarray(
        metric_under(model.config, model.params, prepared, jnp.asarray(keep), "logit_diff")
    ).mean(axis=1)


@by_config
def test_exact_patching_is_a_loop_and_patching_all_heads_gives_the_other_prompt(name, task):
    """The last tokens of a pair are the same, so all that differs there comes through heads."""
    model, learn = tiny.model(CONFIGS[name]), task.learn
    keep = np.concatenate([np.ones((1, G)), 1 - np.eye(G), np.zeros((1, G))]).reshape(-1, L, H)
    whole, *dropped, none = metric_with(name)(keep.astype(np.float32))
    found = discover(model, task, "exact_patching").details["effects"]
    np.testing.assert_allclose(
        found, (whole - np.array(dropped)).reshape(L, H), rtol=1e-3, atol=1e-4
    )
    other = dataclasses.replace(learn, positives=learn.negatives)
    prepared = trial(model, other, "zero")
    every = jnp.ones_like(keep, jnp.float32)  # as many choices, so the same program
    plain = metric_under(model.config, model.params, prepared, every, "logit_diff").mean()
    np.testing.assert_allclose(none, plain, rtol=1e-3, atol=1e-4)
    assert abs(whole - plain) > 1e-2


@by_config
def test_edges_out_of_a_head_sum_to_its_attribution(name, task):
    model = tiny.model(CONFIGS[name])
    attribution = np.asarray(discover(model, task, "attribution").details["effects"])
    edges = np.asarray(discover(model, task, "eap").details["effects"])
    assert np.abs(attribution).max() > 1e-3
    np.testing.assert_allclose(edges, attribution, rtol=1e-3, atol=1e-4 * np.abs(edges).max())


@by_config
def test_codes_are_found(name, task):
    scores = np.asarray(discover(tiny.model(CONFIGS[name]), task, "sae_codes").head_scores)
    assert np.isfinite(scores).all()
    assert scores.max() > 0


@by_config
def test_parts_of_the_decomposition_sum_to_the_plain_logits(name, task):
    config = CONFIGS[name]
    model = tiny.model(config)
    prepared = trial(model, task.learn, "resample")

    @jax.jit
    def run(params):
        recorded = whole_pass(config, params, prepared)
        source = jnp.array(0), jnp.array(1)
        return decomposed(config, params, prepared, recorded, source, "published")

    parts = np.asarray(run(model.params))
    plain = interpose.last_logits(config, model.params, prepared.batch)
    np.testing.assert_allclose(parts.sum(axis=0), plain, rtol=1e-3, atol=1e-3)
    assert (np.abs(parts).mean(axis=(1, 2)) > 1e-3).all()


@by_config
def test_a_head_that_reads_a_stream_of_its_own_reads_as_in_the_whole_layer(name):
    config = CONFIGS[name]
    model = tiny.model(config)
    batch = model.tokenize(["when Ann and Bob went out then Bob gave it to", "Ann and Bob"])
    streams = np.random.default_rng(0).standard_normal((H, *batch.tokens.shape, D))
    streams = jnp.asarray(streams, jnp.float32)
    each = jax.jit(functools.partial(z_of_each, config, model.params, batch))
    whole = jax.jit(functools.partial(interpose.z_from, config, model.params, batch))
    found = each(jnp.array(1), (streams,) * 3)
    wanted = [whole(jnp.array(1), stream)[:, :, head] for head, stream in enumerate(streams)]
    np.testing.assert_allclose(found, jnp.stack(wanted, axis=2), rtol=1e-4, atol=1e-5)


@by_config
def test_attention_is_read_by_the_transpose_of_its_derivative(name):
    """But for what is held still, which is left out here: norms of queries, and the cut."""
    config = dataclasses.replace(CONFIGS[name], qk_norm=False, qkv_clip=0.0)
    model = tiny.model(config)
    batch = model.tokenize(["when Ann and Bob went out then Bob gave it to", "Ann and Bob"])

    @jax.jit
    def both(params, weight):
        _, records = interpose.record(config, params, batch, lambda record: record)
        own, data, record = jax.tree.map(
            lambda x: x[0], (params["layers"], layer_data(config), records)
        )
        norm = norm_of(config, "attention_norm")
        normed = norm.apply({"params": own.get("attention_norm", {})}, record.stream)
        attention = Attention(config)

        def attend(x):
            return attention.apply({"params": own["attention"]}, x, data, batch, method="attend")

        wanted = jax.vjp(attend, normed)[1](weight)[0]
        moved = movement.Moved(
            z=record.z,
            mlp=record.mlp,
            relative=record.z,
            mlp_relative=record.mlp,
            q=record.q,
            k=record.k,
            v=record.v,
            other_q=record.q,
            other_k=record.k,
            pattern=record.pattern,
            slopes={},
            inverse_scales={},
        )
        between, sink = slope_attribution.patterns_between(
            config, own["attention"], data, batch, moved
        )
        read = slope_attribution.read_attention(
            config, own["attention"], data, batch, moved, between, weight, sink
        )
        return wanted, read

    shape = (*batch.tokens.shape, H, K)
    weight = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    wanted, found = both(model.params, weight * batch.mask[:, :, None, None])
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-4 * np.abs(wanted).max())


def test_experts_are_read_through_the_routers_weights():
    """In a model that is linear but for its router, which is the same for all tokens: exactly."""
    config = dataclasses.replace(
        TWO,
        norm="none",
        gated_mlp=False,
        activation="relu",
        mlp_bias=True,
        n_experts=3,
        n_chosen=2,
        d_shared=6,
        router_bias=True,
    )
    model = tiny.model(config)
    layers = model.params["layers"]
    mlp = layers["mlp"] | {
        "router": jnp.zeros_like(layers["mlp"]["router"]),
        "shared_gate": jnp.zeros_like(layers["mlp"]["shared_gate"]),
        "up": 0.1 * layers["mlp"]["up"],
        "down": 0.1 * layers["mlp"]["down"],
        "up_bias": jnp.full_like(layers["mlp"]["up_bias"], 20.0),
    }
    still = layers["attention"] | {"q": jnp.zeros_like(layers["attention"]["q"])}
    params = model.params | {"layers": layers | {"attention": still, "mlp": mlp}}
    model = dataclasses.replace(model, params=params)
    pairs = tiny.task(n=2).learn
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")

    forked = fork(stacked(sides), 12)

    @jax.jit
    def run(params):
        flow = slope_attribution.flows(config, params, forked)
        logits, _ = interpose.capture(config, params, sides[0])
        other, z = interpose.capture(config, params, sides[1])
        keep = 1 - jnp.eye(G).reshape(G, L, H)
        replaced = jax.vmap(lambda k: interpose.replace(config, params, sides[0], k, z))(keep)
        direction = jax.nn.softmax(logits) - jax.nn.softmax(other)
        effects = jnp.einsum("gbv,bv->bg", logits[None] - replaced, direction)
        return jnp.sum(flow.read, axis=2).swapaxes(0, 1).reshape(2, G), effects

    found, effects = run(params)
    assert np.abs(effects).max() > 1e-3
    np.testing.assert_allclose(found, effects, rtol=2e-3, atol=2e-3 * np.abs(effects).max())
    assert not np.allclose(
        run(
            params
            | {
                "layers": params["layers"]
                | {"mlp": mlp | {"router_bias": mlp["router_bias"][:, ::-1]}}
            }
        )[0],
        found,
        rtol=1e-2,
    )
