"""The order in which paired runs see their images, and the batches in that order.

Run i of arXiv 2006.07991 sees the same images in the same order under every system. Here the order
of run v in epoch e is a permutation drawn from (seed, v, e) alone, so that it is the same for every
system and any step can be reached without the ones before. Batches of all V runs come together:
images [V, B, Y, X, 3] and labels [V, B], gathered in the background from a memory map; where images
have fixations of their own, also one of each, [V, B, 2], drawn from (seed, v, step). An epoch is
N // B steps; the images that are left over, other ones each epoch, are not seen in it (the
published loop trains on them as a smaller batch: 16 of 90,000 at its batch of 128).
"""

import functools
import sys
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int

from foveation_jax.data.fixations import Fixations
from foveation_jax.data.labelled import LabelledImages
from foveation_jax.runs.errors import InputError

READERS = 2  # threads that gather
AHEAD = 4  # batches of all runs gathered in advance
LOOKS = 1  # tells the random numbers of fixations from those of orders


def epoch_order(seed: int, run: int, epoch: int, count: int) -> Int[np.ndarray, " N"]:
    """The order, a permutation of `count` images, in which run `run` sees them in epoch `epoch`.

    Not grain's `shuffle`, which adds the epoch to the seed: runs with neighbouring seeds would go
    through each other's orders.
    """
    return np.random.default_rng((seed, run, epoch)).permutation(count)


def steps_an_epoch(count: int, batch_size: int) -> int:
    """Whole batches that `count` images make.

    Raises:
        InputError: fewer images than one batch.
    """
    if not 1 <= batch_size <= count:
        raise InputError(
            f"batch_size is {batch_size}: it must be 1 or more, and no more than the {count} "
            "training images."
        )
    return count // batch_size


def batch_indices(
    seed: int, n_runs: int, batch_size: int, count: int, step: int
) -> Int[np.ndarray, "V B"]:
    """Which images each run sees at a step, counted from the start of training.

    Property: over the steps of an epoch no run sees an image twice; what run v sees depends neither
    on the number of runs nor on the steps before.
    """
    epoch, place = divmod(step, steps_an_epoch(count, batch_size))
    part = slice(place * batch_size, (place + 1) * batch_size)
    return np.stack([_kept_order(seed, run, epoch, count)[part] for run in range(n_runs)])


_kept_order = functools.lru_cache(maxsize=64)(epoch_order)


def looks_of_step(
    looks: Fixations, seed: int, step: int, chosen: Int[np.ndarray, "V B"]
) -> Float32[np.ndarray, "V B 2"]:
    """A fixation, one of its own, for each image that each run sees at a step."""
    randoms = (np.random.default_rng((seed, run, step, LOOKS)) for run in range(len(chosen)))
    return np.stack([looks.draw(random, own) for random, own in zip(randoms, chosen, strict=True)])


def batches(
    labelled: LabelledImages, seed: int, n_runs: int, batch_size: int, start: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """The batches of step `start` and all steps after it, without end, gathered ahead in threads.

    A batch is images uint8 [V, B, Y, X, 3] and labels int32 [V, B]; and, where the images have
    them, fixations float32 [V, B, 2], any of an image's own with equal probability in every step.

    Four batches wait at most, so memory does not grow with the data. What a step brings does not
    depend on where the stream started: a resumed run gets what it would have got.

    Raises:
        InputError: fewer images than one batch.
    """
    import grain

    count, looks = len(labelled.labels), labelled.fixations
    steps_an_epoch(count, batch_size)

    def gather(step):
        chosen = batch_indices(seed, n_runs, batch_size, count, step)
        batch = labelled.images[chosen], labelled.labels[chosen]
        return batch if looks is None else (*batch, looks_of_step(looks, seed, step, chosen))

    options = grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=AHEAD)
    steps = grain.MapDataset.range(start, sys.maxsize)
    return iter(steps.map(gather).to_iter_dataset(options))
