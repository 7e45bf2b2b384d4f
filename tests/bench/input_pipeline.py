"""Images a second that the input pipeline alone delivers, from a memory map, to V runs at once.

    python tests/bench/input_pipeline.py --size 128 --runs 3 --batch 32

Prints one line, `images_a_second: X`: the best of three passes over the data, whose first pass also
brings it into memory. Training must consume less than this.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np


def images_a_second(size: int, n_runs: int, batch: int, count: int, steps: int) -> float:
    """Best rate of three over `steps` batches of random images."""
    from foveation_jax.data import LabelledImages, batches

    levels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.broadcast_to(levels, (count, size, size, 3)))
        images = np.load(path, mmap_mode="r")
        labelled = LabelledImages(images, np.zeros(count, np.int32), ("a", "b"))
        times = []
        for _ in range(3):
            stream = batches(labelled, 0, n_runs, batch, 0)
            start = time.perf_counter()
            for _ in itertools.islice(stream, steps):
                pass
            times.append(time.perf_counter() - start)
            stream.close()
    return steps * n_runs * batch / min(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=187)
    arguments = parser.parse_args()
    rate = images_a_second(
        arguments.size, arguments.runs, arguments.batch, arguments.count, arguments.steps
    )
    print(f"images_a_second: {rate:.0f}")
