"""The registry of stage-1 systems: pure functions (images, key, options) -> images.

A system sees a batch [N, Y, X, 3] of colours in [0, 1] and gives one of the same shape; grey ones
[N, Y, X, 1] and fixations of each image are turned into that here. The four of
arXiv 2006.07991 and the controls are registered here; `register` adds one of your own, which the
commands then know by name.

Stage 1 is float32 to the last product on every device, as are the metrics and the matching
(`runs/precision.py`).
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from foveation_jax.metrics.levels import colours
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms.controls import contrast_sensitivity_blur, cortical_magnification, raw
from foveation_jax.transforms.foveated_blur import foveation_blur
from foveation_jax.transforms.foveation_texture import foveation_texture
from foveation_jax.transforms.reference import reference
from foveation_jax.transforms.soften import soften
from foveation_jax.transforms.uniform_blur import uniform_blur

System = Callable[..., Float[Array, "N Y X C"]]

SYSTEMS: dict[str, System] = {
    "reference": reference,
    "foveation_texture": foveation_texture,
    "uniform_blur": uniform_blur,
    "foveation_blur": foveation_blur,
    "raw": raw,
    "cortical_magnification": cortical_magnification,
    "contrast_sensitivity_blur": contrast_sensitivity_blur,
    "scrambled_texture": functools.partial(foveation_texture, scramble=True),
}


def register(name: str, system: System) -> None:
    """Add a system under a new name.

    Args:
        name: what `transform` and the commands call it.
        system: `(images [N Y X C] in [0, 1], key, **options) -> images`, pure.

    Raises:
        InputError: a name that is taken.
    """
    if name in SYSTEMS:
        raise InputError(f"register: the name {name!r} is taken.")
    SYSTEMS[name] = system


def transform(
    name: str, images: Shaped[Array | np.ndarray, "..."], key, **options
) -> Float[Array, "N Y X C"]:
    """Show images to a system.

    Args:
        name: of a registered system.
        images: [N, Y, X, 3], or [N, Y, X, 1] for grey ones, which stay grey; colours in [0, 1] of
            any floating-point type, or uint8 levels.
        key: for the systems that draw noise.
        **options: of that system; see its docstring. `fixation` may be one place (y, x) for all
            images, or [N, 2], a place on the image for each. Every system takes `soft`: how far its
            images first lose what the published Reference does, 0 for not, 1 for as far
            (transforms/soften.py).

    Returns:
        Colours of the same shape, in float32 where `images` were of fewer bits.

    Raises:
        InputError: an unknown name or option, images of another shape, dtype or range, a value
            that is not finite, or fixations that are not one an image and on it.

    Property: pure; the same key gives the same images, and image n of a batch is the same alone.
    Systems go through a batch image by image to save memory; to spread it over devices, call this
    inside `jax.shard_map` over the leading axis.
    """
    if name not in SYSTEMS:
        raise InputError(f"system {name!r} is not registered{_nearest(name, SYSTEMS)}.")
    system, soft = SYSTEMS[name], options.pop("soft", 0.0)
    parameters = inspect.signature(system).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in known:
                raise InputError(f"{name} has no option {option!r}{_nearest(option, known)}.")
    grey = np.ndim(images) == 4 and np.shape(images)[-1] == 1
    images = check_images(jnp.repeat(jnp.asarray(images), 3, -1) if grey else images)
    images = soften(images, soft)
    fixations = _one_each(options.get("fixation"), images.shape)
    if fixations is None:
        seen = system(images, key, **options)
    else:
        same = tuple((name, value) for name, value in options.items() if name != "fixation")
        try:
            hash(same)
            at_each = _at_each
        except TypeError:  # arrays among the options: nothing to know the program by
            at_each = _at_each.__wrapped__
        seen = at_each(system, same, images, key, fixations)
    return seen.mean(-1, keepdims=True) if grey else seen


@functools.partial(jax.jit, static_argnums=(0, 1))
def _at_each(system: System, options: tuple, images, key, fixations: Float[Array, "N 2"]):
    """Every image as the system sees it from a fixation of its own."""

    def one(image, fixation):
        return system(image[None], key, **dict(options), fixation=fixation)[0]

    return each_image(one, images, fixations)


def _one_each(fixation, shape: tuple[int, ...]) -> Float[Array, "N 2"] | None:
    """Fixations of each image; None where there is one for all, which systems check themselves."""
    try:
        at = jnp.asarray(fixation, jnp.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    if at.ndim < 2:
        return None
    if at.shape != (shape[0], 2):
        raise InputError(
            f"fixation has shape {at.shape}: it must be one place (y, x) in pixels, or "
            f"{(shape[0], 2)}, one for each image."
        )
    if not isinstance(at, jax.core.Tracer):
        places = np.asarray(at)
        off = ~((places >= 0) & (places <= np.asarray(shape[1:3]) - 1)).all(1)
        if off.any():
            n = int(off.argmax())
            raise InputError(
                f"fixation {n} of {len(at)} is {tuple(places[n].tolist())}: one for each image "
                f"must lie on it, within (0, 0) and {(shape[1] - 1, shape[2] - 1)}."
            )
    return at


def options_for(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that the registered system `name` takes and that are not None.

    `soft` is an option of every system; where it is 0 there is nothing to say.
    """
    parameters = inspect.signature(SYSTEMS[name]).parameters.values()
    taken = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    found = {k: v for k, v in settings.items() if k in taken and v is not None}
    return found | ({"soft": settings["soft"]} if settings.get("soft") else {})


def check_images(images, what: str = "images") -> Float[Array, "N Y X C"]:
    """Colours on the device, of uint8 levels too; the values of a traced batch are not looked at.

    Raises:
        InputError: not [N, Y, X, 3], neither floating point nor uint8, or a value that is not
            finite or outside [0, 1].
    """
    images = colours(what, images)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise InputError(f"{what} have shape {images.shape}: they must be [N, Y, X, 3].")
    return images


def _nearest(word, known) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f": did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
