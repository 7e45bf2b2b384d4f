"""Reading and rewriting what attention heads say, with no change to the model.

`flax.linen.intercept_methods` hands us what `Attention.attend` returns, z [B T H K], inside the
scan over layers. Reading sows a reduction of z; rewriting replaces z by
`keep * z + (1 - keep) * replacement`. Since `W_O` is linear, replacing z is replacing the head's
output z W_O. Nothing else in the library touches interception.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import Attention, Block, Decoder, TokenBatch, layer_data


@struct.dataclass
class Heads:
    """What can be read of the heads of one layer.

    Attributes:
        z: what every head reads at every token; its output is z W_O.
        scale: root mean square of the residual stream before the layer.
        w_o: output weights.
    """

    z: Float[Array, "B T H K"]
    scale: Float[Array, "B T"]
    w_o: Float[Array, "H K D"]


def _returns_heads(context: nn.module.InterceptorContext) -> bool:
    return isinstance(context.module, Attention) and context.method_name == "attend"


@functools.partial(jax.jit, static_argnames="config")
def last_logits(config: DecoderConfig, params: Any, batch: TokenBatch) -> Float[Array, "B V"]:
    """The plain forward pass: logits after each prompt's last token."""
    return Decoder(config).apply({"params": params}, batch, method="last_logits")


def capture(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    reduce: Callable[[Heads], Array] = lambda heads: heads.z,
) -> tuple[Float[Array, "B V"], Float[Array, "L ..."]]:
    """One forward pass that also keeps `reduce(heads)` of every layer.

    Reduce over tokens here, inside the pass: what is linear commutes with W_O, and [B T H K] of
    one layer is then the most that is ever held.

    Returns:
        Logits after the last token, and the reductions stacked over layers.
    """
    scale = None  # of the layer being traced: a block is entered before its attention

    def interceptor(call, args, kwargs, context):
        nonlocal scale
        if isinstance(context.module, Block) and context.method_name == "__call__":
            residual = args[0].astype(jnp.float32)
            scale = jnp.sqrt(jnp.mean(residual * residual, axis=-1))
        out = call(*args, **kwargs)
        if _returns_heads(context):
            heads = Heads(out, scale, context.module.o)
            context.module.sow(
                "heads", "kept", reduce(heads), reduce_fn=lambda _, new: new, init_fn=tuple
            )
        return out

    with nn.intercept_methods(interceptor):
        logits, state = Decoder(config).apply(
            {"params": params}, batch, method="last_logits", mutable=["heads"]
        )
    return logits, state["heads"]["layers"]["attention"]["kept"]


def replace(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    keep: Float[Array, "L H"],
    replacement: Float[Array, "L #B #T H K"],
) -> Float[Array, "B V"]:
    """Logits after the last token, with heads replaced where `keep` is 0.

    `keep` may lie between 0 and 1, and gradients flow through it. All ones give the plain forward
    pass. `vmap` over `keep` judges many circuits at once.
    """

    def interceptor(call, args, kwargs, context):
        z = call(*args, **kwargs)
        if not _returns_heads(context):
            return z
        kept = context.module.get_variable("interventions", "keep")[None, None, :, None]
        other = context.module.get_variable("interventions", "replacement")
        return kept.astype(z.dtype) * z + (1 - kept).astype(z.dtype) * other.astype(z.dtype)

    interventions = {"layers": {"attention": {"keep": keep, "replacement": replacement}}}
    with nn.intercept_methods(interceptor):
        return Decoder(config).apply(
            {"params": params, "interventions": interventions}, batch, method="last_logits"
        )


def residual_streams(
    config: DecoderConfig, params: Any, batch: TokenBatch
) -> tuple[Float[Array, "B V"], Float[Array, "L B T D"]]:
    """The plain forward pass, with the residual stream before every layer: what `resume` takes."""
    stream = Decoder(config).apply({"params": params}, batch, method="embed")

    def step(stream, layer):
        return _block(config, params, batch, layer, stream), stream

    last, streams = jax.lax.scan(step, stream, jnp.arange(config.n_layers))
    return _logits(config, params, batch, last), streams


def resume(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
    head: Int[Array, ""],
    replacement: Float[Array, "B T K"],
) -> Float[Array, "B V"]:
    """`replace` of one head, from its own layer on: logits after the last token.

    Layers below are not run; `stream` is the residual stream before `layer`. Under `vmap` over
    heads of one layer, the attention of that layer is computed once for all of them.
    """

    def interceptor(call, args, kwargs, context):
        z = call(*args, **kwargs)
        return z.at[:, :, head].set(replacement.astype(z.dtype)) if _returns_heads(context) else z

    with nn.intercept_methods(interceptor):
        stream = _block(config, params, batch, layer, stream)
    stream = jax.lax.fori_loop(
        layer + 1,
        config.n_layers,
        lambda later, stream: _block(config, params, batch, later, stream),
        stream,
    )
    return _logits(config, params, batch, stream)


def _block(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
) -> Float[Array, "B T D"]:
    """The residual stream after one layer."""
    own, data = jax.tree.map(lambda x: x[layer], (params["layers"], layer_data(config)))
    return Block(config).apply({"params": own}, stream, data, batch)[0]


def _logits(
    config: DecoderConfig, params: Any, batch: TokenBatch, stream: Float[Array, "B T D"]
) -> Float[Array, "B V"]:
    """Logits after the last token, from the residual stream after the last layer."""
    last = jnp.take_along_axis(stream, batch.last[:, None, None], axis=1)
    return Decoder(config).apply({"params": params}, last, method="unembed")[:, 0]
