"""One interface to every source of pictures, and its batches of static shape.

A source is a list of names with labels and a function that reads one picture. Batches are fixed
slices of that list, so that batch i holds the same pictures in every run, resumed or not; a picture
that cannot be read leaves its place in the batch grey and its sentence in `failures`.
"""

import collections
import concurrent.futures
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from foveation_jax.data.images import cut_share, fit_image
from foveation_jax.metrics.levels import check_colours
from foveation_jax.runs.errors import InputError

READERS = 4  # threads; decoding releases the interpreter lock
AHEAD = 2  # batches read in advance
MOST = 0.5  # share of a picture's area that is not lost without a word


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Named pictures with labels.

    Attributes:
        names: one unique relative name a picture, without extension, such as "office/0012".
        labels: index into `class_names` a picture; all 0 where there are no classes.
        class_names: names of the classes; empty where the source has none.
        read: index of a picture -> its values [Y, X, 3] in [0, 1]; may raise InputError.
    """

    names: tuple[str, ...]
    labels: Int[np.ndarray, " N"]
    class_names: tuple[str, ...]
    read: Callable[[int], Float[np.ndarray, "Y X 3"]]

    def subset(self, indices: Iterable[int | np.integer]) -> "ImageSource":
        """The source of these pictures alone, in this order."""
        indices = np.asarray(list(indices), int)
        names = tuple(self.names[i] for i in indices)
        return dataclasses.replace(
            self, names=names, labels=self.labels[indices], read=lambda i: self.read(indices[i])
        )


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch of a source.

    Attributes:
        number: which slice of the source this is.
        images: [N, Y, X, 3] in [0, 1]; places without a picture are grey (.5).
        indices: place of each image in the source, -1 where the last batch is filled up.
        present: which places hold a picture that could be read.
        failures: name -> sentence of the pictures that could not be read.
        cut: name -> share of its area that a picture has lost, of those that lost most of it.
    """

    number: int
    images: Float[np.ndarray, "N Y X 3"]
    indices: Int[np.ndarray, " N"]
    present: Bool[np.ndarray, " N"]
    failures: dict[str, str]
    cut: dict[str, float] = dataclasses.field(default_factory=dict)


def tell_cut(cut: Mapping[str, float], size: tuple[int, int]) -> None:
    """Says on stderr which pictures have lost most of themselves; nothing where none has."""
    if cut:
        worst = max(cut, key=lambda name: cut[name])
        print(
            f"{len(cut)} of the pictures, cut to the shape of {size[0]} x {size[1]} pixels, lost "
            f"over {MOST:.0%} of their area, {worst} most ({cut[worst]:.0%}): fit=pad keeps them "
            "whole.",
            file=sys.stderr,
        )


def batch_count(source: ImageSource, batch_size: int) -> int:
    """How many batches `read_batches` makes of a source."""
    return -(-len(source.names) // batch_size)


def read_batches(
    source: ImageSource,
    size: tuple[int, int],
    batch_size: int,
    numbers: Iterable[int] | None = None,
    fit: str = "crop",
) -> Iterator[Batch]:
    """All pictures of `source`, in order, at `size` = (Y, X), in batches of exactly `batch_size`.

    The last batch is filled up with grey. Files are read in threads, two batches ahead. `numbers`
    picks batches by their numbers, for a run that goes on; `fit` is that of `fit_image`.
    """
    numbers = range(batch_count(source, batch_size)) if numbers is None else numbers
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        waiting = collections.deque()
        for number in numbers:
            stop = min((number + 1) * batch_size, len(source.names))
            futures = [
                pool.submit(_read, source, i, size, fit) for i in range(number * batch_size, stop)
            ]
            waiting.append((number, futures))
            if len(waiting) > AHEAD:
                yield _batch(source, waiting.popleft(), size, batch_size)
        while waiting:
            yield _batch(source, waiting.popleft(), size, batch_size)


def _read(source: ImageSource, index: int, size, fit) -> tuple[np.ndarray, float] | InputError:
    """One picture brought to size, and the share of its area that it lost."""
    name = source.names[index]
    try:
        picture = source.read(index)
        check_colours(f"{name}: the picture's levels", picture)
    except InputError as error:
        return error
    try:
        fitted = fit_image(picture, size, fit)
    except InputError as error:
        return InputError(f"{name}: {error}")
    return fitted, cut_share(picture.shape, size) if fit == "crop" else 0.0


def _batch(source, read, size, batch_size) -> Batch:
    number, futures = read
    images = np.full((batch_size, *size, 3), 0.5, np.float32)
    present = np.zeros(batch_size, bool)
    indices = np.full(batch_size, -1)
    indices[: len(futures)] = number * batch_size + np.arange(len(futures))
    failures, cut = {}, {}
    for place, future in enumerate(futures):
        name, result = source.names[indices[place]], future.result()
        if isinstance(result, InputError):
            failures[name] = str(result)
        else:
            (images[place], lost), present[place] = result, True
            if lost > MOST:
                cut[name] = lost
    return Batch(number, images, indices, present, failures, cut)
