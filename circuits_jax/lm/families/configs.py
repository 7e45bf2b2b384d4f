"""From a Hugging Face config.json to a `DecoderConfig`, one reader a family.

Defaults are those of the family's Hugging Face config class. An option that the decoder does not
have is refused, never ignored.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.rotary import rotary_frequencies
from circuits_jax.runs.errors import InputError

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
LAYER_TYPES = ("sliding_attention", "full_attention")


@dataclasses.dataclass(frozen=True)
class Fields:
    """A config.json with checked access; `null` counts as absent."""

    values: dict[str, Any]
    source: str

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or the default where it is absent."""
        value = self.values.get(name)
        return default if value is None else value

    def nullable(self, name: str, default: Any) -> Any:
        """The field where `null` is a value of its own: none, not the default."""
        return self.values.get(name, default)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number above 0; without a default the field is required."""
        value = self.get(name, default)
        if value is None:
            raise InputError(
                f"{self.source}: config field {name!r} is missing;"
                f" models of type {self.get('model_type')} need it"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"{self.source}: config field {name!r} is {value!r}; allowed: whole numbers above 0"
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A number, 0 or above; JSON as Python reads it has NaN and infinities as well."""
        value = self.get(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < math.inf
        ):
            raise InputError(
                f"{self.source}: config field {name!r} is {value!r}; allowed: a number, 0 or above"
            )
        return float(value)

    def positive(self, name: str, default: float) -> float:
        """A number above 0."""
        value = self.number(name, default)
        if not value:
            raise InputError(
                f"{self.source}: config field {name!r} is {value!r}; allowed: a number above 0"
            )
        return value

    def cap(self, name: str, default: float) -> float:
        """A number, 0 where it is `null`: none."""
        return 0.0 if self.nullable(name, default) is None else self.number(name, default)

    def table(self, name: str) -> dict[str, Any]:
        """An object of further fields, empty where it is absent."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise InputError(
                f"{self.source}: config field {name!r} is {value!r}; allowed: an object of fields"
            )
        return dict(value)

    def only(self, name: str, allowed: Any) -> None:
        """Refuse any value of an option that the decoder does not have, but the allowed one."""
        if self.get(name, allowed) != allowed:
            raise InputError(
                f"{self.source}: config field {name!r} is {self.get(name)!r},"
                f" which is not supported; allowed: {allowed!r}"
            )

    def activation(self, name: str, default: str) -> str:
        """The MLP's activation, by our name."""
        value = self.get(name, default)
        if value not in ACTIVATION_NAMES:
            raise InputError(
                f"{self.source}: config field {name!r} is {value!r};"
                f" allowed: {', '.join(ACTIVATION_NAMES)}"
            )
        return ACTIVATION_NAMES[value]


def read_gpt2(fields: Fields) -> dict[str, Any]:
    """GPT-2: learned positions, layer norms, biases everywhere."""
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("add_cross_attention", False)
    d_model, n_heads = fields.count("n_embd"), fields.count("n_head")
    head_width = _head_width(fields, d_model, n_heads)
    return {
        "vocab_size": fields.count("vocab_size", 50257),
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
        "attention_scale": head_width**-0.5 if fields.get("scale_attn_weights", True) else 1.0,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "learned_positions": True,
    }


def read_gpt_neox(fields: Fields) -> dict[str, Any]:
    """GPT-NeoX and Pythia: parallel blocks, a quarter of each head rotated."""
    shape = _shape(fields, n_kv_heads=fields.count("num_attention_heads"))
    bias = bool(fields.get("attention_bias", True))
    theta = fields.number("rotary_emb_base", 10_000.0)
    rope = _rope(fields, theta, fields.number("rotary_pct", 0.25))
    return {
        **shape,
        **_rotary(fields, shape, [rope], partial=True),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.activation("hidden_act", "gelu"),
        "parallel": bool(fields.get("use_parallel_residual", True)),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": True,
        "tied": bool(fields.get("tie_word_embeddings", False)),
    }


def read_opt(fields: Fields) -> dict[str, Any]:
    """OPT: GPT-2 with relu and its positions counted from 2."""
    shape = _shape(fields, n_kv_heads=fields.count("num_attention_heads"), mlp_field="ffn_dim")
    fields.only("do_layer_norm_before", True)
    fields.only("word_embed_proj_dim", shape["d_model"])
    fields.only("layer_norm_elementwise_affine", True)
    fields.only("_remove_final_layer_norm", False)
    bias = bool(fields.get("enable_bias", True))
    return {
        **shape,
        "norm": "layer",
        "activation": fields.activation("activation_function", "relu"),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bias,
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "learned_positions": True,
        "position_offset": 2,
    }


def read_llama(fields: Fields) -> dict[str, Any]:
    """Llama and SmolLM2: rotary positions, RMS norms, gated MLPs, grouped key-value heads."""
    shape = _shape(fields)
    bias = bool(fields.get("attention_bias", False))
    return {
        **shape,
        **_gated_rms(fields),
        **_rotary(fields, shape, [_rope(fields)]),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bool(fields.get("mlp_bias", False)),
    }


def read_mistral(fields: Fields) -> dict[str, Any]:
    """Mistral: Llama with a sliding window in every layer."""
    shape = _shape(fields, n_kv_heads=fields.count("num_key_value_heads", 8))
    kind = LAYER_TYPES[fields.nullable("sliding_window", 4096) is None]
    return {
        **shape,
        **_gated_rms(fields),
        **_rotary(fields, shape, [_rope(fields)]),
        "windows": _windows(fields, _layer_types(fields, shape, lambda layer: kind), 4096),
    }


def read_qwen2(fields: Fields) -> dict[str, Any]:
    """Qwen2: Llama with biases on q, k and v, and sliding windows in the upper layers."""
    return {**_read_qwen(fields, _shape(fields)), "qkv_bias": True}


def read_qwen3(fields: Fields) -> dict[str, Any]:
    """Qwen3: norms on queries and keys, a head width of its own."""
    bias = bool(fields.get("attention_bias", False))
    shape = _shape(fields, head_width=fields.count("head_dim", 128))
    biases = {"qkv_bias": bias, "out_bias": bias}
    return {**_read_qwen(fields, shape), **biases, "qk_norm": True}


def read_gemma2(fields: Fields) -> dict[str, Any]:
    """Gemma 2: every other layer slides; scores and logits are soft-capped."""
    shape = _gemma_shape(fields, vocab_size=256_000)
    types = _layer_types(fields, shape, lambda layer: LAYER_TYPES[layer % 2])
    return {
        **shape,
        **_gemma(fields, shape, types),
        **_rotary(fields, shape, [_rope(fields)]),
        "attention_softcap": fields.cap("attn_logit_softcapping", 50.0),
        "logit_softcap": fields.cap("final_logit_softcapping", 30.0),
    }


def read_gemma3(fields: Fields) -> dict[str, Any]:
    """Gemma 3: five sliding layers to a full one, each kind with rotary frequencies of its own."""
    fields.only("attn_logit_softcapping", None)
    shape = _gemma_shape(fields, vocab_size=262_208)
    pattern = fields.count("sliding_window_pattern", 6)
    types = _layer_types(fields, shape, lambda layer: LAYER_TYPES[(layer + 1) % pattern == 0])
    nested = fields.table("rope_parameters")
    if set(nested) - set(LAYER_TYPES):
        raise InputError(
            f"{fields.source}: config field 'rope_parameters' has {', '.join(sorted(nested))};"
            f" models of type {fields.get('model_type')} allow {', '.join(LAYER_TYPES)}"
        )
    nested = Fields(nested, f"{fields.source}: rope_parameters")
    local = {"rope_theta": fields.number("rope_local_base_freq", 10_000.0)}
    whole = {"rope_theta": fields.number("rope_theta", 1_000_000.0)} | fields.table("rope_scaling")
    ropes = [
        given | nested.table(kind) for given, kind in zip((local, whole), LAYER_TYPES, strict=True)
    ]
    return {
        **shape,
        **_gemma(fields, shape, types),
        **_rotary(fields, shape, ropes),
        "layer_kinds": tuple(LAYER_TYPES.index(kind) for kind in types),
        "qk_norm": True,
        "logit_softcap": fields.number("final_logit_softcapping", 0.0),
    }


def _shape(
    fields: Fields,
    *,
    n_kv_heads: int | None = None,
    head_width: int | None = None,
    mlp_field: str = "intermediate_size",
) -> dict[str, Any]:
    """Sizes under the names that all families but GPT-2 use."""
    n_heads, d_model = fields.count("num_attention_heads"), fields.count("hidden_size")
    n_kv_heads = n_kv_heads or fields.count("num_key_value_heads", n_heads)
    if n_heads % n_kv_heads:
        raise InputError(
            f"{fields.source}: config field 'num_key_value_heads' is {n_kv_heads};"
            f" allowed: divisors of num_attention_heads, {n_heads}"
        )
    head_width = head_width or _head_width(fields, d_model, n_heads)
    return {
        "vocab_size": fields.count("vocab_size"),
        "n_positions": fields.count("max_position_embeddings"),
        "n_layers": fields.count("num_hidden_layers"),
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "head_width": head_width,
        "d_model": d_model,
        "d_mlp": fields.count(mlp_field),
        "attention_scale": head_width**-0.5,
    }


def _gemma_shape(fields: Fields, vocab_size: int) -> dict[str, Any]:
    """Sizes of a Gemma, whose published configs leave out what equals the class's default."""
    defaults = {
        "vocab_size": vocab_size,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192 if vocab_size == 256_000 else 131_072,
    }
    given = {name: value for name, value in fields.values.items() if value is not None}
    return _shape(Fields(defaults | given, fields.source))


def _head_width(fields: Fields, d_model: int, n_heads: int) -> int:
    """`head_dim`, or D / H."""
    if fields.get("head_dim") is None and d_model % n_heads:
        raise InputError(
            f"{fields.source}: the model width {d_model} is not a multiple of {n_heads} heads"
        )
    return fields.count("head_dim", d_model // n_heads)


def _gated_rms(fields: Fields) -> dict[str, Any]:
    """What Llama, Mistral and Qwen share besides their shape."""
    return {
        "norm": "rms",
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "activation": fields.activation("hidden_act", "silu"),
        "gated_mlp": True,
        "tied": bool(fields.get("tie_word_embeddings", False)),
    }


def _read_qwen(fields: Fields, shape: dict[str, Any]) -> dict[str, Any]:
    """What Qwen2 and Qwen3 share."""
    sliding = fields.get("use_sliding_window", False) and fields.nullable("sliding_window", 4096)
    first = fields.get("max_window_layers", 28) if sliding else shape["n_layers"]
    types = _layer_types(fields, shape, lambda layer: LAYER_TYPES[layer < first])
    return {
        **shape,
        **_gated_rms(fields),
        **_rotary(fields, shape, [_rope(fields)]),
        "windows": _windows(fields, types),
    }


def _gemma(fields: Fields, shape: dict[str, Any], types: list[str]) -> dict[str, Any]:
    """What Gemma 2 and 3 share besides their shape."""
    fields.only("use_bidirectional_attention", False)
    bias = bool(fields.get("attention_bias", False))
    return {
        "norm": "rms",
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "activation": fields.activation("hidden_activation", "gelu_pytorch_tanh"),
        "attention_scale": fields.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        "gated_mlp": True,
        "post_norms": True,
        "qkv_bias": bias,
        "out_bias": bias,
        "tied": bool(fields.get("tie_word_embeddings", True)),
        "embedding_scale": shape["d_model"] ** 0.5,
        "windows": _windows(fields, types, 4096),
    }


def _layer_types(fields: Fields, shape: dict[str, Any], default: Callable[[int], str]) -> list[str]:
    """Sliding or full attention for each layer: given, or the family's rule."""
    n_layers = shape["n_layers"]
    types = fields.get("layer_types", [default(layer) for layer in range(n_layers)])
    if len(types) != n_layers or set(types) - set(LAYER_TYPES):
        raise InputError(
            f"{fields.source}: config field 'layer_types' is {types};"
            f" allowed: {n_layers} entries, each {' or '.join(LAYER_TYPES)}"
        )
    return types


def _windows(fields: Fields, types: list[str], default: int | None = None) -> tuple[int, ...]:
    """How many tokens back each layer sees."""
    if "sliding_attention" not in types:
        return ()
    window = fields.count("sliding_window", default)
    return tuple(window if kind == "sliding_attention" else NO_WINDOW for kind in types)


def _rope(fields: Fields, theta: float = 10_000.0, partial: float = 1.0) -> dict[str, Any]:
    """Rotary settings in the terms of transformers 5, whichever version wrote them."""
    defaults = {
        "rope_theta": fields.number("rope_theta", theta),
        "partial_rotary_factor": fields.number("partial_rotary_factor", partial),
    }
    return defaults | (fields.table("rope_scaling") or fields.table("rope_parameters"))


def _rotary(
    fields: Fields, shape: dict[str, Any], ropes: list[dict], *, partial: bool = False
) -> dict[str, Any]:
    """The rotary fields of a config for one kind of layer or more; `partial` allows part of K."""
    fraction = ropes[0].get("partial_rotary_factor", 1.0)
    if not partial and any(rope.get("partial_rotary_factor", 1.0) != 1 for rope in ropes):
        raise InputError(
            f"{fields.source}: config field 'partial_rotary_factor' is {fraction};"
            f" models of type {fields.get('model_type')} allow 1.0 only"
        )
    width = int(shape["head_width"] * fraction + 1e-6)  # 15 / 22 of 22 must give 15
    computed = [
        rotary_frequencies(rope, width, shape["n_positions"], fields.source) for rope in ropes
    ]
    return {
        "rotary_width": width,
        "rotary_frequencies": tuple(frequencies for frequencies, _ in computed),
        "rotary_scale": tuple(scale for _, scale in computed),
    }
