"""All that a forward pass computes in each layer, kept to be read afterwards."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Block, Decoder, TokenBatch, layer_data
from circuits_jax.interpose.points import observed


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
    # point -> (module, what it gave, what it was given) -> parts of the record
    read: dict[str, Callable[..., Any]] = {
        "inverse_scale": lambda norm, out, *_: scales.update({norm.name: out}),
        "mlp_in": lambda _, out, stream: kept.update(mlp_stream=stream),
        "activation": lambda _, out, given: neurons.update(given=given, active=out),
        "gate": lambda _, out, activation, up: neurons.update(up=up),
        "shares": lambda _, out, *__: routed.update(shares=out),
        "expert_neurons": lambda _, out, *__: routed.update(neurons=out),
        "mlp_out": lambda _, out, *__: kept.update(mlp=out),
        "pattern": lambda _, out, q, k, *__: kept.update(q=q, k=k, pattern=out),
        "qkv_cut": lambda _, out, name, x: kept.update({name: out} if name == "v" else {}),
        "z": lambda _, out, *__: kept.update(z=out),
    }

    def step(stream, layer):
        own, data = layer
        kept.update(dict.fromkeys(("mlp_stream", "mlp"), jnp.zeros_like(stream)))
        scales.clear()
        after, _ = Block(config).apply({"params": own}, stream, data, batch)
        kept.update(
            stream=stream, neurons=dict(neurons), routed=dict(routed), inverse_scales=dict(scales)
        )
        return after, reduce(Record(**kept))

    with observed(**read):
        stream = Decoder(config).apply({"params": params}, batch, method="embed")
        return jax.lax.scan(step, stream, (params["layers"], layer_data(config)))


def record_final(
    config: DecoderConfig, params: Any, stream: Float[Array, "B T D"]
) -> tuple[Float[Array, "B T V"], Float[Array, "B T 1"]]:
    """Logits after tokens, and what the final norm multiplied them by; 1 where there is no norm."""
    scale = jnp.ones((*stream.shape[:2], 1))

    def keep(norm, out, y):
        nonlocal scale
        scale = out

    with observed(inverse_scale=keep):
        logits = Decoder(config).apply({"params": params}, stream, method="unembed")
    return logits, scale
