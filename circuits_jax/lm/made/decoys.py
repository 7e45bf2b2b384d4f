"""Heads that move with the input and write where nothing that answers reads.

Made models (compiled, planted) have a circuit that is known, and decoys beside it. A decoy has
random weights: it attends and copies by content and place, reads whatever the residual stream
holds, other heads' outputs included, and writes to components that only decoys read. So its outputs
differ between two prompts, and changing them changes no logit.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import MLP, Attention, Block, TokenBatch, layer_data
from circuits_jax.runs.precision import einsum

SHARPNESS = 2.0  # standard deviation of attention scores: the best of 12 keys then gets about half


def random_heads(
    key: jax.Array,
    config: DecoderConfig,
    reads: Bool[Array, " D"],
    writes: Bool[Array, " D"],
) -> dict[str, Array]:
    """Random q, k, v [L D H K] that read some components and o [L H K D] that writes some."""
    heads = (config.n_layers, config.d_model, config.n_heads, config.head_width)
    size = heads[0] * heads[1] * heads[2] * heads[3]
    flat = jax.random.normal(key, (4 * size,))
    q, k, v, o = jnp.split(flat, 4)
    o = o.reshape(heads[0], heads[2], heads[3], heads[1]) * writes[None, None, None]
    read = reads[None, :, None, None]
    return {name: x.reshape(heads) * read for name, x in {"q": q, "k": k, "v": v}.items()} | {
        "o": o
    }


def random_mlps(
    key: jax.Array,
    config: DecoderConfig,
    reads: Bool[Array, " D"],
    writes: Bool[Array, " D"],
) -> dict[str, Array]:
    """Random up [L D E] and down [L E D], router [L D X] if any, that read and write some parts.

    The router reads the first components, a token's own, one by one: each token has its experts.
    """
    n_layers, d_model, width = config.n_layers, config.d_model, config.d_mlp
    shapes = {"up": (n_layers, d_model, width), "down": (n_layers, width, d_model)}
    if config.n_experts:
        shapes["router"] = n_layers, d_model, config.n_experts
    keys = jax.random.split(key, len(shapes))
    made = {
        name: jax.random.normal(k, (math.prod(shape),)).reshape(shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    token = (jnp.arange(d_model) < config.vocab_size)[None, :, None]
    masks = {"up": reads[None, :, None], "down": writes[None, None], "router": token}
    return {name: x * masks[name] for name, x in made.items()}


def calibrated(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    decoys: Bool[Array, "L H"],
    neurons: Bool[Array, "L E"],
) -> Any:
    """Parameters in which decoys have attention scores and outputs of set size on some prompts.

    Layer after layer, W_Q of every decoy is scaled so that its scores have the standard deviation
    `SHARPNESS`, and W_O so that its output has root mean square norm 1 over tokens: the norm of
    what a head of the circuit copies. What all decoys among a layer's experts write has that norm.

    Args:
        config: of a decoder without norms.
        params: its parameters, decoys included.
        batch: the prompts.
        decoys: which heads are decoys; others stay as they are.
        neurons: which of the MLPs' are decoys', where there are any.
    """
    weight = batch.mask / jnp.sum(batch.mask)

    def step(stream, layer):
        own, data, decoy, neuron = layer
        heads = own["attention"]
        q, k = (einsum("btd,dhk->bthk", stream, heads[name]) for name in "qk")
        scores = config.attention_scale * einsum("bthk,bshk->btsh", q, k)
        sharpness = jnp.std(scores, axis=(0, 1, 2))
        heads = heads | {"q": heads["q"] * _factor(SHARPNESS / sharpness, decoy)[None, :, None]}
        attention = {"params": heads}
        z = Attention(config).apply(attention, stream, data, batch, method="attend")
        outputs = einsum("bthk,hkd->bthd", z, heads["o"])
        norm = jnp.sqrt(einsum("bthd,bt->h", outputs * outputs, weight))
        heads = heads | {"o": heads["o"] * _factor(1 / norm, decoy)[:, None, None]}
        own = own | {"attention": heads}
        if "mlp" in own:
            written = Attention(config).apply({"params": heads}, z, method="project")
            scaled = own["mlp"] | {"down": own["mlp"]["down"] * neuron[:, None]}
            out = MLP(config).apply({"params": scaled}, stream + written)
            norm = jnp.sqrt(einsum("btd,bt->", out * out, weight))
            down = own["mlp"]["down"] * _factor(1 / norm, neuron)[:, None]
            own = own | {"mlp": own["mlp"] | {"down": down}}
        stream, _ = Block(config).apply({"params": own}, stream, data, batch)
        return stream, own

    stream = params["embedding"][batch.tokens] + params["position_embedding"][batch.positions]
    layers = (params["layers"], layer_data(config), decoys, neurons)
    return params | {"layers": jax.lax.scan(step, stream, layers)[1]}


def _factor(factor: Float[Array, "*H"], decoy: Bool[Array, " H"]) -> Float[Array, " H"]:
    return jnp.where(decoy, factor, 1.0)
