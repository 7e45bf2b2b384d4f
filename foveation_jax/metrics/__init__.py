"""Image-quality metrics of the perceptual probe: how far a system's picture is from another's.

Every metric maps two batches [N, Y, X, C] with values in [0, 1] to one number an image, [N], and is
pure, jittable and (mutual information aside) differentiable. `METRICS` lists the panel by name, for
tables and for `--config` fields.
"""

from foveation_jax.metrics.features import gmsd, vif
from foveation_jax.metrics.information import mutual_information
from foveation_jax.metrics.pointwise import mae, mse, psnr
from foveation_jax.metrics.structural import ms_ssim, ssim, ssim_map

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

__all__ = ["METRICS", "ssim_map", *METRICS]
