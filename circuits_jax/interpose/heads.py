"""Reading heads inside one forward pass, and rewriting them.

`flax.linen.intercept_methods` hands us what `Attention.attend` returns, z [B T H K], inside the
scan over layers. Reading sows a reduction of z; rewriting replaces z by
`keep * z + (1 - keep) * replacement`. Since `W_O` is linear, replacing z is replacing the head's
output z W_O.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Attention, Block, Decoder, TokenBatch
from circuits_jax.interpose.interception import intercepted


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


def returns_heads(context: nn.module.InterceptorContext) -> bool:
    """Whether the call's result is z."""
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
        if returns_heads(context):
            heads = Heads(out, scale, context.module.o)
            context.module.sow(
                "heads", "kept", reduce(heads), reduce_fn=lambda _, new: new, init_fn=tuple
            )
        return out

    with intercepted(interceptor):
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
        if not returns_heads(context):
            return z
        kept = context.module.get_variable("interventions", "keep")[None, None, :, None]
        other = context.module.get_variable("interventions", "replacement")
        return kept.astype(z.dtype) * z + (1 - kept).astype(z.dtype) * other.astype(z.dtype)

    interventions = {"layers": {"attention": {"keep": keep, "replacement": replacement}}}
    with intercepted(interceptor):
        return Decoder(config).apply(
            {"params": params, "interventions": interventions}, batch, method="last_logits"
        )
