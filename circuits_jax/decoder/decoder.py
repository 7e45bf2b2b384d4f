"""One linen decoder for every family: embedding, L blocks of attention and MLP, unembedding.

The blocks are one `nn.scan` over stacked parameters [L, ...], so a model of 48 layers compiles as
fast as one of 2. What differs from layer to layer (windows, rotary frequencies) is data that the
scan slices, not a branch.

`Attention.attend` returns what every head reads, z [B T H K]; `Attention.project` multiplies by W_O
and sums over heads. `interpose` intercepts `attend` to read or rewrite z. Nothing in this file
knows about that.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from circuits_jax.decoder.batch import FAR, ContinuedBatch, TokenBatch, stacked  # noqa: F401
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.rotary import alibi_slopes, rotate
from circuits_jax.runs import mesh
from circuits_jax.runs.passes import layer_run
from circuits_jax.runs.precision import einsum

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "relu_squared": lambda x: jnp.square(nn.relu(x)),
    "silu": nn.silu,
}


class NormKind(NamedTuple):
    """What a norm does besides dividing by the root mean square, and what it multiplies by, adds.

    A layer norm is `centred`: it takes the mean away.
    """

    centred: bool
    scale: bool
    bias: bool


NORMS = {
    "layer": NormKind(True, True, True),
    "layer_without_bias": NormKind(True, True, False),
    "layer_plain": NormKind(True, False, False),
    "rms": NormKind(False, True, False),
}
_INIT = nn.initializers.normal(0.02)


@struct.dataclass
class LayerData:
    """What a layer is told besides its parameters; leading axis L before the scan slices it.

    What a model does not have is None: frequencies of long prompts, and how much less each head
    reads a token for being one further away.
    """

    window: Int[Array, "*L"]
    frequencies: Float[Array, "*L rotary"]
    rotary_scale: Float[Array, "*L"]
    long_frequencies: Float[Array, "*L rotary"] | None = None
    slopes: Float[Array, "*L H"] | None = None


def layer_data(config: DecoderConfig) -> LayerData:
    """The per-layer constants of a config, stacked over L."""
    kinds = jnp.array(config.layer_kinds)
    long = slopes = None
    if config.rotary_long:
        long = jnp.array(config.rotary_long, jnp.float32)[kinds]
    if config.alibi:
        slopes = jnp.tile(jnp.array(alibi_slopes(config.n_heads)), (config.n_layers, 1))
    return LayerData(
        window=jnp.array(config.windows, jnp.int32),
        frequencies=jnp.array(config.rotary_frequencies, jnp.float32)[kinds],
        rotary_scale=jnp.array(config.rotary_scale, jnp.float32)[kinds],
        long_frequencies=long,
        slopes=slopes,
    )


def turned(
    config: DecoderConfig,
    name: str,
    x: Float[Array, "B T2 H K"],
    layer: LayerData,
    batch: TokenBatch,
    *,
    back: bool = False,
) -> Float[Array, "B T2 H K"]:
    """Queries (`q`) or keys (`k`) as positions change them; with `back`, the transposed change.

    Where there are fewer than tokens, T2 < T, they are those of the last ones.
    """
    if not config.rotary_width:
        return x
    positions = batch.positions[:, -x.shape[1] :]
    turns = -positions if back else positions
    x = rotate(x, turns, _frequencies(config, layer, batch, x.shape[1]), layer.rotary_scale)
    if name == "q" and config.query_growth:
        grown = jnp.log1p(jnp.floor(positions / config.query_context))
        x = x * (1 + config.query_growth * grown)[:, :, None, None].astype(x.dtype)
    return x


def _frequencies(
    config: DecoderConfig, layer: LayerData, batch: TokenBatch, n_last: int
) -> Float[Array, "#B #T rotary"]:
    """Radians per token, of the last tokens of each prompt, for which its length may matter."""
    frequencies = layer.frequencies[None, None]
    length = batch.lengths[:, -n_last:, None]
    if layer.long_frequencies is not None:
        long = layer.long_frequencies[None, None]
        frequencies = jnp.where(length > config.rotary_context, long, frequencies)
    if config.rotary_stretch:
        half = config.rotary_width // 2
        stretch = config.rotary_stretch * (length / config.rotary_context - 1) + 1
        powers = -jnp.arange(half) / max(half - 1, 1)
        frequencies = frequencies * jnp.maximum(stretch, 1.0) ** powers[None, None]
    return frequencies


def softcap(x: Array, cap: float) -> Array:
    """`cap * tanh(x / cap)`, or x where cap is 0."""
    return cap * jnp.tanh(x / cap) if cap else x


class Norm(nn.Module):
    """A norm of `NORMS`, or `none`, over the last axis, computed in float32.

    Over heads [... H K] its weights may be each head's own (`HK`), and it may be of all of them at
    once (`all`).
    """

    kind: str
    eps: float
    over: str = "K"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalised x, in x's dtype."""
        if self.kind == "none":
            return x
        kind = NORMS[self.kind]
        y = x.astype(jnp.float32)
        if kind.centred:
            y = y - jnp.mean(y, axis=self.axes, keepdims=True)
        y = y * self.inverse_scale(y)
        axes = x.shape[-1:] if self.over == "K" else x.shape[-2:]
        shape = (1,) * (x.ndim - len(axes)) + axes
        if kind.scale:
            y = y * self.param("scale", nn.initializers.ones, axes, jnp.float32).reshape(shape)
        if kind.bias:
            y = y + self.param("bias", nn.initializers.zeros, axes, jnp.float32).reshape(shape)
        return y.astype(x.dtype)

    @property
    def axes(self) -> tuple[int, ...]:
        """What the mean and the variance are of."""
        return (-2, -1) if self.over == "all" else (-1,)

    def inverse_scale(self, y: Float[Array, "... D"]) -> Float[Array, "... 1"]:
        """What a centred y is multiplied by: 1 over its root mean square.

        NaN where the squares overflow: 1 / infinity would make a silent 0 of what is too large.
        """
        mean = jnp.mean(y * y, axis=self.axes, keepdims=True)
        return jnp.where(jnp.isfinite(mean), jax.lax.rsqrt(mean + self.eps), jnp.nan)


def norm_of(config: DecoderConfig, place: str, **module: Any) -> Norm:
    """The norm at a place of the decoder (`DecoderConfig.norm_at`)."""
    over = config.qk_norm_over if place in ("q_norm", "k_norm") else "K"
    return Norm(config.norm_at(place), config.norm_eps, over, **module)


class Attention(nn.Module):
    """Self-attention with grouped key-value heads; causal, unless the config says otherwise."""

    config: DecoderConfig

    def setup(self):
        """Parameters q [D H K], k and v [D J K], o [H K D], biases, norms and sinks [H]."""
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
        self.q_norm, self.k_norm = (norm_of(c, f"{n}_norm") for n in "qk")
        self.sinks = self.param("sinks", zeros, (c.n_heads,)) if c.sinks else None

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
        """z: for every head, the mean of the values, weighted by the attention pattern.

        Of as many prompts at a time as fit (`mesh.in_parts`); where `pattern` is read all must fit.
        """
        c = self.config
        q, k, v = (self.heads_of(name, x) for name in "qkv")
        q, k, v = self.cut("q", self.q_norm(q)), self.cut("k", self.k_norm(k)), self.cut("v", v)
        q, k = (turned(c, name, y, layer, batch) for name, y in {"q": q, "k": k}.items())

        def mixed(rows):
            q, k, v, batch = rows
            pattern = self.pattern(q, k, layer, batch)
            z = einsum("bjits,bsjk->btjik", pattern.astype(v.dtype), v)
            return z.reshape(q.shape)

        return mesh.in_parts(mixed, (q, k, v, batch), c.pattern_bytes(x.shape[1]))

    def cut(self, name: str, x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
        """Queries, keys or values (`q`, `k`, `v`), cut to the range that they may have."""
        clip = self.config.qkv_clip
        return jnp.clip(x, -clip, clip) if clip else x

    def pattern(
        self,
        q: Float[Array, "B T2 H K"],
        k: Float[Array, "B T J K"],
        layer: LayerData,
        batch: TokenBatch,
    ) -> Float[Array, "B J I T2 T"]:
        """How much of each earlier token every head reads at every token.

        Sums to 1, with what a sink takes.

        Where there are fewer queries than keys, T2 < T, they are those of the last tokens.
        """
        c = self.config
        b, t, _, width = q.shape
        q = q.reshape(b, t, c.n_kv_heads, -1, width)  # I query heads share each key-value head j
        scores = einsum("btjik,bsjk->bjits", q, k, preferred_element_type=jnp.float32)
        if c.alibi:
            rises = self.per_head(layer.slopes) * batch.positions[:, None, None, None]
            rises = rises.astype(jnp.bfloat16).astype(jnp.float32)  # so rounded in training
            scores = scores + rises
        scores = scores * c.attention_scale
        scores = softcap(scores, c.attention_softcap)
        distance = batch.distance[:, -t:]
        near = (distance >= (0 if c.causal else -distance.shape[2])) & (distance < layer.window)
        seen = (near & batch.mask[:, None, :])[:, None, None]
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
        if self.sinks is None:
            return jax.nn.softmax(scores, axis=-1)
        sinks = self.per_head(self.sinks.astype(jnp.float32))
        with_sink = jnp.concatenate([jnp.broadcast_to(sinks, (*scores.shape[:-1], 1)), scores], -1)
        return jax.nn.softmax(with_sink, axis=-1)[..., 1:]

    def per_head(self, x: Float[Array, " H"]) -> Float[Array, "1 J I 1 1"]:
        """One number a head, as patterns have heads."""
        return x.reshape(1, self.config.n_kv_heads, -1, 1, 1)

    def project(self, z: Float[Array, "B T H K"]) -> Float[Array, "B T D"]:
        """What heads write together: z W_O summed over heads, with the bias if there is one."""
        y = einsum("bthk,hkd->btd", z, self.o)
        return y if self.o_bias is None else y + self.o_bias[None, None]


def activated(config: DecoderConfig, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """An MLP's nonlinearity."""
    if config.mlp_clip:
        x = jnp.minimum(x, config.mlp_clip)
    return ACTIVATIONS[config.activation](config.swish * x) / config.swish


def factor(config: DecoderConfig, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What the activated gate of a gated MLP is multiplied by, out of its projection."""
    if config.mlp_clip:
        x = jnp.clip(x, -config.mlp_clip, config.mlp_clip)
    return x + config.up_offset if config.up_offset else x


class MLP(nn.Module):
    """Plain or gated multilayer perceptron, D -> E -> D, or a mixture of experts.

    A mixture is an MLP as wide as all its experts together, each neuron of which counts by its
    token's router (`shares`): 0 for those of experts that are not chosen. They are computed all the
    same, which is simple, has one shape and costs n_experts / n_chosen times the products; with few
    tokens, reading the weights takes the time anyway.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What the MLP writes to the residual stream."""
        c = self.config
        zeros = nn.initializers.zeros

        def dense(name, y, width):
            weight = self.param(name, _INIT, (y.shape[-1], width))
            y = einsum("btd,de->bte", y, weight)
            if c.mlp_bias and not (c.n_experts and name == "down"):
                y = y + self.param(f"{name}_bias", zeros, (width,))[None, None]
            return y

        hidden = dense("up", x, c.d_mlp)
        if c.gated_mlp:
            gate = self.activate(dense("gate", x, c.d_mlp))
            hidden = self.gate(gate, factor(c, hidden))
        else:
            hidden = self.activate(hidden)
        if not c.n_experts:
            return dense("down", hidden, c.d_model)
        router = self.param("router", _INIT, (c.d_model, c.n_experts))
        bias = self.param("router_bias", zeros, (c.n_experts,)) if c.router_bias else None
        gate = self.param("shared_gate", _INIT, (c.d_model,)) if c.d_shared else None
        shares = self.shares(x, router, bias, gate)
        out = dense("down", hidden * self.neurons(shares).astype(hidden.dtype), c.d_model)
        if c.mlp_bias:
            biases = self.param("down_bias", zeros, (c.n_experts, c.d_model))
            out = out + einsum("btx,xd->btd", shares[..., : c.n_experts], biases)
        return out.astype(x.dtype)

    def activate(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        """The nonlinearity."""
        return activated(self.config, x)

    def gate(self, x: Float[Array, "B T E"], y: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        """The product of a gated MLP's two projections."""
        return x * y

    def shares(
        self,
        x: Float[Array, "B T D"],
        router: Float[Array, "D X"],
        bias: Float[Array, " X"] | None,
        shared_gate: Float[Array, " D"] | None,
    ) -> Float[Array, "B T _"]:
        """How much every expert counts at every token, and last the one that all use, if any.

        Float32. The choice has no gradient; the weights of the chosen have.
        """
        c = self.config
        logits = einsum("btd,dx->btx", x, router, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits if bias is None else logits + bias[None, None], axis=-1)
        _, chosen = jax.lax.top_k(jax.lax.stop_gradient(weights), c.n_chosen)
        weights = weights * jnp.sum(jax.nn.one_hot(chosen, c.n_experts), axis=-2)
        if c.experts_sum_to_one:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        if shared_gate is None:
            return weights
        shared = einsum("btd,d->bt", x, shared_gate, preferred_element_type=jnp.float32)
        return jnp.concatenate([weights, jax.nn.sigmoid(shared)[..., None]], axis=-1)

    def neurons(self, shares: Float[Array, "B T _"]) -> Float[Array, "B T E"]:
        """Of each neuron, its expert's share."""
        c = self.config
        counts = [c.d_expert] * c.n_experts + [c.d_shared] * bool(c.d_shared)
        return jnp.repeat(shares, jnp.array(counts), axis=-1, total_repeat_length=c.d_mlp)


class Block(nn.Module):
    """One layer: attention and MLP add what they write to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], layer: LayerData, batch: TokenBatch):
        """(residual stream after the layer, None), as `nn.scan` wants it."""
        c = self.config

        def norm(name, y):
            return norm_of(c, name, name=name)(y)

        attention = Attention(c, name="attention")(norm("attention_norm", x), layer, batch)
        attention = norm("attention_post_norm", attention)
        if not c.d_mlp:
            return layer_run(c, x + attention), None
        read = x if c.parallel else x + attention
        mlp = norm("mlp_post_norm", MLP(c, name="mlp")(norm("mlp_norm", read)))
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
        self.final_norm = norm_of(c, "final_norm")
        if not c.tied:
            self.unembedding = self.param("unembedding", _INIT, (c.d_model, c.vocab_size))
        if c.unembedding_bias:
            zeros = nn.initializers.zeros
            self.unembedding_bias = self.param("unembedding_bias", zeros, (c.vocab_size,))

    def __call__(self, batch: TokenBatch) -> Float[Array, "B T V"]:
        """Logits of the next token at every position, float32."""
        return self.unembed(self.residual(batch))

    def last_logits(self, batch: TokenBatch) -> Float[Array, "B *Q V"]:
        """Logits after each prompt's last token, float32; equal to `__call__` there.

        Of a `ContinuedBatch` also after the tokens of continuations.
        """
        return batch.of_ends(self.unembed(batch.at_ends(self.residual(batch))))

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
        if self.config.unembedding_bias:
            logits = logits + self.unembedding_bias[None, None]
        return softcap(logits, self.config.logit_softcap)


def initial_params(config: DecoderConfig, key: jax.Array) -> dict[str, Any]:
    """Random parameters of a decoder, of the tree and shapes that `lm/families` fills."""
    batch = TokenBatch(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    return Decoder(config).init(key, batch)["params"]
