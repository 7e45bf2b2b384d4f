"""What makes one decoder GPT-2, another Llama and another Gemma: plain, hashable settings.

`DecoderConfig` says everything the linen decoder in `decoder.py` needs to know;
`lm/families/families.py` reads it from a Hugging Face config. Two models with equal configs share
compiled programs.
"""

import dataclasses
from typing import Literal

from circuits_jax.runs import mesh

NO_WINDOW = 2**30  # a sliding window wider than any context: every earlier token is seen


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape and the options of a decoder-only transformer.

    Attributes:
        family: the name of the table in `lm/families/families.py` that it came from.
        vocab_size: V.
        n_positions: longest context, in tokens.
        n_layers, n_heads, n_kv_heads, head_width, d_model: L, H, J, K, D.
        d_mlp: width E of the MLP, of all its experts together; 0 for an attention-only model.
        norm: a name of `decoder.NORMS`.
        norm_eps: added to the variance.
        activation: of the MLP: a name of `decoder.ACTIVATIONS`.
        gated_mlp: multiply the activated gate by a second projection.
        parallel: attention and MLP read the same residual stream (GPT-NeoX).
        pre_norms: norms on what attention and MLP read (not OLMo 2, which norms what they write).
        post_norms: further norms on what attention and MLP write (Gemma 2 and 3).
        qk_norm: norm of queries and keys, before rotation (Qwen3, Gemma 3).
        qk_norm_kind: which one: a name of `decoder.NORMS`.
        qk_norm_over: `K`, with weights that all heads share; `HK`, the same with weights of each
            head's own (Cohere); `all`, over all heads at once (OLMo 2).
        qkv_bias, out_bias, mlp_bias, unembedding_bias: which projections have biases.
        qkv_clip: queries, keys and values are cut to +- this (OLMo); 0 for no cut.
        sinks: every head has a logit more in its softmax, which it reads nothing for (GPT-OSS).
        alibi: a penalty on distance, of each head's own, on scores (Falcon-RW).
        n_experts: of equal width; a token's neurons count by its router's weight for their expert,
            0 for all but `n_chosen`. 0 for a plain MLP.
        n_chosen: experts of a token.
        experts_sum_to_one: the chosen ones' weights do, not all of them.
        router_bias: whether it has one.
        d_shared: neurons of `d_mlp`, the last ones, that all tokens use, by a gate of their own.
        swish: b in `x sigmoid(b x)`, for `silu` (GPT-OSS: 1.702).
        mlp_clip: a gated MLP's factors are cut to it before they are used, the gate from above
            only; 0 for no cut (GPT-OSS).
        up_offset: added to the factor that is not the gate (GPT-OSS: 1).
        tied: the unembedding is the transposed embedding.
        embedding_scale: factor on the embedding (Gemma: the square root of D).
        attention_scale: factor on query-key products.
        attention_softcap, logit_softcap: c in `c tanh(x / c)`; 0 for none.
        learned_positions: a table of position vectors is added to the embedding.
        position_offset: first row of that table in use (OPT: 2).
        rotary_width: components of each head that are rotated; 0 for none, at most K.
        rotary_frequencies: radians per token, rotary_width / 2 numbers for each kind of layer.
        rotary_scale: factor on cosines and sines (YaRN), one for each kind of layer.
        rotary_long: the frequencies of prompts longer than `rotary_context` tokens, as
            `rotary_frequencies`; none, if they are the same (longrope).
        rotary_stretch: f of dynamic scaling: for n tokens, more than `rotary_context`, frequency i
            is multiplied by `(f n / context - f + 1) ** (-i / (rotary_width / 2 - 1))`; 0 for none.
        rotary_context: how many tokens a prompt has before either of them begins; 0 for neither.
        query_growth: b in the factor `1 + b log(1 + floor(position / query_context))` on queries
            (Ministral 3); 0 for none.
        query_context: see there.
        layer_kinds: index into `rotary_frequencies` for each layer, L numbers.
        windows: how many tokens back a layer sees, itself included; L numbers.
        causal: no token sees a later one; models compiled from RASP programs look both ways.
        counted: every run of a layer reports itself (`runs/passes.py`).
    """

    family: str
    vocab_size: int
    n_positions: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    d_model: int
    d_mlp: int
    norm: Literal["layer", "layer_without_bias", "layer_plain", "rms", "none"]
    activation: Literal["gelu", "gelu_tanh", "relu", "relu_squared", "silu"]
    attention_scale: float
    norm_eps: float = 1e-5
    gated_mlp: bool = False
    parallel: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    qk_norm: bool = False
    qk_norm_kind: Literal["layer", "layer_without_bias", "rms"] = "rms"
    qk_norm_over: Literal["K", "HK", "all"] = "K"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    unembedding_bias: bool = False
    qkv_clip: float = 0.0
    sinks: bool = False
    alibi: bool = False
    n_experts: int = 0
    n_chosen: int = 0
    experts_sum_to_one: bool = False
    router_bias: bool = False
    d_shared: int = 0
    swish: float = 1.0
    mlp_clip: float = 0.0
    up_offset: float = 0.0
    tied: bool = False
    embedding_scale: float = 1.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    learned_positions: bool = False
    position_offset: int = 0
    rotary_width: int = 0
    rotary_frequencies: tuple[tuple[float, ...], ...] = ((),)
    rotary_scale: tuple[float, ...] = (1.0,)
    rotary_long: tuple[tuple[float, ...], ...] = ()
    rotary_stretch: float = 0.0
    rotary_context: int = 0
    query_growth: float = 0.0
    query_context: int = 1
    layer_kinds: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    causal: bool = True
    counted: bool = False

    def __post_init__(self):
        defaults = {"layer_kinds": (0,), "windows": (NO_WINDOW,)}
        for field, value in defaults.items():
            if not getattr(self, field):
                object.__setattr__(self, field, value * self.n_layers)
            if len(getattr(self, field)) != self.n_layers:
                raise ValueError(f"{field} needs one entry for each of {self.n_layers} layers")

    @property
    def heads(self) -> tuple[int, int]:
        """(L, H)."""
        return self.n_layers, self.n_heads

    def pattern_bytes(self, n_tokens: int) -> int:
        """What the attention patterns of one layer take for a prompt of `n_tokens`, float32."""
        return 4 * self.n_heads * n_tokens**2

    def fitting(self, most: int, n_patterns: int, n_tokens: int) -> int:
        """How many items a device works on at once (`mesh.fitting`), of so many patterns each.

        For a prompt that keeps those of all layers, L; for a pass of B prompts, B.
        """
        return mesh.fitting(most, n_patterns * self.pattern_bytes(n_tokens))

    @property
    def d_expert(self) -> int:
        """Neurons of one expert; of a plain MLP, all."""
        return (self.d_mlp - self.d_shared) // max(self.n_experts, 1)

    def norm_at(self, place: str) -> str:
        """Which norm stands at a place of the decoder, by the name of its module there."""
        if place in ("q_norm", "k_norm"):
            return self.qk_norm_kind if self.qk_norm else "none"
        there = {
            "attention_norm": self.pre_norms,
            "mlp_norm": self.pre_norms,
            "attention_post_norm": self.post_norms,
            "mlp_post_norm": self.post_norms,
            "final_norm": True,
        }
        return self.norm if there[place] else "none"
