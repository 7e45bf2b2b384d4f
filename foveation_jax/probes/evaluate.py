"""Any probe on any trained system: held-out images -> stimuli -> answers of all runs -> curves.

Stimuli are made on the device batch by batch and go from there straight into the networks: one
compiled program a probe makes those of every level, and no more than three batches exist at once.
All images are 8-bit levels, as what stage 1 lets through is, and stimuli are rounded to them.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from foveation_jax.probes import cue_conflict, frequency, occlusion
from foveation_jax.probes.curves import Curve
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.progress import progress
from foveation_jax.training.prediction import delay
from foveation_jax.windows.pooling_windows import PoolingWindows

# levels [B, Y, X, 3] on the device -> logits [V, B, L] of all runs; B is the same in every call
Predict = Callable[[UInt8[Array, "B Y X 3"]], Float[Array, "V B L"]]


@dataclass(frozen=True)
class Probe:
    """One probe: its levels and what it shows at each.

    Attributes:
        levels: windows of the image -> [P] what `stimulus` takes as level.
        axis: windows of the image, None for `steps` -> [P] the x-axis of its curves (curves.py).
        stimulus: (images, level, decoys=, mean=, windows=) -> stimuli, all in [0, 1]; pure, the
            level traced.
        title: of its figure.
        label: of the x-axis, with its unit.
        scale: what the x-axis is: a `fraction`, shown in percent; a `value`, shown as it is; or
            `steps`, of which every one counts the same, however far apart; where it is 0 or inf
            the image is whole.
        caption: what is written below a sample, a format of the x-axis's value.
        decoys: kind of decoy (cue_conflict.py); "" for probes that show one image at a time.
    """

    levels: Callable[[PoolingWindows], np.ndarray]
    axis: Callable[..., np.ndarray]
    stimulus: Callable[..., Float[Array, "N Y X 3"]]
    title: str
    label: str
    scale: Literal["fraction", "value", "steps"] = "fraction"
    caption: str = "{:g}"
    decoys: str = ""


_HIDDEN = "area hidden, % of the image"
_CENTRE = "area that the centre takes, % of the image"
_SIGMA = "sigma of the Gaussian, px"


def _occlusion(kind: str, title: str) -> Probe:
    return Probe(
        lambda windows: np.array(occlusion.LEVELS),
        lambda windows: occlusion.hidden_areas(kind, windows.size),
        lambda images, level, **_: occlusion.occlude(images, kind, level),
        title,
        _HIDDEN,
        caption="{:.0%} hidden",
    )


def _low_pass(finish: Callable, title: str) -> Probe:
    return Probe(
        lambda windows: frequency.low_pass_sigmas(windows.size[1]),
        lambda windows: np.array(frequency.LOW_PASS),
        lambda images, level, **_: finish(frequency.low_pass(images, level)),
        title,
        f"{_SIGMA} at 256 px",
        "steps",
        "sigma {:g} px at 256 px",
    )


def _high_pass(finish: Callable, title: str) -> Probe:
    return Probe(
        lambda windows: np.array(frequency.HIGH_PASS),
        lambda windows: np.array(frequency.HIGH_PASS),
        lambda images, level, mean, **_: finish(frequency.high_pass(images, level, mean)),
        title,
        _SIGMA,
        "steps",
        "sigma {:g} px",
    )


PROBES: dict[str, Probe] = {
    "occlusion/scotoma": _occlusion("scotoma", "Scotoma: a square hides the centre"),
    "occlusion/glaucoma": _occlusion("glaucoma", "Glaucoma: only a square at the centre stays"),
    "occlusion/left_to_right": _occlusion("left_to_right", "Hidden from the left"),
    "occlusion/top_to_bottom": _occlusion("top_to_bottom", "Hidden from the top"),
    "window_conflict": Probe(
        lambda windows: np.array(cue_conflict.window_levels(windows)),
        cue_conflict.centre_areas,
        lambda images, level, decoys, windows, **_: cue_conflict.window_conflict(
            images, decoys, level, windows
        ),
        "Window cue-conflict: soft borders along the rings of pooling windows",
        _CENTRE,
        caption="{:.0%} decoy",
        decoys="window",
    ),
    "square_conflict": Probe(
        lambda windows: np.array(occlusion.LEVELS),
        lambda windows: cue_conflict.square_areas(windows.size),
        lambda images, level, decoys, **_: cue_conflict.square_conflict(images, decoys, level),
        "Square cue-conflict: hard borders",
        _CENTRE,
        caption="{:.0%} decoy",
        decoys="square",
    ),
    "frequency/low_pass_colour": _low_pass(lambda images: images, "Low-pass, colour"),
    "frequency/low_pass_grey": _low_pass(frequency.grey, "Low-pass, grey"),
    "frequency/high_pass_colour": _high_pass(lambda images: images, "High-pass, colour"),
    "frequency/high_pass_grey": _high_pass(frequency.grey, "High-pass, grey"),
}


def probe_of(curve: str) -> Probe | None:
    """The probe that a curve (such as "window_conflict/centre") is of; None for an unknown one."""
    return PROBES.get(curve) or PROBES.get(curve.rpartition("/")[0])


@functools.partial(jax.jit, static_argnames="probe")
def show(
    probe: str,
    images: UInt8[Array, "N Y X 3"],
    level: Int[Array, ""] | Float[Array, ""],
    decoys: UInt8[Array, "N Y X 3"],
    mean: Float[Array, "3"],
    windows: PoolingWindows,
) -> UInt8[Array, "N Y X 3"]:
    """Stimuli of a probe as 8-bit levels; one program serves all levels.

    Args:
        probe: of `PROBES`.
        images: levels.
        level: of `PROBES[probe].levels(windows)`.
        decoys: levels; looked at by the cue-conflict probes only.
        mean: colour in [0, 1] that high-pass stimuli have on average.
        windows: pooling windows of the images' size.
    """
    pixels, others = (levels / jnp.float32(255) for levels in (images, decoys))
    shown = PROBES[probe].stimulus(pixels, level, decoys=others, mean=mean, windows=windows)
    return jnp.round(jnp.clip(shown, 0, 1) * 255).astype(jnp.uint8)


def evaluate(
    predict: Predict,
    system: str,
    images: UInt8[np.ndarray, "N Y X 3"],
    labels: Int[np.ndarray, " N"],
    *,
    probes: tuple[str, ...] = tuple(PROBES),
    n_images: int = 0,
    every: int = 1,
    mean: Float[np.ndarray, "3"] | None = None,
    windows: PoolingWindows | None = None,
    batch_size: int = 64,
) -> list[Curve]:
    """Curves of all runs of a system.

    Args:
        predict: levels on the device -> logits of all runs. Best compiled, with the weights among
            its arguments: `functools.partial(jax.jit(run_logits, static_argnums=0), network,
            variables)`.
        system: that the runs were trained on.
        images: held-out images as that system sees them.
        labels: their classes, 0 to L - 1.
        probes: of `PROBES`.
        n_images: the first so many of each class are shown; 0 for all.
        every: every so-many-th level is shown, and the last.
        mean: colour in [0, 1] for high-pass stimuli, published: `mean_colour` of the system's
            validation images; that of `images` by default.
        windows: pooling windows of the images' size; the published ones of s = .4 by default.
        batch_size: images that are predicted together.

    Returns:
        A curve a probe, in the order given; two of a cue-conflict, /centre and /periphery.

    Raises:
        InputError: an unknown probe, numbers out of range, or images, labels and windows that do
            not go together.

    Property: a run's accuracy at the first level is that on `images`.
    """
    check_labelled(system, images, labels)
    if images.dtype != np.uint8:
        raise InputError(f"{system}: images are {images.dtype}: evaluate takes uint8 levels.")
    _check(probes, every, n_images)
    rows = first_of_each_class(labels, n_images) if n_images else np.arange(len(labels))
    images, labels = images[rows], labels[rows]
    size = images.shape[1:3]
    windows = cue_conflict.default_windows(size) if windows is None else windows
    if windows.size != size:
        raise InputError(f"windows are of size {windows.size}, the images of {size}.")
    if mean is not None:
        frequency.check_mean(mean)
    mean = jnp.asarray(mean_colour(images) if mean is None else mean, jnp.float32)
    places = {name: thin(len(PROBES[name].levels(windows)), every) for name in probes}
    curves = []
    with progress(f"probing {system}", len(images) * sum(map(len, places.values()))) as advance:
        for name, place in places.items():
            kind = PROBES[name].decoys
            decoys = cue_conflict.decoy_indices(labels, kind) if kind else np.arange(len(labels))
            levels = PROBES[name].levels(windows)[place]
            stimuli = functools.partial(_stimuli, name, levels, images, decoys, mean, windows)
            named = answers(predict, stimuli, len(images), batch_size, advance)
            targets = {"/centre": labels[decoys], "/periphery": labels} if kind else {"": labels}
            axis = PROBES[name].axis(windows)[place].astype(np.float64)
            for side, target in targets.items():
                curves.append(Curve(name + side, system, axis, (named == target).mean(-1)))
    return curves


def _stimuli(
    name, levels, images, decoys, mean, windows, rows
) -> Iterator[UInt8[Array, "B Y X 3"]]:
    """What a probe shows of the images of those numbers, level by level."""
    shown, others = jnp.asarray(images[rows]), jnp.asarray(images[decoys[rows]])
    return (show(name, shown, level, others, mean, windows) for level in levels)


def answers(
    predict: Predict,
    stimuli: Callable[[Int[np.ndarray, " B"]], Iterator[UInt8[Array, "B Y X 3"]]],
    n_images: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Int[np.ndarray, "V P N"]:
    """The class that every run names for every stimulus of every image.

    Args:
        predict: levels on the device -> logits of all runs.
        stimuli: images (as their numbers) -> P batches of stimuli, one a level.
        n_images: N.
        batch_size: images a batch.
        advance: told how many more stimuli have been answered.

    Raises:
        InputError: logits that are not finite, of a network that has diverged.
    """
    batches = batch_rows(n_images, batch_size)
    under_way = (
        (*_named(predict(shown)), len(np.unique(rows)))
        for rows in batches
        for shown in stimuli(rows)
    )
    named = []
    for answer, finite, count in delay(under_way):
        if not np.asarray(finite).all():
            run = int(np.argmin(np.asarray(finite)))
            raise InputError(
                f"run {run} answers with logits that are not finite: no class can be named by them."
            )
        named.append(np.asarray(answer))  # [V, B]
        advance(count)
    by_batch = np.stack(named).reshape(len(batches), -1, *named[0].shape)
    return np.concatenate(list(by_batch), -1)[..., :n_images].swapaxes(0, 1)


@jax.jit
def _named(logits: Float[Array, "V B L"]) -> tuple[Int[Array, "V B"], Bool[Array, " V"]]:
    """The class of the largest logit, and which runs have finite logits only."""
    return jnp.argmax(logits, -1), jnp.isfinite(logits).all((1, 2))


def batch_rows(n_images: int, batch_size: int) -> list[Int[np.ndarray, " B"]]:
    """Numbers of the images of each batch, at most `batch_size`.

    All batches are of one length, as even as can be (200 images make 4 of 50, not of 64): the last
    image fills up the last.
    """
    n_batches = -(-n_images // batch_size)
    rows = np.arange(-(-n_images // n_batches) * n_batches).reshape(n_batches, -1)
    return list(np.minimum(rows, n_images - 1))


def thin(n_levels: int, every: int) -> list[int]:
    """Places of every `every`-th of `n_levels` levels, and of the last one."""
    return sorted({*range(0, n_levels, every), n_levels - 1})


def first_of_each_class(labels: Int[np.ndarray, " N"], n: int) -> Int[np.ndarray, " M"]:
    """Where the first `n` images of every class are, in their order; all of a smaller class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c in np.unique(labels)]))


def mean_colour(images: UInt8[np.ndarray, "N Y X 3"]) -> Float[np.ndarray, "3"]:
    """Mean over all pixels of all images, in [0, 1]."""
    return images.reshape(-1, 3).mean(0) / 255


def check_labelled(what: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError unless each of the images, one or more, has a label."""
    if len(images) != len(labels) or not len(images):
        raise InputError(f"{what} has {len(images)} images and {len(labels)} labels: one for each.")


def _check(probes, every, n_images):
    check_allowed("probes", tuple(probes), PROBES)
    check_allowed("every", every, Range(1))
    check_allowed("n_images", n_images, Range(0))
