"""What values pictures may have, how they come in, and the one way in which they become bytes.

A picture is 8-bit (uint8, 0 to 255) or floating point with colours in [0, 1], in every function of
foveation_jax alike: uint8 is divided by 255, half precision is widened to float32, all else is
refused, for nothing tells 12-bit levels from dark ones. What is not finite is never looked at,
scored or cast to bytes. The values of a traced array cannot be looked at, so under `jit` it is the
dtype that is checked, and values are where arrays come in and go out.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from foveation_jax.runs.errors import InputError

ROUNDING = 1e-5  # how far beyond [0, 1] rounding may take a colour
OVERSHOOT = 1.0  # how far beyond a system's output may go and be clipped; more is another scale

# Pictures as functions take them: colours in [0, 1], or 8-bit levels.
Images = Shaped[Array | np.ndarray, "N Y X C"]


def colours(what: str, images: Shaped[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """Pictures as floating-point colours in [0, 1] on the device.

    Args:
        what: their name in messages, a plural.
        images: uint8, or floating point in [0, 1]; may be traced, its values are then not checked.

    Raises:
        InputError: another dtype, or a value that is not finite or not within 0 and 1.

    Property: uint8 levels and the same levels divided by 255 give the same.
    """
    traced = isinstance(images, jax.core.Tracer)
    with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
        try:
            if isinstance(images, np.ndarray):  # as it is, and not by a program for each shape
                images = jax.device_put(images, may_alias=False)
            images = jnp.asarray(images)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{what} are a {type(images).__name__}, not an array of numbers."
            ) from None
        if images.dtype == jnp.uint8:
            return images / jnp.float32(255)
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(
                f"{what} are {images.dtype}: they must be floating point in [0, 1], or uint8."
            )
        if not traced:
            check_colours(what, images)
        return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def check_colours(what: str, images: Float[Array | np.ndarray, "*shape"]) -> None:
    """Raises InputError unless all values of a concrete array are finite and within 0 and 1."""
    axes = ", ".join(["N", "Y", "X", "C"][-images.ndim :])
    low, high = _finite_range(what, images, f"colours [{axes}] must lie within 0 and 1")
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:
        hint = ": divide 8-bit levels by 255" if low >= 0 and 1.5 < high <= 255 else ""
        raise InputError(f"{what} span {low:g} to {high:g}: they must lie within 0 and 1{hint}.")


def check_finite(
    what: str,
    values: Shaped[Array | np.ndarray, "*shape"],
    allowed: str = "all values must be finite",
) -> None:
    """Raises InputError if a value of a concrete array is not finite; says which and where."""
    if not isinstance(values, jax.core.Tracer):
        _finite_range(what, values, allowed)


def _finite_range(
    what: str, values: Shaped[Array | np.ndarray, "*shape"], allowed: str
) -> tuple[float, float]:
    """The least and the largest value, all of which are finite, or InputError; 0 where none is.

    Of complex values, their magnitudes. A test of every element: the minimum of a large array loses
    a NaN on some processors.
    """
    if not values.size:
        return 0.0, 0.0
    with jax.ensure_compile_time_eval():
        on_host = isinstance(values, np.ndarray)
        finite, low, high = (_looked_at if on_host else _looked_at_there)(values)
        if not finite:
            place = np.argwhere(~np.isfinite(np.asarray(values)))[0].tolist()
            value = np.asarray(values)[tuple(place)]
            raise InputError(f"{what} hold {value} at {place}, which is not finite: {allowed}.")
        return float(low), float(high)


def _looked_at(values):
    finite = (np if isinstance(values, np.ndarray) else jnp).isfinite(values)
    ordered = abs(values) if jnp.iscomplexobj(values) else values
    return finite.all(), ordered.min(), ordered.max()


_looked_at_there = jax.jit(_looked_at)  # one program on the device


def to_levels(
    images: Shaped[Array | np.ndarray, "*shape"], what: str = "images"
) -> UInt8[np.ndarray, "*shape"]:
    """Colours in [0, 1] as 8-bit levels, clipped and rounded to the nearest; uint8 as it is.

    Args:
        images: concrete.
        what: their name in messages.

    Raises:
        InputError: a value that is not finite, or so far from [0, 1] that the scale is another.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    low, high = _finite_range(what, images, "all values must be finite")
    if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:
        raise InputError(f"{what} span {low:g} to {high:g}: colours lie within 0 and 1.")
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
