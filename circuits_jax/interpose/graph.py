"""Ablating edges of the whole graph: every reader has a residual stream of its own.

The nodes are those of `circuits/graph.py`: embedding, heads and MLPs write; queries, keys and
values of every head, MLPs and the logits read. A reader sees the sum of what all earlier writers
write in this pass; of a writer whose edge to it is cut, what it writes elsewhere instead (Conmy et
al., arXiv 2304.14997; MIB, arXiv 2504.13151). So what a writer writes depends on what it reads
itself, and a circuit is run as a model of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Attention, Decoder, TokenBatch
from circuits_jax.interpose.edges import z_of_each
from circuits_jax.interpose.layers import final_logits, layer_of, post_normed_parts, run_layer
from circuits_jax.interpose.points import intercepted
from circuits_jax.runs.precision import einsum


def writes(config: DecoderConfig, params: Any, batch: TokenBatch) -> Float[Array, "writers B T D"]:
    """What every writer of the graph adds to the residual stream, in the plain forward pass.

    With what attention writes for all heads together (its bias), they sum to the stream. Where the
    family norms what attention writes, each head's is its share of what the norm gives.
    """
    embedding = Decoder(config).apply({"params": params}, batch, method="embed")

    def step(stream, layer):
        stream, written = run_layer(config, params, batch, layer, stream)
        heads = written_by_heads(config, params, layer, written.z)
        return stream, jnp.concatenate([heads, written.mlp[None]])

    _, layers = jax.lax.scan(step, embedding, jnp.arange(config.n_layers))
    return jnp.concatenate([embedding[None], layers.reshape(-1, *embedding.shape)])


def written_by_heads(
    config: DecoderConfig, params: Any, layer: Int[Array, ""], z: Float[Array, "B T H K"]
) -> Float[Array, "H B T D"]:
    """What each head of a layer adds to the residual stream: z W_O, or its share of their norm."""
    own, _ = layer_of(config, params, layer)
    heads = einsum("bthk,hkd->hbtd", z, own["attention"]["o"])
    if not config.post_norms:
        return heads
    whole = Attention(config).apply({"params": own["attention"]}, z, method="project")
    return post_normed_parts(config, own, whole, heads)


def replace_graph(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    keep: Float[Array, "writers readers"],
    replacement: Float[Array, " writers #B #T D"],
) -> Float[Array, "B *Q V"]:
    """Logits after the last token (`TokenBatch.ends`), with the edges cut at which `keep` is 0.

    Reader r of the graph sees

        stream_r = stream + sum over writers w of (1 - keep[w, r]) (replacement_w - out_w)

    with out_w as w writes it in this pass. What `keep` says where there is no edge is not read. All
    ones give the plain pass; all zeros give what the last token's unembedding makes of the
    replacement. `vmap` over `keep` judges many circuits.

    Args:
        config: the decoder's settings.
        params: its parameters.
        batch: B prompts.
        keep: 1 at edges that stay; writers and readers in the order of `graph.Graph`.
        replacement: what is read of writers instead, as `writes` gives it for other prompts.
    """
    n, cut = config.n_heads, 1 - keep
    per_layer = cut[:, :-1].reshape(len(keep), config.n_layers, 3 * n + 1).swapaxes(0, 1)
    stream = Decoder(config).apply({"params": params}, batch, method="embed")
    # replacement_w - out_w of every writer that has written; 0 of the others, so never read early
    change = jnp.zeros((len(keep), *stream.shape), stream.dtype)
    change = change.at[0].set(replacement[0].astype(stream.dtype) - stream)

    def step(carry, layer):
        stream, change = carry
        lacks = per_layer[layer].astype(stream.dtype)
        seen = stream[None] + einsum("wr,wbtd->rbtd", lacks[:, :-1], change)
        z = z_of_each(config, params, batch, layer, tuple(jnp.split(seen, 3)))
        first = 1 + (n + 1) * layer
        other = jax.lax.dynamic_slice_in_dim(replacement, first, n + 1).astype(stream.dtype)
        heads = other[:n] - written_by_heads(config, params, layer, z)
        with_heads = jax.lax.dynamic_update_slice_in_dim(change, heads, first, 0)
        for_mlp = change if config.parallel else with_heads
        mlp_lacks = einsum("w,wbtd->btd", lacks[:, -1], for_mlp)

        def given(module, call, *args):
            call(*args)  # goes unused, so the compiler leaves it out
            return z

        with intercepted(z=given, mlp_in=lambda _, call, x: call(x + mlp_lacks)):
            stream, written = run_layer(config, params, batch, layer, stream)
        mlp = (other[n] - written.mlp)[None]
        change = jax.lax.dynamic_update_slice_in_dim(with_heads, mlp, first + n, 0)
        return (stream, change), None

    (stream, change), _ = jax.lax.scan(step, (stream, change), jnp.arange(config.n_layers))
    stream = stream + einsum("w,wbtd->btd", cut[:, -1].astype(stream.dtype), change)
    return final_logits(config, params, batch, stream)
