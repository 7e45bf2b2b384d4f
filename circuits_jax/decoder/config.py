"""What makes one decoder GPT-2, another Llama and another Gemma: plain, hashable settings.

`DecoderConfig` says everything the linen decoder in `decoder.py` needs to know;
`lm/families/families.py` reads it from a Hugging Face config. Two models with equal configs share
compiled programs.
"""

import dataclasses
from typing import Literal

NO_WINDOW = 2**30  # a sliding window wider than any context: every earlier token is seen


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape and the options of a decoder-only transformer.

    Attributes:
        family: the name of the table in `lm/families/families.py` that it came from.
        vocab_size: V.
        n_positions: longest context, in tokens.
        n_layers, n_heads, n_kv_heads, head_width, d_model: L, H, J, K, D.
        d_mlp: width E of the MLP; 0 for an attention-only model.
        norm: `layer` (mean and variance), `rms` (root mean square) or `none`.
        norm_eps: added to the variance.
        activation: of the MLP: `gelu`, `gelu_tanh`, `relu` or `silu`.
        gated_mlp: multiply the activated gate by a second projection.
        parallel: attention and MLP read the same residual stream (GPT-NeoX).
        post_norms: further norms on what attention and MLP write (Gemma 2 and 3).
        qk_norm: RMS norm over K of queries and keys, before rotation (Qwen3, Gemma 3).
        qkv_bias, out_bias, mlp_bias: which projections have biases.
        tied: the unembedding is the transposed embedding.
        embedding_scale: factor on the embedding (Gemma: the square root of D).
        attention_scale: factor on query-key products.
        attention_softcap, logit_softcap: c in `c tanh(x / c)`; 0 for none.
        learned_positions: a table of position vectors is added to the embedding.
        position_offset: first row of that table in use (OPT: 2).
        rotary_width: components of each head that are rotated; 0 for none, at most K.
        rotary_frequencies: radians per token, rotary_width / 2 numbers for each kind of layer.
        rotary_scale: factor on cosines and sines (YaRN), one for each kind of layer.
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
    norm: Literal["layer", "rms", "none"]
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"]
    attention_scale: float
    norm_eps: float = 1e-5
    gated_mlp: bool = False
    parallel: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    embedding_scale: float = 1.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    learned_positions: bool = False
    position_offset: int = 0
    rotary_width: int = 0
    rotary_frequencies: tuple[tuple[float, ...], ...] = ((),)
    rotary_scale: tuple[float, ...] = (1.0,)
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
