"""What every metric asks of its two batches, checked on shapes, so that it also works under jit."""

import jax

from foveation_jax.errors import InputError


def check_pair(metric: str, a: jax.Array, b: jax.Array, smallest: int = 1) -> None:
    """Raises InputError unless `a` and `b` are batches of one shape, at least `smallest` px.

    Args:
        metric: name for the message.
        a: first batch [N, Y, X, C].
        b: second batch [N, Y, X, C].
        smallest: least number of pixels along Y and X that the metric can take.
    """
    if a.ndim != 4 or a.shape != b.shape:
        raise InputError(
            f"{metric}: two batches [N, Y, X, C] of one shape are needed, "
            f"but the shapes are {a.shape} and {b.shape}."
        )
    if min(a.shape[1:3]) < smallest:
        raise InputError(
            f"{metric}: images of {a.shape[1]} x {a.shape[2]} pixels are too small, "
            f"{smallest} x {smallest} is the least."
        )
