"""Reading and rewriting what attention heads say, with no change to the model.

`flax.linen.intercept_methods` hands us what `Attention.attend` returns, z [B T H K], inside the
scan over layers. Reading sows a reduction of z; rewriting replaces z by
`keep * z + (1 - keep) * replacement`. Since `W_O` is linear, replacing z is replacing the head's
output z W_O. `run_layer` opens one layer further: what its queries, keys, values and MLP read, and
what it writes, can be seen and added to; `linearised` changes what a gradient through the model is,
and not what the model says. Nothing else in the library touches interception.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import (
    MLP,
    Attention,
    Block,
    Decoder,
    Norm,
    TokenBatch,
    layer_data,
)


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


def counterparts(positives: TokenBatch, negatives: TokenBatch) -> Int[Array, "B T"]:
    """For every column of the positives, the negatives' that is as far from the last token.

    Where the negative is shorter, its first token stands for what is missing.
    """
    columns = jnp.arange(positives.mask.shape[1])[None] + (negatives.last - positives.last)[:, None]
    return jnp.clip(columns, 0, negatives.last[:, None])


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
) -> Float[Array, "B V"]:
    """`replace` of one head, from its own layer on: logits after the last token.

    Layers below are not run; `stream` is the residual stream before `layer`. Under `vmap` over
    heads of one layer, the attention of that layer is computed once for all of them. The head is
    replaced at the tokens `where` it is said to be, by default at all.
    """

    def interceptor(call, args, kwargs, context):
        z = call(*args, **kwargs)
        if not _returns_heads(context):
            return z
        tokens = jnp.broadcast_to(where, z.shape[:2])[:, :, None]
        new = jnp.where(tokens, replacement.astype(z.dtype), z[:, :, head])
        return z.at[:, :, head].set(new)

    with nn.intercept_methods(interceptor):
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
    mlp_writer = "mlp_post_norm" if config.post_norms else "mlp"
    z, mlp = None, jnp.zeros_like(stream)

    def interceptor(call, args, kwargs, context):
        nonlocal z, mlp
        module, method = context.module, context.method_name
        if added and isinstance(module, Norm) and (module.name, method) == ("mlp_norm", "__call__"):
            args = (args[0] + added.mlp_read,)
        out = call(*args, **kwargs)
        if added and isinstance(module, Attention) and method == "heads_of":
            out = out + added.qkv["qkv".index(args[0])]
        if _returns_heads(context):
            out = z = out + added.written.z if added else out
        if isinstance(module, MLP | Norm) and (module.name, method) == (mlp_writer, "__call__"):
            out = mlp = out + added.written.mlp if added else out
        return out

    own, data = jax.tree.map(lambda x: x[layer], (params["layers"], layer_data(config)))
    with nn.intercept_methods(interceptor):
        stream = Block(config).apply({"params": own}, stream, data, batch)[0]
    return stream, Written(z, mlp)


def heads_reading(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    layer: Int[Array, ""],
    stream: Float[Array, "B T D"],
) -> Float[Array, "B T H K"]:
    """What a layer's heads read, z, were `stream` the residual stream before it."""
    own, data = jax.tree.map(lambda x: x[layer], (params["layers"], layer_data(config)))
    norm = Norm(config.norm, config.norm_eps)
    normed = norm.apply({"params": own.get("attention_norm", {})}, stream)
    attention = Attention(config)
    return attention.apply({"params": own["attention"]}, normed, data, batch, method="attend")


def heads_writing(
    config: DecoderConfig, params: Any, layer: Int[Array, ""], z: Float[Array, "B T H K"]
) -> Float[Array, "B T D"]:
    """What a layer's attention adds to the residual stream, were its heads to say z."""
    own = jax.tree.map(lambda x: x[layer], params["layers"])
    written = Attention(config).apply({"params": own["attention"]}, z, method="project")
    if not config.post_norms:
        return written
    norm = Norm(config.norm, config.norm_eps)
    return norm.apply({"params": own["attention_post_norm"]}, written)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which nonlinear parts a gradient sees as linear; the values that they give stay the same.

    Attributes:
        norms: the scale by which a norm multiplies is held still.
        activations: act(x) is x times act(x) / x, which is held still.
        gates: each factor of a product gets half of its gradient.
        attention: `gradient`, or the attention patterns are `frozen`: no gradient by queries and
            keys; or `half` of the gradient goes through patterns and half through values.
    """

    norms: bool = False
    activations: bool = False
    gates: bool = False
    attention: Literal["gradient", "frozen", "half"] = "gradient"


@contextlib.contextmanager
def linearised(rules: Rules) -> Iterator[None]:
    """Trace the model here, and gradients through it follow the rules."""

    def activate(call, x):
        slope = jax.jvp(call, (x,), (jnp.ones_like(x),))[1]  # the limit of act(x) / x at 0
        tiny = jnp.abs(x) < 1e-6
        return x * jax.lax.stop_gradient(jnp.where(tiny, slope, call(x) / jnp.where(tiny, 1, x)))

    def interceptor(call, args, kwargs, context):
        module, method = context.module, context.method_name
        if rules.norms and isinstance(module, Norm) and method == "inverse_scale":
            return jax.lax.stop_gradient(call(*args))
        if rules.activations and isinstance(module, MLP) and method == "activate":
            return activate(call, *args)
        if rules.gates and isinstance(module, MLP) and method == "gate":
            return _half_gradient(call(*args))
        if rules.attention == "frozen" and method == "pattern":
            return jax.lax.stop_gradient(call(*args))
        if rules.attention == "half" and _returns_heads(context):
            return _half_gradient(call(*args, **kwargs))
        return call(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        yield


def _half_gradient(x: Array) -> Array:
    """The same value, half of its gradient: what both factors of a product get is halved."""
    return x / 2 + jax.lax.stop_gradient(x / 2)


def final_logits(
    config: DecoderConfig, params: Any, batch: TokenBatch, stream: Float[Array, "B T D"]
) -> Float[Array, "B V"]:
    """Logits after the last token, from the residual stream after the last layer."""
    last = jnp.take_along_axis(stream, batch.last[:, None, None], axis=1)
    return Decoder(config).apply({"params": params}, last, method="unembed")[:, 0]


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
    inverse_scales: dict[str, Array]


def record(
    config: DecoderConfig, params: Any, batch: TokenBatch, reduce: Callable[[Record], Any]
) -> tuple[Float[Array, "B V"], Array, Any]:
    """The plain forward pass, with `reduce(record)` of every layer.

    Returns:
        Logits after the last token, what the final norm multiplied that token by ([B, 1]; 1 where
        there is no norm), and the reductions, stacked over layers.
    """
    mlp_writer = "mlp_post_norm" if config.post_norms else "mlp"
    kept, scales, neurons = {}, {}, {}

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
        if isinstance(module, MLP | Norm) and (module.name, method) == (mlp_writer, "__call__"):
            kept["mlp"] = out
        if isinstance(module, Attention) and method == "pattern":
            kept.update(q=args[0], k=args[1], pattern=out)
        if isinstance(module, Attention) and method == "heads_of" and args[0] == "v":
            kept["v"] = out
        if _returns_heads(context):
            kept["z"] = out
        return out

    def step(stream, layer):
        own, data = layer
        kept.update(dict.fromkeys(("mlp_stream", "mlp"), jnp.zeros_like(stream)))
        scales.clear()
        after, _ = Block(config).apply({"params": own}, stream, data, batch)
        kept.update(stream=stream, neurons=dict(neurons), inverse_scales=dict(scales))
        return after, reduce(Record(**kept))

    with nn.intercept_methods(interceptor):
        stream = Decoder(config).apply({"params": params}, batch, method="embed")
        layers = params["layers"], layer_data(config)
        stream, records = jax.lax.scan(step, stream, layers)
        logits = final_logits(config, params, batch, stream)
    final = scales.get("final_norm", jnp.ones((len(batch.tokens), 1, 1)))
    return logits, final[:, 0], records
