"""Rotary position embedding (arXiv 2104.09864): radians per token for each pair of components.

Which frequencies a model was trained with, as its Hugging Face config tells it: plain, divided by a
factor (`linear`), Llama 3.1's blend (`llama3`), or YaRN (`yarn`, arXiv 2309.00071). Everything here
is plain Python numbers, computed once when a config is read.
"""

import math

import numpy as np
from jaxtyping import Float

from circuits_jax.runs.errors import InputError

NUMBERS = {
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
}


def rotary_frequencies(
    rope: dict, width: int, n_positions: int, source: str
) -> tuple[tuple[float, ...], float]:
    """Frequencies of `width` rotated components, and the factor on cosines and sines.

    Args:
        rope: `rope_theta`, and `rope_type` with its fields, as in Hugging Face's `rope_parameters`.
        width: how many components of a head are rotated; even.
        n_positions: the model's context, where `original_max_position_embeddings` is not given.
        source: the file or model the config came from, for messages.

    Returns:
        (width / 2 radians per token, falling from at most 1; the factor, 1 for all but YaRN).

    Raises:
        InputError: unknown `rope_type`, a field of it missing, or not a number above 0.

    The frequency of pair i is `theta ** (-2 i / width)` before scaling.
    """
    rope = {name: value for name, value in rope.items() if value is not None}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _SCALE:
        raise InputError(
            f"{source}: rope_type {kind!r} is not supported; allowed: {', '.join(_SCALE)}"
        )
    if width % 2:
        raise InputError(f"{source}: {width} rotary components are not pairs; need an even number")
    for name in set(rope) & NUMBERS:
        if not isinstance(rope[name], int | float) or not 0 < rope[name] < math.inf:
            raise InputError(f"{source}: {name!r} is {rope[name]!r}; allowed: a number above 0")
    plain = float(rope["rope_theta"]) ** (-np.arange(0, width, 2) / width)
    context = rope.get("original_max_position_embeddings", n_positions)
    try:
        scaled, scale = _SCALE[kind](plain, rope, context)
    except KeyError as missing:
        raise InputError(f"{source}: rope_type {kind!r} needs the field {missing}") from None
    return tuple(scaled.tolist()), float(scale)


def _default(plain: Float[np.ndarray, " rotary"], rope: dict, context: int):
    """As trained."""
    del rope, context
    return plain, 1.0


def _linear(plain: Float[np.ndarray, " rotary"], rope: dict, context: int):
    """Positions divided by a factor."""
    del context
    return plain / rope["factor"], 1.0


def _llama3(plain: Float[np.ndarray, " rotary"], rope: dict, context: int):
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = context * plain / (2 * math.pi)  # turns of each pair over the original context
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (kept + (1 - kept) / rope["factor"]), 1.0


def _yarn(plain: Float[np.ndarray, " rotary"], rope: dict, context: int):
    """YaRN: as `_llama3` with the ramp linear in the pair's index, and a temperature."""
    factor, width = rope["factor"], 2 * len(plain)

    def pair(turns):  # the (fractional) pair that makes so many turns over the original context
        span = math.log(context / (turns * 2 * math.pi))
        return width * span / (2 * math.log(rope["rope_theta"]))

    first, last = pair(rope.get("beta_fast", 32)), pair(rope.get("beta_slow", 1))
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    divided = np.clip((np.arange(len(plain)) - first) / max(last - first, 1e-3), 0.0, 1.0)
    return plain * (1 - divided + divided / factor), _yarn_scale(rope, factor)


def _yarn_scale(rope: dict, factor: float) -> float:
    """Factor on cosines and sines: given, or `0.1 ln(factor) + 1` (YaRN, equation 22)."""

    def temperature(weight):
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in rope:
        return rope["attention_factor"]
    if "mscale" in rope and "mscale_all_dim" in rope:
        return temperature(rope["mscale"]) / temperature(rope["mscale_all_dim"])
    return temperature(1.0)


_SCALE = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
