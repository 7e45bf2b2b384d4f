"""GPT-OSS: experts with biases, attention sinks, windows in every other layer."""

from typing import Any

from circuits_jax.lm.families.configs import (
    Fields,
    biases,
    gated_rms,
    layer_types,
    mixture,
    rope_of,
    rotary,
    shape_of,
    windows_of,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import BEFORE, ENDS, LAYER, Row, norms, self_attention

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read_gpt_oss(fields: Fields) -> dict[str, Any]:
    """GPT-OSS."""
    fields.only("hidden_act", "silu")
    kv_heads = fields.count("num_key_value_heads", 8)
    shape = shape_of(fields, n_kv_heads=kv_heads, head_width=fields.count("head_dim", 64))
    types = layer_types(fields, shape, lambda layer: layer % 2 == 0)
    stated = fields.get("rope_scaling") or fields.get("rope_parameters")
    rope = rope_of(fields, 150_000.0)
    return {
        **shape,
        **gated_rms(fields, eps=1e-5),
        **rotary(fields, shape, [rope if stated else rope | _ROPE]),
        **mixture(
            fields,
            n_experts=fields.count("num_local_experts", fields.get("num_experts", 128)),
            n_chosen=fields.count("num_experts_per_tok", 4),
            width=shape["d_mlp"],
            sum_to_one=True,
        ),
        **biases(fields.get("attention_bias", True), "qkv", "out"),
        **biases(True, "mlp", "router"),
        "sinks": True,
        "windows": windows_of(fields, types, 128),
        "swish": fields.positive("swiglu_alpha", 1.702),
        "mlp_clip": fields.positive("swiglu_limit", 7.0),
        "up_offset": 1.0,
    }


_EXPERTS = LAYER + "mlp.experts."
GPT_OSS = Family(
    read_gpt_oss,
    (
        *ENDS,
        *norms(BEFORE),
        *self_attention(LAYER + "self_attn."),
        Row("layers/attention/sinks", LAYER + "self_attn.sinks", "H"),
        Row("layers/mlp/router", LAYER + "mlp.router.weight", "X D"),
        Row("layers/mlp/router_bias", LAYER + "mlp.router.bias", "X"),
        Row("layers/mlp/gate", _EXPERTS + "gate_up_proj", "X D E2", 0),
        Row("layers/mlp/up", _EXPERTS + "gate_up_proj", "X D E2", 1),
        Row("layers/mlp/gate_bias", _EXPERTS + "gate_up_proj_bias", "X E2", 0),
        Row("layers/mlp/up_bias", _EXPERTS + "gate_up_proj_bias", "X E2", 1),
        Row("layers/mlp/down", _EXPERTS + "down_proj", "X E D"),
        Row("layers/mlp/down_bias", _EXPERTS + "down_proj_bias", "X D"),
    ),
)
