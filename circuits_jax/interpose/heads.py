"""Reading heads inside one forward pass, and rewriting them.

The point z is what `Attention.attend` returns, [B T H K], inside the scan over layers. Reading sows
a reduction of z; rewriting replaces z by `keep * z + (1 - keep) * replacement`. Since `W_O` is
linear, replacing z is replacing the head's output z W_O.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Decoder, TokenBatch
from circuits_jax.interpose.points import intercepted


@struct.dataclass
class Heads:
    """What can be read of the heads of one layer.

    Attributes:
        z: the mean of the values at every token, weighted by the pattern; z W_O is the result.
        scale: root mean square of the residual stream before the layer.
        w_o: output weights.
    """

    z: Float[Array, "B T H K"]
    scale: Float[Array, "B T"]
    w_o: Float[Array, "H K D"]


@functools.partial(jax.jit, static_argnames="config")
def last_logits(config: DecoderConfig, params: Any, batch: TokenBatch) -> Float[Array, "B *Q V"]:
    """The plain forward pass: logits after each prompt's last token."""
    return Decoder(config).apply({"params": params}, batch, method="last_logits")


def capture(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    reduce: Callable[[Heads], Array] = lambda heads: heads.z,
) -> tuple[Float[Array, "B *Q V"], Float[Array, "L ..."]]:
    """One forward pass that also keeps `reduce(heads)` of every layer.

    Reduce over tokens here, inside the pass: what is linear commutes with W_O, and [B T H K] of
    one layer is then the most that is ever held.

    Returns:
        Logits after the last token, and the reductions stacked over layers.
    """
    scale = None  # of the layer being traced: a block is entered before its attention

    def resid_pre(module, call, stream, *args):
        nonlocal scale
        residual = stream.astype(jnp.float32)
        scale = jnp.sqrt(jnp.mean(residual * residual, axis=-1))
        return call(stream, *args)

    def read(module, call, *args):
        z = call(*args)
        kept = reduce(Heads(z, scale, module.o))
        module.sow("heads", "kept", kept, reduce_fn=lambda _, new: new, init_fn=tuple)
        return z

    with intercepted(resid_pre=resid_pre, z=read):
        logits, state = Decoder(config).apply(
            {"params": params}, batch, method="last_logits", mutable=["heads"]
        )
    return logits, state["heads"]["layers"]["attention"]["kept"]


def replace(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    keep: Float[Array, "L *tokens H"],
    replacement: Float[Array, " L #B #T H K"],
) -> Float[Array, "B *Q V"]:
    """Logits after the last token, with heads replaced where `keep` is 0.

    `keep` may lie between 0 and 1, and gradients flow through it. All ones give the plain forward
    pass. `vmap` over `keep` judges many circuits at once. It is of heads, [L H], or of heads at
    tokens, [L B T H].
    """

    def rewrite(module, call, *args):
        z = call(*args)
        kept = module.get_variable("interventions", "keep")
        kept = jnp.expand_dims(kept, (*range(3 - kept.ndim), -1))  # [B T H 1], or 1 1 H 1
        other = module.get_variable("interventions", "replacement")
        return kept.astype(z.dtype) * z + (1 - kept).astype(z.dtype) * other.astype(z.dtype)

    interventions = {"layers": {"attention": {"keep": keep, "replacement": replacement}}}
    with intercepted(z=rewrite):
        return Decoder(config).apply(
            {"params": params, "interventions": interventions}, batch, method="last_logits"
        )
