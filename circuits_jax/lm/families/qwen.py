"""Qwen2 and Qwen3, and their mixtures of experts."""

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
from circuits_jax.lm.families.tensors import (
    BEFORE,
    ENDS,
    LAYER,
    LLAMA,
    Row,
    experts,
    linear,
    norms,
    self_attention,
)


def _read(fields: Fields, shape: dict[str, Any], slides: Any) -> dict[str, Any]:
    """What all of them share; `slides` says which layers do, where a sliding window is used."""
    used = fields.get("use_sliding_window", False)
    used = used and fields.nullable("sliding_window", 4096) is not None
    types = layer_types(fields, shape, lambda layer: bool(used) and slides(layer))
    return {
        **shape,
        **gated_rms(fields),
        **rotary(fields, shape, [rope_of(fields)]),
        "windows": windows_of(fields, types),
    }


def _upper(fields: Fields):
    """Qwen2's and Qwen3's rule: the layers from `max_window_layers` on."""
    first = fields.get("max_window_layers", 28)
    return lambda layer: layer >= first


def read_qwen2(fields: Fields) -> dict[str, Any]:
    """Qwen2: Llama with biases on q, k and v, and sliding windows in the upper layers."""
    return {**_read(fields, shape_of(fields), _upper(fields)), "qkv_bias": True}


def _read_qwen3(fields: Fields, slides: Any) -> dict[str, Any]:
    shape = shape_of(fields, head_width=fields.count("head_dim", 128))
    return {
        **_read(fields, shape, slides),
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        "qk_norm": True,
    }


def read_qwen3(fields: Fields) -> dict[str, Any]:
    """Qwen3: norms on queries and keys, a head width of its own."""
    return _read_qwen3(fields, _upper(fields))


def _experts(fields: Fields, n_experts: int, width: int, n_chosen: int, shared: int = 0):
    return mixture(
        fields,
        n_experts=fields.count("num_experts", fields.get("num_local_experts", n_experts)),
        n_chosen=fields.count("num_experts_per_tok", n_chosen),
        width=fields.count("moe_intermediate_size", width),
        sum_to_one=bool(fields.get("norm_topk_prob", False)),
        shared=shared,
    )


def read_qwen2_moe(fields: Fields) -> dict[str, Any]:
    """Qwen2-MoE: with one expert that all tokens use, by a gate."""
    shared = fields.count("shared_expert_intermediate_size", 5632)
    last = fields.get("max_window_layers", 28)
    return {
        **_read(fields, shape_of(fields), lambda layer: layer % 2 == 0 and layer < last),
        **_experts(fields, 60, 1408, 4, shared),
        "qkv_bias": bool(fields.get("qkv_bias", True)),
    }


def read_qwen3_moe(fields: Fields) -> dict[str, Any]:
    """Qwen3-MoE: a window, where it is used, in all layers."""
    head_dim = {"head_dim": fields.get("head_dim")}
    if head_dim["head_dim"] is None:  # unlike Qwen3: the class has no default of its own
        d_model, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
        head_dim = {"head_dim": d_model // heads}
    fields = Fields(fields.values | head_dim, fields.source).with_defaults(num_key_value_heads=4)
    return _read_qwen3(fields, lambda layer: True) | _experts(fields, 128, 768, 8)


QWEN2 = Family(read_qwen2, LLAMA)
QWEN3 = Family(read_qwen3, LLAMA)
_MIXTURE = (
    *ENDS,
    *norms(BEFORE),
    *self_attention(LAYER + "self_attn."),
    Row("layers/mlp/router", LAYER + "mlp.gate.weight", "X D"),
    *experts(LAYER + "mlp.experts."),
)
_SHARED = LAYER + "mlp.shared_expert."
QWEN2_MOE = Family(
    read_qwen2_moe,
    (
        *_MIXTURE,
        *linear("layers/mlp/gate", _SHARED + "gate_proj", "S", "D"),
        *linear("layers/mlp/up", _SHARED + "up_proj", "S", "D"),
        *linear("layers/mlp/down", _SHARED + "down_proj", "D", "S"),
        Row("layers/mlp/shared_gate", LAYER + "mlp.shared_expert_gate.weight", "1 D"),
    ),
)
QWEN3_MOE = Family(read_qwen3_moe, _MIXTURE)
