"""The default pictures: photographs of installed packages, then a synthetic scene a class."""

import importlib.util
import pathlib

import numpy as np

from foveation_jax.data.images import read_image
from foveation_jax.data.scenes import SCENE_CLASSES, open_scenes
from foveation_jax.data.sources import ImageSource

# package -> folder of its photographs -> files
PHOTOGRAPHS = (
    ("skimage", "data", ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")),
    ("sklearn", "datasets/images", ("china.jpg", "flower.jpg")),
)


def embedded_images(seed: int, size: tuple[int, int]) -> ImageSource:
    """Photographs of scikit-image and scikit-learn where installed, then a scene of every class.

    The packages are found, not imported, so that their photographs cost nothing.
    """
    photographs = [path for package in PHOTOGRAPHS for path in _installed(*package)]
    scenes = open_scenes(seed, len(SCENE_CLASSES), size, len(SCENE_CLASSES))
    count = len(photographs)

    def read(index):
        return read_image(photographs[index]) if index < count else scenes.read(index - count)

    names = [f"photographs/{path.stem}" for path in photographs]
    return ImageSource(
        names=(*names, *(f"scenes/{label}" for label in SCENE_CLASSES)),
        labels=np.zeros(count + len(SCENE_CLASSES), np.int32),
        class_names=(),
        read=read,
    )


def _installed(package: str, folder: str, files: tuple[str, ...]) -> list[pathlib.Path]:
    """Paths of those files that the package, if installed, ships."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return []
    root = pathlib.Path(next(iter(found.submodule_search_locations))) / folder
    return [root / file for file in files if (root / file).is_file()]
