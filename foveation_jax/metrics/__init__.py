"""Image-quality metrics of the perceptual probe: how far a system's picture is from another's.

Every metric maps two batches [N, Y, X, C], colours in [0, 1] or uint8 levels, to one number an
image, [N], and is pure, jittable and (mutual information aside) differentiable. Colours outside
[0, 1], other dtypes and values that are not finite are refused. Products are float32 on every
device (transforms/__init__.py). `METRICS` lists the panel by name, for
tables and for `--config` fields.
"""

import sys
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from foveation_jax.metrics.features import gmsd, vif
from foveation_jax.metrics.information import mutual_information
from foveation_jax.metrics.pointwise import mae, mse, psnr
from foveation_jax.metrics.structural import ms_ssim, ssim, ssim_map
from foveation_jax.runs.errors import InputError

METRICS = {
    "mse": mse,
    "mae": mae,
    "psnr": psnr,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
    "gmsd": gmsd,
    "vif": vif,
    "mutual_information": mutual_information,
}

__all__ = ["METRICS", "metrics_for", "metrics_that_fit", "ssim_map", *METRICS]


def metrics_for(size: tuple[int, int]) -> tuple[str, ...]:
    """Names of the metrics that take images of `size` = (Y, X); MS-SSIM needs 161 px a side."""
    picture = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)

    def takes(name):
        try:
            jax.eval_shape(METRICS[name], picture, picture)
        except InputError:
            return False
        return True

    return tuple(filter(takes, METRICS))


def metrics_that_fit(asked: Iterable[str], size: Sequence[int]) -> tuple[str, ...]:
    """Those of the asked that take images of a size; the others are told on stderr."""
    names, known = tuple(asked), metrics_for((size[0], size[1]))
    if left_out := [name for name in names if name not in known]:
        said = f"left out at {size[0]} x {size[1]} pixels, too few for them: {', '.join(left_out)}"
        print(f"metrics {said}", file=sys.stderr)
    return tuple(name for name in names if name in known)
