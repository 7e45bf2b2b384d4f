"""Phi-1 and 2 (`phi`), Phi-3 and Phi-4 (`phi3`), and GLM-4, fused as they are."""

from typing import Any

from circuits_jax.lm.families.configs import (
    Fields,
    biases,
    gated_rms,
    rope_of,
    rotary,
    shape_of,
    window_everywhere,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import (
    BEFORE,
    ENDS,
    LAYER,
    Row,
    layer_norm,
    linear,
    norms,
    plain_mlp,
    self_attention,
)


def read_phi(fields: Fields) -> dict[str, Any]:
    """Phi-1 and 2: parallel blocks of one layer norm, half of each head rotated, biases."""
    shape = shape_of(fields)
    return {
        **shape,
        **rotary(fields, shape, [rope_of(fields, partial=0.5)], partial=True),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.activation("hidden_act", "gelu_new"),
        "parallel": True,
        "qk_norm": bool(fields.get("qk_layernorm", False)),
        "qk_norm_kind": "layer",
        **biases(True, "qkv", "out", "mlp", "unembedding"),
        "tied": bool(fields.get("tie_word_embeddings", False)),
    }


_QK_NORMS = tuple(
    row
    for n in "qk"
    for row in (
        Row(f"layers/attention/{n}_norm/scale", f"{LAYER}self_attn.{n}_layernorm.weight", "K"),
        Row(f"layers/attention/{n}_norm/bias", f"{LAYER}self_attn.{n}_layernorm.bias", "K"),
    )
)
PHI = Family(
    read_phi,
    (
        *ENDS,
        *layer_norm("final_norm", "model.final_layernorm"),
        *layer_norm("layers/attention_norm", LAYER + "input_layernorm"),
        *layer_norm("layers/mlp_norm", LAYER + "input_layernorm"),
        *(row for row in self_attention(LAYER + "self_attn.", "dense") if "norm" not in row.path),
        *_QK_NORMS,
        *plain_mlp(LAYER + "mlp.", "fc1", "fc2"),
    ),
)


def read_phi3(fields: Fields) -> dict[str, Any]:
    """Phi-3 and 4: Llama with fused projections; longrope has frequencies for long prompts."""
    shape = shape_of(fields)
    rope = rope_of(fields.with_defaults(original_max_position_embeddings=4096))
    if rope.get("rope_type", rope.get("type")) == "su":  # Microsoft's first name for it
        rope["rope_type"] = "longrope"
    return {
        **shape,
        **gated_rms(fields, eps=1e-5),
        **rotary(fields, shape, [rope], partial=True),
        **window_everywhere(fields, shape),
    }


_GATE_UP = (
    Row("layers/mlp/gate", LAYER + "mlp.gate_up_proj.weight", "(E+E) D", 0),
    Row("layers/mlp/up", LAYER + "mlp.gate_up_proj.weight", "(E+E) D", 1),
    Row("layers/mlp/down", LAYER + "mlp.down_proj.weight", "D E"),
)
PHI3 = Family(
    read_phi3,
    (
        *ENDS,
        *norms(BEFORE),
        *(
            row
            for part, n in enumerate("qkv")
            for row in linear(
                f"layers/attention/{n}", LAYER + "self_attn.qkv_proj", "(HK+JK+JK)", "D", part
            )
        ),
        Row("layers/attention/o", LAYER + "self_attn.o_proj.weight", "D HK"),
        *_GATE_UP,
    ),
)


def read_glm(fields: Fields) -> dict[str, Any]:
    """GLM-4-9B (`glm`): half of each head rotated, pairs in turn; biases on q, k and v."""
    kv_heads = fields.count("num_key_value_heads", 2)
    shape = shape_of(fields, n_kv_heads=kv_heads, head_width=fields.count("head_dim", 128))
    return {
        **shape,
        **gated_rms(fields, eps=1.5625e-7),
        **rotary(fields, shape, [rope_of(fields, partial=0.5)], partial=True),
        **biases(fields.get("attention_bias", True), "qkv"),
    }


def read_glm4(fields: Fields) -> dict[str, Any]:
    """GLM-4-0414 (`glm4`): norms also on what is written."""
    return read_glm(fields) | {"post_norms": True}


_GLM = (*ENDS, *norms(BEFORE), *self_attention(LAYER + "self_attn."), *_GATE_UP)
_WRITTEN = {
    "attention_post_norm": "post_self_attn_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}
GLM = Family(read_glm, _GLM, pairs_in_turn=True)
GLM4 = Family(read_glm4, (*_GLM, *norms(_WRITTEN)), pairs_in_turn=True)
