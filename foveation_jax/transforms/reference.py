"""Reference: what a route gives back when it removes nothing (every a = 0, arXiv 2006.07991).

Disarray and the pyramid invert exactly, so their Reference is the image to rounding; the vgg
route's is decoder(encoder(image)), which is NOT the raw image. Networks of the other systems are
compared against the Reference of the same route.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.runs.errors import InputError
from foveation_jax.transforms import pyramid
from foveation_jax.transforms.foveation_texture import DEFAULT, ROUTES


def reference(
    images: Float[Array, "N Y X C"], key, *, route: str = DEFAULT, weights: str = ""
) -> Float[Array, "N Y X C"]:
    """Images through a route with nothing removed.

    Args:
        images: colours in [0, 1].
        key: unused; systems share one signature.
        route: "disarray", "pyramid" or "vgg"; the first two invert exactly.
        weights: the vgg route's file.

    Raises:
        InputError: another route, or the vgg route without its weights.
    """
    if route not in ROUTES:
        raise InputError(f"route is {route!r}: reference takes {' or '.join(ROUTES)}.")
    if route == "vgg":
        from foveation_jax.transforms.vgg_texture import load_networks
        from foveation_jax.vgg.encoder_decoder import reconstruct

        encoder, decoder = load_networks(weights)
        return reconstruct(encoder, decoder, images)
    return _through_pyramid(images)


@jax.jit
def _through_pyramid(images):
    size = images.shape[1:3]
    planes = jnp.moveaxis(pyramid.fill_up(images), -1, 1)
    n_scales = pyramid.default_scales(planes.shape[2:])
    planes = pyramid.reconstruct(pyramid.decompose(planes, n_scales, complex_bands=False))
    return jnp.clip(jnp.moveaxis(planes, 1, -1)[:, : size[0], : size[1]], 0.0, 1.0)
