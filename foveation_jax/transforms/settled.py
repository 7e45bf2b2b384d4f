"""The sigmas of a run: shipped or kept where they hold on its pictures, else matched anew."""

import dataclasses
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from foveation_jax.runs.errors import InputError
from foveation_jax.transforms import matched
from foveation_jax.transforms.foveation_texture import DEFAULT
from foveation_jax.transforms.matched import TOLERANCE, Match, counted
from foveation_jax.transforms.matching import find_sigmas, measure
from foveation_jax.transforms.zones import Chunk, View, fixations_of

AT_ONCE = 16  # pictures that are held in memory together
CHECKED = 1000  # at most so many pictures tell whether sigmas hold on a run's


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A run's pictures as Reference and as Foveation-Texture show them, read as they are needed.

    Attributes:
        count: how many there are.
        read: places [N] -> those pictures [N, Y, X, C] in [0, 1] as they are, as Reference and as
            the texture, and their fixations [N, 2], None where all have that of the run.
        fingerprint: () -> what tells these pictures from others.
        picture_of: entry -> number of the picture that it is a look at [N]; None, one look at each.
    """

    count: int
    read: Callable[[Int[np.ndarray, " N"]], tuple]
    fingerprint: Callable[[], str]
    picture_of: Int[np.ndarray, " N"] | None = None

    def spread(self, most: int) -> np.ndarray:
        """Places of at most `most` pictures, evenly over all: sources are sorted by class."""
        return np.unique(np.linspace(0, self.count - 1, min(most, self.count)).round().astype(int))

    def pictures_of(self, places: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"] | None:
        """Numbers of the pictures that entries at these places are looks at; None, one each."""
        return None if self.picture_of is None else self.picture_of[places]


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
    view = View.of(
        settings["scale"], size, settings.get("fixation"), settings["field_of_view"], drawn
    )
    made_of = _digest(settings, system, size, n_match, tolerance, drawn, pictures.fingerprint())
    if pictures.picture_of is not None:
        made_of = _digest(made_of, pictures.picture_of.tolist())
    if kept is not None and kept.made_of == made_of:
        return kept
    everyone, shipped = _in_turn(pictures.spread(CHECKED)), matched.shipped(system)
    for known in (kept, shipped if settings["route"] == DEFAULT else None):
        if known is not None and not matched.misfits(known, view.fields):
            chunks, at = _reader(pictures, everyone, view), pictures.pictures_of(everyone)
            found = measure(known, view, chunks, key, at)
            if found.largest_gap <= tolerance:
                return dataclasses.replace(found, made_of=made_of)
    windows = ", published windows" if settings.get("published") else ""
    texture = f"foveation_texture, {settings['route']} route{windows}"
    found = _matched_anew(system, texture, view, key, shipped, pictures, n_match, tolerance)
    return dataclasses.replace(found, made_of=made_of)


def _matched_anew(system, texture, view, key, first, pictures, n_match, tolerance) -> Match:
    """Sigmas matched on `n_match` pictures, and on twice as many until they hold on all."""
    everyone = _in_turn(pictures.spread(CHECKED))
    while True:
        places = _in_turn(pictures.spread(min(n_match, CHECKED)))
        at = pictures.pictures_of(places)
        those = counted(len(places), None if at is None else len(set(at.tolist())))
        print(f"matching {system} to the texture on {those}", file=sys.stderr)
        last = len(places) == len(everyone)
        found = find_sigmas(
            system, "ssim", view, _reader(pictures, places, view), key,
            tolerance if last else math.inf, first, texture, at,
        )  # fmt: skip
        found = dataclasses.replace(found, origin=f"sigmas matched here, on {len(places)}")
        if last:
            return found
        chunks, at = _reader(pictures, everyone, view), pictures.pictures_of(everyone)
        first = measure(found, view, chunks, key, at)
        if first.largest_gap <= tolerance:
            return first
        n_match *= 2


def check_sigmas(
    record: Match,
    key: PRNGKeyArray,
    path: pathlib.Path,
    pictures: Pictures,
    drawn: bool = False,
) -> Match:
    """What a run's sigmas achieve on other pictures, such as those held out; kept at `path`.

    `drawn`: each of these has a fixation of its own.
    """
    made_of = _digest(record.made_of, list(record.sigma_deg), pictures.fingerprint())
    kept = load_kept(path)
    if kept is None or kept.made_of != made_of:
        view = View.of(record.scale, record.size, record.fixation, record.field_of_view, drawn)
        chunks = _reader(pictures, _in_turn(pictures.spread(CHECKED)), view)
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


def _in_turn(places: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Those places in an order whose first chunk is spread over all: matching starts from it."""
    apart = -(-len(places) // AT_ONCE)
    return places[np.argsort(np.arange(len(places)) % apart, kind="stable")]


def _reader(pictures: Pictures, places, view: View) -> Callable[[], Iterable[Chunk]]:
    """Chunks of those pictures; the view's fixation where they have none of their own."""

    def chunks():
        for start in range(0, len(places), AT_ONCE):
            *images, fixations = pictures.read(places[start : start + AT_ONCE])
            yield *images, fixations_of(view, len(images[0])) if fixations is None else fixations

    return chunks
