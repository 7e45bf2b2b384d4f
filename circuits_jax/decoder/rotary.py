"""Rotary position embedding (arXiv 2104.09864): radians per token for each pair of components.

`rotate` applies it. The rest is which frequencies a model was trained with, as its Hugging Face
config tells it, in plain Python numbers, computed once as it is read: plain, divided by a
factor (`linear`), Llama 3.1's blend (`llama3`), or YaRN (`yarn`, arXiv 2309.00071). Of settings
that depend on a prompt's length (`dynamic`, `longrope`), these are the frequencies of prompts as
long as the model was first trained for; `rotary_by_length` has the rest.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
    "llama_4_scaling_beta",
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
    if kind not in KINDS:
        raise InputError(
            f"{source}: rope_type {kind!r} is not supported; allowed: {', '.join(KINDS)}"
        )
    if width % 2:
        raise InputError(f"{source}: {width} rotary components are not pairs; need an even number")
    for name in set(rope) & NUMBERS:
        if not isinstance(rope[name], int | float) or not 0 < rope[name] < math.inf:
            raise InputError(f"{source}: {name!r} is {rope[name]!r}; allowed: a number above 0")
    plain = _plain(rope, width)
    context = rope.get("original_max_position_embeddings", n_positions)
    try:
        if kind == "longrope":
            factors = _factors(rope, "short_factor", len(plain), source)
            _factors(rope, "long_factor", len(plain), source)
            scaled, scale = plain / factors, _longrope_scale(rope, context, n_positions)
        else:
            scaled, scale = _SCALE[kind](plain, rope, context)
    except KeyError as missing:
        raise InputError(f"{source}: rope_type {kind!r} needs the field {missing}") from None
    return tuple(scaled.tolist()), float(scale)


def rotary_by_length(
    rope: dict, width: int, n_positions: int, source: str
) -> dict[str, float | int | tuple[float, ...]]:
    """What `dynamic` and `longrope` settings say of prompts longer than the original context.

    Args:
        rope: as for `rotary_frequencies`, which has checked it.
        width: rotated components.
        n_positions: `max_position_embeddings`.
        source: for messages.

    Returns:
        The fields `rotary_stretch`, `rotary_long` (of one kind of layer) and `rotary_context` of
        `DecoderConfig`, and `n_positions`; none where lengths do not matter.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "dynamic":
        longest = max(int(n_positions * rope["factor"]), n_positions)
        stretch = {"rotary_stretch": float(rope["factor"]), "rotary_context": n_positions}
        return {**stretch, "n_positions": longest}
    if kind != "longrope":
        return {}
    context = rope.get("original_max_position_embeddings") or n_positions
    plain = _plain(rope, width)
    long = plain / _factors(rope, "long_factor", len(plain), source)
    return {"rotary_long": tuple(long.tolist()), "rotary_context": int(context)}


def rotate(
    x: Float[Array, "B T H K"],
    positions: Int[Array, "B T"],
    frequencies: Float[Array, "*#BT rotary"],
    scale: Float[Array, ""],
) -> Float[Array, "B T H K"]:
    """Rotary position embedding of the first components of heads (arXiv 2104.09864).

    Twice as many as there are frequencies, which may be every token's own. Component i pairs with
    i + rotary_width / 2. The product of a rotated query and a rotated key
    depends on the distance of their positions alone.
    """
    half = frequencies.shape[-1]
    frequencies = frequencies.reshape((1,) * (3 - frequencies.ndim) + frequencies.shape)
    angle = (positions[..., None].astype(jnp.float32) * frequencies)[:, :, None, :]
    cos, sin = (jnp.cos(angle) * scale).astype(x.dtype), (jnp.sin(angle) * scale).astype(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def alibi_slopes(n_heads: int) -> Float[np.ndarray, " H"]:
    """How much each head's scores rise by token (arXiv 2108.12409), rounded as Falcon rounds them.

    2 ** (-8 h / n), h = 1 ... n, where n is a power of two; what is missing to another number is
    every other one of those for twice as many heads.
    """
    import ml_dtypes

    n = 2 ** int(math.log2(n_heads))
    slopes = 2.0 ** (-8 * np.arange(1, n + 1) / n)
    more = 2.0 ** (-8 * np.arange(1, 2 * (n_heads - n) + 1, 2) / (2 * n))
    return np.append(slopes, more).astype(ml_dtypes.bfloat16).astype(np.float32)


def _plain(rope: dict, width: int) -> Float[np.ndarray, " rotary"]:
    """As trained at first."""
    return float(rope["rope_theta"]) ** (-np.arange(0, width, 2) / width)


def _factors(rope: dict, name: str, n: int, source: str) -> Float[np.ndarray, " rotary"]:
    """One number above 0 for each pair of components."""
    given = rope[name]
    whole = isinstance(given, list | tuple) and len(given) == n
    if not whole or not all(isinstance(x, int | float) and 0 < x < math.inf for x in given):
        raise InputError(f"{source}: {name!r} is {given!r:.60}; allowed: {n} numbers above 0")
    return np.array(given, float)


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


def _longrope_scale(rope: dict, context: int, n_positions: int) -> float:
    """Factor on cosines and sines: given, or by how much the context was extended."""
    factor = rope.get("factor", n_positions / context)
    if "attention_factor" in rope or factor <= 1:
        return rope.get("attention_factor", 1.0)
    return math.sqrt(1 + math.log(factor) / math.log(context))


def _dynamic(plain: Float[np.ndarray, " rotary"], rope: dict, context: int):
    """As trained, until a prompt is longer than that."""
    return plain, 1.0 + 0 * rope["factor"]


_SCALE = {
    "default": _default,
    "dynamic": _dynamic,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
KINDS = (*_SCALE, "longrope")
