"""StableLM 2 and 3B: layer norms, a quarter of each head rotated."""

from typing import Any

from circuits_jax.lm.families.configs import Fields, rope_of, rotary, shape_of
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import (
    BEFORE,
    ENDS,
    LAYER,
    Row,
    gated_mlp,
    layer_norm,
    norms,
    self_attention,
)


def read_stablelm(fields: Fields) -> dict[str, Any]:
    """StableLM; the 12B has parallel blocks of one norm, and norms on each query and key head."""
    kv_heads = fields.count("num_key_value_heads", 32)
    shape = shape_of(fields, n_kv_heads=kv_heads)
    return {
        **shape,
        **rotary(fields, shape, [rope_of(fields, partial=0.25)], partial=True),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.activation("hidden_act", "silu"),
        "gated_mlp": True,
        "parallel": bool(fields.get("use_parallel_residual", False)),
        "qkv_bias": bool(fields.get("use_qkv_bias", False)),
        "qk_norm": bool(fields.get("qk_layernorm", False)),
        "qk_norm_kind": "layer_without_bias",
        "qk_norm_over": "HK",
        "tied": bool(fields.get("tie_word_embeddings", False)),
    }


STABLELM = Family(
    read_stablelm,
    (
        *ENDS,
        *norms(BEFORE),
        *layer_norm("layers/mlp_norm", LAYER + "input_layernorm"),
        *(row for row in self_attention(LAYER + "self_attn.") if "norm" not in row.path),
        *(
            Row(
                f"layers/attention/{n}_norm/scale",
                LAYER + f"self_attn.{n}_layernorm.norms.{{each}}.weight",
                "K",
                each=heads,
            )
            for n, heads in {"q": "H", "k": "J"}.items()
        ),
        *gated_mlp(LAYER + "mlp."),
    ),
)
