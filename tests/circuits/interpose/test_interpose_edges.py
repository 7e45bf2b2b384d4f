"""Cutting edges: against a loop over heads, path patching, and NumPy from the equations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture.ablation import trial
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.decoder import Decoder, TokenBatch
from circuits_jax.interpose import Added, Written
from circuits_jax.methods.path_patching import path_change
from circuits_jax.tasks import metric_values
from tests.circuits import graph_reference as reference
from tests.circuits import tiny

L, H, G, J, K, D = 3, 4, 12, 2, 4, 16
NEOX = dataclasses.replace(
    tiny.CONFIG,
    n_kv_heads=H,
    norm="layer",
    activation="gelu",
    gated_mlp=False,
    parallel=True,
    qkv_bias=True,
    mlp_bias=True,
    tied=False,
    rotary_width=2,
    rotary_frequencies=((1.0,),),
)
CONFIGS = {
    "llama": tiny.CONFIG,
    "neox": NEOX,
    "gpt2": dataclasses.replace(
        NEOX, parallel=False, tied=True, learned_positions=True, rotary_width=0
    ),
    "qwen": dataclasses.replace(tiny.CONFIG, qkv_bias=True, out_bias=False, n_kv_heads=1),
    "gemma": dataclasses.replace(
        tiny.CONFIG, post_norms=True, qk_norm=True, out_bias=False, windows=(3, NO_WINDOW, 3)
    ),
    "attention only": dataclasses.replace(tiny.CONFIG, d_mlp=0, norm="none"),
}
PROMPTS = ("when Ann and Bob went out then Bob gave it to", "Ann and Bob", "Cid")
EARLIER = np.arange(G)[:, None] // H < np.arange(G)[None] // H


@functools.partial(jax.jit, static_argnames="config")
def cut(config, params, batch, keep, keep_edges, replacement):
    return interpose.replace_edges(config, params, batch, keep, keep_edges, replacement)


@functools.partial(jax.jit, static_argnames="config")
def replaced(config, params, batch, keep, replacement):
    return interpose.replace(config, params, batch, keep, replacement)


@functools.cache
def given(config, seed=0):
    """A model, its tokens, some heads and edges to keep, and what the others say."""
    model, rng = tiny.model(config), np.random.default_rng(seed)
    batch = model.tokenize(PROMPTS)
    keep = jnp.asarray(rng.random((L, H)) < 0.7, jnp.float32)
    keep_edges = jnp.asarray(rng.random((G, G)) < 0.4, jnp.float32)
    shape = L, *batch.tokens.shape, H, K
    replacement = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return model, batch, keep, keep_edges, replacement


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    return given(CONFIGS[request.param])


def test_all_edges_among_the_heads_give_the_heads_themselves(case):
    model, batch, keep, _, replacement = case
    found = cut(model.config, model.params, batch, keep, jnp.ones((G, G)), replacement)
    wanted = replaced(model.config, model.params, batch, keep, replacement)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    plain = interpose.last_logits(model.config, model.params, batch)
    assert np.abs(found - plain).max() > 0.1


def by_head(model, batch, keep, keep_edges, replacement):
    """Head by head: the stream of each made anew from what whole layers write, by `run_layer`."""
    config, params = model.config, model.params
    b, t = batch.tokens.shape
    gone = keep_edges.reshape(L, H, L, H) == 0
    kv_heads = config.n_kv_heads
    none = Added(
        (jnp.zeros((b, t, H, K)), *(jnp.zeros((b, t, kv_heads, K)),) * 2),
        jnp.zeros((b, t, D)),
        Written(jnp.zeros((b, t, H, K)), jnp.zeros((b, t, D))),
    )
    write = jax.jit(functools.partial(interpose.attention_out, config, params))
    read = jax.jit(functools.partial(interpose.z_from, config, params, batch))
    run = jax.jit(functools.partial(interpose.run_layer, config, params, batch))
    stream, said = Decoder(config).apply({"params": params}, batch, method="embed"), []
    for layer in range(L):
        z = np.array(read(jnp.array(layer), stream))
        own = z.copy()
        for head in range(H):
            heard = stream
            for earlier, z_earlier in enumerate(said):
                lost = gone[earlier, :, layer, head][None, None, :, None]
                left = jnp.where(lost, replacement[earlier], z_earlier)
                at = jnp.array(earlier)
                heard = heard + write(at, left) - write(at, z_earlier)
            own[:, :, head] = read(jnp.array(layer), heard)[:, :, head]
        new = jnp.where(keep[layer][None, None, :, None] > 0, own, replacement[layer])
        added = dataclasses.replace(none, written=Written(new - z, none.written.mlp))
        stream, _ = run(jnp.array(layer), stream, added)
        said.append(new)
    return interpose.final_logits(config, params, batch, stream)


def test_cut_edges_are_a_loop_over_heads(case):
    model, batch, keep, keep_edges, replacement = case
    found = cut(model.config, model.params, batch, keep, keep_edges, replacement)
    wanted = by_head(model, batch, keep, keep_edges, replacement)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    with_all = replaced(model.config, model.params, batch, keep, replacement)
    assert np.abs(found - with_all).max() > 0.05


@pytest.mark.parametrize("case", ["neox", "gemma"], indirect=True)
def test_what_is_no_edge_between_kept_heads_is_not_read(case):
    """Within a layer, back, and at heads that are replaced anyway."""
    model, batch, keep, keep_edges, replacement = case
    kept = np.ravel(keep) > 0
    read = EARLIER & kept[:, None] & kept[None, :]
    other = jnp.where(read, keep_edges, 1 - keep_edges)
    found = cut(model.config, model.params, batch, keep, other, replacement)
    wanted = cut(model.config, model.params, batch, keep, keep_edges, replacement)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_one_cut_edge_is_path_patching():
    model, task = tiny.model(), tiny.task()
    prepared = trial(model, task.held_out, "resample")
    edges = np.array([(0, 4), (1, 11), (6, 8)])
    wanted, _ = path_change(model.config, model.params, prepared, "logit_diff", edges)
    masks = np.ones((1 + len(edges), G, G), np.float32)
    masks[1 + np.arange(len(edges)), edges[:, 0], edges[:, 1]] = 0

    def judge(keep_edges):
        logits = interpose.replace_edges(
            model.config,
            model.params,
            prepared.batch,
            jnp.ones((L, H)),
            keep_edges,
            prepared.replacement,
        )
        return jnp.mean(metric_values(logits, prepared.targets, "logit_diff"))

    whole, *values = jax.jit(jax.vmap(judge))(jnp.asarray(masks))
    np.testing.assert_allclose(np.array(values) - whole, wanted, rtol=1e-3, atol=1e-4)
    assert np.abs(wanted).min() > 1e-3


def test_cut_edges_are_the_equations():
    """In NumPy, float64, from nothing of the library: a few passes settle layer after layer."""
    model, _, keep, keep_edges, _ = given(tiny.CONFIG)
    tokens = np.array([model.tokenizer(PROMPTS[0]).input_ids])
    b, t = tokens.shape
    replacement = np.random.default_rng(3).standard_normal((L, b, t, H, K))
    o = np.asarray(model.params["layers"]["attention"]["o"], np.float64)
    other = np.einsum("lbthk,lhkd->lhbtd", replacement, o).reshape(G, b, t, D)
    names = [f"a{layer}.h{head}" for layer in range(L) for head in range(H)]
    kept, gone = np.ravel(keep), (np.asarray(keep_edges) == 0) & EARLIER
    moved, added = {}, {}
    for _ in range(L + 1):
        out, logits = reference.run(model, tokens, added, moved)
        own = np.stack([out[name] - moved.get(name, 0) for name in names])
        said = kept[:, None, None, None] * own + (1 - kept)[:, None, None, None] * other
        moved = dict(zip(names, said - own, strict=True))
        lost = np.einsum("gh,gbtd->hbtd", gone, said - other)
        added = {f"{n}<{part}>": -lost[g] for g, n in enumerate(names) for part in "qkv"}
    batch = TokenBatch(jnp.asarray(tokens), jnp.ones((b, t), bool))
    found = cut(
        model.config, model.params, batch, keep, keep_edges, jnp.asarray(replacement, jnp.float32)
    )
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-3)
    _, plain = reference.run(model, tokens)
    assert np.abs(logits - plain).max() > 0.1


@pytest.mark.parametrize("case", ["llama", "gemma"], indirect=True)
def test_heads_that_are_not_kept_need_no_stream_of_their_own(case):
    model, batch, keep, keep_edges, replacement = case
    readers = jnp.asarray(np.flatnonzero(keep))[::-1]
    assert 2 < len(readers) < G
    given = model.config, model.params, batch, keep, keep_edges, replacement
    found = jax.jit(interpose.replace_edges, static_argnums=0)(*given, readers)
    np.testing.assert_allclose(found, cut(*given), rtol=1e-3, atol=1e-3)
    nobody = jax.jit(interpose.replace_edges, static_argnums=0)(*given, readers[:0])
    with_all = replaced(model.config, model.params, batch, keep, replacement)
    np.testing.assert_allclose(nobody, with_all, rtol=1e-4, atol=1e-4)


def test_gradients_flow_to_keep_edges():
    """Against central differences."""
    model, batch, keep, _, replacement = given(tiny.CONFIG)

    @jax.jit
    def metric(keep_edges):
        logits = interpose.replace_edges(
            model.config, model.params, batch, keep, keep_edges, replacement
        )
        return jnp.sum(logits[:, 3] - logits[:, 4])

    keep_edges = jnp.full((G, G), 0.6)
    gradient = jax.jit(jax.grad(metric))(keep_edges)
    kept = np.ravel(keep) > 0
    read = EARLIER & kept[:, None] & kept[None]
    np.testing.assert_array_equal(np.asarray(gradient) != 0, read)
    for edge in np.argwhere(read)[:: read.sum() // 3]:
        up, down = (metric(keep_edges.at[tuple(edge)].add(d)) for d in (0.05, -0.05))
        np.testing.assert_allclose(gradient[tuple(edge)], (up - down) / 0.1, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("case", ["llama", "gemma"], indirect=True)
def test_vmap_over_masks_is_a_loop(case):
    model, batch, _, _, replacement = case
    rng = np.random.default_rng(1)
    keep = jnp.asarray(rng.random((3, L, H)), jnp.float32)  # a share of a head, of an edge
    keep_edges = jnp.asarray(rng.random((3, G, G)), jnp.float32)

    def judge(keep, keep_edges):
        return cut(model.config, model.params, batch, keep, keep_edges, replacement)

    together = jax.jit(jax.vmap(judge))(keep, keep_edges)
    one_by_one = np.stack([judge(*masks) for masks in zip(keep, keep_edges, strict=True)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-3, atol=1e-3)
    assert np.abs(np.diff(one_by_one, axis=0)).max() > 0.05


@pytest.mark.parametrize("case", ["llama", "gpt2"], indirect=True)
def test_the_side_of_the_padding_changes_nothing(case):
    model, batch, keep, keep_edges, _ = case
    shape = L, 1, 1, H, K
    replacement = jnp.asarray(np.random.default_rng(2).standard_normal(shape), jnp.float32)
    assert bool(batch.mask[:, 0].all())  # padded on the right
    columns = jnp.argsort(batch.mask, axis=1, stable=True)
    other = jax.tree.map(lambda x: jnp.take_along_axis(x, columns, axis=1), batch)
    assert bool(other.mask[:, -1].all())
    found = [
        cut(model.config, model.params, side, keep, keep_edges, replacement)
        for side in (batch, other)
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)
