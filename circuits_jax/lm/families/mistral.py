"""Mistral, Ministral 3 and Mixtral."""

from typing import Any

from circuits_jax.lm.families.configs import (
    Fields,
    gated_rms,
    layer_types,
    mixture,
    rope_of,
    rotary,
    shape_of,
    window_everywhere,
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
    norms,
    self_attention,
)
from circuits_jax.runs.errors import InputError


def read_mistral(fields: Fields) -> dict[str, Any]:
    """Mistral: Llama with a sliding window in every layer."""
    shape = shape_of(fields, n_kv_heads=fields.count("num_key_value_heads", 8))
    slides = fields.nullable("sliding_window", 4096) is not None
    return {
        **shape,
        **gated_rms(fields),
        **rotary(fields, shape, [rope_of(fields)]),
        "windows": windows_of(fields, layer_types(fields, shape, lambda layer: slides), 4096),
    }


def read_ministral3(fields: Fields) -> dict[str, Any]:
    """Ministral 3: YaRN, and queries that grow with their position."""
    kv_heads = fields.count("num_key_value_heads", 8)
    shape = shape_of(fields, n_kv_heads=kv_heads, head_width=fields.count("head_dim", 128))
    default = {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "mscale_all_dim": 1.0,
        "mscale": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    stated = fields.get("rope_scaling") or fields.get("rope_parameters")
    rope: dict[str, Any] = rope_of(fields) if stated else default
    config = {
        **shape,
        **gated_rms(fields, eps=1e-5),
        **rotary(fields, shape, [rope]),
        **window_everywhere(fields, shape),
    }
    if "llama_4_scaling_beta" not in rope:
        return config
    if "original_max_position_embeddings" not in rope:
        raise InputError(
            f"{fields.source}: rope_parameters have 'llama_4_scaling_beta', which needs"
            " 'original_max_position_embeddings' beside it"
        )
    growth = float(rope["llama_4_scaling_beta"])
    context = int(rope["original_max_position_embeddings"])
    return config | {"query_growth": growth, "query_context": context}


def read_mixtral(fields: Fields) -> dict[str, Any]:
    """Mixtral: Mistral with experts, the weights of the chosen ones adding up to 1."""
    shape = shape_of(fields, n_kv_heads=fields.count("num_key_value_heads", 8))
    return {
        **shape,
        **gated_rms(fields, eps=1e-5),
        **rotary(fields, shape, [rope_of(fields, 1e6)]),
        **window_everywhere(fields, shape),
        **mixture(
            fields,
            n_experts=fields.count("num_local_experts", fields.get("num_experts", 8)),
            n_chosen=fields.count("num_experts_per_tok", 2),
            width=shape["d_mlp"],
            sum_to_one=True,
        ),
    }


MISTRAL = Family(read_mistral, LLAMA)
MINISTRAL3 = Family(read_ministral3, LLAMA)
MIXTRAL = Family(
    read_mixtral,
    (
        *ENDS,
        *norms(BEFORE),
        *self_attention(LAYER + "self_attn."),
        Row("layers/mlp/router", LAYER + "block_sparse_moe.gate.weight", "X D"),
        Row("layers/mlp/router", LAYER + "mlp.gate.weight", "X D"),
        *experts(LAYER + "block_sparse_moe.experts.", ("w1", "w3", "w2")),
        *experts(LAYER + "mlp.experts."),
    ),
)
