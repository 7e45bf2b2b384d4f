"""A network, data and set-up that train in a second; as a script, a training that can be killed.

    python -m tests.foveation.tiny_training WORKDIR COMPILATION_CACHE [HOST:PORT PROCESSES ID]

prints the number of each step as it is done.
"""

import sys

import flax.linen as nn
import jax
import numpy as np

from foveation_jax.data.labelled import LabelledImages
from foveation_jax.runs import devices
from foveation_jax.training import loop
from foveation_jax.training.optimiser import Recipe
from foveation_jax.training.step import Setup

CLASSES, SIZE, RUNS, BATCH, N = 3, (16, 16), 2, 4, 26
KEEPING = loop.Keeping(epochs=(0, 2), steps=3)


class TinyNetwork(nn.Module):
    """A 4 x 4 convolution of stride 4, batch normalisation, ReLU, dropout, one linear layer."""

    n_classes: int = CLASSES
    features: int = 6
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images, train=False):
        n, y, x, _ = images.shape
        patches = images.reshape(n, y // 4, 4, x // 4, 4, 3).swapaxes(2, 3)
        features = nn.Dense(self.features, name="conv")(patches.reshape(n, y // 4, x // 4, 48))
        features = nn.BatchNorm(not train, momentum=0.9, dtype=images.dtype)(features)
        pooled = nn.relu(features).mean((1, 2))
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        return nn.Dense(self.n_classes, name="fc")(pooled), {"pooled": pooled}


def images(n=N, seed=0):
    """Noise around one colour a class, so that there is something to learn."""
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % CLASSES
    colours = np.eye(3)[labels][:, None, None] * 90 + 60
    pixels = colours + random.normal(0, 60, (n, *SIZE, 3))
    names = tuple(f"class {c}" for c in range(CLASSES))
    return LabelledImages(np.clip(pixels, 0, 255).astype(np.uint8), labels, names, "tiny")


def setup(**changes):
    recipe = {"epochs": 4, "batch_size": BATCH, "learning_rates": (0.1, 0.02), "changes": (0.5,)}
    fields = {"network": TinyNetwork(), "n_runs": RUNS, "seed": 1, "n_images": N, "size": SIZE}
    recipe |= {k: changes.pop(k) for k in list(changes) if k in Recipe.__dataclass_fields__}
    return Setup(recipe=Recipe(**recipe), **(fields | changes))


def batch(seed=0):
    """One batch, the same one for every run, on the host."""
    chosen = images(BATCH, seed)
    return tuple(np.stack([part] * RUNS) for part in (chosen.images, chosen.labels))


def main(workdir, cache, *among):
    if among:
        jax.distributed.initialize(among[0], *map(int, among[1:]))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    run_steps = loop.run_steps

    def announced(*arguments):
        for step, state in run_steps(*arguments):
            print(step, flush=True)
            yield step, state

    loop.run_steps = announced
    with devices.folder_of_this_process(workdir) as path:
        loop.train(setup(), "reference", images(), images(12, 1), path, KEEPING)


if __name__ == "__main__":
    main(*sys.argv[1:])
