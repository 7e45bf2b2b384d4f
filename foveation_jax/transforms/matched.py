"""Blurs matched to a texture: the record that `match` writes and the blur systems load.

Sigmas are kept in degrees, so they follow the viewing geometry; a record in
`foveation_jax/assets` was matched at 256 x 256 pixels and 26 degrees.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from foveation_jax.errors import InputError
from foveation_jax.workdir import write_text

ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Match:
    """Sigmas at which a blur compresses as much as its target, and how closely it does.

    Attributes:
        system: "uniform_blur" or "foveation_blur".
        metric: name of the measure that was matched.
        target: what it was matched to, in words.
        scale: s of the target's pooling windows.
        n_images: photographs that were matched on.
        eccentricity_deg: centre of each ring, [0] for a uniform blur. All lists are [E].
        sigma_deg: deviation of the Gaussian in degrees.
        target_value, achieved: mean measure of the target and of the blur.
        interval: 95 % bootstrap interval over images of achieved - target_value.
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

    @property
    def gap(self) -> tuple[float, ...]:
        """Achieved less target, by ring."""
        return tuple(a - t for a, t in zip(self.achieved, self.target_value, strict=True))


def save(match: Match, path: str | PathLike) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(Path(path), json.dumps(dataclasses.asdict(match), indent=1) + "\n")


def load(path: str | PathLike) -> Match:
    """Read a record that `save` wrote.

    Raises:
        InputError: no such file, or not a record of a match.
    """
    try:
        fields = json.loads(Path(path).read_text())
        lists = {k: _frozen(v) for k, v in fields.items()}
        return Match(**lists)
    except (OSError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a record of matched sigmas ({error}).") from error


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


@functools.cache
def shipped(system: str) -> Match:
    """The record of a blur system matched to the default texture on photographs."""
    return load(ASSETS / f"{system}.json")


def choose(system: str, matched: str | PathLike | Match | None, scale: float) -> Match:
    """The record that a blur uses: given, read from a file, or shipped.

    Raises:
        InputError: the record is of another system, or of another scale than asked for.
    """
    match = shipped(system) if matched is None else matched
    match = match if isinstance(match, Match) else load(match)
    if match.system != system:
        raise InputError(f"matched: the record is of {match.system}, {system} is needed.")
    if abs(match.scale - scale) > 1e-6:
        raise InputError(
            f"{system}: its sigmas were matched at scale {match.scale}, not {scale}: give sigma, "
            "or matched=FILE from a match at that scale."
        )
    return match
