"""Rate-distortion matching: the blur that removes as much as a texture does (arXiv 2006.07991).

Uniform-Blur: one sigma with mean SSIM(Reference, blurred) = mean SSIM(Reference, texture).
Foveation-Blur: one sigma a ring, matched on the SSIM map weighed by each ring. With f(v) the
measure
by ring of blurs of log sigma v, and t the texture's, f(v) = t is solved for all rings at once:

    v <- v + (t - f(v)) / slope,    slope = (f(v + h) - f(v)) / h    (every ring moved alike)

A ring's measure depends on its own sigma and a little on its neighbours', all with one sign, so
slope is the row sum of the Jacobian J and diag(slope)^-1 J is a stochastic matrix: steps shrink the
gap without overshoot. For one sigma it is the secant method. No derivative of the measure is asked
for, so any metric will do.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from foveation_jax import geometry, metrics
from foveation_jax.errors import InputError
from foveation_jax.levels import colours
from foveation_jax.transforms import matched
from foveation_jax.transforms.foveated_blur import blend_blurs, ring_centres
from foveation_jax.transforms.matched import Match
from foveation_jax.transforms.noise import check_key
from foveation_jax.transforms.uniform_blur import blur
from foveation_jax.windows import pooling_windows

SYSTEMS = ("uniform_blur", "foveation_blur")
SIGMA_BOUNDS = (0.1, 64.0)  # pixels
FINE = 0.002  # gap that nobody would see, in SSIM
STEP, LARGEST_STEP, ITERATIONS = 0.1, 0.7, 30
SMALLEST_RING_DEG2 = 4.0  # outer rings of which the image holds less keep their neighbour's sigma
RESAMPLES = 2000
SHIPPED_AT = (256, 256)  # pixels at which the records in assets/ were matched
MAPS = {"ssim": metrics.ssim_map, "mse": lambda a, b: (a - b) ** 2}


def match(
    reference: Shaped[Array | np.ndarray, "N Y X C"],
    target: Shaped[Array | np.ndarray, "..."],
    key,
    *,
    system: str = "uniform_blur",
    metric: str = "ssim",
    scale: float = 0.4,
    fixation: tuple | None = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
    tolerance: float = FINE,
    start: Match | None = None,
    description: str = "",
) -> Match:
    """Find the blur of `reference` that is as far from it as `target` is.

    Args:
        reference: images, colours in [0, 1] or uint8 levels.
        target: the same images as another system shows them.
        key: resamples images for the bootstrap interval.
        system: "uniform_blur" (one sigma) or "foveation_blur" (one a ring).
        metric: any of `metrics.METRICS`; "ssim" or "mse" by ring.
        scale: s of the rings.
        fixation: (y, x) in pixels, the centre by default.
        field_of_view: degrees that the width subtends.
        tolerance: largest gap between the means, in units of the metric.
        start: sigmas to start from, such as those of fewer images; 1 pixel by default.
        description: what the target is, for the record.

    Returns:
        Sigmas in degrees, the measures, and a 95 % interval of their difference.

    Raises:
        InputError: an unknown name, shapes that differ, or no sigma within .1 and 64 px that comes
            within `tolerance` of the target (it says how near it comes).

    Property: matching a target that is itself such a blur finds its sigmas.
    """
    check_key(key)
    reference, target = colours("match: reference", reference), colours("match: target", target)
    _check(reference, target, system, metric, start)
    size = reference.shape[1:3]
    windows = pooling_windows(scale, size, fixation, published=False, field_of_view=field_of_view)
    if system == "uniform_blur":
        degrade, measure = blur_by_one, functools.partial(_whole, metrics.METRICS[metric])
        rings, eccentricity = jnp.ones((1, *size)), np.zeros(1)
    else:
        degrade, measure = blend_blurs, functools.partial(by_ring, MAPS[metric])
        rings, eccentricity = matched_rings(windows)
    per_degree = geometry.pixels_per_degree(size, field_of_view)
    log_start = jnp.zeros(len(rings))
    if start is not None:
        log_start = jnp.log(jnp.asarray(start.sigma_deg) * per_degree)
    settled = min(tolerance, FINE) / 20
    wanted, values, log_sigma = _solve(
        reference, target, rings, log_start, settled, degrade, measure
    )
    wanted, values = np.asarray(wanted), np.asarray(values)
    sigma = np.exp(np.asarray(log_sigma))
    gap = values.mean(0) - wanted.mean(0)
    _refuse(metric, wanted.mean(0), values.mean(0), sigma, tolerance)
    draws = np.asarray(jax.random.randint(key, (RESAMPLES, len(values)), 0, len(values)))
    means = (values - wanted)[draws].mean(1)
    interval = np.quantile(means, [0.025, 0.975], 0).T
    return Match(
        system, metric, description, float(scale), len(values),
        *(tuple(map(float, np.round(v, 6))) for v in (
            eccentricity, sigma / per_degree, wanted.mean(0), wanted.mean(0) + gap)),
        tuple(tuple(map(float, np.round(pair, 6))) for pair in interval),
    )  # fmt: skip


def shipped_or_matched(
    system: str,
    settings: Mapping[str, Any],
    size: tuple[int, int],
    key: PRNGKeyArray,
    path: pathlib.Path,
    pictures: Callable[[], Iterable[Float[Array | np.ndarray, "N Y X C"]]],
    tolerance: float = FINE,
) -> Match:
    """The record of a blur: the shipped one where it fits, else matched once and kept at `path`.

    Args:
        system: "uniform_blur" or "foveation_blur".
        settings: of the texture, `route`, `scale`, `fixation` and `field_of_view`.
        size: (Y, X) of the pictures. The shipped records fit the pyramid route at their scale and
            size: SSIM looks at windows of a few pixels, so sigmas in degrees depend on the size.
        key: of the bootstrap.
        path: of the JSON record.
        pictures: reads the images as Reference and as Foveation-Texture show them.
        tolerance: largest gap that is taken, as of `match`.
    """
    shipped = matched.shipped(system)
    if settings["route"] == "pyramid" and settings["scale"] == shipped.scale and size == SHIPPED_AT:
        return shipped
    if not path.exists():
        reference, texture = map(jnp.asarray, pictures())
        print(f"matching {system} to the texture on {len(reference)} pictures", file=sys.stderr)
        view = {k: settings.get(k) for k in ("scale", "fixation", "field_of_view")}
        description = f"foveation_texture, route {settings['route']}, scale {settings['scale']}"
        found = match(
            reference, texture, key,
            system=system, tolerance=tolerance, description=description, **view,
        )  # fmt: skip
        matched.save(found, path)
    return matched.load(path)


def blur_by_one(image, sigmas: Float[Array, "1"], weights):
    """One image blurred by the only sigma."""
    return blur(image, sigmas[0])


def _whole(metric: Callable, a, b, rings) -> Float[Array, "1"]:
    """A metric of one pair of images, as a list of one."""
    return metric(a[None], b[None])


def by_ring(metric_map: Callable, a, b, rings) -> Float[Array, "E"]:
    """Mean of a metric's map over each ring, for one pair of images."""
    values = metric_map(a[None], b[None])[0].mean(-1)
    return (rings * values[None]).sum((1, 2)) / rings.sum((1, 2))


@functools.partial(jax.jit, static_argnames=("degrade", "measure"))
def _solve(reference, target, rings, log_start, settled, degrade, measure):
    """Measures of the target [N, E], of the matched blur [N, E], and log sigma [E]."""

    def values(log_sigma):
        sigmas = jnp.exp(log_sigma)
        return jax.lax.map(lambda a: measure(a, degrade(a, sigmas, rings), rings), reference)

    wanted = jax.lax.map(lambda pair: measure(*pair, rings), (reference, target))
    goal = wanted.mean(0)
    low, high = jnp.log(jnp.asarray(SIGMA_BOUNDS))

    def unsettled(state):
        _, here, count = state
        return (jnp.abs(goal - here.mean(0)).max() > settled) & (count < ITERATIONS)

    def step(state):
        log_sigma, here, count = state
        slope = (values(log_sigma + STEP).mean(0) - here.mean(0)) / STEP
        slope = jnp.where(jnp.abs(slope) < 1e-6, 1e-6, slope)
        move = jnp.clip((goal - here.mean(0)) / slope, -LARGEST_STEP, LARGEST_STEP)
        log_sigma = jnp.clip(log_sigma + move, low, high)
        return log_sigma, values(log_sigma), count + 1

    state = log_start, values(log_start), 0
    log_sigma, here, _ = jax.lax.while_loop(unsettled, step, state)
    return wanted, here, log_sigma


def matched_rings(windows):
    """Ring factors [E, Y, X] and centres, degrees, of the rings that the image holds enough of."""
    rings, _ = windows.pixel_factors()
    area = np.asarray(rings.sum((1, 2))) / windows.pixels_per_degree**2
    held = area >= SMALLEST_RING_DEG2
    return rings[held], np.asarray(ring_centres(windows))[held]


def _refuse(metric, wanted, values, sigma, tolerance):
    worst = int(np.argmax(np.abs(values - wanted)))
    if not abs(values[worst] - wanted[worst]) <= tolerance:
        raise InputError(
            f"match: no sigma within {SIGMA_BOUNDS[0]} and {SIGMA_BOUNDS[1]} px reaches {metric} "
            f"{wanted[worst]:.4f} in ring {worst}: {values[worst]:.4f} at {sigma[worst]:.2f} px is "
            f"the nearest, and tolerance is {tolerance}."
        )


def _check(reference, target, system, metric, start):
    if reference.ndim != 4 or reference.shape != target.shape or not len(reference):
        raise InputError(
            f"match: reference has shape {reference.shape} and target {target.shape}: both must be "
            f"[N, Y, X, C]."
        )
    if system not in SYSTEMS:
        raise InputError(f"match: system is {system!r}: it must be {' or '.join(SYSTEMS)}.")
    known = MAPS if system == "foveation_blur" else metrics.METRICS
    if metric not in known:
        raise InputError(f"match: metric is {metric!r}: {system} takes {', '.join(known)}.")
    if start is not None and start.system != system:
        raise InputError(f"match: start is of {start.system}, {system} is needed.")
