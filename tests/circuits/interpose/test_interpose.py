"""Reading heads changes nothing; rewriting them with what they said changes nothing either."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.decoder import Block, Decoder, layer_data
from tests.circuits import tiny

CONFIGS = {
    "llama": tiny.CONFIG,
    "gemma": dataclasses.replace(
        tiny.CONFIG, post_norms=True, qk_norm=True, out_bias=False, windows=(3, NO_WINDOW, 3)
    ),
}
ATTENTION_ONLY = dataclasses.replace(tiny.CONFIG, d_mlp=0, norm="none")
L, H, K, D = 3, 4, 4, 16
PROMPTS = ("when Ann and Bob went out then Bob gave it to", "Ann and Bob", "Cid")


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return tiny.model(CONFIGS[request.param])


@functools.cache
def passes(model_config):
    """The plain logits, and those of a capturing pass with z [L B T H K] and the scales."""
    model = tiny.model(model_config)
    batch = model.tokenize(PROMPTS)
    plain = interpose.last_logits(model.config, model.params, batch)

    @jax.jit
    def capture_all(params):
        parts = {
            name: interpose.capture(model.config, params, batch, lambda h, n=name: getattr(h, n))
            for name in ("z", "scale", "w_o")
        }
        return parts["z"][0], {name: part for name, (_, part) in parts.items()}

    return batch, plain, *capture_all(model.params)


@functools.partial(jax.jit, static_argnames="config")
def replaced(config, params, batch, keep, replacement):
    return interpose.replace(config, params, batch, keep, replacement)


def test_capture_gives_the_plain_logits(model):
    _, plain, logits, seen = passes(model.config)
    np.testing.assert_array_equal(logits, plain)
    assert seen["z"].shape == (L, 3, 12, H, K)
    assert seen["scale"].shape == (L, 3, 12)
    np.testing.assert_array_equal(seen["w_o"], model.params["layers"]["attention"]["o"])


@functools.cache
def recorded(model_config):
    """Blocks applied one by one: the stream each reads and what its attention writes, [L B T D]."""
    model, batch = tiny.model(model_config), passes(model_config)[0]
    x = Decoder(model_config).apply({"params": model.params}, batch, method="embed")
    apply = jax.jit(
        lambda params, x, layer: Block(model_config).apply(
            {"params": params}, x, layer, batch, capture_intermediates=True
        )
    )
    read, written = [], []
    for index in range(L):
        layer = (model.params["layers"], layer_data(model_config))
        params, data = jax.tree.map(lambda leaf, i=index: leaf[i], layer)
        read.append(x)
        (x, _), state = apply(params, x, data)
        written.append(state["intermediates"]["attention"]["__call__"][0])
    return np.stack(read), np.stack(written)


def test_head_outputs_and_bias_are_what_attention_writes(model):
    _, _, _, seen = passes(model.config)
    attention = model.params["layers"]["attention"]
    outputs = jnp.einsum("lbthk,lhkd->lbthd", seen["z"], attention["o"])
    bias = attention.get("o_bias", jnp.zeros((L, D)))
    _, written = recorded(model.config)
    np.testing.assert_allclose(
        outputs.sum(3) + bias[:, None, None], written, rtol=1e-4, atol=1e-4 * np.abs(written).max()
    )


def test_scale_is_the_root_mean_square_of_what_the_layer_reads(model):
    read, _ = recorded(model.config)
    scale = passes(model.config)[3]["scale"]
    np.testing.assert_allclose(scale, np.sqrt(np.mean(read**2, axis=-1)), rtol=1e-4)


def test_keeping_all_heads_is_the_plain_pass(model):
    batch, plain, _, _ = passes(model.config)
    nonsense = jnp.full((L, 1, 1, H, K), 7.0)
    logits = replaced(model.config, model.params, batch, jnp.ones((L, H)), nonsense)
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)


def test_a_models_own_heads_put_back_are_the_plain_pass(model):
    batch, plain, _, seen = passes(model.config)
    for keep in (jnp.zeros((L, H)), jnp.linspace(0, 1, L * H).reshape(L, H)):
        logits = replaced(model.config, model.params, batch, keep, seen["z"])
        np.testing.assert_allclose(logits, plain, rtol=1e-3, atol=1e-4)


def test_ablating_heads_is_a_model_without_their_output_weights(model):
    batch, plain, _, _ = passes(model.config)
    o = model.params["layers"]["attention"]["o"]
    zeros = jnp.zeros((L, 1, 1, H, K))
    for keep in (jnp.zeros((L, H)), jnp.arange(L * H).reshape(L, H) % 3 > 0):
        without = tiny.with_attention(model, o=o * keep[:, :, None, None])
        wanted = interpose.last_logits(model.config, without.params, batch)
        found = replaced(model.config, model.params, batch, keep * 1.0, zeros)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
        assert np.abs(found - plain).max() > 0.1


def test_a_replacement_stands_at_its_layer_token_and_head():
    """One head of the last layer moves the logits as far as its z moved along W_O."""
    model = tiny.model(ATTENTION_ONLY)  # without norms, logits are linear in z
    batch, plain, _, seen = passes(model.config)
    other = seen["z"] + jax.random.normal(jax.random.key(0), seen["z"].shape)
    keep = jnp.ones((L, H)).at[2, 1].set(0)
    found = replaced(model.config, model.params, batch, keep, other)
    moved = (other - seen["z"])[2, jnp.arange(3), batch.last, 1]
    written = moved @ model.params["layers"]["attention"]["o"][2, 1]
    wanted = plain + written @ model.params["embedding"].T
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_vmap_over_masks_is_a_loop():
    model = tiny.model()
    batch, _, _, seen = passes(model.config)
    keep = (jax.random.uniform(jax.random.key(0), (4, L, H)) > 0.5) * 1.0
    other = seen["z"][:, ::-1]

    def judge(keep):
        return replaced(model.config, model.params, batch, keep, other)

    together = jax.jit(jax.vmap(judge))(keep)
    one_by_one = np.stack([judge(mask) for mask in keep])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-4)
    assert np.abs(np.diff(one_by_one, axis=0)).max() > 0.1


def test_gradients_flow_to_keep():
    """Against central differences."""
    model = tiny.model()
    batch, _, _, seen = passes(model.config)
    other = seen["z"][:, ::-1]

    @jax.jit
    def metric(keep):
        logits = interpose.replace(model.config, model.params, batch, keep, other)
        return jnp.sum(logits[:, 3] - logits[:, 4])

    keep = jnp.full((L, H), 0.6)
    gradient = jax.jit(jax.grad(metric))(keep)
    for layer, head in ((0, 1), (1, 3), (2, 0)):
        up, down = (metric(keep.at[layer, head].add(d)) for d in (0.02, -0.02))
        np.testing.assert_allclose(gradient[layer, head], (up - down) / 0.04, rtol=0.03, atol=0.02)
    assert (np.abs(gradient) > 0).all()
