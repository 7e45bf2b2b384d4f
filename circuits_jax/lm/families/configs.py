"""A Hugging Face config.json with checked access, and what several families read of it alike.

Defaults are those of the family's Hugging Face config class. An option that the decoder does not
have is refused, never ignored.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.rotary import rotary_by_length, rotary_frequencies
from circuits_jax.runs.errors import InputError

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}
SCALED_FROM = ("llama3", "yarn", "longrope", "su")  # kinds of scaling with a context before
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

    def with_defaults(self, **defaults: Any) -> "Fields":
        """With these where a field is absent; not where it is `null`."""
        return Fields(defaults | self.values, self.source)

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


def shape_of(
    fields: Fields,
    *,
    n_kv_heads: int | None = None,
    head_width: int | None = None,
    mlp_field: str = "intermediate_size",
) -> dict[str, Any]:
    """Sizes under the names that most families use."""
    n_heads, d_model = fields.count("num_attention_heads"), fields.count("hidden_size")
    n_kv_heads = n_kv_heads or fields.count("num_key_value_heads", n_heads)
    if n_heads % n_kv_heads:
        raise InputError(
            f"{fields.source}: config field 'num_key_value_heads' is {n_kv_heads};"
            f" allowed: divisors of num_attention_heads, {n_heads}"
        )
    head_width = head_width or head_width_of(fields, d_model, n_heads)
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


def head_width_of(fields: Fields, d_model: int, n_heads: int) -> int:
    """`head_dim`, or D / H."""
    if fields.get("head_dim") is None and d_model % n_heads:
        raise InputError(
            f"{fields.source}: the model width {d_model} is not a multiple of {n_heads} heads"
        )
    return fields.count("head_dim", d_model // n_heads)


def gated_rms(fields: Fields, eps: float = 1e-6, tied: bool = False) -> dict[str, Any]:
    """What Llama, Mistral and Qwen share besides their shape."""
    return {
        "norm": "rms",
        "norm_eps": fields.number("rms_norm_eps", eps),
        "activation": fields.activation("hidden_act", "silu"),
        "gated_mlp": True,
        "tied": bool(fields.get("tie_word_embeddings", tied)),
    }


def biases(bias: bool, *names: str) -> dict[str, bool]:
    """The same said of several projections: `qkv`, `out`, `mlp`."""
    return {f"{name}_bias": bool(bias) for name in names}


def layer_types(fields: Fields, shape: dict[str, Any], default: Callable[[int], bool]) -> list[str]:
    """Sliding or full attention for each layer: given, or where the family's rule says sliding."""
    n_layers = shape["n_layers"]
    rule = [LAYER_TYPES[not default(layer)] for layer in range(n_layers)]
    types = fields.get("layer_types", rule)
    if not isinstance(types, list) or len(types) != n_layers or set(types) - set(LAYER_TYPES):
        raise InputError(
            f"{fields.source}: config field 'layer_types' is {types};"
            f" allowed: {n_layers} entries, each {' or '.join(LAYER_TYPES)}"
        )
    return types


def windows_of(fields: Fields, types: list[str], default: int | None = None) -> tuple[int, ...]:
    """How many tokens back each layer sees."""
    if "sliding_attention" not in types:
        return ()
    window = fields.count("sliding_window", default)
    return tuple(window if kind == "sliding_attention" else NO_WINDOW for kind in types)


def window_everywhere(
    fields: Fields, shape: dict[str, Any], default: int | None = None
) -> dict[str, Any]:
    """One sliding window for all layers, or none."""
    window = fields.nullable("sliding_window", default)
    if window is None:
        return {}
    return {"windows": (fields.count("sliding_window", default),) * shape["n_layers"]}


def rope_of(fields: Fields, theta: float = 10_000.0, partial: float = 1.0) -> dict[str, Any]:
    """Rotary settings in the terms of transformers 5, whichever version wrote them.

    As there, a context before scaling that stands outside of them goes before one inside.
    """
    defaults = {
        "rope_theta": fields.number("rope_theta", theta),
        "partial_rotary_factor": fields.number("partial_rotary_factor", partial),
    }
    given = fields.table("rope_scaling") or fields.table("rope_parameters")
    rope = defaults | {name: value for name, value in given.items() if value is not None}
    context = "original_max_position_embeddings"
    if rope.get("rope_type", rope.get("type")) in SCALED_FROM and fields.get(context) is not None:
        rope[context] = fields.count(context)
    return rope


def ropes_by_kind(
    fields: Fields, local: dict[str, Any], whole: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rotary settings of sliding and of full layers, where a config may state each apart."""
    nested = fields.table("rope_parameters")
    if set(nested) - set(LAYER_TYPES):
        raise InputError(
            f"{fields.source}: config field 'rope_parameters' has {', '.join(sorted(nested))};"
            f" models of type {fields.get('model_type')} allow {', '.join(LAYER_TYPES)}"
        )
    apart = Fields(nested, f"{fields.source}: rope_parameters")
    return [
        given | apart.table(kind) for given, kind in zip((local, whole), LAYER_TYPES, strict=True)
    ]


def rotary(
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
    width, n_positions = min(width, shape["head_width"]), shape["n_positions"]
    computed = [rotary_frequencies(rope, width, n_positions, fields.source) for rope in ropes]
    by_length = [rotary_by_length(rope, width, n_positions, fields.source) for rope in ropes]
    if len(ropes) > 1 and any(by_length):
        raise InputError(
            f"{fields.source}: rotary scaling that depends on a prompt's length, for one kind of"
            " layer of several, is not supported; allowed: for all"
        )
    of_length: dict[str, Any] = by_length[0]
    if "rotary_long" in of_length:
        of_length["rotary_long"] = (of_length["rotary_long"],)
    return {
        "rotary_width": width,
        "rotary_frequencies": tuple(frequencies for frequencies, _ in computed),
        "rotary_scale": tuple(scale for _, scale in computed),
        **of_length,
    }


def not_rotated(config: dict[str, Any], rotated: list[bool]) -> dict[str, Any]:
    """A config with one kind of rotated layers, where some are not: frequencies of 0."""
    if all(rotated):
        return config
    still = ((0.0,) * (config["rotary_width"] // 2),)
    more = {"rotary_scale": (1.0,), "rotary_frequencies": still}
    if "rotary_long" in config:
        more["rotary_long"] = still
    added = {name: config[name] + value for name, value in more.items()}
    return config | added | {"layer_kinds": tuple(int(not turned) for turned in rotated)}


def mixture(
    fields: Fields,
    *,
    n_experts: int,
    n_chosen: int,
    width: int,
    sum_to_one: bool,
    shared: int = 0,
) -> dict[str, Any]:
    """The fields of a mixture of experts, the same in every layer."""
    if n_chosen > n_experts:
        raise InputError(
            f"{fields.source}: config field 'num_experts_per_tok' is {n_chosen}; allowed: at most"
            f" the number of experts, {n_experts}"
        )
    if fields.get("decoder_sparse_step", 1) != 1 or fields.get("mlp_only_layers", []):
        raise InputError(
            f"{fields.source}: some layers have experts and some have not (decoder_sparse_step,"
            " mlp_only_layers), which is not supported; allowed: experts in every layer"
        )
    return {
        "d_mlp": n_experts * width + shared,
        "n_experts": n_experts,
        "n_chosen": n_chosen,
        "experts_sum_to_one": sum_to_one,
        "d_shared": shared,
    }
