"""What every metric asks of its two batches; of traced ones only shapes and dtypes are known."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.metrics.levels import Images, colours
from foveation_jax.runs.errors import InputError


def metric(smallest: int = 1):
    """A metric of two batches of colours: they are checked, and it is one program for a shape.

    Args:
        smallest: least number of pixels along Y and X that it can take.
    """

    def compiled(function: Callable[[Images, Images], Array]) -> Callable[[Images, Images], Array]:
        program = jax.jit(function)

        @functools.wraps(function)
        def checked(a, b):
            return program(*check_pair(function.__name__, a, b, smallest))

        return checked

    return compiled


def check_pair(
    metric: str, a: Array | np.ndarray, b: Array | np.ndarray, smallest: int = 1
) -> tuple[Float[Array, "N Y X C"], Float[Array, "N Y X C"]]:
    """Both batches as colours in [0, 1], whichever of them holds uint8 levels.

    Args:
        metric: name for the message.
        a: first batch [N, Y, X, C].
        b: second batch [N, Y, X, C].
        smallest: least number of pixels along Y and X that the metric can take.

    Raises:
        InputError: batches of different shapes, without channels or below `smallest` px, neither
            floating point nor uint8, or with a value that is not finite or outside [0, 1].
    """
    if np.ndim(a) != 4 or np.shape(a) != np.shape(b):
        raise InputError(
            f"{metric}: two batches [N, Y, X, C] of one shape are needed, "
            f"but the shapes are {np.shape(a)} and {np.shape(b)}."
        )
    if not a.shape[3]:
        raise InputError(f"{metric}: the images have no channels: their shape is {a.shape}.")
    if min(a.shape[1:3]) < smallest:
        raise InputError(
            f"{metric}: images of {a.shape[1]} x {a.shape[2]} pixels are too small, "
            f"{smallest} x {smallest} is the least."
        )
    return colours(f"{metric}: images a", a), colours(f"{metric}: images b", b)
