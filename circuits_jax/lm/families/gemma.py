"""Gemma 1, 2 and 3: scaled embeddings, norms that multiply by 1 + w."""

from typing import Any

from circuits_jax.lm.families.configs import (
    LAYER_TYPES,
    Fields,
    biases,
    layer_types,
    rope_of,
    ropes_by_kind,
    rotary,
    shape_of,
    windows_of,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import (
    AROUND,
    ENDS,
    LAYER,
    LLAMA,
    gated_mlp,
    norms,
    self_attention,
)


def _shape(fields: Fields, **defaults: int) -> dict[str, Any]:
    """Sizes of a Gemma, whose published configs leave out what equals the class's default."""
    given = {name: value for name, value in fields.values.items() if value is not None}
    return shape_of(Fields({"head_dim": 256} | defaults | given, fields.source))


def _gemma(fields: Fields, shape: dict[str, Any], activation: str) -> dict[str, Any]:
    """What all share besides their shape."""
    fields.only("use_bidirectional_attention", False)
    return {
        "norm": "rms",
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "activation": activation,
        "gated_mlp": True,
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "embedding_scale": shape["d_model"] ** 0.5,
    }


def read_gemma(fields: Fields) -> dict[str, Any]:
    """Gemma 1, the `gelu` of whose configs means its tanh approximation, as in transformers."""
    shape = _shape(
        fields,
        vocab_size=256_000,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=8192,
    )
    activation = fields.activation("hidden_act", "gelu_pytorch_tanh")
    activation = "gelu_tanh" if activation == "gelu" else activation
    rope = rotary(fields, shape, [rope_of(fields)])
    return {**shape, **_gemma(fields, shape, activation), **rope}


def _gemma_after_1(fields: Fields, shape: dict[str, Any], types: list[str]) -> dict[str, Any]:
    return {
        **_gemma(fields, shape, fields.activation("hidden_activation", "gelu_pytorch_tanh")),
        "attention_scale": fields.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        "post_norms": True,
        "windows": windows_of(fields, types, 4096),
    }


def read_gemma2(fields: Fields) -> dict[str, Any]:
    """Gemma 2: every other layer slides; scores and logits are soft-capped."""
    shape = _shape(
        fields,
        vocab_size=256_000,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    types = layer_types(fields, shape, lambda layer: layer % 2 == 0)
    return {
        **shape,
        **_gemma_after_1(fields, shape, types),
        **rotary(fields, shape, [rope_of(fields)]),
        "attention_softcap": fields.cap("attn_logit_softcapping", 50.0),
        "logit_softcap": fields.cap("final_logit_softcapping", 30.0),
    }


def read_gemma3(fields: Fields) -> dict[str, Any]:
    """Gemma 3: five sliding layers to a full one, each kind with rotary frequencies of its own."""
    fields.only("attn_logit_softcapping", None)
    shape = _shape(
        fields,
        vocab_size=262_208,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=131_072,
    )
    pattern = fields.count("sliding_window_pattern", 6)
    types = layer_types(fields, shape, lambda layer: (layer + 1) % pattern != 0)
    local = {"rope_theta": fields.number("rope_local_base_freq", 10_000.0)}
    whole = {"rope_theta": fields.number("rope_theta", 1_000_000.0)} | fields.table("rope_scaling")
    return {
        **shape,
        **_gemma_after_1(fields, shape, types),
        **rotary(fields, shape, ropes_by_kind(fields, local, whole)),
        "layer_kinds": tuple(LAYER_TYPES.index(kind) for kind in types),
        "qk_norm": True,
        "logit_softcap": fields.number("final_logit_softcapping", 0.0),
    }


_ROWS = (
    *ENDS,
    *norms(AROUND),
    *self_attention(LAYER + "self_attn."),
    *gated_mlp(LAYER + "mlp."),
)
GEMMA = Family(read_gemma, LLAMA, norms_from_one=True)
GEMMA2 = Family(read_gemma2, _ROWS, norms_from_one=True)
GEMMA3 = Family(read_gemma3, _ROWS, norms_from_one=True)
