"""One layer at a time: a forward pass that starts midway, or stops at every layer.

`run_layer` opens a layer: what its queries, keys, values and MLP read, and what it writes, can be
seen and added to.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import (
    Attention,
    Block,
    Decoder,
    LayerData,
    TokenBatch,
    layer_data,
    norm_of,
)
from circuits_jax.interpose.points import intercepted


def residual_streams(
    config: DecoderConfig, params: Any, batch: TokenBatch
) -> tuple[Float[Array, "B *Q V"], Float[Array, "L B T D"]]:
    """The plain forward pass, with the residual stream before every layer: what `resume` takes."""
    stream = Decoder(config).apply({"params": params}, batch, method="embed")

    def step(stream, layer):
        return run_layer(config, params, batch, layer, stream)[0], stream

    last, streams = jax.lax.scan(step, stream, jnp.arange(config.n_layers))
    return final_logits(config, params, batch, last), streams


def resume(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
    head: Int[Array, ""],
    replacement: Float[Array, "B T K"],
    where: Bool[Array, "B T"] | bool = True,
) -> Float[Array, "B *Q V"]:
    """`replace` of one head, from its own layer on: logits after the last token.

    Layers below are not run; `stream` is the residual stream before `layer`. Under `vmap` over
    heads of one layer, the attention of that layer is computed once for all of them. The head is
    replaced at the tokens given by `where`, by default at all.
    """

    def rewrite(module, call, *args):
        z = call(*args)
        tokens = jnp.broadcast_to(where, z.shape[:2])[:, :, None]
        new = jnp.where(tokens, replacement.astype(z.dtype), z[:, :, head])
        return z.at[:, :, head].set(new)

    with intercepted(z=rewrite):
        stream = run_layer(config, params, batch, layer, stream)[0]
    stream = jax.lax.fori_loop(
        layer + 1,
        config.n_layers,
        lambda later, stream: run_layer(config, params, batch, later, stream)[0],
        stream,
    )
    return final_logits(config, params, batch, stream)


@struct.dataclass
class Written:
    """What the parts of a layer write: its heads z W_O, z being given, and its MLP.

    With a leading axis L, of all layers.
    """

    z: Float[Array, "*L B T H K"]
    mlp: Float[Array, "*L B T D"]


@struct.dataclass
class Added:
    """What is added to what the parts of one layer read and write; zeros to take a gradient by.

    Attributes:
        qkv: to the queries, keys and values of every head, as W_Q, W_K, W_V give them.
        mlp_read: to the residual stream, for the MLP alone, before its norm.
        written: to what heads and MLP write.
    """

    qkv: tuple[Float[Array, "B T H K"], Float[Array, "B T J K"], Float[Array, "B T J K"]]
    mlp_read: Float[Array, "B T D"]
    written: Written


def run_layer(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
    added: Added | None = None,
) -> tuple[Float[Array, "B T D"], Written]:
    """One layer alone: the residual stream after it, and what its parts wrote.

    What an MLP writes is taken after its post norm, where the family has one.
    """
    written = {"mlp": jnp.zeros_like(stream)}

    def write(name, module, call, *args):
        written[name] = call(*args)
        if added:
            written[name] += getattr(added.written, name)
        return written[name]

    edits: dict[str, Callable[..., Any]] = {
        "z": functools.partial(write, "z"),
        "mlp_out": functools.partial(write, "mlp"),
    }
    if added:
        edits["qkv"] = lambda _, call, name, x: call(name, x) + added.qkv["qkv".index(name)]
        edits["mlp_in"] = lambda _, call, x: call(x + added.mlp_read)
    own, data = layer_of(config, params, layer)
    with intercepted(**edits):
        stream = Block(config).apply({"params": own}, stream, data, batch)[0]
    return stream, Written(**written)


def z_from(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
) -> Float[Array, "B T H K"]:
    """Z of a layer's heads, were `stream` the residual stream before it."""
    return z_of_weights(config, *layer_of(config, params, layer), batch, (stream,) * 3)


def z_of_weights(
    config: DecoderConfig,
    own: Any,
    data: LayerData,
    batch: TokenBatch,
    streams: tuple[Float[Array, "B T D"], Float[Array, "B T D"], Float[Array, "B T D"]],
) -> Float[Array, "B T H K"]:
    """`z_from`, of a layer given by its own weights and data; queries, keys, values read a stream.

    Each their own, of `streams`, or the same three times.
    """
    norm = norm_of(config, "attention_norm")
    normed = [norm.apply({"params": own.get("attention_norm", {})}, x) for x in streams]
    attention = Attention(config)
    with intercepted(qkv=lambda _, call, name, x: call(name, normed["qkv".index(name)])):
        return attention.apply(
            {"params": own["attention"]}, normed[0], data, batch, method="attend"
        )


def attention_out(
    config: DecoderConfig, params: Any, layer: Int[Array, ""], z: Float[Array, "B T H K"]
) -> Float[Array, "B T D"]:
    """What a layer's attention adds to the residual stream for this z of its heads."""
    own, _ = layer_of(config, params, layer)
    written = Attention(config).apply({"params": own["attention"]}, z, method="project")
    return post_normed(config, own, written)


def post_normed(
    config: DecoderConfig, own: Any, written: Float[Array, "*heads B T D"]
) -> Float[Array, "*heads B T D"]:
    """What attention writes, normed where the family does so; `own` are the layer's weights."""
    norm = norm_of(config, "attention_post_norm")
    return norm.apply({"params": own.get("attention_post_norm", {})}, written)


def post_normed_parts(
    config: DecoderConfig,
    own: Any,
    whole: Float[Array, "B T D"],
    parts: Float[Array, "H B T D"],
) -> Float[Array, "H B T D"]:
    """What each part of `whole` becomes of what attention writes, normed where the family does so.

    The parts' shares, the norm's scale being that of the whole: it is linear but for that.
    """
    norm = norm_of(config, "attention_post_norm")
    if norm.kind == "none":
        return parts
    weights, scale = {"params": own.get("attention_post_norm", {})}, None

    def keep(_, call, y):
        nonlocal scale
        scale = call(y)
        return scale

    with intercepted(inverse_scale=keep):
        norm.apply(weights, whole)
    with intercepted(inverse_scale=lambda *_: scale):
        bias = norm.apply(weights, jnp.zeros_like(whole))
        return jax.vmap(lambda part: norm.apply(weights, part))(parts) - bias[None]


def final_logits(
    config: DecoderConfig, params: Any, batch: TokenBatch, stream: Float[Array, "B T D"]
) -> Float[Array, "B *Q V"]:
    """Logits after the last token, from the residual stream after the last layer."""
    logits = Decoder(config).apply({"params": params}, batch.at_ends(stream), method="unembed")
    return batch.of_ends(logits)


def layer_of(config: DecoderConfig, params: Any, layer: Int[Array, ""]) -> tuple[Any, LayerData]:
    """Weights and data of one layer, out of those of all."""
    return jax.tree.map(lambda x: x[layer], (params["layers"], layer_data(config)))
