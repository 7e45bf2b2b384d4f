"""Falcon: parallel blocks, one key-value head or a few; Falcon-RW in sequence, with ALiBi."""

from typing import Any

from circuits_jax.lm.families.configs import Fields, biases, rope_of, rotary, shape_of
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import Row, layer_norm, linear, plain_mlp


def read_falcon(fields: Fields) -> dict[str, Any]:
    """Falcon 7B, 40B (`new_decoder_architecture`), 11B and RW."""
    heads, new = fields.count("num_attention_heads"), fields.get("new_decoder_architecture", False)
    kv_heads = fields.count("num_kv_heads", heads)
    if not new:
        kv_heads = 1 if fields.get("multi_query", True) else heads
    defaults = {
        "ffn_hidden_size": 4 * fields.count("hidden_size"),
        "max_position_embeddings": 2048,
    }
    given = {name: value for name, value in fields.values.items() if value is not None}
    shape = shape_of(
        Fields(defaults | given, fields.source), n_kv_heads=kv_heads, mlp_field="ffn_hidden_size"
    )
    parallel = bool(fields.get("parallel_attn", True))
    if new and not parallel:
        fields.only("parallel_attn", True)
    alibi = bool(fields.get("alibi", False))
    return {
        **shape,
        **({"alibi": True} if alibi else rotary(fields, shape, [rope_of(fields)])),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "activation": fields.activation("activation", "gelu"),
        "parallel": parallel,
        **biases(fields.get("bias", False), "qkv", "out", "mlp"),
        "tied": bool(fields.get("tie_word_embeddings", True)),
    }


_LAYER = "transformer.h.{layer}."
FALCON = Family(
    read_falcon,
    (
        Row("embedding", "transformer.word_embeddings.weight", "V D"),
        Row("unembedding", "lm_head.weight", "V D"),
        *layer_norm("final_norm", "transformer.ln_f"),
        *layer_norm("layers/attention_norm", _LAYER + "ln_attn"),
        *layer_norm("layers/attention_norm", _LAYER + "input_layernorm"),
        *layer_norm("layers/mlp_norm", _LAYER + "ln_mlp"),
        *layer_norm("layers/mlp_norm", _LAYER + "post_attention_layernorm"),
        *layer_norm("layers/mlp_norm", _LAYER + "input_layernorm"),
        *(
            row
            for part, n in enumerate("qkv")
            for row in linear(
                f"layers/attention/{n}",
                _LAYER + "self_attention.query_key_value",
                "J(IK+K+K)",
                "D",
                part,
            )
        ),
        *linear("layers/attention/o", _LAYER + "self_attention.dense", "D", "HK"),
        *plain_mlp(_LAYER + "mlp.", "dense_h_to_4h", "dense_4h_to_h"),
    ),
)
