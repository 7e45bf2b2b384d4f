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
    parts = [settings, system, size, n_match, tolerance, drawn, pictures.fingerprint()]
    own = pictures.picture_of
    made_of = _digest(*parts, *([] if own is None else [own.tolist()]))
    if kept is not None and kept.made_of == made_of:
        return kept
    everyone, first = _in_turn(pictures.spread(CHECKED)), matched.shipped(system)
    of_all = None if own is None else own[everyone]
    record = None
    for known in (kept, first if settings["route"] == DEFAULT else None):
        if known is not None and not matched.misfits(known, view.fields) and record is None:
            found = measure(known, view, _reader(pictures, everyone, view), key, of_all)
            record = found if found.largest_gap <= tolerance else None
    while record is None:
        places = _in_turn(pictures.spread(min(n_match, CHECKED)))
        of = None if own is None else own[places]
        those = counted(len(places), None if of is None else len(set(of.tolist())))
        print(f"matching {system} to the texture on {those}", file=sys.stderr)
        windows = ", published windows" if settings.get("published") else ""
        description = f"foveation_texture, {settings['route']} route{windows}"
        last = len(places) == len(everyone)
        record = find_sigmas(
            system, "ssim", view, _reader(pictures, places, view), key,
            tolerance if last else math.inf, first, description, of,
        )  # fmt: skip
        record = dataclasses.replace(record, origin=f"sigmas matched here, on {len(places)}")
        if not last:
            first = record = measure(record, view, _reader(pictures, everyone, view), key, of_all)
            record = record if record.largest_gap <= tolerance else None
        n_match *= 2
    return dataclasses.replace(record, made_of=made_of)


def check_sigmas(record: Match, key: PRNGKeyArray, path: pathlib.Path, pictures: Pictures) -> Match:
    """What a run's sigmas achieve on other pictures, such as those held out; kept at `path`."""
    made_of = _digest(record.made_of, list(record.sigma_deg), pictures.fingerprint())
    kept = load_kept(path)
    if kept is None or kept.made_of != made_of:
        view = View.of(record.scale, record.size, record.fixation, record.field_of_view)
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
