"""Layouts that conversion to GGUF changes, and the way back to Hugging Face's.

Rotary pairs are interleaved in Llama's queries and keys, one is added to Gemma's norm weights,
GPT-2's matrices are transposed, GPT-NeoX's fused projection is regrouped. Each function takes a
weight as the file has it, O x I for matrices, and the settings in the terms of config.json.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

Config = dict[str, Any]
Transform = Callable[[np.ndarray, Config], np.ndarray]


def as_stored(weight: Float[np.ndarray, "..."], config: Config) -> Float[np.ndarray, "..."]:
    """The weight as it is."""
    return weight


def transposed(weight: Float[np.ndarray, "out in"], config: Config) -> Float[np.ndarray, "in out"]:
    """GPT-2's matrices multiply from the right in Hugging Face's layout (Conv1D)."""
    return weight.T


def minus_one(weight: Float[np.ndarray, " D"], config: Config) -> Float[np.ndarray, " D"]:
    """Gemma's norms multiply by 1 + w; the file holds 1 + w."""
    return weight - np.float32(1)


def half_rotated(
    weight: Float[np.ndarray, " rows *D"], heads: int
) -> Float[np.ndarray, " rows *D"]:
    """Turns rotary pairs (2i, 2i + 1) back into Hugging Face's pairs (i, i + K/2), in every head.

    Args:
        weight: rows of a query or key projection, or its bias, head after head.
        heads: number of heads, H.

    Returns:
        The same rows in the other order: row j * K/2 + i of a head is row 2i + j of the file.
    """
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def query_rows(
    weight: Float[np.ndarray, " rows *D"], config: Config
) -> Float[np.ndarray, " rows *D"]:
    """`half_rotated` for a Llama query projection."""
    return half_rotated(weight, config["num_attention_heads"])


def key_rows(
    weight: Float[np.ndarray, " rows *D"], config: Config
) -> Float[np.ndarray, " rows *D"]:
    """`half_rotated` for a Llama key projection."""
    return half_rotated(weight, config["num_key_value_heads"])


def heads_first(
    weight: Float[np.ndarray, " rows *D"], config: Config
) -> Float[np.ndarray, " rows *D"]:
    """GPT-NeoX's fused projection: from (q or k or v, head, K) to Hugging Face's (head, qkv, K)."""
    grouped = weight.reshape(3, config["num_attention_heads"], -1, *weight.shape[1:])
    return grouped.swapaxes(0, 1).reshape(weight.shape)
