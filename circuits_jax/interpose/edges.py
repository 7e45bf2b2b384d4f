"""Ablating edges between heads: a pass in which every head receives from chosen heads alone.

With v_u = z_u W_O what head u writes, the edge u -> v from a head of an earlier layer to one of a
later layer is cut by giving v alone, its queries, keys and values, a residual stream in which u
writes its replacement. All else reads u as it is: other heads, MLPs and the final norm. So the
direct path is cut, and paths from u to v through MLPs and other heads stay.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Decoder, TokenBatch
from circuits_jax.interpose.layers import (
    final_logits,
    layer_of,
    post_normed,
    run_layer,
    z_of_weights,
)
from circuits_jax.interpose.points import intercepted
from circuits_jax.runs import mesh
from circuits_jax.runs.precision import einsum


def replace_edges(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    keep: Float[Array, "L H"],
    keep_edges: Float[Array, "G G"],
    replacement: Float[Array, " L #B #T H K"],
    receivers: Int[Array, " N"] | None = None,
) -> Float[Array, "B *Q V"]:
    """Logits after the last token, with heads replaced and edges between heads cut.

    Heads are replaced where `keep` is 0, as `replace` does. Where `keep_edges[u, v]` is 0, u of an
    earlier layer than v, head v reads the residual stream as if u were replaced as well:

        stream_v = stream - sum over u of (1 - keep_edges[u, v]) (z_u - replacement_u) W_O_u

    with z_u as it is after `keep`. Where a family norms what attention writes, v reads the norm of
    what is left of each earlier layer's. All ones give `replace`. What `keep_edges` says of heads u
    that are not in an earlier layer is not read. Masks may lie between 0 and 1, gradients flow
    through them, and `vmap` over them judges many circuits.

    `receivers` are the heads v whose edges are cut, by number; all others read the whole stream.
    The kept heads are enough, as what others read goes unused; default all heads. What is
    subtracted from each one's stream is held, [N B T D]: for a quarter of the heads about
    B T / (48 K) of the parameters' memory, where H K = D and E = 4 D. With so many, a pass of
    SmolLM2-135M takes 1.7 times as long as `replace`, and 3.2 times with all.
    """
    n_layers, n_heads = config.heads
    receivers = jnp.arange(n_layers * n_heads) if receivers is None else receivers
    n = receivers.shape[0]  # where there is no cut: the slot of all others
    cut = jnp.pad(1 - keep_edges[:, receivers], ((0, 0), (0, 1))).reshape(n_layers, n_heads, n + 1)
    slots = jnp.full(n_layers * n_heads, n).at[receivers].set(jnp.arange(n)).reshape(config.heads)
    stream = Decoder(config).apply({"params": params}, batch, method="embed")

    def step(carry, layer):
        stream, lost = carry
        z = z_of_each(config, params, batch, layer, (stream[None] - lost[slots[layer]],) * 3)
        kept, other = keep[layer][None, None, :, None].astype(z.dtype), replacement[layer]
        other = other.astype(z.dtype)
        z = kept * z + (1 - kept) * other
        stream, written = _with_z(config, params, batch, layer, stream, z)
        return (
            stream,
            lost + _ablated(config, params, layer, z - other, written, cut[layer]),
        ), None

    carry = stream, jnp.zeros((n + 1, *stream.shape), stream.dtype)
    (stream, _), _ = jax.lax.scan(step, carry, jnp.arange(n_layers))
    return final_logits(config, params, batch, stream)


def _ablated(
    config: DecoderConfig,
    params: Any,
    layer: Int[Array, ""],
    change: Float[Array, "B T H K"],
    written: Float[Array, "B T D"],
    cut: Float[Array, "H N"],
) -> Float[Array, "N B T D"]:
    """What each receiver's stream lacks of a layer: `cut` of `change`, its heads' z - replacement.

    `written` is what the layer's attention writes, before its norm.
    """
    own, _ = layer_of(config, params, layer)
    heads = einsum("bthk,hkd->hbtd", change, own["attention"]["o"])
    out = einsum("hbtd,hn->nbtd", heads, cut.astype(heads.dtype))
    whole = written[None]
    return post_normed(config, own, whole) - post_normed(config, own, whole - out)


def z_of_each(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    streams: tuple[Float[Array, "H B T D"], Float[Array, "H B T D"], Float[Array, "H B T D"]],
) -> Float[Array, "B T H K"]:
    """Z of heads whose queries, keys and values each read a stream: each is a layer of one head.

    Where queries of all heads are normed together, each is a head of the whole layer instead, of
    which the others read the same stream.
    """
    alone = dataclasses.replace(config, n_heads=1, n_kv_heads=1)
    own, data = layer_of(config, params, layer)
    whole = config.qk_norm and config.qk_norm_over == "all"
    shared = config.n_heads // config.n_kv_heads
    axes = {"q": 1, "k": 1, "v": 1, "o": 0, "q_bias": 0, "k_bias": 0, "v_bias": 0, "sinks": 0}

    def of_head(name, x, head, axis):
        at = head // shared if name[0] in "kv" else head
        return jax.lax.dynamic_slice_in_dim(x, at, 1, axis)

    def one(head, streams):
        if whole:
            return z_of_weights(config, own, data, batch, streams)[:, :, head]
        weights = dict(own["attention"])
        for name in [name for name in axes if name in weights]:
            weights[name] = of_head(name, weights[name], head, axes[name])
        for name in {"q_norm", "k_norm"} & set(weights) if config.qk_norm_over == "HK" else ():
            slices = {part: of_head(name, x, head, 0) for part, x in weights[name].items()}
            weights[name] = slices
        slopes = data.slopes
        slopes = None if slopes is None else of_head("slopes", slopes, head, 0)
        at_head = dataclasses.replace(data, slopes=slopes)
        return z_of_weights(alone, own | {"attention": weights}, at_head, batch, streams)[:, :, 0]

    n, length = batch.tokens.shape
    rows = jnp.arange(config.n_heads), streams
    each = n * (config if whole else alone).pattern_bytes(length)
    return jnp.moveaxis(mesh.in_parts(lambda rows: jax.vmap(one)(*rows), rows, each), 0, 2)


def _with_z(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
    z: Float[Array, "B T H K"],
) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"]]:
    """The stream after a layer whose heads have this z, and z W_O of all, before any norm."""
    written = None

    def attn_out(module, call, z):
        nonlocal written
        written = call(z)
        return written

    def given(module, call, *args):
        call(*args)  # goes unused, so the compiler leaves it out
        return z

    with intercepted(z=given, attn_out=attn_out):
        after, _ = run_layer(config, params, batch, layer, stream)
    return after, written
