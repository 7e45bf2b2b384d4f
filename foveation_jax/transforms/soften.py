"""What the published encoder and decoder lose of every picture, for routes that lose nothing.

The Reference of arXiv 2006.07991 is decoder(encoder(image)), with a mean SSIM of .71 to the image;
textures and blurs are then made of what it has left. Here the image is blurred by SIGMA and read
WOBBLE off its places along an axis, smoothly over SMOOTH, all in widths of the image: at 256 pixels
SSIM is .71, and energies by octave (.22 .39 .69 .90, finest first) are near those that the
published pair keeps (.14 .40 .67 .67 from 4 degrees out). One field serves every picture and
system, as one network would.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms.disarray import coefficients, read_spline, unit_fields
from foveation_jax.transforms.uniform_blur import blur

WOBBLE, SIGMA, SMOOTH = 1.7 / 256, 1.4 / 256, 8 / 256  # widths of the image


def soften(images: Float[Array, "N Y X C"], soft: float) -> Float[Array, "N Y X C"]:
    """Images that have lost what the published Reference has, `soft` times as far.

    Args:
        images: colours in [0, 1].
        soft: 0 gives the images back, 1 is as the module says.

    Raises:
        InputError: `soft` is not within 0 and 2.
    """
    check_allowed("soft", soft, Range(0, 2))
    return _soften(images, float(soft)) if soft else images


@functools.partial(jax.jit, static_argnames="soft")
def _soften(images, soft: float):
    size = images.shape[1:3]
    fields = unit_fields(jax.random.key(0), size)
    octave = round(math.log2(max(SMOOTH * size[1] / 2, 1)))
    field = soft * WOBBLE * size[1] * fields[min(octave, len(fields) - 1)]
    at = jnp.stack(jnp.meshgrid(*map(jnp.arange, size), indexing="ij")) + field

    def one(image):
        blurred = blur(image, jnp.float32(soft * SIGMA * size[1]))
        return jnp.clip(read_spline(coefficients(blurred), at), 0, 1)

    return each_image(one, images)
