"""Golden texture statistics from plenoptic 2.1 (an independent implementation).

Run with an environment that has plenoptic:  python texture_plenoptic.py
Writes texture_plenoptic.npz beside this file: a 64 x 64 image of patches and noise, and its
Portilla-Simoncelli statistics in 3 octaves and 4 orientations. NaN stands for what is redundant.
"""

from pathlib import Path

import numpy as np
import plenoptic
import torch

rng = np.random.default_rng(0)
image = 0.1 * rng.random((64, 64))
for _ in range(40):
    (y, x), (h, w) = rng.integers(0, 56, 2), rng.integers(3, 24, 2)
    image[y : y + h, x : x + w] = rng.random() * 0.8 + 0.1 * rng.random(
        image[y : y + h, x : x + w].shape
    )
image = image.astype(np.float32)

model = plenoptic.models.PortillaSimoncelli((64, 64), 3, 4, 5).double()
found = model.convert_to_dict(model(torch.tensor(image, dtype=torch.float64)[None, None]))
arrays = {name: np.asarray(value[0, 0], np.float32) for name, value in found.items()}
np.savez_compressed(Path(__file__).with_suffix(".npz"), image=image, **arrays)
print({name: value.shape for name, value in arrays.items()})
