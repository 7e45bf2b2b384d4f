"""One linen decoder for every family: embedding, L blocks of attention and MLP, unembedding.

The blocks are one `nn.scan` over stacked parameters [L, ...], so a model of 48 layers compiles as
fast as one of 2. What differs from layer to layer (windows, rotary frequencies) is data that the
scan slices, not a branch.

`Attention.attend` returns what every head reads, z [B T H K]; `Attention.project` multiplies by W_O
and sums over heads. `interpose` intercepts `attend` to read or rewrite z. Nothing in this file
knows about that.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.runs.passes import layer_run
from circuits_jax.runs.precision import einsum

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}
_INIT = nn.initializers.normal(0.02)


@struct.dataclass
class TokenBatch:
    """Prompts as tokens, padded anywhere to one length; `mask` is True at real tokens.

    What a prompt computes does not depend on where its padding stands, but for rounding.
    """

    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]

    @property
    def positions(self) -> Int[Array, "B T"]:
        """Index of each token in its own prompt; padding has that of the token before it, or 0."""
        return jnp.maximum(jnp.cumsum(self.mask, axis=1, dtype=jnp.int32) - 1, 0)

    @property
    def distance(self) -> Int[Array, "B T T"]:
        """How many tokens before each of them (row) every other one (column) stands."""
        return self.positions[:, :, None] - self.positions[:, None, :]

    @property
    def last(self) -> Int[Array, "B"]:
        """Column of each prompt's last real token."""
        return self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)


def stacked(batches: Sequence[TokenBatch]) -> TokenBatch:
    """Batches of one shape as one, the rows of the first before those of the others."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *batches)


@struct.dataclass
class LayerData:
    """What a layer is told besides its parameters; leading axis L before the scan slices it."""

    window: Int[Array, "*L"]
    frequencies: Float[Array, "*L rotary"]
    rotary_scale: Float[Array, "*L"]


def layer_data(config: DecoderConfig) -> LayerData:
    """The per-layer constants of a config, stacked over L."""
    kinds = jnp.array(config.layer_kinds)
    return LayerData(
        window=jnp.array(config.windows, jnp.int32),
        frequencies=jnp.array(config.rotary_frequencies, jnp.float32)[kinds],
        rotary_scale=jnp.array(config.rotary_scale, jnp.float32)[kinds],
    )


def rotate(
    x: Float[Array, "B T H K"],
    positions: Int[Array, "B T"],
    frequencies: Float[Array, " rotary"],
    scale: Float[Array, ""],
) -> Float[Array, "B T H K"]:
    """Rotary position embedding of the first 2 * len(frequencies) components (arXiv 2104.09864).

    Component i pairs with i + rotary_width / 2. The product of a rotated query and a rotated key
    depends on the distance of their positions alone.
    """
    half = frequencies.shape[0]
    angle = (positions[..., None].astype(jnp.float32) * frequencies[None, None, :])[:, :, None, :]
    cos, sin = (jnp.cos(angle) * scale).astype(x.dtype), (jnp.sin(angle) * scale).astype(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def softcap(x: Array, cap: float) -> Array:
    """`cap * tanh(x / cap)`, or x where cap is 0."""
    return cap * jnp.tanh(x / cap) if cap else x


class Norm(nn.Module):
    """Layer norm, RMS norm or none over the last axis, computed in float32."""

    kind: str
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalised x, in x's dtype."""
        if self.kind == "none":
            return x
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * self.inverse_scale(y)
        width = x.shape[-1:]
        shape = (1,) * (x.ndim - 1) + width
        y = y * self.param("scale", nn.initializers.ones, width, jnp.float32).reshape(shape)
        if self.kind == "layer":
            y = y + self.param("bias", nn.initializers.zeros, width, jnp.float32).reshape(shape)
        return y.astype(x.dtype)

    def inverse_scale(self, y: Float[Array, "... D"]) -> Float[Array, "... 1"]:
        """What a centred y is multiplied by: 1 over its root mean square.

        NaN where the squares overflow: 1 / infinity would make a silent 0 of what is too large.
        """
        mean = jnp.mean(y * y, axis=-1, keepdims=True)
        return jnp.where(jnp.isfinite(mean), jax.lax.rsqrt(mean + self.eps), jnp.nan)


class Attention(nn.Module):
    """Self-attention with grouped key-value heads; causal, unless the config says otherwise."""

    config: DecoderConfig

    def setup(self):
        """Parameters q [D H K], k and v [D J K], o [H K D], their biases and norms."""
        c = self.config
        d, k = c.d_model, c.head_width
        heads = {"q": c.n_heads, "k": c.n_kv_heads, "v": c.n_kv_heads}
        self.weights = {n: self.param(n, _INIT, (d, h, k)) for n, h in heads.items()}
        zeros = nn.initializers.zeros
        self.biases = (
            {n: self.param(f"{n}_bias", zeros, (h, k)) for n, h in heads.items()}
            if c.qkv_bias
            else {}
        )
        self.o = self.param("o", _INIT, (c.n_heads, k, d))
        self.o_bias = self.param("o_bias", zeros, (d,)) if c.out_bias else None
        if c.qk_norm:
            self.q_norm, self.k_norm = (Norm("rms", c.norm_eps) for _ in range(2))

    def __call__(self, x: Float[Array, "B T D"], layer: LayerData, batch: TokenBatch):
        """What attention writes to the residual stream, [B T D]."""
        return self.project(self.attend(x, layer, batch))

    def heads_of(self, name: str, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        """Queries, keys or values (`q`, `k`, `v`) of all heads."""
        y = einsum("btd,dhk->bthk", x, self.weights[name])
        return y + self.biases[name][None, None] if self.biases else y

    def attend(
        self, x: Float[Array, "B T D"], layer: LayerData, batch: TokenBatch
    ) -> Float[Array, "B T H K"]:
        """z: for every head, the mean of the values, weighted by the attention pattern."""
        c = self.config
        q, k, v = (self.heads_of(name, x) for name in "qkv")
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if c.rotary_width:
            q, k = (
                rotate(y, batch.positions, layer.frequencies, layer.rotary_scale) for y in (q, k)
            )
        pattern = self.pattern(q, k, layer, batch)
        z = einsum("bjits,bsjk->btjik", pattern.astype(v.dtype), v)
        return z.reshape(q.shape)

    def pattern(
        self,
        q: Float[Array, "B T2 H K"],
        k: Float[Array, "B T J K"],
        layer: LayerData,
        batch: TokenBatch,
    ) -> Float[Array, "B J I T2 T"]:
        """How much of each earlier token every head reads at every token; sums to 1.

        Where there are fewer queries than keys, T2 < T, they are those of the last tokens.
        """
        c = self.config
        b, t, _, width = q.shape
        q = q.reshape(b, t, c.n_kv_heads, -1, width)  # I query heads share each key-value head j
        scores = einsum("btjik,bsjk->bjits", q, k, preferred_element_type=jnp.float32)
        scores = scores * c.attention_scale
        scores = softcap(scores, c.attention_softcap)
        distance = batch.distance[:, -t:]
        near = (distance >= (0 if c.causal else -distance.shape[2])) & (distance < layer.window)
        seen = (near & batch.mask[:, None, :])[:, None, None]
        return jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1)

    def project(self, z: Float[Array, "B T H K"]) -> Float[Array, "B T D"]:
        """What heads write together: z W_O summed over heads, with the bias if there is one."""
        y = einsum("bthk,hkd->btd", z, self.o)
        return y if self.o_bias is None else y + self.o_bias[None, None]


class MLP(nn.Module):
    """Plain or gated multilayer perceptron, D -> E -> D."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What the MLP writes to the residual stream."""
        c = self.config

        def dense(name, y, width):
            weight = self.param(name, _INIT, (y.shape[-1], width))
            y = einsum("btd,de->bte", y, weight)
            if c.mlp_bias:
                bias = self.param(f"{name}_bias", nn.initializers.zeros, (width,))
                y = y + bias[None, None]
            return y

        hidden = dense("up", x, c.d_mlp)
        if c.gated_mlp:
            hidden = self.gate(self.activate(dense("gate", x, c.d_mlp)), hidden)
        else:
            hidden = self.activate(hidden)
        return dense("down", hidden, c.d_model)

    def activate(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        """The nonlinearity."""
        return ACTIVATIONS[self.config.activation](x)

    def gate(self, x: Float[Array, "B T E"], y: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        """The product of a gated MLP's two projections."""
        return x * y


class Block(nn.Module):
    """One layer: attention and MLP add what they write to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], layer: LayerData, batch: TokenBatch):
        """(residual stream after the layer, None), as `nn.scan` wants it."""
        c = self.config

        def norm(name, y):
            return Norm(c.norm, c.norm_eps, name=name)(y)

        def written(name, y):
            return norm(name, y) if c.post_norms else y

        attention = Attention(c, name="attention")(norm("attention_norm", x), layer, batch)
        attention = written("attention_post_norm", attention)
        if not c.d_mlp:
            return layer_run(c, x + attention), None
        read = x if c.parallel else x + attention
        mlp = written("mlp_post_norm", MLP(c, name="mlp")(norm("mlp_norm", read)))
        return layer_run(c, x + attention + mlp), None


class Decoder(nn.Module):
    """A decoder-only language model. `apply` gives logits at every position."""

    config: DecoderConfig

    def setup(self):
        """Embedding tables, the scanned stack of blocks, final norm, unembedding."""
        c = self.config
        self.embedding = self.param("embedding", _INIT, (c.vocab_size, c.d_model))
        if c.learned_positions:
            rows = c.n_positions + c.position_offset
            self.position_embedding = self.param("position_embedding", _INIT, (rows, c.d_model))
        self.layers = nn.scan(
            Block,
            variable_axes={"params": 0, "heads": 0, "interventions": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=c.n_layers,
        )(c)
        self.final_norm = Norm(c.norm, c.norm_eps)
        if not c.tied:
            self.unembedding = self.param("unembedding", _INIT, (c.d_model, c.vocab_size))

    def __call__(self, batch: TokenBatch) -> Float[Array, "B T V"]:
        """Logits of the next token at every position, float32."""
        return self.unembed(self.residual(batch))

    def last_logits(self, batch: TokenBatch) -> Float[Array, "B V"]:
        """Logits after each prompt's last token, float32; equal to `__call__` there."""
        x = self.residual(batch)
        x = jnp.take_along_axis(x, batch.last[:, None, None], axis=1)
        return self.unembed(x)[:, 0]

    def residual(self, batch: TokenBatch) -> Float[Array, "B T D"]:
        """The residual stream after the last block."""
        x, _ = self.layers(self.embed(batch), layer_data(self.config), batch)
        return x

    def embed(self, batch: TokenBatch) -> Float[Array, "B T D"]:
        """Token embeddings, scaled, with learned positions where the family has them."""
        c = self.config
        x = self.embedding[batch.tokens]
        x = x * jnp.asarray(c.embedding_scale, x.dtype)
        if c.learned_positions:
            x = x + self.position_embedding[batch.positions + c.position_offset]
        return x

    def unembed(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Final norm, then logits."""
        x = self.final_norm(x)
        weight = self.embedding.T if self.config.tied else self.unembedding
        logits = einsum("btd,dv->btv", x, weight, preferred_element_type=jnp.float32)
        return softcap(logits, self.config.logit_softcap)


def initial_params(config: DecoderConfig, key: jax.Array) -> dict[str, Any]:
    """Random parameters of a decoder, of the tree and shapes that `lm/families` fills."""
    batch = TokenBatch(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    return Decoder(config).init(key, batch)["params"]
