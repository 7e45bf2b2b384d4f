"""OLMo, OLMo 2 and 3, OLMoE, and EXAONE 4, which norms where OLMo 2 does."""

from typing import Any

from circuits_jax.lm.families.configs import (
    LAYER_TYPES,
    Fields,
    biases,
    gated_rms,
    layer_types,
    mixture,
    not_rotated,
    rope_of,
    ropes_by_kind,
    rotary,
    shape_of,
    windows_of,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import (
    AFTER,
    BEFORE,
    ENDS,
    LAYER,
    LLAMA,
    Row,
    experts,
    gated_mlp,
    norms,
    self_attention,
)


def read_olmo(fields: Fields) -> dict[str, Any]:
    """OLMo: layer norms without parameters; queries, keys and values may be cut."""
    shape = shape_of(fields)
    return {
        **shape,
        **gated_rms(fields),
        **rotary(fields, shape, [rope_of(fields)]),
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        "norm": "layer_plain",
        "norm_eps": 1e-5,
        "qkv_clip": fields.number("clip_qkv", 0.0),
    }


def _normed_after(fields: Fields, shape: dict[str, Any]) -> dict[str, Any]:
    """OLMo 2: norms on what is written, and on all heads' queries and keys at once."""
    return {
        **shape,
        **gated_rms(fields, eps=1e-5),
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        "pre_norms": False,
        "post_norms": True,
        "qk_norm": True,
        "qk_norm_over": "all",
    }


def read_olmo2(fields: Fields) -> dict[str, Any]:
    """OLMo 2."""
    shape = shape_of(fields)
    return {**_normed_after(fields, shape), **rotary(fields, shape, [rope_of(fields)])}


def read_olmo3(fields: Fields) -> dict[str, Any]:
    """OLMo 3: OLMo 2 with three sliding layers to a full one; scaling is of the full ones."""
    shape = shape_of(fields)
    types = layer_types(fields, shape, lambda layer: (layer + 1) % 4 != 0)
    local = {"rope_theta": 500_000.0}  # whatever a flat config says: it is read for full layers
    whole = {"rope_theta": fields.number("rope_theta", 500_000.0)} | fields.table("rope_scaling")
    return {
        **_normed_after(fields, shape),
        **rotary(fields, shape, ropes_by_kind(fields, local, whole)),
        "layer_kinds": tuple(LAYER_TYPES.index(kind) for kind in types),
        "windows": windows_of(fields, types, 4096),
    }


def read_olmoe(fields: Fields) -> dict[str, Any]:
    """OLMoE: experts; norms before, and on all heads' queries and keys at once."""
    shape = shape_of(fields)
    return {
        **_normed_after(fields, shape),
        **rotary(fields, shape, [rope_of(fields)]),
        **mixture(
            fields,
            n_experts=fields.count("num_experts", fields.get("num_local_experts", 64)),
            n_chosen=fields.count("num_experts_per_tok", 8),
            width=shape["d_mlp"],
            sum_to_one=bool(fields.get("norm_topk_prob", False)),
        ),
        "qkv_clip": fields.number("clip_qkv", 0.0),
        "pre_norms": True,
        "post_norms": False,
    }


def read_exaone4(fields: Fields) -> dict[str, Any]:
    """EXAONE 4: norms after, on each head; where some layers slide, the full are not rotated."""
    shape = shape_of(fields)
    window = fields.nullable("sliding_window", 4096)
    pattern = fields.get("sliding_window_pattern", 4)
    every = len(pattern) if isinstance(pattern, str) else pattern
    types = layer_types(
        fields, shape, lambda layer: window is not None and bool(every) and (layer + 1) % every != 0
    )
    config = {
        **_normed_after(fields, shape),
        **rotary(fields, shape, [rope_of(fields)]),
        "qk_norm_over": "K",
        "windows": windows_of(fields, types, 4096) if window is not None else (),
    }
    return not_rotated(config, [window is None or kind == LAYER_TYPES[0] for kind in types])


_AFTER = (
    *ENDS,
    *norms(AFTER),
    *self_attention(LAYER + "self_attn.", qk_norms="HK"),
    *gated_mlp(LAYER + "mlp."),
)
OLMO = Family(read_olmo, LLAMA)
OLMO2 = Family(read_olmo2, _AFTER)
OLMO3 = Family(read_olmo3, _AFTER)
EXAONE4 = Family(
    read_exaone4,
    (
        *ENDS,
        *norms(AFTER),
        *self_attention(LAYER + "self_attn."),
        *gated_mlp(LAYER + "mlp."),
    ),
)
OLMOE = Family(
    read_olmoe,
    (
        *ENDS,
        *norms(BEFORE),
        *self_attention(LAYER + "self_attn.", qk_norms="HK"),
        Row("layers/mlp/router", LAYER + "mlp.gate.weight", "X D"),
        *experts(LAYER + "mlp.experts."),
    ),
)
