"""Rate-distortion matching: the blur that removes as much as a texture does (arXiv 2006.07991).

Uniform-Blur: one sigma with mean SSIM(Reference, blurred) = mean SSIM(Reference, texture).
Foveation-Blur: one sigma a ring, matched on the SSIM map weighed by each ring. The fovea counts to
the innermost ring and a ring of which the image holds little to its neighbour, and only pixels at
which SSIM's window lies in the image count: so zones share out all that `metrics.ssim` averages,
and a match in every zone is a match of the mean SSIM. In a smooth periphery a texture can be
farther from Reference than a blank is, and no blur goes beyond a blank: the outermost zones then
are one, as few of them as it takes, and the record says from which eccentricity on.

With f(v) the measure by zone of blurs of log sigma v, and t the texture's, f(v) = t is solved for
all zones at once:

    v <- v + (t - f(v)) / slope,    slope = (f(v + h) - f(v)) / h    (every zone moved alike)

A zone's measure depends on its own sigma and a little on its neighbours', all with one sign, so
slope is the row sum of the Jacobian J and diag(slope)^-1 J is a stochastic matrix: steps shrink the
gap without overshoot. For one sigma it is the secant method. No derivative of the measure is asked
for, so any metric will do.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, Shaped

from foveation_jax import metrics
from foveation_jax.metrics.levels import colours
from foveation_jax.runs.errors import InputError
from foveation_jax.transforms.foveated_blur import ring_centres
from foveation_jax.transforms.matched import TOLERANCE, Match
from foveation_jax.transforms.noise import check_key
from foveation_jax.transforms.zones import (
    MAPS,
    Chunk,
    View,
    by_zone,
    of_blur,
    of_target,
    whole_chunk,
)
from foveation_jax.windows import geometry

SYSTEMS = ("uniform_blur", "foveation_blur")
SMALLEST_SIGMA = 0.1  # pixels; the largest is the image's longer side, next to a blank
FINE = 0.002  # gap that nobody would see, in SSIM
STEP, LARGEST_STEP, ITERATIONS = 0.1, 0.7, 30
SMALLEST_SHARE = 0.01  # a ring with less of the pixels keeps its neighbour's sigma
RESAMPLES = 2000


class NoSigma(InputError):
    """No sigma comes near enough to the target."""


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
    tolerance: float = TOLERANCE,
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
        InputError: an unknown name, shapes that differ, or no sigma from .1 px to the longer side
            that comes within `tolerance` of the target (it says how near it comes).

    Property: matching a target that is itself such a blur finds its sigmas.
    """
    check_key(key)
    reference, target = colours("match: reference", reference), colours("match: target", target)
    _check(reference, target, system, metric, start)
    view = View.of(scale, reference.shape[1:3], fixation, field_of_view)
    chunks = whole_chunk(reference, target, view)
    return find_sigmas(system, metric, view, chunks, key, tolerance, start, description)


def check_match(
    match: Match,
    reference: Shaped[Array | np.ndarray, "N Y X C"],
    target: Shaped[Array | np.ndarray, "..."],
    key,
) -> Match:
    """What the sigmas of a record achieve on other images, of its size and view.

    Args:
        match: the record.
        reference: images, colours in [0, 1].
        target: the same images as the record's target system shows them.
        key: resamples images for the bootstrap interval.

    Returns:
        The record with the measures and intervals of these images.

    Raises:
        InputError: shapes that differ, or images of another size than the record's.
    """
    check_key(key)
    reference = colours("check_match: reference", reference)
    target = colours("check_match: target", target)
    _check(reference, target, match.system, match.metric, None)
    if reference.shape[1:3] != match.size:
        raise InputError(
            f"check_match: reference has shape {reference.shape}: the record was matched at "
            f"{match.size[0]} x {match.size[1]} pixels, where its sigmas hold."
        )
    view = View.of(match.scale, match.size, match.fixation, match.field_of_view)
    return measure(match, view, whole_chunk(reference, target, view), key)


def find_sigmas(
    system: str,
    metric: str,
    view: View,
    chunks: Callable[[], Iterable[Chunk]],
    key: PRNGKeyArray,
    tolerance: float,
    start: Match | None,
    description: str,
) -> Match:
    """`match` on chunks of pictures that may each have a fixation of their own."""
    areas, moments = of_target(system, metric, view, chunks)
    centres = _centres(system, view)
    ring_area = areas.sum(0)[-len(centres) :]
    enough = min(SMALLEST_SHARE * areas.sum(), ring_area.max())
    rings = centres[ring_area >= enough]
    bounds = SMALLEST_SIGMA, float(max(view.size))
    eccentricity = rings
    if len(rings) > 1:
        blank = of_blur(system, metric, view, chunks, np.full(len(centres), bounds[1]))
        moved = np.stack([moments, blank]) - MAPS[metric][2] * areas
        eccentricity = _reached(rings, centres, areas, moved, min(tolerance, TOLERANCE))
    wanted, share = by_zone(eccentricity, centres, areas, moments)
    goal, settled = wanted.mean(0), min(tolerance, FINE) / 20
    per_degree = view.windows.pixels_per_degree
    sigma = np.ones(len(eccentricity))
    if start is not None:
        sigma = _at(eccentricity, start) * per_degree
    low, high = np.log(bounds)
    log_sigma = np.clip(np.log(sigma), low, high)

    def values(log_sigma):
        sigmas = _interpolate(centres, eccentricity, np.exp(log_sigma))
        moments = of_blur(system, metric, view, chunks, sigmas)
        return by_zone(eccentricity, centres, areas, moments)[0]

    here = values(log_sigma)
    for _ in range(ITERATIONS):
        gap = goal - here.mean(0)
        if np.abs(gap).max() <= settled:
            break
        slope = (values(log_sigma + STEP).mean(0) - here.mean(0)) / STEP
        slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
        step = np.clip(gap / slope, -LARGEST_STEP, LARGEST_STEP)
        before, log_sigma = log_sigma, np.clip(log_sigma + step, low, high)
        if np.array_equal(before, log_sigma):
            break
        here = values(log_sigma)
    sigma = np.exp(log_sigma)
    _refuse(metric, goal, here.mean(0), sigma, bounds, tolerance)
    return Match(
        system=system, metric=metric, target=description, eccentricity_deg=_floats(eccentricity),
        sigma_deg=_floats(sigma / per_degree), **_achieved(wanted, here, share, key),
        **view.fields, origin=f"sigmas matched on {len(here)} pictures",
        joined_from_deg=_floats(eccentricity)[-1] if len(eccentricity) < len(rings) else None,
    )  # fmt: skip


def measure(
    record: Match, view: View, chunks: Callable[[], Iterable[Chunk]], key: PRNGKeyArray
) -> Match:
    """`check_match` on chunks of pictures that may each have a fixation of their own."""
    areas, moments = of_target(record.system, record.metric, view, chunks)
    centres, known = _centres(record.system, view), np.asarray(record.eccentricity_deg)
    wanted, share = by_zone(known, centres, areas, moments)
    sigmas = _at(centres, record) * view.windows.pixels_per_degree
    moments = of_blur(record.system, record.metric, view, chunks, sigmas)
    here, _ = by_zone(known, centres, areas, moments)
    return dataclasses.replace(record, **_achieved(wanted, here, share, key), **view.fields)


def _centres(system: str, view: View) -> np.ndarray:
    """Eccentricity of every ring, degrees; 0 for the whole image."""
    if system == "uniform_blur":
        return np.zeros(1)
    return np.asarray(ring_centres(view.windows), np.float64)


def _interpolate(centres, known, sigmas) -> np.ndarray:
    """Sigma of every ring; linear in ln eccentricity as `foveated_blur.sigmas_at` has it."""
    return sigmas if len(known) == 1 == len(centres) else np.interp(
        np.log(centres), np.log(known), sigmas
    )  # fmt: skip


def _at(centres, record: Match) -> np.ndarray:
    """Sigmas of a record, degrees, at rings of these centres."""
    return _interpolate(centres, np.asarray(record.eccentricity_deg), np.asarray(record.sigma_deg))


def _reached(rings, centres, areas, moved, tolerance) -> np.ndarray:
    """Innermost rings of the most zones in which a blank is as far as the target is [Z].

    Args:
        rings: eccentricities of the rings that can be zones.
        centres: those of all.
        areas: [N, 1 + E].
        moved: moments of the target's and of a blank's change of the measure, [2, N, 1 + E].
        tolerance: by how much the target may be farther.

    Returns:
        Zones, of which the last holds all rings from its own outwards; `rings` if none will do.
    """
    for count in range(len(rings), 0, -1):
        target, most = (np.abs(by_zone(rings[:count], centres, areas, m)[0].mean(0)) for m in moved)
        if (target - most <= tolerance).all():
            return rings[:count]
    return rings


def _achieved(wanted, here, share, key) -> dict[str, Any]:
    """The fields of a record that say what was measured; wanted and here are [N, Z]."""
    apart = np.concatenate([here - wanted, ((here - wanted) @ share)[:, None]], 1)
    draws = np.asarray(jax.random.randint(key, (RESAMPLES, len(here)), 0, len(here)))
    means = np.stack([column[draws].mean(1) for column in apart.T], 1)
    *interval, whole = (_floats(pair) for pair in np.quantile(means, [0.025, 0.975], 0).T)
    return {
        "n_images": len(here),
        "target_value": _floats(wanted.mean(0)),
        "achieved": _floats(here.mean(0)),
        "interval": tuple(interval),
        "share": _floats(share),
        "whole_interval": whole,
    }


def _floats(values) -> tuple[float, ...]:
    return tuple(map(float, np.round(values, 6)))


def _refuse(metric, wanted, values, sigma, bounds, tolerance):
    worst = int(np.argmax(np.abs(values - wanted)))
    if not abs(values[worst] - wanted[worst]) <= tolerance:
        raise NoSigma(
            f"match: no sigma within {bounds[0]} and {bounds[1]} px reaches {metric} "
            f"{wanted[worst]:.4f} in zone {worst}: {values[worst]:.4f} at {sigma[worst]:.2f} px is "
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
