"""Foveation-Texture, one interface to its routes (arXiv 2006.07991, section 2).

* "disarray", the default: octaves displaced within their windows, means, energies and colours put
  back. Edges and the look of things stay, their places are lost, so that blurs of equal SSIM are
  far stronger than the published ones (disarray.py).
* "pyramid": noise with the statistics of oriented bands: energies without edges, and with a
  ghost of the image in it (texture.py).
* "vgg": AdaIN on relu4_1 of VGG19 with the user's weights, the published route (vgg_texture.py).
A system of your own goes beside these by `register` and is called by its own name.
"""

import dataclasses

import jax
from jaxtyping import Array, Float

from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.transforms import pyramid
from foveation_jax.transforms.disarray import REACH, disarray_texture
from foveation_jax.transforms.noise import check_key, coral, regional_coral, white_noise
from foveation_jax.transforms.refinement import refine
from foveation_jax.transforms.texture import pyramid_texture
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

ROUTES = ("disarray", "pyramid", "vgg")
DEFAULT = ROUTES[0]
COLOURS = {  # (white noise, image, windows) -> noise in the image's colours
    "image": lambda white, image, windows: coral(white, image),
    "region": regional_coral,
}
VGG_ALONE = {"weights": "", "blend": "partition", "colours": "image"}  # as other routes leave them


def foveation_texture(
    images: Float[Array, "N Y X C"],
    key,
    *,
    scale: float = 0.4,
    fixation: geometry.Fixation = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
    published: bool = False,
    route: str = DEFAULT,
    n_scales: int | None = None,
    refinement: int = 0,
    reach: float = REACH,
    scramble: bool = False,
    weights: str = "",
    blend: str = "partition",
    colours: str = "image",
) -> Float[Array, "N Y X C"]:
    """Clear centre, texture-like periphery.

    Args:
        images: colours in [0, 1], of any size from 16 pixels a side; odd ones too.
        key: draws the noise or the displacements.
        scale: width of the pooling windows over their eccentricity.
        fixation: (y, x) in pixels, also off the image; the centre by default. May be traced, on
            the image.
        field_of_view: degrees that the width subtends.
        published: corner slivers stay clear and (pyramid, vgg) cut windows mix by their cut area,
            as published.
        route: "disarray", "pyramid" or "vgg".
        n_scales: octaves that turn into texture, pyramid only; by default all but 32 x 32 samples.
        refinement: steps towards the pooled statistics of the image's windows, pyramid and
            disarray only; gradients pass to the route as if there were none.
        reach: root mean square displacement along an axis in widths of the window, disarray only.
        scramble: energies of other windows of the same ring, pyramid and disarray only.
        weights: file of the encoder and decoder, vgg only.
        blend: how regions meet, vgg only: "partition", or "overwrite" as published.
        colours: that the noise takes, vgg only: those of the whole "image", as published, or
            "region" by region.

    Raises:
        InputError: an option out of range, no key, or a size that the route cannot take.
    """
    check_key(key)
    size = images.shape[1:3]
    windows = pooling_windows(scale, size, fixation, published, field_of_view)
    check_allowed("route", route, ROUTES)
    check_allowed("refinement", refinement, Range(0, 0 if route == "vgg" else 1000))
    if route == "vgg":
        return _vgg(images, key, windows, weights, blend, colours)
    for name, value in {"weights": weights, "blend": blend, "colours": colours}.items():
        check_allowed(f"{name}, with route={route!r},", value, (VGG_ALONE[name],))
    images = pyramid.fill_up(images)
    windows = dataclasses.replace(windows, size=images.shape[1:3])
    octaves = pyramid.default_scales(windows.size) if n_scales is None else n_scales
    pyramid.check_size(windows.size, octaves + 1)
    if route == "pyramid":
        textures = pyramid_texture(images, key, windows, octaves, scramble=scramble)
    else:
        _check_disarray(reach, n_scales)
        textures = disarray_texture(images, key, windows, octaves + 1, reach, scramble)
    if refinement:
        textures = refine(textures, images, windows, octaves, refinement)
    return textures[:, : size[0], : size[1]]


def _check_disarray(reach, n_scales):
    check_allowed("reach, in widths of the window,", reach, Range(0, 1))
    if n_scales is not None:
        raise InputError("n_scales is of the pyramid route: disarray has none.")


def _vgg(images, key, windows: PoolingWindows, weights: str, blend: str, colours: str):
    from foveation_jax.transforms.vgg_texture import cell_regions, load_networks, vgg_texture

    check_allowed("colours", colours, COLOURS)
    encoder, decoder = load_networks(weights)
    white = white_noise(key, images.shape[1:])
    noise = jax.vmap(lambda image: COLOURS[colours](white, image, windows))(images)
    return vgg_texture(images, noise, cell_regions(windows, blend), encoder, decoder)
