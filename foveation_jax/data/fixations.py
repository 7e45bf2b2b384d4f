"""Fixations of images from a file: one of each, or several: a scan path, or what steps draw."""

import contextlib
import csv
import dataclasses
import hashlib
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from foveation_jax.data.sources import ImageSource
from foveation_jax.runs.errors import InputError

Fixation = Float[np.ndarray, "2"]  # (y, x) in pixels of the picture as it is shown


@dataclasses.dataclass(frozen=True)
class Fixations:
    """Where each of N images is looked at: at one place or several, as observers did.

    Attributes:
        places: (y, x) in pixels [P, 2], image after image.
        begins: index of each image's first place.
        counts: how many each image has, 1 or more.
    """

    places: Float32[np.ndarray, "P 2"]
    begins: Int[np.ndarray, " N"]
    counts: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, looks: Collection[Any]) -> "Fixations":
        """Of places (y, x), one or more an image: looks[n][k] is the k-th of image n."""
        counts = np.array([len(own) for own in looks])
        places = np.asarray([place for own in looks for place in own], np.float32)
        return cls(places, np.cumsum(counts) - counts, counts)

    def first(self) -> Float32[np.ndarray, "N 2"]:
        """The first of each image."""
        return self.places[self.begins]

    def draw(
        self, random: np.random.Generator, images: Int[np.ndarray, " B"]
    ) -> Float32[np.ndarray, "B 2"]:
        """One for each of these images, any of its own with equal probability."""
        return self.places[self.begins[images] + random.integers(self.counts[images])]

    def fingerprint(self) -> str:
        """What tells them from others."""
        return hashlib.sha256(self.places.tobytes() + self.counts.tobytes()).hexdigest()


def read_fixations(
    path: str | pathlib.Path, names: Sequence[str], size: tuple[int, int]
) -> dict[str, list[Fixation]]:
    """Name -> its fixations in the order of the lines, for every one of `names`.

    Args:
        path: a CSV whose first line is image,y,x. A picture is named with or without the ending
            of its file.
        names: of pictures; lines of others are checked, not used.
        size: (Y, X) of the pictures as they are shown.

    Raises:
        InputError: no such file, a line that is not image,y,x, a place off the picture, or a
            picture without a fixation.
    """
    last, known, found = np.asarray(size) - 1, set(names), {}
    try:
        lines = list(csv.reader(pathlib.Path(path).read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"fixations: {path} cannot be read ({error}).") from None
    if not lines or [cell.strip() for cell in lines[0]] != ["image", "y", "x"]:
        raise InputError(f"fixations: {path} must begin with a line image,y,x.")
    for number, cells in enumerate(lines[1:], 2):
        where, at = f"fixations: line {number} of {path}", None
        with contextlib.suppress(ValueError):
            at = np.asarray([float(cell) for cell in cells[1:]], np.float32)
        if not cells:
            continue
        if at is None or at.shape != (2,) or not (np.isfinite(at).all() and cells[0]):
            raise InputError(f"{where} is {','.join(cells)!r}: it must be image,y,x.")
        if not ((at >= 0) & (at <= last)).all():
            raise InputError(
                f"{where} is at {tuple(at.tolist())}: it must lie on the picture as it is shown, "
                f"within (0, 0) and {tuple(last.tolist())}."
            )
        name = cells[0] if cells[0] in known else cells[0].rpartition(".")[0]
        found.setdefault(name, []).append(at)
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"fixations: {path} has none for {len(missing)} of {len(names)} pictures, such "
            f"as {missing[0]!r}."
        )
    return {name: found[name] for name in names}


def each_look(
    source: ImageSource, fixations: Mapping[str, Sequence[Fixation]]
) -> tuple[ImageSource, dict[str, dict[str, Fixation]]]:
    """A source with an entry for each look, and picture -> name of each of its looks -> where.

    A picture with one fixation keeps its name; the looks of a scan path are NAME-1, NAME-2, ...

    Raises:
        InputError: a look would have the name of a picture.
    """
    looks = {
        name: dict(zip(_look_names(name, len(fixations[name])), fixations[name], strict=True))
        for name in source.names
    }
    for picture, path in looks.items():
        if taken := [look for look in path if look != picture and look in looks]:
            raise InputError(
                f"fixations: {picture!r} has a scan path whose look {taken[0]!r} has the name of "
                "another picture: rename one of the two."
            )
    repeated = source.subset(i for i, name in enumerate(source.names) for _ in looks[name])
    return dataclasses.replace(
        repeated, names=tuple(k for path in looks.values() for k in path)
    ), looks


def _look_names(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
