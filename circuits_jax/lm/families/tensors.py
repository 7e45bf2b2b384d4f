"""Where each family keeps its weights: tables of Hugging Face tensor names and layouts.

A `Row` says: our parameter `path` is the tensor `name`, whose axes are `stored`. Axes are letters,
written together where the file fuses them: `HK D` is a matrix [H*K, D], `D 3HK` GPT-2's fused
queries, keys and values. Sizes follow from the config, so a wrong shape is caught, never reshaped.
Per-layer tensors have `{layer}` in their name and are stacked to [L, ...].

    D  width of the residual stream    H  heads in a layer    J  key-value heads    K  head width
    E  width of the MLP                V  vocabulary          P  rows of the position table
"""

import dataclasses
import re
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from circuits_jax.decoder.config import DecoderConfig

# Axes of our parameters, the same for every family; see `decoder.py`.
AXES = {
    "embedding": "VD",
    "position_embedding": "PD",
    "unembedding": "DV",
    "q": "DHK",
    "k": "DJK",
    "v": "DJK",
    "o": "HKD",
    "q_bias": "HK",
    "k_bias": "JK",
    "v_bias": "JK",
    "o_bias": "D",
    "q_norm/scale": "K",
    "k_norm/scale": "K",
    "up": "DE",
    "gate": "DE",
    "down": "ED",
    "up_bias": "E",
    "gate_bias": "E",
    "down_bias": "D",
}

# Stored beside a decoder that takes images as well as text, and not read for text alone.
OF_IMAGES = re.compile(r"^(vision_tower|multi_modal_projector)\.")

# Longest first: what may stand before the names of the decoder's own tensors.
PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.decoder.",
    "model.",
    "decoder.",
    "transformer.",
    "gpt_neox.",
)

RENAMED = {"embed_out.weight": "lm_head.weight"}  # GPT-NeoX's, in its files and in transformers 5


@dataclasses.dataclass(frozen=True)
class Row:
    """Our parameter `path` is Hugging Face's `name`, stored with axes `stored`.

    `part` picks queries, keys or values (0, 1, 2) where the axis 3 fuses them.
    """

    path: str
    name: str
    stored: str
    part: int = 0

    @property
    def per_layer(self) -> bool:
        """Whether the tensor exists once a layer."""
        return "{layer}" in self.name


def canonical_name(name: str) -> str:
    """The name of a tensor inside the decoder, whichever model class and version saved it."""
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    name = name[len(prefix) :]
    return RENAMED.get(name, name)


def axis_sizes(config: DecoderConfig) -> dict[str, int]:
    """Size of each axis letter of the tables."""
    return {
        "D": config.d_model,
        "H": config.n_heads,
        "J": config.n_kv_heads,
        "K": config.head_width,
        "E": config.d_mlp,
        "V": config.vocab_size,
        "P": config.n_positions + config.position_offset,
        "3": 3,
    }


def stored_shape(row: Row, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape that a tensor of the file must have."""
    return tuple(int(np.prod([sizes[a] for a in axis])) for axis in row.stored.split())


def to_ours(tensor: np.ndarray, row: Row, sizes: dict[str, int]) -> np.ndarray:
    """One tensor of the file, with our axes; splits fused axes, picks the part, permutes."""
    axes = row.stored.replace(" ", "")
    tensor = tensor.reshape([sizes[a] for a in axes])
    if "3" in axes:
        tensor = np.take(tensor, row.part, axis=axes.index("3"))
        axes = axes.replace("3", "")
    return tensor.transpose([axes.index(a) for a in our_axes(row.path)])


def our_axes(path: str) -> str:
    """Axis letters of one of our parameters, without L."""
    return next((AXES[key] for key in AXES if path == key or path.endswith("/" + key)), "D")


def buffer_check(canonical: str) -> Callable[[np.ndarray, str, DecoderConfig], bool] | None:
    """What tells whether a tensor that some versions store is the constant that we compute."""
    return next((check for name, check in _BUFFERS.items() if re.search(name, canonical)), None)


def _is_rotary(tensor: np.ndarray, canonical: str, config: DecoderConfig) -> bool:
    """The radians per token of the layer's heads, of any layer's where the name has none."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return False
    layer = re.search(r"layers\.(\d+)\.", canonical)
    kinds = config.layer_kinds
    kinds = kinds[int(layer[1]) :][:1] if layer else kinds
    eps = float(jnp.finfo(tensor.dtype).eps)
    wanted = [np.array(config.rotary_frequencies[kind]) for kind in kinds]
    return any(
        tensor.shape == one.shape
        and np.allclose(tensor.astype(np.float64), one, rtol=max(2 * eps, 1e-5), atol=1e-7)
        for one in wanted
    )


def _is_causal(tensor: np.ndarray, canonical: str, config: DecoderConfig) -> bool:
    """1 where a token sees another, 0 where that comes later."""
    n = tensor.shape[-1] if tensor.ndim else 0
    return tensor.shape == (1,) * (tensor.ndim - 2) + (n, n) and np.array_equal(
        tensor.reshape(n, n), np.tri(n, dtype=tensor.dtype)
    )


def _is_never(tensor: np.ndarray, canonical: str, config: DecoderConfig) -> bool:
    """A score so low that what has it is not seen."""
    return tensor.size == 1 and bool(tensor.reshape(()) <= -1e4)


_BUFFERS = {
    r"(^|\.)rotary_emb\.inv_freq$": _is_rotary,
    r"(^|\.)(attn|attention)\.bias$": _is_causal,
    r"(^|\.)(attn|attention)\.masked_bias$": _is_never,
}


def _llama_like(norms: dict[str, str]) -> tuple[Row, ...]:
    """Llama's names; `norms` maps our norms to the names of theirs, which differ."""
    layer = "model.layers.{layer}."
    attention, mlp = layer + "self_attn.", layer + "mlp."
    stored = {"q": "HK", "k": "JK", "v": "JK"}
    return (
        Row("embedding", "model.embed_tokens.weight", "V D"),
        Row("unembedding", "lm_head.weight", "V D"),
        Row("final_norm/scale", "model.norm.weight", "D"),
        *(Row(f"layers/{ours}/scale", f"{layer}{hf}.weight", "D") for ours, hf in norms.items()),
        *(
            Row(f"layers/attention/{n}", f"{attention}{n}_proj.weight", f"{axes} D")
            for n, axes in stored.items()
        ),
        *(
            Row(f"layers/attention/{n}_bias", f"{attention}{n}_proj.bias", axes)
            for n, axes in stored.items()
        ),
        *(
            Row(f"layers/attention/{n}_norm/scale", f"{attention}{n}_norm.weight", "K")
            for n in "qk"
        ),
        Row("layers/attention/o", attention + "o_proj.weight", "D HK"),
        Row("layers/attention/o_bias", attention + "o_proj.bias", "D"),
        Row("layers/mlp/gate", mlp + "gate_proj.weight", "E D"),
        Row("layers/mlp/gate_bias", mlp + "gate_proj.bias", "E"),
        Row("layers/mlp/up", mlp + "up_proj.weight", "E D"),
        Row("layers/mlp/up_bias", mlp + "up_proj.bias", "E"),
        Row("layers/mlp/down", mlp + "down_proj.weight", "D E"),
        Row("layers/mlp/down_bias", mlp + "down_proj.bias", "D"),
    )


def _layer_norm(path: str, name: str) -> tuple[Row, Row]:
    return Row(f"{path}/scale", f"{name}.weight", "D"), Row(f"{path}/bias", f"{name}.bias", "D")


def _linear(path: str, name: str, out_axes: str, in_axes: str) -> tuple[Row, Row]:
    """A torch Linear: weight [out, in] and bias [out]."""
    return (
        Row(path, f"{name}.weight", f"{out_axes} {in_axes}"),
        Row(f"{path}_bias", f"{name}.bias", out_axes),
    )


def _conv1d(path: str, name: str, in_axes: str, out_axes: str, part: int = 0) -> tuple[Row, Row]:
    """GPT-2's Conv1D: weight [in, out] and bias [out]."""
    return (
        Row(path, f"{name}.weight", f"{in_axes} {out_axes}", part),
        Row(f"{path}_bias", f"{name}.bias", out_axes, part),
    )


LLAMA = _llama_like({"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"})

GEMMA = _llama_like(
    {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)

_GPT2_LAYER = "transformer.h.{layer}."
GPT2 = (
    Row("embedding", "transformer.wte.weight", "V D"),
    Row("position_embedding", "transformer.wpe.weight", "P D"),
    Row("unembedding", "lm_head.weight", "V D"),
    *_layer_norm("final_norm", "transformer.ln_f"),
    *_layer_norm("layers/attention_norm", _GPT2_LAYER + "ln_1"),
    *_layer_norm("layers/mlp_norm", _GPT2_LAYER + "ln_2"),
    *_conv1d("layers/attention/q", _GPT2_LAYER + "attn.c_attn", "D", "3HK", part=0),
    *_conv1d("layers/attention/k", _GPT2_LAYER + "attn.c_attn", "D", "3JK", part=1),
    *_conv1d("layers/attention/v", _GPT2_LAYER + "attn.c_attn", "D", "3JK", part=2),
    *_conv1d("layers/attention/o", _GPT2_LAYER + "attn.c_proj", "HK", "D"),
    *_conv1d("layers/mlp/up", _GPT2_LAYER + "mlp.c_fc", "D", "E"),
    *_conv1d("layers/mlp/down", _GPT2_LAYER + "mlp.c_proj", "E", "D"),
)

_NEOX_LAYER = "gpt_neox.layers.{layer}."
_NEOX_QKV = _NEOX_LAYER + "attention.query_key_value"
GPT_NEOX = (
    Row("embedding", "gpt_neox.embed_in.weight", "V D"),
    Row("unembedding", "lm_head.weight", "V D"),
    *_layer_norm("final_norm", "gpt_neox.final_layer_norm"),
    *_layer_norm("layers/attention_norm", _NEOX_LAYER + "input_layernorm"),
    *_layer_norm("layers/mlp_norm", _NEOX_LAYER + "post_attention_layernorm"),
    *(
        Row(f"layers/attention/{n}{ours}", f"{_NEOX_QKV}.{hf}", f"{heads}3K{width}", part)
        for part, (n, heads) in enumerate({"q": "H", "k": "J", "v": "J"}.items())
        for ours, hf, width in (("", "weight", " D"), ("_bias", "bias", ""))
    ),
    *_linear("layers/attention/o", _NEOX_LAYER + "attention.dense", "D", "HK"),
    *_linear("layers/mlp/up", _NEOX_LAYER + "mlp.dense_h_to_4h", "E", "D"),
    *_linear("layers/mlp/down", _NEOX_LAYER + "mlp.dense_4h_to_h", "D", "E"),
)

_OPT_LAYER = "model.decoder.layers.{layer}."
OPT = (
    Row("embedding", "model.decoder.embed_tokens.weight", "V D"),
    Row("position_embedding", "model.decoder.embed_positions.weight", "P D"),
    Row("unembedding", "lm_head.weight", "V D"),
    *_layer_norm("final_norm", "model.decoder.final_layer_norm"),
    *_layer_norm("layers/attention_norm", _OPT_LAYER + "self_attn_layer_norm"),
    *_layer_norm("layers/mlp_norm", _OPT_LAYER + "final_layer_norm"),
    *_linear("layers/attention/q", _OPT_LAYER + "self_attn.q_proj", "HK", "D"),
    *_linear("layers/attention/k", _OPT_LAYER + "self_attn.k_proj", "JK", "D"),
    *_linear("layers/attention/v", _OPT_LAYER + "self_attn.v_proj", "JK", "D"),
    *_linear("layers/attention/o", _OPT_LAYER + "self_attn.out_proj", "D", "HK"),
    *_linear("layers/mlp/up", _OPT_LAYER + "fc1", "E", "D"),
    *_linear("layers/mlp/down", _OPT_LAYER + "fc2", "D", "E"),
)
