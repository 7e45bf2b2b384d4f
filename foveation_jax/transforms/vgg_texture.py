"""Foveation-Texture by the vgg route: AdaIN in every pooling region of relu4_1 (arXiv 2006.07991).

Content features of the image and texture features of noise with the image's colours, [N, P, Q, C]
each with a cell every 8 px, are mixed region by region:

    AdaIN_r(n) = (n - mean_r n) / std_r n * std_r c + mean_r c          (Huang & Belongie 2017)
    mixed      = (1 - a_r) c + a_r AdaIN_r(n)

and decoded. A region acts on a cell through a gain and a bias alone, so that mixing is one pass:
mixed = c - (sum_r w_r a_r) c + (sum_r w_r a_r gain_r) n + (sum_r w_r a_r bias_r).
"""

import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from foveation_jax.runs.checks import check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.precision import einsum
from foveation_jax.vgg.encoder_decoder import STRIDE, Network, decode, encode
from foveation_jax.vgg.weight_files import load_decoder, load_encoder
from foveation_jax.windows.pooling_windows import PoolingWindows

BLENDS = ("partition", "overwrite")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CellRegions:
    """Pooling regions on the grid of feature cells.

    Attributes:
        pool: [R, P, Q] weight of a cell in the moments of each region.
        share: [R, P, Q] how much of a cell's output is each region's; sums to 1 at every cell.
        mixing: [R] texture a of each region, 0 for the fovea.
        unbiased: whether variances divide by the weight less one, as the published code's.
    """

    pool: Float[Array, "R P Q"]
    share: Float[Array, "R P Q"]
    mixing: Float[Array, " R"]
    unbiased: bool = dataclasses.field(metadata={"static": True})


def cell_regions(windows: PoolingWindows, blend: str = "partition") -> CellRegions:
    """The regions of `windows` on a grid with one cell every 8 px.

    Args:
        windows: pooling windows of the image.
        blend: "partition", the windows at the cells' centres, smooth and summing to 1; or
            "overwrite", as published: each window, brought to the grid, claims every cell that it
            touches, and the last region to claim a cell owns it (at s = .4 the fovea keeps 32 of
            its 108 cells).

    Raises:
        InputError: another blend.
    """
    check_allowed("blend", blend, BLENDS)
    kept = np.asarray(windows.kept).T.reshape(-1) > 0
    mixing = jnp.concatenate([jnp.zeros(1), windows.mixing().T.reshape(-1)[kept]])
    grid = [-(-side // STRIDE) for side in windows.size]
    if blend == "overwrite":
        claimed = _claimed_cells(windows.masks(), *grid)
        order = jnp.arange(len(claimed))[:, None, None]
        owner = jnp.max(jnp.where(claimed, order, 0), axis=0)
        share = (order == owner[None]).astype(jnp.float32)
        return CellRegions(claimed.astype(jnp.float32), share, mixing, unbiased=True)
    centres = [(jnp.arange(cells) + 0.5) * STRIDE - 0.5 for cells in grid]
    rings, wedges = windows.factors(*centres)
    periphery = (wedges[:, None] * rings[None]).reshape(-1, *grid)[kept]
    fovea = jnp.clip(1 - periphery.sum(0, keepdims=True), 0, 1)
    share = jnp.concatenate([fovea, periphery])
    return CellRegions(share, share, mixing, unbiased=False)


@functools.partial(jax.jit, static_argnames=("rows", "columns"))
def _claimed_cells(masks: Float[Array, "R Y X"], rows: int, columns: int) -> Bool[Array, "R P Q"]:
    """Cells above .001 of 8-bit masks resized along X, then Y, rounded to levels each time."""
    levels = jnp.round(255 * masks)
    for shape in ((*masks.shape[:2], columns), (len(masks), rows, columns)):
        levels = jnp.round(jax.image.resize(levels, shape, "linear", antialias=True))
    return levels > 0


@jax.jit
def mix_regions(
    content: Float[Array, "N P Q C"], noise: Float[Array, "N P Q C"], regions: CellRegions
) -> Float[Array, "N P Q C"]:
    """Features whose region statistics are the content's and whose detail is a part noise.

    With every a = 0 it is the content; with a = 1 and a partition into separate regions, the mean
    and deviation of each region are the content's.
    """
    count, channels = content.shape[0], content.shape[3]
    pool, share = (m.reshape(len(m), -1) for m in (regions.pool, regions.share))
    flat_content, flat_noise = (f.reshape(count, -1, channels) for f in (content, noise))
    mean_c, deviation_c = _moments(flat_content, pool, regions.unbiased)
    mean_n, deviation_n = _moments(flat_noise, pool, regions.unbiased)
    gain = deviation_c / deviation_n
    bias = mean_c - gain * mean_n
    mixed_share = share * regions.mixing[:, None]
    gains, biases = (einsum("rs,nrc->nsc", mixed_share, v) for v in (gain, bias))
    keep = 1 - jnp.sum(mixed_share, axis=0)[None, :, None]
    return (keep * flat_content + gains * flat_noise + biases).reshape(content.shape)


def _moments(
    flat: Float[Array, "N S C"], pool: Float[Array, "R S"], unbiased: bool
) -> tuple[Float[Array, "N R C"], Float[Array, "N R C"]]:
    """Mean and deviation, sqrt(variance + 1e-5), of every region; S cells."""
    mass = jnp.sum(pool, axis=1)[None, :, None] + 1e-12
    mean = einsum("rs,nsc->nrc", pool, flat) / mass
    square = einsum("rs,nsc->nrc", pool, flat**2) / mass
    variance = jax.nn.relu(square - mean**2)
    if unbiased:
        variance = variance * mass / jnp.maximum(mass - 1, 1)
    return mean, jnp.sqrt(variance + 1e-5)


@jax.jit
def vgg_texture(
    images: Float[Array, "N Y X 3"],
    noise: Float[Array, "N Y X 3"],
    regions: CellRegions,
    encoder: Network,
    decoder: Network,
) -> Float[Array, "N Y X 3"]:
    """Foveation-Texture of `images`, clipped to [0, 1], any size of at least 16 px.

    Args:
        images: [N, Y, X, 3] in [0, 1].
        noise: Gaussian noise CORAL-matched to each image, same shape.
        regions: from `cell_regions`, for the images' size.
        encoder: to relu4_1.
        decoder: from relu4_1.
    """
    features = encode(encoder, jnp.concatenate([images, noise]))[-1]
    content, texture = jnp.split(features, 2)
    decoded = decode(decoder, mix_regions(content, texture, regions))
    return jnp.clip(decoded[:, : images.shape[1], : images.shape[2]], 0, 1)


def load_networks(weights: str | os.PathLike) -> tuple[Network, Network]:
    """Encoder and decoder from one file, or from several separated by commas.

    Raises:
        InputError: no file is named, one cannot be read, or a network is not whole.
    """
    names = [name for name in str(weights).split(",") if name]
    if not names:
        raise InputError(
            "route=vgg needs weights=FILE (.pth, .safetensors or .npz), or ENCODER,DECODER; "
            "train a decoder with configs/foveation/train_decoder.py if you have none."
        )
    paths = tuple(pathlib.Path(name) for name in names)
    changed = tuple(path.is_file() and path.stat().st_mtime_ns for path in paths)
    return _load(paths, changed, jax.sharding.get_abstract_mesh())


@functools.lru_cache(maxsize=2)
def _load(paths: tuple[pathlib.Path, ...], _changed: tuple, _mesh) -> tuple[Network, Network]:
    """Both networks, read again only if a file has changed; no tracers, even in a trace.

    Arrays made inside a `shard_map` are of its mesh, and of no use in another's.
    """
    with jax.ensure_compile_time_eval():
        return load_encoder(paths), load_decoder(paths)
