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
import functools
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from foveation_jax import metrics
from foveation_jax.metrics.levels import colours
from foveation_jax.metrics.structural import TAPS
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms import matched
from foveation_jax.transforms.foveated_blur import blend_blurs, ring_centres
from foveation_jax.transforms.foveation_texture import DEFAULT
from foveation_jax.transforms.matched import TOLERANCE, Match
from foveation_jax.transforms.noise import check_key
from foveation_jax.transforms.uniform_blur import blur
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

SYSTEMS = ("uniform_blur", "foveation_blur")
SMALLEST_SIGMA = 0.1  # pixels; the largest is the image's longer side, next to a blank
FINE = 0.002  # gap that nobody would see, in SSIM
STEP, LARGEST_STEP, ITERATIONS = 0.1, 0.7, 30
SMALLEST_SHARE = 0.01  # a ring with less of the pixels keeps its neighbour's sigma
RESAMPLES = 2000
AT_ONCE = 16  # pictures that are held in memory together
CHECKED = 1000  # at most so many pictures tell whether sigmas hold on a run's
# Metric -> its map, the border in pixels in which it has no windows, its value for equal images.
MAPS = {"ssim": (metrics.ssim_map, TAPS // 2, 1.0), "mse": (lambda a, b: (a - b) ** 2, 0, 0.0)}

# What is blurred, Reference and target, all [N, Y, X, C], and the fixations [N, 2].
Chunk = tuple[Array | np.ndarray, ...]


class NoSigma(InputError):
    """No sigma comes near enough to the target."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A run's pictures as Reference and as Foveation-Texture show them, read as they are needed.

    Attributes:
        count: how many there are.
        read: places [N] -> those pictures [N, Y, X, C] in [0, 1] as they are, as Reference and as
            the texture, and their fixations [N, 2], None where all have that of the run.
        fingerprint: () -> what tells these pictures from others.
    """

    count: int
    read: Callable[[Int[np.ndarray, " N"]], tuple]
    fingerprint: Callable[[], str]

    def spread(self, most: int) -> np.ndarray:
        """Places of at most `most` pictures, evenly over all: sources are sorted by class."""
        return np.unique(np.linspace(0, self.count - 1, min(most, self.count)).round().astype(int))


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
    view = _View.of(scale, reference.shape[1:3], fixation, field_of_view)
    chunks = _chunks(reference, target, view)
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
    view = _View.of(match.scale, match.size, match.fixation, match.field_of_view)
    return measure(match, view, _chunks(reference, target, view), key)


@dataclasses.dataclass(frozen=True)
class _View:
    """What pictures are seen with; `fixation` is None where each has its own, as chunks say."""

    scale: float
    size: tuple[int, int]
    fixation: tuple[float, float] | None
    field_of_view: float
    windows: PoolingWindows

    @classmethod
    def of(cls, scale, size, fixation, field_of_view, drawn=False) -> "_View":
        """Rings are counted for `fixation`, the centre for None; for a corner where it is drawn."""
        seen = (0.0, 0.0) if drawn else geometry.farthest_seeing(fixation, size)
        windows = pooling_windows(scale, size, seen, published=False, field_of_view=field_of_view)
        size = tuple(map(int, size))
        return cls(scale, size, None if drawn else seen, field_of_view, windows)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a record that say what it was matched on."""
        return {f: getattr(self, f) for f in ("scale", "size", "fixation", "field_of_view")}


def _chunks(reference, target, view: _View) -> Callable[[], Iterable[Chunk]]:
    """Images at hand as one chunk: Reference is what is blurred."""
    return lambda: [(reference, reference, target, _fixations(view, len(reference)))]


def _fixations(view: _View, count: int) -> Float[np.ndarray, "N 2"]:
    fixation = geometry.centre(view.size) if view.fixation is None else view.fixation
    return np.tile(np.asarray([fixation], np.float32), (count, 1))


def find_sigmas(
    system: str,
    metric: str,
    view: _View,
    chunks: Callable[[], Iterable[Chunk]],
    key: PRNGKeyArray,
    tolerance: float,
    start: Match | None,
    description: str,
) -> Match:
    """`match` on chunks of pictures that may each have a fixation of their own."""
    areas, moments = _of_target(system, metric, view, chunks)
    centres = _centres(system, view)
    ring_area = areas.sum(0)[-len(centres) :]
    enough = min(SMALLEST_SHARE * areas.sum(), ring_area.max())
    rings = centres[ring_area >= enough]
    bounds = SMALLEST_SIGMA, float(max(view.size))
    eccentricity = rings
    if len(rings) > 1:
        blank = _of_blur(system, metric, view, chunks, np.full(len(centres), bounds[1]))
        moved = np.stack([moments, blank]) - MAPS[metric][2] * areas
        eccentricity = _reached(rings, centres, areas, moved, min(tolerance, TOLERANCE))
    wanted, share = _by_zone(eccentricity, centres, areas, moments)
    goal, settled = wanted.mean(0), min(tolerance, FINE) / 20
    per_degree = view.windows.pixels_per_degree
    sigma = np.ones(len(eccentricity))
    if start is not None:
        sigma = _at(eccentricity, start) * per_degree
    low, high = np.log(bounds)
    log_sigma = np.clip(np.log(sigma), low, high)

    def values(log_sigma):
        sigmas = _interpolate(centres, eccentricity, np.exp(log_sigma))
        moments = _of_blur(system, metric, view, chunks, sigmas)
        return _by_zone(eccentricity, centres, areas, moments)[0]

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
    record: Match, view: _View, chunks: Callable[[], Iterable[Chunk]], key: PRNGKeyArray
) -> Match:
    """`check_match` on chunks of pictures that may each have a fixation of their own."""
    areas, moments = _of_target(record.system, record.metric, view, chunks)
    centres, known = _centres(record.system, view), np.asarray(record.eccentricity_deg)
    wanted, share = _by_zone(known, centres, areas, moments)
    sigmas = _at(centres, record) * view.windows.pixels_per_degree
    moments = _of_blur(record.system, record.metric, view, chunks, sigmas)
    here, _ = _by_zone(known, centres, areas, moments)
    return dataclasses.replace(record, **_achieved(wanted, here, share, key), **view.fields)


def settle_sigmas(
    system: str,
    settings: Mapping[str, Any],
    size: tuple[int, int],
    key: PRNGKeyArray,
    kept: Match | None,
    pictures: Pictures,
    n_match: int,
    tolerance: float = TOLERANCE,
    drawn: bool = False,
) -> Match:
    """The record of a blur for a run, with the gap achieved on the run's own pictures.

    Sigmas of an earlier record and the shipped ones are taken where they were matched in this
    geometry and hold within `tolerance` on these pictures; else sigmas are matched anew, on
    `n_match` pictures and then on twice as many until they hold on all (at most 1000 that are
    spread over them).

    Args:
        system: "uniform_blur" or "foveation_blur".
        settings: of the texture: `route`, `scale`, `fixation`, `field_of_view` and what else makes
            it.
        size: (Y, X) of the pictures.
        key: of the bootstrap.
        kept: the record of the run so far; it comes back if it is of these pictures and settings.
        pictures: of the run.
        n_match: pictures that sigmas are matched on.
        tolerance: largest gap, whole and in each zone.
        drawn: every picture has a fixation of its own.

    Raises:
        NoSigma: no sigma comes within `tolerance`.
    """
    view = _View.of(
        settings["scale"], size, settings.get("fixation"), settings["field_of_view"], drawn
    )
    made_of = _digest(settings, system, size, n_match, tolerance, drawn, pictures.fingerprint())
    if kept is not None and kept.made_of == made_of:
        return kept
    everyone, first = pictures.spread(CHECKED), matched.shipped(system)
    record = None
    for known in (kept, first if settings["route"] == DEFAULT else None):
        if known is not None and not matched.misfits(known, view.fields) and record is None:
            found = measure(known, view, _reader(pictures, everyone, view), key)
            record = found if found.largest_gap <= tolerance else None
    while record is None:
        places = pictures.spread(min(n_match, CHECKED))
        print(f"matching {system} to the texture on {len(places)} pictures", file=sys.stderr)
        windows = ", published windows" if settings.get("published") else ""
        description = f"foveation_texture, {settings['route']} route{windows}"
        last = len(places) == len(everyone)
        record = find_sigmas(
            system, "ssim", view, _reader(pictures, places, view), key,
            tolerance if last else math.inf, first, description,
        )  # fmt: skip
        record = dataclasses.replace(record, origin=f"sigmas matched here, on {len(places)}")
        if not last:
            first = record = measure(record, view, _reader(pictures, everyone, view), key)
            record = record if record.largest_gap <= tolerance else None
        n_match *= 2
    return dataclasses.replace(record, made_of=made_of)


def check_sigmas(record: Match, key: PRNGKeyArray, path: pathlib.Path, pictures: Pictures) -> Match:
    """What a run's sigmas achieve on other pictures, such as those held out; kept at `path`."""
    made_of = _digest(record.made_of, list(record.sigma_deg), pictures.fingerprint())
    kept = load_kept(path)
    if kept is None or kept.made_of != made_of:
        view = _View.of(record.scale, record.size, record.fixation, record.field_of_view)
        chunks = _reader(pictures, pictures.spread(CHECKED), view)
        kept = dataclasses.replace(measure(record, view, chunks, key), made_of=made_of)
        matched.save(kept, path)
    return kept


def load_kept(path: pathlib.Path) -> Match | None:
    """The record that a run has kept, if any.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return matched.load(path) if path.exists() else None
    except InputError as error:
        raise InputError(f"{error} Delete it, and the sigmas are found again.") from None


def _digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


def _reader(pictures: Pictures, places, view: _View) -> Callable[[], Iterable[Chunk]]:
    """Chunks of those pictures; the view's fixation where they have none of their own."""

    def chunks():
        for start in range(0, len(places), AT_ONCE):
            *images, fixations = pictures.read(places[start : start + AT_ONCE])
            yield *images, _fixations(view, len(images[0])) if fixations is None else fixations

    return chunks


def _centres(system: str, view: _View) -> np.ndarray:
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


def _by_zone(eccentricity, centres, areas, moments):
    """Each image's share of the zones' mean measures [N, Z], and the zones' shares of pixels [Z].

    Every ring counts to the zone that is nearest in ln eccentricity, the fovea to the innermost.
    """
    distance = np.abs(np.log(centres + 1e-9)[:, None] - np.log(eccentricity + 1e-9)[None])
    zone = np.eye(len(eccentricity))[distance.argmin(1)]
    zone = np.concatenate([zone[:1], zone]) if areas.shape[1] > len(centres) else zone
    area = (areas @ zone).mean(0)
    return (moments @ zone) / np.maximum(area, 1e-9)[None], area / area.sum()


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
        target, most = (
            np.abs(_by_zone(rings[:count], centres, areas, m)[0].mean(0)) for m in moved
        )
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


def _of_target(system, metric, view: _View, chunks) -> tuple[np.ndarray, np.ndarray]:
    """Areas and moments (sums of the measure over them) of the target's pictures, [N, 1 + E]."""
    found = _over(
        chunks, lambda _, a, b, at: _target_moments(a, b, at, view.windows, system, metric)
    )
    areas, moments = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    return areas, moments


def _of_blur(system, metric, view: _View, chunks, sigmas) -> np.ndarray:
    """The same moments of the blur of `sigmas` pixels, one a ring."""
    sigmas = jnp.asarray(sigmas, jnp.float32)
    found = _over(
        chunks, lambda i, a, _, at: _blur_moments(i, a, at, sigmas, view.windows, system, metric)
    )
    return np.concatenate(found).astype(np.float64)


def _over(chunks, function) -> list:
    """`function` of every chunk; a shorter last one is filled up, so that one program does."""
    found, length = [], 0
    for chunk in chunks():
        count = len(chunk[0])
        length = length or count
        places = np.minimum(np.arange(length), count - 1)
        filled = chunk if count == length else [part[places] for part in chunk]
        found.append(jax.tree.map(lambda part, n=count: np.asarray(part)[:n], function(*filled)))
    return found


@functools.partial(jax.jit, static_argnames=("system", "metric"))
def _target_moments(reference, target, fixations, windows, system, metric):
    def one(a, b, fixation):
        return _moments(a, b, _rings(windows, fixation), system, metric)

    pictures = (jnp.asarray(reference), jnp.asarray(target), jnp.asarray(fixations))
    return each_image(one, *pictures)


@functools.partial(jax.jit, static_argnames=("system", "metric"))
def _blur_moments(images, reference, fixations, sigmas, windows, system, metric):
    def one(image, a, fixation):
        rings = _rings(windows, fixation)
        if system == "uniform_blur":
            blurred = blur(image, sigmas[0])
        else:
            blurred = blend_blurs(image, sigmas, rings)
        return _moments(a, blurred, rings, system, metric)[1]

    return each_image(one, *map(jnp.asarray, (images, reference, fixations)))


def _rings(windows: PoolingWindows, fixation) -> Float[Array, "E Y X"]:
    return dataclasses.replace(windows, fixation=fixation).pixel_factors()[0]


def _moments(a, b, rings, system, metric):
    """Area of the fovea and each ring and sum of the measure over it; or 1 and the whole metric."""
    if system == "uniform_blur":
        value = metrics.METRICS[metric](a[None], b[None])
        return jnp.ones_like(value), value
    metric_map, border, _ = MAPS[metric]
    inside = tuple(slice(border, n - border) for n in rings.shape[1:])
    zones = jnp.concatenate([jnp.clip(1 - rings.sum(0, keepdims=True), 0, 1), rings])
    zones = zones[:, *inside]
    values = metric_map(a[None], b[None])[0].mean(-1)[inside]
    return zones.sum((1, 2)), (zones * values[None]).sum((1, 2))


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
