"""The perceptual panel: how much of each image a system lets through, against Reference's.

Per image, so that systems can be compared pair by pair: MSE, mutual information in bits, SSIM and
the others of `foveation_jax.metrics`.
"""

import functools

import jax
import numpy as np
from jaxtyping import Float, UInt8

from foveation_jax.metrics import METRICS
from foveation_jax.probes.evaluate import batch_rows
from foveation_jax.runs.checks import check_allowed
from foveation_jax.runs.errors import InputError


def perceptual_panel(
    reference: UInt8[np.ndarray, "N Y X 3"],
    system: UInt8[np.ndarray, "N Y X 3"],
    names: tuple[str, ...] = ("mse", "mutual_information", "ssim"),
    batch_size: int = 16,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Metrics of each image of `system` against the same image of `reference`.

    Args:
        reference: levels, as Reference lets the images through.
        system: levels of the same images, as another system does.
        names: of `metrics.METRICS`; `metrics.metrics_for` gives those that take images of a size.
        batch_size: images that are measured together.

    Returns:
        Metric -> one number an image, in the unit of the metric on colours in [0, 1].

    Raises:
        InputError: batches of different shapes, an unknown metric, or images too small for one.

    Property: a system equal to the reference has mse 0 and ssim 1, up to rounding.
    """
    check_allowed("metrics", tuple(names), METRICS)
    for what, pictures in (("pictures", system), ("Reference's pictures", reference)):
        if pictures.dtype != np.uint8:
            raise InputError(f"{what} are {pictures.dtype}: the panel takes uint8 levels.")
    if reference.shape != system.shape:
        raise InputError(f"pictures have shape {system.shape}, Reference's {reference.shape}.")
    values = [
        _measure(system[rows], reference[rows], tuple(names))
        for rows in batch_rows(len(reference), batch_size)
    ]
    return {
        name: np.concatenate([value[name] for value in values])[: len(reference)] for name in names
    }


@functools.partial(jax.jit, static_argnames="names")
def _measure(pictures, references, names):
    return {name: METRICS[name](pictures, references) for name in names}
