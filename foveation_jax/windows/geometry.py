"""Viewing geometry: pixels, degrees of visual angle, eccentricity and polar angle.

Positions are (y, x) in pixels with the centre of the first pixel at (0, 0); a fixation may lie off
the image. One figure ties pixels to degrees: the field of view, the visual angle in degrees that
the WIDTH of the image subtends (26 degrees in arXiv 2006.07991); pixels are square and the screen
is taken as flat in angle, as the published windows do.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError

FIELD_OF_VIEW = 26.0

# (y, x) in pixels; None for the centre
Fixation: TypeAlias = tuple | list | Array | np.ndarray | None


def pixels_per_degree(size: tuple[int, int], field_of_view: float = FIELD_OF_VIEW):
    """Pixels that one degree of visual angle covers.

    Args:
        size: (rows, columns) of the image.
        field_of_view: degrees that the width subtends, above 0 and at most 360.

    Raises:
        InputError: a field of view out of range.
    """
    check_allowed("field_of_view, in degrees,", field_of_view, Range(0, 360, open=(0,)))
    return size[1] / field_of_view


def centre(size: tuple[int, int]) -> tuple[float, float]:
    """The middle (y, x) of an image in pixels: the default fixation, (size - 1) / 2."""
    return ((size[0] - 1) / 2, (size[1] - 1) / 2)


def check_fixation(fixation: Fixation) -> None:
    """Raises InputError unless a fixation is one place, (y, x); a traced one may have any value."""
    try:
        if isinstance(fixation, jax.core.Tracer):
            place = np.zeros(fixation.shape)
        else:
            place = np.asarray(fixation, np.float64)
    except (TypeError, ValueError):
        place = np.full(2, np.nan)
    if fixation is not None and (place.shape != (2,) or not np.isfinite(place).all()):
        held = f"of shape {place.shape}" if place.ndim > 1 else str(fixation)
        raise InputError(
            f"fixation is {held}: it must be two finite numbers (y, x) in pixels, the same for all "
            "images; fj.transform takes one for each as well, [N, 2]."
        )


def known_fixation(fixation, size: tuple[int, int]) -> tuple[float, float] | None:
    """The (y, x) of a fixation, the centre by default; None for a traced one, which none knows."""
    if isinstance(fixation, jax.core.Tracer):
        return None
    return farthest_seeing(fixation, size)


def farthest_seeing(fixation, size: tuple[int, int]) -> tuple[float, float]:
    """The (y, x) on the host for which rings and radii are counted.

    That is the fixation itself, the centre for None. A traced fixation can be counted for in
    advance only if it lies on the image: a corner sees at least as far as any of its points.

    Raises:
        InputError: a fixation that is not one place.
    """
    check_fixation(fixation)
    if fixation is None:
        return centre(size)
    if isinstance(fixation, jax.core.Tracer):
        return (0.0, 0.0)
    return (float(fixation[0]), float(fixation[1]))


def to_degrees(
    position: Float[Array, "*batch 2"], fixation: Float[Array, "2"], pixels_per_degree
) -> Float[Array, "*batch 2"]:
    """Positions (y, x) in pixels to degrees down and to the right of the fixation."""
    return (position - jnp.reshape(fixation, (1,) * (position.ndim - 1) + (2,))) / pixels_per_degree


def to_pixels(
    angle: Float[Array, "*batch 2"], fixation: Float[Array, "2"], pixels_per_degree
) -> Float[Array, "*batch 2"]:
    """Inverse of `to_degrees`: degrees down and right of the fixation to (y, x) in pixels."""
    return angle * pixels_per_degree + jnp.reshape(fixation, (1,) * (angle.ndim - 1) + (2,))


def polar(
    y: Float[Array, " Y"], x: Float[Array, " X"], fixation: Float[Array, "2"], pixels_per_degree
) -> tuple[Float[Array, "Y X"], Float[Array, "Y X"]]:
    """Log eccentricity and polar angle of a grid of positions.

    Args:
        y: rows of the grid, pixels; any spacing, so a band or a grid of cells does.
        x: its columns.
        fixation: (y, x) in pixels.
        pixels_per_degree: pixels a degree.

    Returns:
        ln of the eccentricity in degrees, floored at 1e-6 degrees; the angle in (-pi, pi], 0 to the
        right and pi / 2 DOWN. Both have finite gradients everywhere: the fixation's own pixel is
        moved by 1e-6 degrees, which no window can see.
    """
    down = ((y - fixation[0]) / pixels_per_degree)[:, None]
    right = ((x - fixation[1]) / pixels_per_degree)[None, :]
    down, right = jnp.broadcast_arrays(down, right)
    right = jnp.where(down**2 + right**2 < 1e-12, 1e-6, right)
    return 0.5 * jnp.log(down**2 + right**2), jnp.arctan2(down, right)
