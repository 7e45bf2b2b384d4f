"""Llama and what differs from it in little: SmolLM3, Arcee, ERNIE 4.5, Granite, StarCoder 2."""

from typing import Any

from circuits_jax.lm.families.configs import (
    Fields,
    biases,
    gated_rms,
    layer_types,
    not_rotated,
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
    norms,
    plain_mlp,
    self_attention,
)
from circuits_jax.lm.families.tensors import LLAMA as ROWS
from circuits_jax.runs.errors import InputError


def read_llama(fields: Fields) -> dict[str, Any]:
    """Llama and SmolLM2: rotary positions, RMS norms, gated MLPs, grouped key-value heads."""
    shape = shape_of(fields)
    return {
        **shape,
        **gated_rms(fields),
        **rotary(fields, shape, [rope_of(fields)]),
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        **biases(fields.get("mlp_bias", False), "mlp"),
    }


def read_smollm3(fields: Fields) -> dict[str, Any]:
    """SmolLM3: Llama with every fourth layer not rotated."""
    shape = shape_of(fields.with_defaults(num_key_value_heads=4))
    n_layers, interval = shape["n_layers"], fields.count("no_rope_layer_interval", 4)
    rule = [int((layer + 1) % interval != 0) for layer in range(n_layers)]
    turned = fields.get("no_rope_layers", rule)  # 1 where a layer is rotated, whatever the name
    if not isinstance(turned, list) or len(turned) != n_layers or set(turned) - {0, 1}:
        raise InputError(
            f"{fields.source}: config field 'no_rope_layers' is {turned};"
            f" allowed: {n_layers} entries, each 0 or 1"
        )
    slides = fields.get("use_sliding_window", False) and fields.get("sliding_window") is not None
    types = layer_types(fields, shape, lambda layer: bool(slides) and not turned[layer])
    config = {
        **shape,
        **gated_rms(fields, tied=True),
        **rotary(fields, shape, [rope_of(fields, 2_000_000.0)]),
        **biases(fields.get("attention_bias", False), "qkv", "out"),
        **biases(fields.get("mlp_bias", False), "mlp"),
        "windows": windows_of(fields, types) if slides else (),
    }
    return not_rotated(config, list(map(bool, turned)))


def read_arcee(fields: Fields) -> dict[str, Any]:
    """Arcee: Llama with a plain MLP of squared relus."""
    fields = fields.with_defaults(hidden_act="relu2", rms_norm_eps=1e-5)
    return read_llama(fields) | {"gated_mlp": False}


def read_ernie(fields: Fields) -> dict[str, Any]:
    """ERNIE 4.5: Llama with rotary pairs in turn."""
    shape = shape_of(fields.with_defaults(num_key_value_heads=2, head_dim=128))
    return {
        **shape,
        **gated_rms(fields, eps=1e-5, tied=True),
        **rotary(fields, shape, [rope_of(fields, 500_000.0)]),
        **biases(fields.get("use_bias", False), "qkv", "out", "mlp"),
    }


def read_granite(fields: Fields) -> dict[str, Any]:
    """Granite: Llama with multipliers."""
    return read_llama(fields) | {
        "embedding_scale": fields.positive("embedding_multiplier", 1.0),
        "attention_scale": fields.positive("attention_multiplier", 1.0),
    }


def granite_multipliers(fields: Fields) -> dict[str, float]:
    """Of what attention and MLP write, and of logits; all before a bias of their own or with it."""
    residual = fields.positive("residual_multiplier", 1.0)
    return {
        "layers/attention/o": residual,
        "layers/mlp/down": residual,
        "final_norm": 1 / fields.positive("logits_scaling", 1.0),
    }


def read_starcoder2(fields: Fields) -> dict[str, Any]:
    """StarCoder 2: layer norms, plain MLPs, a sliding window in every layer."""
    shape = shape_of(fields, n_kv_heads=fields.count("num_key_value_heads", 2))
    return {
        **shape,
        **rotary(fields, shape, [rope_of(fields)]),
        **window_everywhere(fields, shape),
        "norm": "layer",
        "norm_eps": fields.number("norm_epsilon", 1e-5),
        "activation": fields.activation("hidden_act", "gelu_pytorch_tanh"),
        **biases(fields.get("use_bias", True), "qkv", "out", "mlp"),
        "tied": bool(fields.get("tie_word_embeddings", True)),
    }


LLAMA = Family(read_llama, ROWS)
SMOLLM3 = Family(read_smollm3, ROWS)
ARCEE = Family(read_arcee, ROWS)
ERNIE = Family(read_ernie, ROWS, pairs_in_turn=True)
GRANITE = Family(read_granite, ROWS, multipliers=granite_multipliers)
STARCODER2 = Family(
    read_starcoder2,
    (
        *ENDS,
        *norms(BEFORE),
        *self_attention(LAYER + "self_attn."),
        *plain_mlp(LAYER + "mlp.", "c_fc", "c_proj"),
    ),
)
