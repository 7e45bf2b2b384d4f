"""Cohere's Command R and R+, Aya, and Command R7B (`cohere2`)."""

from typing import Any

from circuits_jax.lm.families.configs import (
    LAYER_TYPES,
    Fields,
    biases,
    layer_types,
    not_rotated,
    rope_of,
    rotary,
    shape_of,
    windows_of,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import ENDS, LAYER, gated_mlp, norms, self_attention


def read_cohere(fields: Fields) -> dict[str, Any]:
    """Parallel blocks of one layer norm without bias, rotary pairs in turn, scaled logits."""
    shape = shape_of(fields)
    return {
        **shape,
        **rotary(fields, shape, [rope_of(fields, 500_000.0)]),
        "norm": "layer_without_bias",
        "norm_eps": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.activation("hidden_act", "silu"),
        "gated_mlp": True,
        "parallel": True,
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        "qk_norm": bool(fields.get("use_qk_norm", False)),
        "qk_norm_kind": "layer_without_bias",
        "qk_norm_over": "HK",
        "tied": bool(fields.get("tie_word_embeddings", True)),
    }


def read_cohere2(fields: Fields) -> dict[str, Any]:
    """Three sliding layers to a full one, which is not rotated."""
    values = fields.values | {"rope_theta": fields.number("rope_theta", 10_000.0)}
    config = read_cohere(Fields(values, fields.source))
    pattern = fields.count("sliding_window_pattern", 4)
    types = layer_types(fields, config, lambda layer: (layer + 1) % pattern != 0)
    config |= {"qk_norm": False, "windows": windows_of(fields, types, 4096)}
    return not_rotated(config, [kind == LAYER_TYPES[0] for kind in types])


def multipliers(fields: Fields) -> dict[str, float]:
    """Of logits."""
    return {"final_norm": fields.positive("logit_scale", 0.0625)}


_ROWS = (
    *ENDS,
    *norms({"attention_norm": "input_layernorm", "mlp_norm": "input_layernorm"}),
    *self_attention(LAYER + "self_attn.", qk_norms="H K"),
    *gated_mlp(LAYER + "mlp."),
)
COHERE = Family(read_cohere, _ROWS, pairs_in_turn=True, multipliers=multipliers)
COHERE2 = Family(read_cohere2, _ROWS, pairs_in_turn=True, multipliers=multipliers)
