"""What a stage-1 system lets through, beforehand to disk or on the fly within a training step.

The four systems of arXiv 2006.07991 are fixed transforms: their outputs are made once, 8 bits a
level, and every run trains on the same ones. With eye movements, a fixation an image and a step,
outputs cannot be made beforehand; `perceive_batch` is the same transform as a pure function of the
batch that the step calls on the device. Images are [N, Y, X, 3] uint8, fixations (y, x) in pixels.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray, Shaped, UInt8

from foveation_jax.data.arrays import find_array, write_array
from foveation_jax.data.fingerprint import fingerprint
from foveation_jax.data.labelled import LabelledImages
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.devices import fetched
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_image
from foveation_jax.runs.progress import progress
from foveation_jax.stage1.export import image_digests, on_all_devices, picture_key, whole_batches
from foveation_jax.transforms import SYSTEMS, transform
from foveation_jax.windows import geometry

# (images [B, Y, X, 3], key) -> what stage 1 lets through, of that shape; what `on_the_fly` makes.
# Also takes a fixation for each image, [B, 2].
Perceive = Callable[..., Shaped[Array, "B Y X 3"]]
BATCH = 32  # images that share one field of noise
EYE_MOVEMENTS = ("fixed", "uniform", "gaussian")


def perceive(
    labelled: LabelledImages,
    system: str,
    key: PRNGKeyArray,
    path: pathlib.Path,
    options: Mapping[str, Hashable] | None = None,
) -> LabelledImages:
    """All images as `system` sees them, written to `path`; found there by the next call.

    The noise of an image is its own, by its levels: it depends neither on the images beside it nor
    on the number of devices or on stops. A run that was killed goes on with the batch it was at.

    Args:
        labelled: the images, each seen from the first of its fixations where it has its own.
        system: name of a registered system.
        key: of the noise.
        path: of the .npy file.
        options: of the system.

    Returns:
        The same labels with the images that the system lets through, a memory map; they have been
        looked at, and have no fixations.

    Raises:
        InputError: an unknown system or option, a `path` that holds images of another making, or
            an image that comes out of the system with values that are not finite.
    """
    options = dict(options or {})
    made_of = {
        "system": system,
        "options": repr(sorted(options.items())),
        "key": jax.random.key_data(key).tolist(),
        "images": labelled.fingerprint or _hash(labelled),
        "noise": "of each image",
    }
    if options.get("weights"):
        files = map(pathlib.Path, filter(None, str(options["weights"]).split(",")))
        made_of["weights"] = fingerprint(files)["content"]
    if found := find_array(path, made_of):
        _, images = found
    else:
        images = _write(labelled, system, key, path, options, made_of)
    known_by = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    return dataclasses.replace(labelled, images=images, fingerprint=known_by, fixations=None)


def perceive_batch(
    system: str,
    options: Mapping[str, Hashable],
    images: UInt8[Array | np.ndarray, "B Y X 3"],
    key: PRNGKeyArray,
    fixations: Float[Array, "B 2"] | None = None,
) -> UInt8[Array, "B Y X 3"]:
    """One batch as `system` sees it; pure, for use under jit.

    Args:
        system: name of a registered system.
        options: of the system.
        images: levels.
        key: of the noise, one field for the batch.
        fixations: one an image, on the image; by default that of `options`.

    Property: equal fixations give what the option `fixation` gives, to a level.
    """
    return _levels(system, options, images, key, fixations).astype(jnp.uint8)


def _levels(system, options, images, key, fixations=None) -> Float[Array, "B Y X 3"]:
    """`perceive_batch` before its cast: whole numbers, or NaN where a system gives no number."""
    values = jnp.asarray(images).astype(jnp.float32) / 255
    if fixations is None:
        seen = transform(system, values, key, **options)
    else:

        def one(image, fixation):
            return transform(system, image[None], key, **{**options, "fixation": fixation})[0]

        seen = each_image(one, values, fixations)
    return jnp.round(jnp.where(jnp.isfinite(seen), jnp.clip(seen, 0, 1), jnp.nan) * 255)


def draw_fixations(
    key: PRNGKeyArray,
    count: int,
    size: tuple[int, int],
    deviation: int | float | None = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
) -> Float[Array, "B 2"]:
    """Fixations on the image: uniform, or Gaussian about its centre and moved to the edge if off.

    Args:
        key: draws them.
        count: B.
        size: (Y, X) of the image.
        deviation: degrees, of each coordinate of a Gaussian; None for uniform.
        field_of_view: degrees that the width subtends.
    """
    last = jnp.asarray(size, jnp.float32)[None] - 1
    if deviation is None:
        return jax.random.uniform(key, (2 * count,)).reshape(count, 2) * last
    spread = deviation * geometry.pixels_per_degree(size, field_of_view)
    offsets = jax.random.normal(key, (2 * count,)).reshape(count, 2) * spread
    return jnp.clip(last / 2 + offsets, 0, last)


def on_the_fly(
    system: str,
    options: Mapping[str, Hashable] | None = None,
    eye_movements: str = "fixed",
    deviation: int | float = 2.0,
) -> Perceive:
    """Stage 1 for the training step of one run: (images, key) -> what it lets through.

    That is in levels, as whole numbers of type float32, so that what is not finite stays so and
    stops the training. Where images have their own fixations, (images, key, fixations [B, 2]).

    Args:
        system: name of a registered system.
        options: of the system.
        eye_movements: "fixed", the fixation of `options`; "uniform" or "gaussian", one drawn for
            each image and call. A system without fixation sees the same under all three.
        deviation: of the Gaussian, degrees.

    Raises:
        InputError: another kind of eye movements, a deviation that is not positive, or a fixation
            in `options` beside eye movements.
    """
    options = dict(options or {})
    check_allowed("eye_movements", eye_movements, EYE_MOVEMENTS)
    check_allowed("deviation, in degrees,", deviation, Range(0, open=(0,)))
    moving = eye_movements != "fixed"
    if moving and options.pop("fixation", None) is not None:
        raise InputError(f"fixation is set: with eye_movements={eye_movements!r} it is drawn.")
    looking = _has_fixation(system)
    spread = deviation if eye_movements == "gaussian" else None
    view: Any = options.get("field_of_view", geometry.FIELD_OF_VIEW)

    def see(images, key, fixations=None):
        noise_key, eye_key = jax.random.split(key)
        if moving:
            fixations = draw_fixations(eye_key, len(images), images.shape[1:3], spread, view)
        return _levels(system, options, images, noise_key, fixations if looking else None)

    return see


def _has_fixation(system: str) -> bool:
    if system not in SYSTEMS:
        return False  # `transform` says so
    return "fixation" in inspect.signature(SYSTEMS[system]).parameters


def _hash(labelled: LabelledImages) -> str:
    """Hash of the pixels and fixations: arrays made by hand have no record."""
    digest = hashlib.sha256(np.ascontiguousarray(labelled.images))
    digest.update(labelled.fixations.fingerprint().encode() if labelled.fixations else b"")
    return digest.hexdigest()


def _write(labelled, system, key, path, options, made_of) -> UInt8[np.ndarray, "N Y X 3"]:
    """Makes the images of `perceive` batch by batch over all devices, with progress."""
    see = _compiled(system, tuple(sorted(options.items())))
    own = labelled.fixations if _has_fixation(system) else None
    places = None if own is None else own.first()

    def known(number, batch):
        keys = own_keys(key, batch)
        if places is None:
            return (keys,)
        here = places[number * BATCH : (number + 1) * BATCH]
        return keys, np.resize(here, (len(batch), 2))

    first = _batch(labelled, 0)
    jax.eval_shape(see, first, known(0, first))  # bad options stop before any output

    def make(numbers: range) -> Iterator[np.ndarray]:
        for number in numbers:
            length = min(BATCH, len(labelled.images) - number * BATCH)
            batch = _batch(labelled, number)
            seen = see(batch, known(number, batch))
            levels, finite = (part[:length] for part in fetched(seen))
            if not finite.all():
                image = number * BATCH + int(np.argmin(finite))
                raise InputError(
                    f"{system}: image {image} of {path.stem} comes out with values that are not "
                    "finite numbers."
                )
            yield levels

    with progress(f"{system}, {path.stem}", len(labelled.images)) as advance:
        record = {"made_of": made_of}
        return write_array(path, record, labelled.images.shape, BATCH, make, advance)


@functools.lru_cache(maxsize=16)
def _compiled(system: str, options: tuple[tuple[str, Hashable], ...]):
    """`perceived_each` of (images, (keys,) or (keys, fixations)), compiled once for all splits."""

    def see(images, known):
        return perceived_each(system, dict(options), images, *known)

    return on_all_devices(see, shared=False)


def perceived_each(
    system: str,
    options: Mapping,
    images: UInt8[Array, "N Y X 3"],
    keys: Key[Array, " N"],
    fixations: Float[Array, "N 2"] | None = None,
) -> tuple[UInt8[Array, "N Y X 3"], Bool[Array, " N"]]:
    """Levels of every image with the noise of its own key, and whether each image is finite.

    `fixations`: where each image is looked at, where it has its own place.
    """
    own = () if fixations is None else (fixations,)

    def one(image, key, *fixation):
        at = fixation[0][None] if fixation else None
        levels = _levels(system, options, image[None], key, at)[0]
        return levels.astype(jnp.uint8), jnp.isfinite(levels).all()

    return each_image(one, images, keys, *own)


def own_keys(key: Key[Array, ""], images: UInt8[np.ndarray, "N Y X 3"]) -> Key[Array, " N"]:
    """The key of each image's noise: equal for equal images, wherever they stand."""
    return jax.vmap(picture_key, (None, 0))(key, image_digests(images))


def _batch(labelled: LabelledImages, number: int) -> UInt8[np.ndarray, "B Y X 3"]:
    """Batch `number`, filled up with black to a whole number of images a device."""
    images = labelled.images[number * BATCH : (number + 1) * BATCH]
    filling = whole_batches(BATCH) - len(images)
    return np.concatenate([images, np.zeros((filling, *images.shape[1:]), np.uint8)])
