"""Weights that are stored in few bits and mean exact numbers, turned back into those numbers.

    fp8      a number of 8 bits times the scale of its block, row or tensor (DeepSeek, Qwen3, the
             newer Mistrals; compressed-tensors)
    int8     a whole number times the scale of its row (bitsandbytes, compressed-tensors)
    MXFP4    a number of 4 bits times two to the scale of its 32 (GPT-OSS)

Everything is found by its tensors, so what a config says of it is only looked at where it decides.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from circuits_jax.runs.errors import InputError

Readers = dict[str, Callable[[], np.ndarray]]
_METHODS = ("fp8", "mxfp4", "bitsandbytes", "compressed-tensors", "fbgemm_fp8")
# Beside a quantised weight, and of use only where activations are quantised too.
_IDLE = (".activation_scale", ".input_scale", ".weight_format", ".weight_shape")
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def dequantised(readers: Readers, config: Mapping[str, Any], source: str) -> Readers:
    """Readers of the weights as numbers, float32, where the file holds them in few bits.

    Args:
        readers: of all tensors of the file, by name.
        config: config.json; its `quantization_config` names the method.
        source: for messages.

    Raises:
        InputError: a method whose weights are not turned back here, such as GPTQ and AWQ.
    """
    said = config.get("quantization_config") or {}
    said = said if isinstance(said, Mapping) else {}
    method = said.get("quant_method")
    if not said:
        return readers
    packed = [n for n in readers if n.endswith((".qweight", ".weight_packed", ".qzeros"))]
    if method not in _METHODS or packed or said.get("load_in_4bit"):
        bits = said.get("bits") or (4 if said.get("load_in_4bit") else None)
        raise InputError(
            f"{source} is quantised ({method or 'by no method that it names'}"
            + (f", {bits} bits" if bits else "")
            + f"); read are fp8, int8 and mxfp4 ({', '.join(_METHODS)}); give the model that it "
            "was made from, or a GGUF file of it"
        )
    block = said.get("weight_block_size")
    kept = {name: read for name, read in readers.items() if not name.endswith(_IDLE)}
    for name in [n.removesuffix("_blocks") for n in kept if n.endswith("_blocks")]:
        if f"{name}_scales" in kept:
            read = kept.pop(f"{name}_blocks"), kept.pop(f"{name}_scales")
            kept[name] = functools.partial(_mxfp4, *read)
    for name in list(kept):
        if not name.endswith("weight"):
            continue
        for suffix, factor in (("weight_scale_inv", 1.0), ("weight_scale", 1.0), ("SCB", 1 / 127)):
            scale = name.removesuffix("weight") + suffix
            if scale in kept:
                kept[name] = functools.partial(_scaled, kept[name], kept.pop(scale), factor, block)
    return kept


def _scaled(
    read: Callable[[], np.ndarray],
    read_scale: Callable[[], np.ndarray],
    factor: float,
    block: list[int] | None,
) -> np.ndarray:
    """A weight times the scale of each of its blocks."""
    weight, scale = read().astype(np.float32), read_scale().astype(np.float32) * np.float32(factor)
    if scale.ndim < weight.ndim:  # of rows, or of all
        scale = scale.reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    for axis, size in enumerate(weight.shape):
        n = scale.shape[axis]
        if n in (1, size):
            continue
        width = block[axis - weight.ndim] if block else -(-size // n)
        scale = np.take(scale, np.minimum(np.arange(size) // width, n - 1), axis=axis)
    return weight * scale


def _mxfp4(read: Callable[[], np.ndarray], read_scale: Callable[[], np.ndarray]) -> np.ndarray:
    """[X, rows, groups, 16] bytes of two numbers and [X, rows, groups] exponents, as [X, in, out].

    OCP microscaling formats, 5.3: a bit of sign, two of exponent, one of fraction; the low half of
    a byte comes first.
    """
    packed, exponents = read(), read_scale().astype(np.int32) - 127
    values = np.concatenate([_FP4, -_FP4])
    numbers = np.stack([values[packed & 15], values[packed >> 4]], axis=-1)
    numbers = np.ldexp(numbers.reshape(*packed.shape[:-1], -1), exponents[..., None])
    return numbers.reshape(*packed.shape[:-2], -1).swapaxes(-1, -2)
