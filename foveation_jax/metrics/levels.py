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
    check_finite(what, images, f"colours [{axes}] must lie within 0 and 1")
    if not images.size:
        return
    low, high = float(images.min()), float(images.max())
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:
        hint = ": divide 8-bit levels by 255" if low >= 0 and 1.5 < high <= 255 else ""
        raise InputError(f"{what} span {low:g} to {high:g}: they must lie within 0 and 1{hint}.")


def check_finite(
    what: str,
    values: Shaped[Array | np.ndarray, "*shape"],
    allowed: str = "all values must be finite",
) -> None:
    """Raises InputError if a value of a concrete array is not finite; says which and where.

    A test of every element: the minimum of a large array loses a NaN on some processors.
    """
    if isinstance(values, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():
        finite = (np if isinstance(values, np.ndarray) else jnp).isfinite(values)
        if not bool(finite.all()):
            place = np.argwhere(~np.asarray(finite))[0].tolist()
            value = np.asarray(values)[tuple(place)]
            raise InputError(f"{what} hold {value} at {place}, which is not finite: {allowed}.")


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
    check_finite(what, images)
    low, high = (images.min(), images.max()) if images.size else (0, 1)
    if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:
        raise InputError(f"{what} span {low:g} to {high:g}: colours lie within 0 and 1.")
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
