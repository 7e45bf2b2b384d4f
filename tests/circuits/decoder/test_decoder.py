"""Properties of the decoder that hold for any weights: causality, padding, windows, identities."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from circuits_jax.decoder.config import NO_WINDOW, DecoderConfig
from circuits_jax.decoder.decoder import (
    Attention,
    Decoder,
    Norm,
    TokenBatch,
    initial_params,
    layer_data,
    softcap,
)

GPT2 = DecoderConfig(
    family="gpt2",
    vocab_size=23,
    n_positions=16,
    n_layers=2,
    n_heads=4,
    n_kv_heads=4,
    head_width=6,
    d_model=16,
    d_mlp=20,
    norm="layer",
    activation="gelu_tanh",
    attention_scale=6**-0.5,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    learned_positions=True,
)
LLAMA = dataclasses.replace(
    GPT2,
    family="llama",
    n_kv_heads=2,
    norm="rms",
    activation="silu",
    gated_mlp=True,
    qk_norm=True,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    learned_positions=False,
    tied=True,
    rotary_width=6,
    rotary_frequencies=((1.0, 0.3, 0.1), (1.0, 0.1, 0.01)),
    rotary_scale=(1.0, 1.2),
    layer_kinds=(0, 1),
    windows=(NO_WINDOW, 4),
)
ATTENTION_ONLY = dataclasses.replace(GPT2, d_mlp=0, norm="none", qkv_bias=False, out_bias=False)
CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "attention_only": ATTENTION_ONLY}
TOKENS = np.random.default_rng(0).integers(0, 23, (3, 10))


@functools.cache
def params_of(config):
    """Random parameters, large enough for every part to matter; norms near 1."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda key: initial_params(config, key), jax.random.key(0))

    def one(path, leaf):
        noise = 0.3 * rng.standard_normal(leaf.shape, np.float32)
        return noise + (path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(one, shapes)


@functools.partial(jax.jit, static_argnames=("config", "method"))
def apply(config, params, tokens, mask, method="__call__"):
    return Decoder(config).apply({"params": params}, TokenBatch(tokens, mask), method=method)


@functools.partial(jax.jit, static_argnames="config")
def last_logits(config, params, batch):
    return Decoder(config).apply({"params": params}, batch, method="last_logits")


def logits_of(config, tokens, mask=None, method="__call__"):
    tokens = jnp.asarray(tokens)
    mask = jnp.ones_like(tokens, bool) if mask is None else jnp.asarray(mask)
    return np.asarray(apply(config, params_of(config), tokens, mask, method))


def close(got, want):
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_later_tokens_change_nothing_before_them(config):
    changed = TOKENS.copy()
    changed[:, 6] = (changed[:, 6] + 1) % config.vocab_size
    before, after = logits_of(config, TOKENS), logits_of(config, changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before - after)[:, 6:].max(axis=(0, 2)).min() > 1e-3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@settings(max_examples=15, deadline=None)
@given(
    columns=st.lists(st.sets(st.integers(0, 15), min_size=1, max_size=10), min_size=3, max_size=3),
    filler=st.integers(0, 22),
)
@example(columns=[set(range(10)), set(range(6, 16)), {0, 1, 2, 9, 10, 11, 12, 15}], filler=3)
def test_padding_anywhere_changes_no_prompt(config, columns, filler):
    """On either side or in the middle, and whatever token fills it."""
    tokens, mask = np.full((3, 16), filler), np.zeros((3, 16), bool)
    lengths = [len(at) for at in columns]
    for row, at in enumerate(columns):
        tokens[row, sorted(at)] = TOKENS[row, : len(at)]
        mask[row, sorted(at)] = True
    padded, plain = logits_of(config, tokens, mask), logits_of(config, TOKENS)
    last = logits_of(config, tokens, mask, method="last_logits")
    for row, length in enumerate(lengths):
        close(padded[row][mask[row]], plain[row, :length])
        close(last[row], plain[row, length - 1])


def test_a_window_hides_what_lies_behind_it():
    """Two layers with a window of 3 see four tokens back; nothing of the fifth reaches them."""
    config = dataclasses.replace(LLAMA, windows=(3, 3))
    changed = TOKENS.copy()
    changed[:, 2] = (changed[:, 2] + 1) % config.vocab_size
    moved = np.abs(logits_of(config, TOKENS) - logits_of(config, changed)).max(axis=(0, 2))
    assert np.all(moved[2:7] > 1e-4)
    np.testing.assert_array_equal(moved[:2], 0)
    np.testing.assert_array_equal(moved[7:], 0)


def test_grouped_heads_equal_full_heads_with_repeated_keys_and_values():
    full = dataclasses.replace(LLAMA, n_kv_heads=LLAMA.n_heads)
    params = params_of(LLAMA)
    attention = dict(params["layers"]["attention"])
    attention |= {name: jnp.repeat(attention[name], 2, axis=2) for name in "kv"}
    repeated = {**params, "layers": {**params["layers"], "attention": attention}}
    mask = jnp.ones_like(TOKENS, bool)
    close(apply(full, repeated, jnp.asarray(TOKENS), mask), logits_of(LLAMA, TOKENS))


def test_attention_is_a_weighted_mean_of_values():
    """With queries of zero, z at token t is the mean of the values up to t."""
    params = jax.tree.map(lambda leaf: leaf[0], params_of(GPT2)["layers"]["attention"])
    params = {**params, "q": 0 * params["q"], "q_bias": 0 * params["q_bias"]}
    x = jax.random.normal(jax.random.key(0), (2, 7, 16))
    batch = TokenBatch(jnp.zeros((2, 7), jnp.int32), jnp.ones((2, 7), bool))
    layer = jax.tree.map(lambda leaf: leaf[0], layer_data(GPT2))
    z = Attention(GPT2).apply({"params": params}, x, layer, batch, method="attend")
    values = jnp.einsum("btd,dhk->bthk", x, params["v"]) + params["v_bias"][None, None]
    means = jnp.cumsum(values, axis=1) / jnp.arange(1, 8)[None, :, None, None]
    np.testing.assert_allclose(z, means, atol=1e-5)


def test_heads_add_up_to_what_attention_writes():
    params = jax.tree.map(lambda leaf: leaf[0], params_of(GPT2)["layers"]["attention"])
    z = jax.random.normal(jax.random.key(0), (2, 7, 4, 6))
    written = Attention(GPT2).apply({"params": params}, z, method="project")
    heads = jnp.einsum("bthk,hkd->bthd", z, params["o"])
    np.testing.assert_allclose(written, heads.sum(2) + params["o_bias"][None, None], atol=1e-5)


def test_attention_only_model_by_hand():
    """One layer, no norm, no MLP: x + sum_h z W_O, written out in numpy."""
    config = dataclasses.replace(ATTENTION_ONLY, n_layers=1, windows=(NO_WINDOW,), layer_kinds=(0,))
    p = jax.tree.map(np.asarray, params_of(config))
    a = {name: leaf[0] for name, leaf in p["layers"]["attention"].items()}
    x = p["embedding"][TOKENS[0]] + p["position_embedding"][:10]
    q, k, v = (np.einsum("td,dhk->htk", x, a[n]) for n in "qkv")
    scores = q @ k.swapaxes(1, 2) / np.sqrt(6)
    pattern = np.where(np.tri(10, dtype=bool)[None], np.exp(scores), 0)
    pattern /= pattern.sum(-1, keepdims=True)
    x = x + np.einsum("htk,hkd->td", pattern @ v, a["o"])
    close(logits_of(config, TOKENS)[0], x @ p["unembedding"])


def test_blocks_are_a_scan_in_the_order_of_layers():
    """Layer 0 of two, then layer 1, as models of one layer: the residual stream is handed on."""
    params = params_of(GPT2)
    mask = jnp.ones_like(TOKENS, bool)
    halves = [
        {**params, "layers": jax.tree.map(lambda x, i=i: x[i : i + 1], params["layers"])}
        for i in range(2)
    ]
    one = dataclasses.replace(GPT2, n_layers=1, windows=(NO_WINDOW,), layer_kinds=(0,))
    first = apply(one, halves[0], jnp.asarray(TOKENS), mask, method="residual")
    # The residual stream enters the second half as a table of embeddings, a row for each token.
    fed = dataclasses.replace(one, vocab_size=30, tied=True, learned_positions=False)
    rest = {name: halves[1][name] for name in ("layers", "final_norm")}
    rest["embedding"] = first.reshape(30, 16)
    tokens = jnp.arange(30).reshape(3, 10)
    close(
        apply(fed, rest, tokens, mask, method="residual"),
        apply(GPT2, params, jnp.asarray(TOKENS), mask, method="residual"),
    )


def test_norms():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 64))
    layer, variables = Norm("layer", 1e-6).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(layer.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(layer.std(-1), 1, rtol=1e-5)
    assert set(variables["params"]) == {"scale", "bias"}
    rms, _ = Norm("rms", 1e-6).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(jnp.mean(rms * rms, axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(Norm("none", 1e-6).apply({}, x), x)


@settings(deadline=None)
@given(x=st.floats(-1e3, 1e3), cap=st.floats(0.5, 60))
def test_softcap_is_bounded_odd_and_the_identity_near_zero(x, cap):
    assert abs(softcap(jnp.float32(x), cap)) <= cap * (1 + 1e-6)
    assert softcap(jnp.float32(-x), cap) == -softcap(jnp.float32(x), cap)
    np.testing.assert_allclose(softcap(jnp.float32(cap / 1000), cap), cap / 1000, rtol=1e-4)
    assert softcap(jnp.float32(x), 0.0) == jnp.float32(x)


def test_prompts_shard_over_devices():
    """Two devices, one row of the batch each: the same logits."""
    mesh = jax.make_mesh((2,), ("B",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("B"))
    tokens = jax.device_put(jnp.asarray(TOKENS[:2]), rows)
    mask = jax.device_put(jnp.ones((2, 10), bool), rows)
    got = apply(LLAMA, params_of(LLAMA), tokens, mask)
    assert len(got.sharding.device_set) == 2
    close(got, logits_of(LLAMA, TOKENS[:2]))


def test_configs_need_an_entry_for_each_layer():
    with pytest.raises(ValueError, match="windows needs one entry for each of 2 layers"):
        dataclasses.replace(GPT2, windows=(4, 4, 4))
