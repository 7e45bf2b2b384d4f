"""What tests of several rooms share."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from foveation_jax.data import write_png
from tests.foveation.data.test_images import levels


@pytest.fixture
def folder(tmp_path):
    """Two classes of three pictures, one file that is none, and a hidden file."""
    root = tmp_path / "photographs"
    for label in ("kitchen", "attic"):
        for number in range(3):
            seed = number + 10 * len(label)
            write_png(root / label / f"{number}.png", levels(seed, (20, 20, 3)) / 255)
    (root / "kitchen" / "notes.txt").write_text("no picture")
    (root / ".DS_Store").write_text("")
    return root


@pytest.fixture(scope="module")
def photographs():
    """Two photographs [2, 128, 128, 3]."""
    pictures = [skimage.data.astronaut()[::4, ::4], skimage.data.coffee()[:384:3, :384:3]]
    return jnp.asarray(np.stack(pictures), jnp.float32) / 255
