"""Blurs matched to a texture: the record that `match` writes and the blur systems load.

A record holds for what it was matched on: pictures, their size, the fixation, the field of view and
the texture. Sigmas are kept in degrees, but SSIM looks through windows of a few pixels, so even in
degrees they depend on the size. The records in `foveation_jax/assets` were matched to the
default texture on colour photographs of 256 x 256 pixels; `choose` says so wherever they
are taken.
"""

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import write

ASSETS = Path(__file__).parent.parent / "assets"
TOLERANCE = 0.01  # largest gap, whole and in each zone, that counts as matched; in mean SSIM
SAME = 1e-3  # pixels, degrees and scales that differ by less are the same


@dataclass(frozen=True)
class Match:
    """Sigmas at which a blur compresses as much as its target, and how closely it does.

    The zones of a uniform blur are one, the whole image. Those of a foveation blur are its rings:
    the fovea counts to the innermost, and a ring of which the image holds little to its neighbour,
    so that zones share out all pixels and a match in each is a match of the whole.

    Attributes:
        system: "uniform_blur" or "foveation_blur".
        metric: name of the measure that was matched.
        target: what it was matched to, in words.
        scale: s of the target's pooling windows.
        n_images: looks on which target_value, achieved and the intervals were measured; one a
            picture but in scan paths.
        eccentricity_deg: centre of each zone, [0] for a uniform blur. All lists are [Z].
        sigma_deg: deviation of the Gaussian in degrees.
        target_value, achieved: mean measure of the target and of the blur.
        interval: 95 % bootstrap interval over pictures of achieved - target_value, looks at one
            picture staying together; of one picture it is its gap twice, and is not told.
        share: of the measured pixels that lie in each zone; adds to 1.
        whole_interval: 95 % bootstrap interval of `whole_gap`.
        size: (Y, X) of the pictures.
        fixation: (y, x) in pixels; None where every picture had its own.
        field_of_view: degrees that the width subtends.
        origin: where the sigmas come from, in words.
        n_pictures: how many pictures those looks are at; None where it is one look at each.
        joined_from_deg: centre of the ring from which on all are one zone, since in some of them
            the target is farther than any blur goes; None where every ring is its own.
        made_of: digest of the pictures and settings of a run, which finds its record by it.
    """

    system: str
    metric: str
    target: str
    scale: float
    n_images: int
    eccentricity_deg: tuple[float, ...]
    sigma_deg: tuple[float, ...]
    target_value: tuple[float, ...]
    achieved: tuple[float, ...]
    interval: tuple[tuple[float, float], ...]
    share: tuple[float, ...]
    whole_interval: tuple[float, float]
    size: tuple[int, int]
    fixation: tuple[float, float] | None
    field_of_view: float
    origin: str = ""
    made_of: str = ""
    joined_from_deg: float | None = None
    n_pictures: int | None = None

    @property
    def gap(self) -> tuple[float, ...]:
        """Achieved less target, by zone."""
        return tuple(a - t for a, t in zip(self.achieved, self.target_value, strict=True))

    @property
    def whole(self) -> tuple[float, float]:
        """Mean measure over all pixels of the blur, and of the target."""
        achieved, target = (
            float(sum(s * v for s, v in zip(self.share, values, strict=True)))
            for values in (self.achieved, self.target_value)
        )
        return achieved, target

    @property
    def whole_gap(self) -> float:
        """Achieved less target over all pixels."""
        return self.whole[0] - self.whole[1]

    @property
    def largest_gap(self) -> float:
        """Of all zones, without sign; the whole's is no larger."""
        return max(map(abs, self.gap))

    def sentence(self) -> str:
        """What was achieved, on how many pictures, and where the sigmas come from."""
        (blurred, target), (low, high) = self.whole, self.whole_interval
        several = (self.n_pictures or self.n_images) > 1
        ends = f"95 % {low:+.4f} to {high:+.4f}" if several else "no interval of one"
        those = counted(self.n_images, self.n_pictures)
        zones = "" if len(self.gap) == 1 else f", in its zones at most {self.largest_gap:.4f}"
        if self.joined_from_deg is not None:
            zones += (
                f" (from {self.joined_from_deg:.1f} degrees on one zone: the texture there is "
                "farther from Reference than any blur)"
            )
        return (
            f"{self.system}: mean {self.metric.upper()} {blurred:.4f}, the texture's {target:.4f}, "
            f"gap {self.whole_gap:+.4f} ({ends}){zones}, on {those}; "
            f"{self.origin or 'sigmas of no stated origin'}"
        )


def counted(n: int, pictures: int | None = None) -> str:
    """So many pictures in words, or `n` looks at so many where they differ."""
    if pictures not in (None, n):
        return f"{n} looks at {counted(pictures)}"
    return f"{n} picture{'s' * (n != 1)}"


def save(match: Match, path: str | PathLike) -> None:
    """Write a record as JSON, whole or not at all."""
    write(Path(path), json.dumps(dataclasses.asdict(match), indent=1) + "\n")


def load(path: str | PathLike) -> Match:
    """Read a record that `save` wrote.

    Raises:
        InputError: no such file, or not a record of a match.
    """
    try:
        return from_fields(json.loads(Path(path).read_text()))
    except (OSError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a record of matched sigmas ({error}).") from error


def from_fields(fields: Mapping[str, Any]) -> Match:
    """A record from what JSON holds of it.

    Raises:
        TypeError, ValueError: a field is missing or unknown, or holds what it cannot.
    """
    match = Match(**{name: _frozen(value) for name, value in fields.items()})
    zones = ("eccentricity_deg", "sigma_deg", "target_value", "achieved", "share")
    pairs = {"interval": match.interval, "whole_interval": (match.whole_interval,)}
    pairs |= {"size": (match.size,), "fixation": (match.fixation or (0, 0),)}
    lists = {name: getattr(match, name) for name in zones}
    lists |= {"joined_from_deg": (match.joined_from_deg or 0,)}
    lists |= {"n_pictures": (match.n_pictures or 1,)}
    lists |= {"scale": (match.scale,), "field_of_view": (match.field_of_view,)}
    lists |= {name: tuple(x for pair in value for x in pair) for name, value in pairs.items()}
    for name, values in lists.items():
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ValueError(f"{name} is {getattr(match, name)}: it must be finite numbers")
    if len({len(lists[name]) for name in zones} | {len(match.interval)}) > 1 or not match.share:
        raise ValueError("its lists differ in length, or are empty")
    if any(len(pair) != 2 for value in pairs.values() for pair in value):
        raise ValueError("an interval, the size or the fixation is not two numbers")
    if min(match.sigma_deg) <= 0 or match.field_of_view <= 0:
        raise ValueError("a sigma or the field of view is not above 0")
    return match


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


@functools.cache
def shipped(system: str) -> Match:
    """The record of a blur system matched on photographs; its `target` says to which texture."""
    return load(ASSETS / f"{system}.json")


def misfits(match: Match, view: Mapping[str, Any]) -> str:
    """How `view` differs from what a record was matched on, in words; "" where it fits.

    Args:
        match: the record.
        view: any of `scale`, `size`, `fixation` and `field_of_view`; a fixation of None is one that
            is only known on the device, which fits records of pictures that each had their own.
    """
    units = {"scale": "scale {}", "size": "{0[0]} x {0[1]} pixels"}
    units |= {"fixation": "fixation {}", "field_of_view": "{} degrees"}
    return ", ".join(
        unit.format("one a picture" if view[name] is None else view[name])
        for name, unit in units.items()
        if name in view and not _same(getattr(match, name), view[name], name)
    )


def _same(known, asked, name: str) -> bool:
    if known is None or asked is None:
        return known is None  # a record of drawn fixations fits any of them
    known, asked = (v if isinstance(v, tuple) else (v,) for v in (known, asked))
    return all(abs(a - b) <= SAME for a, b in zip(known, asked, strict=True))


def choose(system: str, matched: str | PathLike | Match | None, view: Mapping[str, Any]) -> Match:
    """The record that a blur uses: given, read from a file, or shipped.

    Warns, once for each case: nothing is given, so the shipped sigmas are taken (it says on what
    they were matched, as no one has looked whether they match on these images); or the given record
    was matched in another geometry.

    Args:
        system: the blur.
        matched: the record, its file, or None for the shipped one.
        view: of the images at hand, as of `misfits`, `scale` among it.

    Raises:
        InputError: the record is of another system, or of another scale than asked for.
    """
    match = shipped(system) if matched is None else matched
    match = match if isinstance(match, Match) else load(match)
    if match.system != system:
        raise InputError(f"matched: the record is of {match.system}, {system} is needed.")
    if misfits(match, {"scale": view["scale"]}):
        raise InputError(
            f"{system}: its sigmas were matched at scale {match.scale}, not {view['scale']}: give "
            "sigma, or matched=FILE from a match at that scale."
        )
    other = misfits(match, view)
    if matched is None or other:
        which = "its shipped sigmas are" if matched is None else "the given sigmas were"
        where = "one a picture" if match.fixation is None else match.fixation
        here = f"; here: {other}" if other else ""
        _say(
            f"{system}: {which} matched to {match.target} at scale {match.scale}, "
            f"{match.size[0]} x {match.size[1]} pixels, fixation {where}, {match.field_of_view} "
            f"degrees ({match.origin or 'on pictures that are not named'}){here}. Elsewhere they "
            f"compress more or less than the texture: fj.check_match tells the gap on your "
            f"pictures, fj.match finds sigmas for them (matched=RECORD)."
        )
    return match


@functools.cache
def _say(sentence: str) -> None:
    """Warns with a sentence once."""
    warnings.warn(sentence, stacklevel=5)
