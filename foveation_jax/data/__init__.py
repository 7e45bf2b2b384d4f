"""Where images come from and go to: files, folders, TFDS, synthetic scenes, exported data sets.

Every source is an `ImageSource` of named, labelled pictures; `read_batches` turns any of them into
batches [N, Y, X, 3] in [0, 1] of one static shape. For training, `open_labelled` decodes a source
once, `stage1.perceive` makes of it what a system lets through, and `batches` brings it in each
run's order, as 8-bit levels all the way.
"""

from foveation_jax.data.embedded import embedded_images
from foveation_jax.data.folders import open_folder
from foveation_jax.data.images import fit_image, read_image, write_png
from foveation_jax.data.labelled import LabelledImages, open_labelled
from foveation_jax.data.order import batches, steps_an_epoch
from foveation_jax.data.scenes import SCENE_CLASSES, open_scenes, render_scenes
from foveation_jax.data.sources import Batch, ImageSource, read_batches
from foveation_jax.data.tfds import open_tfds

__all__ = [
    "SCENE_CLASSES",
    "Batch",
    "ImageSource",
    "LabelledImages",
    "batches",
    "embedded_images",
    "fit_image",
    "open_folder",
    "open_labelled",
    "open_scenes",
    "open_tfds",
    "read_batches",
    "read_image",
    "render_scenes",
    "steps_an_epoch",
    "write_png",
]
