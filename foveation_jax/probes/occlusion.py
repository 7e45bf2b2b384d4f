"""Occlusion probes: parts of the image replaced by grey, in 17 levels (arXiv 2006.07991).

Level z = 1..17 hides about f = (z - 1) / 16 of the area, none at 1 and all at 17. On 256 x 256:

    scotoma        a square in the middle, half side ceil(128 sqrt(f))
    glaucoma       all but such a square, half side ceil(128 sqrt(1 - f))
    left_to_right  the first 256 f columns
    top_to_bottom  the first 256 f rows

At other sizes the rectangles keep their proportions and take the pixels whose centres they hold.
`hidden_areas` says which fraction a level hides in truth.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from foveation_jax.metrics.levels import Images
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.transforms import check_images

KINDS = ("scotoma", "glaucoma", "left_to_right", "top_to_bottom")
LEVELS = tuple(range(1, 18))
GREY = 128 / 255
PUBLISHED_SIDE = 256
FRACTIONS = (np.array(LEVELS) - 1) / 16

Level = int | np.integer | Int[Array, ""]


def occlude(images: Images, kind: str, level: Level) -> Float[Array, "N Y X 3"]:
    """Images with a part hidden by grey (128 of 255).

    Args:
        images: colours in [0, 1], or uint8 levels.
        kind: scotoma, glaucoma, left_to_right or top_to_bottom.
        level: 1 (nothing hidden) to 17 (everything); may be traced, so one program serves all.

    Raises:
        InputError: images, a kind or a level that cannot be.

    Property: level 1 gives the images, 17 grey; what one level hides, the next hides as well.
    """
    images = check_images(images)
    hidden = hidden_mask(kind, images.shape[1:3], level)
    return jnp.where(hidden[None, :, :, None], jnp.asarray(GREY, images.dtype), images)


def hidden_mask(kind: str, size: tuple[int, int], level: Level) -> Bool[Array, "Y X"]:
    """Where `occlude` hides an image of `size` = (Y, X).

    Raises:
        InputError: an unknown kind, or a level outside 1 to 17.
    """
    check_allowed("occlusion kind", kind, KINDS)
    check_level("occlusion", level, LEVELS[0], LEVELS[-1])
    if kind == "scotoma":
        return _rectangle(size, FRACTIONS, level)
    if kind == "glaucoma":
        return ~_rectangle(size, 1 - FRACTIONS, level)
    if kind == "left_to_right":
        return jnp.broadcast_to(_first(size[1], level)[None], size)
    return jnp.broadcast_to(_first(size[0], level)[:, None], size)


def hidden_areas(kind: str, size: tuple[int, int]) -> Float[np.ndarray, " P"]:
    """Fraction of the pixels of an image of `size` that each of the 17 levels hides."""
    masks = jax.vmap(lambda level: hidden_mask(kind, size, level))(jnp.array(LEVELS))
    return np.asarray(masks).mean((1, 2))


def check_level(probe: str, level, lowest: int, highest: int) -> None:
    """Raises InputError unless `level` is an integer within bounds; a traced one passes."""
    if not isinstance(level, jax.core.Tracer):
        check_allowed(f"{probe} level", level, Range(lowest, highest, whole=True))


def _first(n: int, level) -> Bool[Array, " n"]:
    """The first rows or columns of n."""
    return jnp.arange(n) + 0.5 < (level - 1) * n / 16


def _rectangle(size, fractions, level) -> Bool[Array, "Y X"]:
    """The rectangle in the middle that takes about fractions[level - 1] of the area.

    Half sides come from a table made in double precision on the host: they must be exact.
    """
    half_sides = np.ceil(np.sqrt(fractions) * PUBLISHED_SIDE / 2) / PUBLISHED_SIDE  # of a side of 1
    inside = [
        jnp.abs(jnp.arange(n) - (n - 1) / 2) < jnp.asarray(half_sides * n, jnp.float32)[level - 1]
        for n in size
    ]
    return inside[0][:, None] & inside[1][None]
