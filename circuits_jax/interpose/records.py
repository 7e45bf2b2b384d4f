"""All that a forward pass computes in each layer, kept to be read afterwards."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import (
    MLP,
    Attention,
    Block,
    Decoder,
    Norm,
    TokenBatch,
    layer_data,
)
from circuits_jax.interpose.heads import returns_heads
from circuits_jax.interpose.interception import intercepted


@struct.dataclass
class Record:
    """What a forward pass computed in one layer, kept to be read afterwards.

    Attributes:
        stream: the residual stream before the layer.
        z, q, k, v: of every head; queries and keys as the pattern is made of them.
        pattern: how much of every token each head reads.
        mlp_stream, mlp: the residual stream that the MLP's norm is given, and what the MLP adds to
            it; zeros where there is no MLP.
        neurons: of the MLP: what the activation is given and gives (`given`, `active`), and what
            it is multiplied by (`up`) where the MLP is gated.
        routed: of a mixture of experts: how much each expert (`shares`) and each of its neurons
            (`neurons`) counts.
        inverse_scales: of each norm of the layer, by name: what it multiplied by.
    """

    stream: Float[Array, "*L B T D"]
    z: Float[Array, "*L B T H K"]
    q: Float[Array, "*L B T H K"]
    k: Float[Array, "*L B T J K"]
    v: Float[Array, "*L B T J K"]
    pattern: Float[Array, "*L B J I T T"]
    mlp_stream: Float[Array, "*L B T D"]
    mlp: Float[Array, "*L B T D"]
    neurons: dict[str, Float[Array, "*L B T E"]]
    routed: dict[str, Float[Array, "*L B T _"]]
    inverse_scales: dict[str, Array]


def record(
    config: DecoderConfig, params: Any, batch: TokenBatch, reduce: Callable[[Record], Any]
) -> tuple[Float[Array, "B T D"], Any]:
    """The plain forward pass, with `reduce(record)` of every layer.

    Returns:
        The residual stream after the last layer, and the reductions, stacked over layers.
    """
    kept, scales, neurons, routed = {}, {}, {}, {}

    def interceptor(call, args, kwargs, context):
        module, method = context.module, context.method_name
        out = call(*args, **kwargs)
        if isinstance(module, Norm) and method == "inverse_scale":
            scales[module.name] = out
        if isinstance(module, Norm) and (module.name, method) == ("mlp_norm", "__call__"):
            kept["mlp_stream"] = args[0]
        if isinstance(module, MLP) and method == "activate":
            neurons.update(given=args[0], active=out)
        if isinstance(module, MLP) and method == "gate":
            neurons["up"] = args[1]
        if isinstance(module, MLP) and method == "shares":
            routed["shares"] = out
        if isinstance(module, MLP) and method == "neurons":
            routed["neurons"] = out
        if isinstance(module, Norm) and (module.name, method) == ("mlp_post_norm", "__call__"):
            kept["mlp"] = out
        if isinstance(module, Attention) and method == "pattern":
            kept.update(q=args[0], k=args[1], pattern=out)
        if isinstance(module, Attention) and method == "cut" and args[0] == "v":
            kept["v"] = out
        if returns_heads(context):
            kept["z"] = out
        return out

    def step(stream, layer):
        own, data = layer
        kept.update(dict.fromkeys(("mlp_stream", "mlp"), jnp.zeros_like(stream)))
        scales.clear()
        after, _ = Block(config).apply({"params": own}, stream, data, batch)
        kept.update(
            stream=stream, neurons=dict(neurons), routed=dict(routed), inverse_scales=dict(scales)
        )
        return after, reduce(Record(**kept))

    with intercepted(interceptor):
        stream = Decoder(config).apply({"params": params}, batch, method="embed")
        return jax.lax.scan(step, stream, (params["layers"], layer_data(config)))


def record_final(
    config: DecoderConfig, params: Any, stream: Float[Array, "B T D"]
) -> tuple[Float[Array, "B T V"], Float[Array, "B T 1"]]:
    """Logits after tokens, and what the final norm multiplied them by; 1 where there is no norm."""
    scale = jnp.ones((*stream.shape[:2], 1))

    def interceptor(call, args, kwargs, context):
        nonlocal scale
        out = call(*args, **kwargs)
        if isinstance(context.module, Norm) and context.method_name == "inverse_scale":
            scale = out
        return out

    with intercepted(interceptor):
        logits = Decoder(config).apply({"params": params}, stream, method="unembed")
    return logits, scale
