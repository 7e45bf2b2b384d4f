"""TFDS data sets, read without TensorFlow."""

import numpy as np
import pytest
from PIL import Image

from foveation_jax.data import open_tfds
from foveation_jax.data.tfds import _three_channels
from foveation_jax.runs.errors import InputError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set of four pictures, prepared as array_record without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")
    for number in range(4):
        Image.fromarray(np.full((20, 24, 3), 60 * number, np.uint8)).save(root / f"{number}.png")

    class TinyScenes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["attic", "kitchen"]),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(4):
                yield number, {"image": str(root / f"{number}.png"), "label": number % 2}

    TinyScenes(data_dir=root / "data", file_format="array_record").download_and_prepare()
    return root / "data"


@pytest.mark.filterwarnings("ignore")
def test_tfds_is_read_without_tensorflow(prepared):
    import sys

    source = open_tfds("tiny_scenes", "train[:3]", str(prepared))
    assert len(source.names) == 3
    assert source.class_names == ("attic", "kitchen")
    for index, label in enumerate(source.labels):
        level = round(float(source.read(index)[0, 0, 0]) * 255)
        assert source.read(index).shape == (20, 24, 3)
        assert level in range(0, 240, 60)
        assert level // 60 % 2 == label
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        (np.full((4, 5, 1), 4095, np.uint16), "none of the picture's 16-bit levels is above 4095"),
        (np.full((4, 5, 3), 254, np.float32), "its colours span 254 to 254: .*divide .* by 255"),
        (np.full((4, 5, 3), np.nan, np.float32), r"its colours hold nan at \[0, 0, 0\]"),
        (np.full((4, 5, 3), 7, np.int32), "its image is of type int32"),
        (np.full((4, 5, 4), 7, np.uint8), r"its image has shape \(4, 5, 4\)"),
    ],
)
def test_levels_of_examples_that_say_no_white_are_refused(levels, sentence):
    with pytest.raises(InputError, match=f"^tfds:x, example 3: {sentence}"):
        _three_channels(levels, "tfds:x, example 3")


def test_levels_of_examples_by_their_type():
    grey = np.array([[[0.0], [0.25], [1.0]]], np.float32)
    expected = np.repeat(grey, 3, axis=2)
    for levels in (grey, grey.astype(np.float64), np.round(grey * 65535).astype(np.uint16),
                   np.round(grey * 255).astype(np.uint8)):  # fmt: skip
        values = _three_channels(levels, "x")
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, atol=2e-3)
    assert not _three_channels(np.zeros((2, 2, 1), np.uint16), "x").any()


@pytest.mark.filterwarnings("ignore")
def test_tfds_sets_that_do_not_exist(prepared):
    with pytest.raises(InputError, match="images=tfds:no_such_set, split train: "):
        open_tfds("no_such_set", "train", str(prepared))
    with pytest.raises(InputError, match="images=tfds:tiny_scenes, split validation: "):
        open_tfds("tiny_scenes", "validation", str(prepared))
