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

    v <- v + J^-1 (t - f(v)),    J = diag((f(v + h) - f(v)) / h) at first (every zone moved alike)

A zone's measure depends on its own sigma and a little on its neighbours', all with one sign, so the
first J holds the row sums of the Jacobian and diag(J)^-1 times the Jacobian is a stochastic matrix:
a first step shrinks the gap without overshoot. From then on J learns from every step what it did
(Broyden 1965), so that a step is one measurement. For one sigma it is the secant method. No
derivative of the measure is asked for, so any metric will do. Of many pictures a few are matched
first, and all of them from there.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, Shaped

from foveation_jax import metrics
from foveation_jax.metrics.levels import colours
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.transforms.foveated_blur import ring_centres
from foveation_jax.transforms.matched import TOLERANCE, Match, counted
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
SMALLEST_SIGMA = 0.25  # pixels, next to nothing; the largest, the longer side, is next to a blank
LEAST_START = 0.5  # pixels; far below, a little more or less blur says nothing
FINE = 0.002  # gap that nobody would see, in SSIM
STEP, LARGEST_STEP, ITERATIONS = 0.1, 0.7, 30
FLAT, SHRINKS = 1e-6, 0.7  # least slope; a step that leaves more of the gap has the wrong slopes
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
    start=None,
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
        start: a `Match` whose sigmas to start from, such as that of fewer images; 1 pixel by
            default.
        description: what the target is, for the record.

    Returns:
        Sigmas in degrees, the measures, and a 95 % interval of their difference.

    Raises:
        InputError: an unknown name, shapes that differ, or no sigma from .25 px to the longer side
            that comes within `tolerance` of the target (it says how near it comes).

    Property: matching a target that is itself such a blur finds its sigmas.
    """
    check_key(key)
    reference, target = colours("match: reference", reference), colours("match: target", target)
    if tolerance != math.inf:
        check_allowed("match: tolerance", tolerance, Range(0, open=(0,)))
    _check(reference, target, system, metric, start)
    view = View.of(scale, reference.shape[1:3], fixation, field_of_view)
    chunks = whole_chunk(reference, target, view)
    return find_sigmas(system, metric, view, chunks, key, tolerance, start, description)


def check_match(
    match,
    reference: Shaped[Array | np.ndarray, "N Y X C"],
    target: Shaped[Array | np.ndarray, "..."],
    key,
) -> Match:
    """What the sigmas of a record achieve on other images, of its size and view.

    Args:
        match: the record, a `Match`.
        reference: images, colours in [0, 1].
        target: the same images as the record's target system shows them.
        key: resamples images for the bootstrap interval.

    Returns:
        The record with the measures and intervals of these images.

    Raises:
        InputError: shapes that differ, or images of another size than the record's.
    """
    check_key(key)
    _check_record("check_match: match", match)
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
    picture_of: Int[np.ndarray, " N"] | None = None,
) -> Match:
    """`match` on chunks of pictures that may each have a fixation of their own.

    The first chunk is matched by itself first; where there is more than one, it should be like all.
    `picture_of` says which entries, in the order of the chunks, are looks at one picture.
    """
    held = tuple(itertools.islice(chunks(), 2))
    stages = [(lambda: held[:1])] + ([chunks] if len(held) > 1 else [])
    chunks = stages[-1]
    areas, moments = of_target(system, metric, view, chunks)
    _check_finite(metric, "target", moments)
    bounds = SMALLEST_SIGMA, float(max(view.size))
    reach = min(tolerance, TOLERANCE)
    centres = _centres(system, view)
    rings = _rings(centres, areas)
    eccentricity = rings
    if len(rings) > 1:
        blank = of_blur(system, metric, view, chunks, np.full(len(centres), bounds[1]))
        moved = np.stack([moments, blank]) - MAPS[metric][2] * areas
        eccentricity = _reached(rings, centres, areas, moved, reach)
    per_degree = view.windows.pixels_per_degree
    sigma = np.ones(len(eccentricity))
    if start is not None:
        sigma = np.maximum(_at(eccentricity, start) * per_degree, LEAST_START)

    def solve(stage, log_sigma, slopes):
        count = len(held[0][0]) if stage is not chunks else len(areas)

        def values(log_sigma):
            sigmas = _interpolate(centres, eccentricity, np.exp(log_sigma))
            found = of_blur(system, metric, view, stage, sigmas)
            _check_finite(metric, "blur", found)
            return by_zone(eccentricity, centres, areas[:count], found)[0]

        goal = by_zone(eccentricity, centres, areas[:count], moments[:count])[0].mean(0)
        return _descend(values, goal, log_sigma, slopes, np.log(bounds), min(tolerance, FINE) / 20)

    log_sigma, slopes = np.log(sigma), None
    for stage in stages:
        log_sigma, here, slopes = solve(stage, log_sigma, slopes)
    wanted, share = by_zone(eccentricity, centres, areas, moments)
    while len(kept := _within(log_sigma, here, wanted, share, bounds, reach)) < len(eccentricity):
        eccentricity, log_sigma = eccentricity[kept], log_sigma[kept]
        log_sigma, here, slopes = solve(chunks, log_sigma, None)
        wanted, share = by_zone(eccentricity, centres, areas, moments)
    sigma = np.exp(log_sigma)
    _refuse(metric, wanted.mean(0), here.mean(0), sigma, bounds, tolerance)
    return Match(
        system=system, metric=metric, target=description, eccentricity_deg=_floats(eccentricity),
        sigma_deg=_floats(sigma / per_degree), **_achieved(wanted, here, share, key, picture_of),
        **view.fields, origin=f"sigmas matched on {counted(len(here))}",
        joined_from_deg=_floats(eccentricity)[-1] if len(eccentricity) < len(rings) else None,
    )  # fmt: skip


def _descend(values, goal, place, slopes, bounds, settled):
    """Where the mean of `values` is `goal`, or as near as `bounds` let it come.

    Args:
        values: log sigma by zone [Z] -> measures of every picture [N, Z].
        goal: their means [Z].
        place: log sigma to start from [Z].
        slopes: [Z, Z] of the means by log sigma, None to find them.
        bounds: smallest and largest log sigma.
        settled: gap that is as good as none.

    Returns:
        Log sigma, the values there, and the slopes as they are known in the end.
    """
    low, high = bounds
    place = np.clip(place, low, high)
    here, apart = values(place), 1
    for _ in range(ITERATIONS):
        gap = goal - here.mean(0)
        if slopes is None:
            slopes, apart = _slopes(values, place, here.mean(0), apart), 3
        outwards = gap * np.diag(slopes)
        free = ~((place >= high) & (outwards > 0) | (place <= low) & (outwards < 0))
        if np.abs(gap[free]).max(initial=0) <= settled:
            break
        whole = np.zeros_like(place)
        whole[free] = np.linalg.lstsq(slopes[np.ix_(free, free)], gap[free])[0]
        step = np.clip(place + np.clip(whole, -LARGEST_STEP, LARGEST_STEP), low, high) - place
        if not step.any():
            break
        place, before = place + step, here.mean(0)
        here = values(place)
        slopes = slopes + np.outer(here.mean(0) - before - slopes @ step, step / (step @ step))
        left = np.abs(goal - here.mean(0))[free].max() / np.abs(gap[free]).max()
        turned = np.diag(slopes) * np.sign(outwards * gap) < FLAT
        if left > (SHRINKS if np.array_equal(step, whole) else 1) or turned.any():
            slopes = None
    return place, here, slopes


def _slopes(values, place, here, apart) -> np.ndarray:
    """Slopes of the mean measures by log sigma [Z, Z], at `place` where they are `here`.

    Args:
        values: log sigma by zone -> measures of every picture.
        place: log sigma [Z].
        here: the means there [Z].
        apart: 1 to move all zones alike, for the sums of rows on the diagonal; 3 to move every
            third at a time, as a zone is moved by itself and its neighbours alone.
    """
    zone = np.arange(len(place))
    beside = np.abs(zone[:, None] - zone) <= apart // 2
    slopes = np.zeros(beside.shape)
    for first in range(min(apart, len(zone))):
        moved = zone % apart == first
        steep = (values(place + STEP * moved).mean(0) - here) / STEP
        slopes += beside * moved * steep[:, None]
    own = np.diag(slopes)
    way = np.sign(own.sum())  # more blur is farther; where it is not, a zone is next to a blank
    np.fill_diagonal(slopes, way * np.maximum(way * own, FLAT))
    return slopes


def measure(
    record: Match,
    view: View,
    chunks: Callable[[], Iterable[Chunk]],
    key: PRNGKeyArray,
    picture_of: Int[np.ndarray, " N"] | None = None,
) -> Match:
    """`check_match` on chunks of pictures that may each have a fixation of their own."""
    areas, moments = of_target(record.system, record.metric, view, chunks)
    centres, known = _centres(record.system, view), np.asarray(record.eccentricity_deg)
    wanted, share = by_zone(known, centres, areas, moments)
    sigmas = _at(centres, record) * view.windows.pixels_per_degree
    moments = of_blur(record.system, record.metric, view, chunks, sigmas)
    here, _ = by_zone(known, centres, areas, moments)
    found = _achieved(wanted, here, share, key, picture_of)
    return dataclasses.replace(record, **found, **view.fields)


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


def _rings(centres, areas) -> np.ndarray:
    """Eccentricities of the rings that can be zones: those that hold enough of the pictures [Z].

    Args:
        centres: of all rings [E].
        areas: of each picture, in the fovea and in each ring [N, 1 + E]; [N, 1] where there is one.
    """
    ring_area = areas.sum(0)[-len(centres) :]
    return centres[ring_area >= min(SMALLEST_SHARE * areas.sum(), ring_area.max())]


def _reached(rings, centres, areas, moved, tolerance) -> np.ndarray:
    """Innermost rings of the most zones in which a blank is as far as the target is [Z].

    Args:
        rings: eccentricities of the rings that can be zones.
        centres: those of all.
        areas: [N, 1 + E].
        moved: moments of the target's and of a blank's change of the measure, [2, N, 1 + E].
        tolerance: by how much the target may be farther.

    Returns:
        Zones, of which the last holds all rings from its own outwards; one if none will do.
    """
    for count in range(len(rings), 0, -1):
        target, most = (np.abs(by_zone(rings[:count], centres, areas, m)[0].mean(0)) for m in moved)
        if (target - most <= tolerance).all():
            return rings[:count]
    return rings[:1]


def _within(log_sigma, here, wanted, share, bounds, tolerance) -> np.ndarray:
    """Zones to go on with: fewer where some are as blurred as can be, and their targets farther.

    A blank in every zone may go that far, and one beside zones that are less blurred not.
    """
    apart = (here - wanted).mean(0)
    beyond = (log_sigma >= np.log(bounds[1])) & (np.abs(apart) > tolerance)
    if not beyond.any():
        return np.arange(len(apart))
    first = int(beyond.argmax())
    joined = (apart * share)[first:].sum() / share[first:].sum()
    return np.arange(max(first + (abs(joined) <= tolerance), 1))


def _achieved(wanted, here, share, key, picture_of=None) -> dict[str, Any]:
    """The fields of a record that say what was measured; wanted and here are [N, Z].

    Pictures are drawn for the intervals, each with all looks at it, as those are not independent.
    """
    own = np.arange(len(here)) if picture_of is None else picture_of
    _, own, looks = np.unique(own, return_inverse=True, return_counts=True)
    apart = np.concatenate([here - wanted, ((here - wanted) @ share)[:, None]], 1)
    draws = np.asarray(jax.random.randint(key, (RESAMPLES, len(looks)), 0, len(looks)))
    sums = [np.bincount(own, column)[draws].sum(1) for column in apart.T]
    means = np.stack(sums, 1) / looks[draws].sum(1)[:, None]
    *interval, whole = (_floats(pair) for pair in np.quantile(means, [0.025, 0.975], 0).T)
    return {
        "n_images": len(here),
        "n_pictures": None if len(looks) == len(here) else len(looks),
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
    if start is not None:
        _check_record("match: start", start)
        if start.system != system:
            raise InputError(f"match: start is of {start.system}, {system} is needed.")


def _check_record(name: str, record: Any):
    if not isinstance(record, Match):
        raise InputError(
            f"{name} is a {type(record).__name__}: it must be a Match, as fj.match or matched.load "
            "give it."
        )
    if not record.sigma_deg:
        raise InputError(f"{name} has no sigma.")
    check_allowed(f"{name}: sigma_deg", record.sigma_deg, Range(0, open=(0,)))


def _check_finite(metric: str, of_what: str, measured) -> None:
    """Refuse measures that no step can be made from, such as the PSNR of equal pictures."""
    wrong = np.argwhere(~np.isfinite(measured))
    if len(wrong):
        raise InputError(
            f"match: {metric} of the {of_what} is {measured[tuple(wrong[0])]} on picture "
            f"{wrong[0][0]}: nothing can be matched to it."
        )
