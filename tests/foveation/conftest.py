"""What tests of several rooms share."""

import pytest

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
