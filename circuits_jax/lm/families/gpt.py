"""GPT-2, GPT-Neo, GPT-J, GPT-NeoX and OPT: layer norms, plain MLPs."""

from typing import Any

from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.lm.families.configs import (
    Fields,
    biases,
    head_width_of,
    rope_of,
    rotary,
    shape_of,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import Row, layer_norm, linear, plain_mlp, self_attention
from circuits_jax.runs.errors import InputError


def _shape(fields: Fields) -> dict[str, Any]:
    """Sizes under GPT-2's names, which GPT-J took over."""
    d_model, n_heads = fields.count("n_embd"), fields.count("n_head")
    head_width = head_width_of(fields, d_model, n_heads)
    return {
        "n_positions": fields.count("n_positions", 1024),
        "n_layers": fields.count("n_layer"),
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_width": head_width,
        "d_model": d_model,
        "d_mlp": fields.count("n_inner", 4 * d_model),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "activation": fields.activation("activation_function", "gelu_new"),
        "attention_scale": head_width**-0.5,
        "mlp_bias": True,
    }


def read_gpt2(fields: Fields) -> dict[str, Any]:
    """GPT-2: learned positions, biases everywhere."""
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("add_cross_attention", False)
    shape = _shape(fields)
    return {
        **shape,
        "vocab_size": fields.count("vocab_size", 50257),
        "attention_scale": shape["attention_scale"]
        if fields.get("scale_attn_weights", True)
        else 1.0,
        **biases(True, "qkv", "out"),
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "learned_positions": True,
    }


_GPT2 = "transformer.h.{layer}."
_ENDS = (
    Row("embedding", "transformer.wte.weight", "V D"),
    Row("position_embedding", "transformer.wpe.weight", "P D"),
    Row("unembedding", "lm_head.weight", "V D"),
    Row("unembedding_bias", "lm_head.bias", "V"),
    *layer_norm("final_norm", "transformer.ln_f"),
    *layer_norm("layers/attention_norm", _GPT2 + "ln_1"),
)


def _conv1d(path: str, name: str, in_axes: str, out_axes: str, part: int = 0) -> tuple[Row, Row]:
    """GPT-2's Conv1D: weight [in, out] and bias [out]."""
    return (
        Row(path, f"{name}.weight", f"{in_axes} {out_axes}", part),
        Row(f"{path}_bias", f"{name}.bias", out_axes, part),
    )


_QKV = _GPT2 + "attn.c_attn"
GPT2 = Family(
    read_gpt2,
    (
        *_ENDS,
        *layer_norm("layers/mlp_norm", _GPT2 + "ln_2"),
        *_conv1d("layers/attention/q", _QKV, "D", "(HK+JK+JK)", part=0),
        *_conv1d("layers/attention/k", _QKV, "D", "(HK+JK+JK)", part=1),
        *_conv1d("layers/attention/v", _QKV, "D", "(HK+JK+JK)", part=2),
        *_conv1d("layers/attention/o", _GPT2 + "attn.c_proj", "HK", "D"),
        *_conv1d("layers/mlp/up", _GPT2 + "mlp.c_fc", "D", "E"),
        *_conv1d("layers/mlp/down", _GPT2 + "mlp.c_proj", "E", "D"),
    ),
)


def read_gptj(fields: Fields) -> dict[str, Any]:
    """GPT-J: attention and MLP read one norm; pairs in turn rotated; a bias on logits."""
    shape = _shape(fields.with_defaults(n_positions=2048))
    rope = {"rope_theta": 10_000.0}
    if fields.nullable("rotary_dim", 64) is None:
        raise InputError(
            f"{fields.source}: config field 'rotary_dim' is null, which is not supported;"
            " allowed: whole numbers above 0"
        )
    rope["partial_rotary_factor"] = fields.count("rotary_dim", 64) / shape["head_width"]
    return {
        **shape,
        **rotary(fields, shape, [rope], partial=True),
        "vocab_size": fields.count("vocab_size", 50400),
        "parallel": True,
        "unembedding_bias": True,
        "tied": bool(fields.get("tie_word_embeddings", False)),
    }


GPTJ = Family(
    read_gptj,
    (
        *_ENDS,
        *layer_norm("layers/mlp_norm", _GPT2 + "ln_1"),
        *self_attention(_GPT2 + "attn.", "out_proj"),
        *plain_mlp(_GPT2 + "mlp.", "fc_in", "fc_out"),
    ),
    pairs_in_turn=True,
)


def read_gpt_neo(fields: Fields) -> dict[str, Any]:
    """GPT-Neo: GPT-2 with windows in every other layer, scores not scaled."""
    named = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    stated = {own: fields.values[other] for own, other in named.items() if other in fields.values}
    fields = fields.with_defaults(**stated)
    n_layers, d_model = fields.count("num_layers", 24), fields.count("hidden_size", 2048)
    n_heads, window = fields.count("num_heads", 16), fields.count("window_size", 256)
    kinds = fields.get("attention_layers") or _expanded(fields, n_layers)
    if len(kinds) != n_layers or set(kinds) - {"global", "local"}:
        raise InputError(
            f"{fields.source}: config field 'attention_layers' is {kinds};"
            f" allowed: {n_layers} entries, each global or local"
        )
    return {
        "vocab_size": fields.count("vocab_size", 50257),
        "n_positions": fields.count("max_position_embeddings", 2048),
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_width": head_width_of(fields, d_model, n_heads),
        "d_model": d_model,
        "d_mlp": fields.count("intermediate_size", 4 * d_model),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "activation": fields.activation("activation_function", "gelu_new"),
        "attention_scale": 1.0,
        **biases(True, "out", "mlp"),
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "learned_positions": True,
        "windows": tuple(window if kind == "local" else NO_WINDOW for kind in kinds),
    }


def _expanded(fields: Fields, n_layers: int) -> list[str]:
    """Kinds of layers from `attention_types`: lists of a pattern and how often it comes."""
    types = fields.get("attention_types", [[["global", "local"], n_layers // 2]])
    try:
        return [kind for pattern, times in types for _ in range(times) for kind in pattern]
    except (TypeError, ValueError):
        raise InputError(
            f"{fields.source}: config field 'attention_types' is {types};"
            ' allowed: pairs such as [["global", "local"], 12]'
        ) from None


GPT_NEO = Family(
    read_gpt_neo,
    (
        *_ENDS,
        *layer_norm("layers/mlp_norm", _GPT2 + "ln_2"),
        *self_attention(_GPT2 + "attn.attention.", "out_proj"),
        *plain_mlp(_GPT2 + "mlp.", "c_fc", "c_proj"),
    ),
)


def read_gpt_neox(fields: Fields) -> dict[str, Any]:
    """GPT-NeoX and Pythia: parallel blocks, a quarter of each head rotated."""
    shape = shape_of(fields, n_kv_heads=fields.count("num_attention_heads"))
    theta, part = fields.number("rotary_emb_base", 10_000.0), fields.number("rotary_pct", 0.25)
    fields.only("rope_theta", theta)  # its own names for both go first
    fields.only("partial_rotary_factor", part)
    rope = rope_of(fields, theta, part)
    return {
        **shape,
        **rotary(fields, shape, [rope], partial=True),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.activation("hidden_act", "gelu"),
        "parallel": bool(fields.get("use_parallel_residual", True)),
        **biases(fields.get("attention_bias", True), "qkv", "out"),
        "mlp_bias": True,
        "tied": bool(fields.get("tie_word_embeddings", False)),
    }


_NEOX = "gpt_neox.layers.{layer}."
GPT_NEOX = Family(
    read_gpt_neox,
    (
        Row("embedding", "gpt_neox.embed_in.weight", "V D"),
        Row("unembedding", "lm_head.weight", "V D"),
        *layer_norm("final_norm", "gpt_neox.final_layer_norm"),
        *layer_norm("layers/attention_norm", _NEOX + "input_layernorm"),
        *layer_norm("layers/mlp_norm", _NEOX + "post_attention_layernorm"),
        *(
            row
            for part, n in enumerate("qkv")
            for row in linear(
                f"layers/attention/{n}",
                _NEOX + "attention.query_key_value",
                "J(IK+K+K)",
                "D",
                part,
            )
        ),
        *linear("layers/attention/o", _NEOX + "attention.dense", "D", "HK"),
        *plain_mlp(_NEOX + "mlp.", "dense_h_to_4h", "dense_4h_to_h"),
    ),
)


def read_opt(fields: Fields) -> dict[str, Any]:
    """OPT: GPT-2 with relu and its positions counted from 2."""
    heads = fields.count("num_attention_heads")
    shape = shape_of(fields, n_kv_heads=heads, mlp_field="ffn_dim")
    fields.only("do_layer_norm_before", True)
    fields.only("word_embed_proj_dim", shape["d_model"])
    fields.only("layer_norm_elementwise_affine", True)
    fields.only("_remove_final_layer_norm", False)
    return {
        **shape,
        "norm": "layer",
        "activation": fields.activation("activation_function", "relu"),
        **biases(fields.get("enable_bias", True), "qkv", "out", "mlp"),
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "learned_positions": True,
        "position_offset": 2,
    }


_OPT = "model.decoder.layers.{layer}."
OPT = Family(
    read_opt,
    (
        Row("embedding", "model.decoder.embed_tokens.weight", "V D"),
        Row("position_embedding", "model.decoder.embed_positions.weight", "P D"),
        Row("unembedding", "lm_head.weight", "V D"),
        *layer_norm("final_norm", "model.decoder.final_layer_norm"),
        *layer_norm("layers/attention_norm", _OPT + "self_attn_layer_norm"),
        *layer_norm("layers/mlp_norm", _OPT + "final_layer_norm"),
        *self_attention(_OPT + "self_attn.", "out_proj"),
        *plain_mlp(_OPT, "fc1", "fc2"),
    ),
)
