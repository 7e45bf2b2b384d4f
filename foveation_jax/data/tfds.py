"""A TensorFlow Datasets split as a source, read without TensorFlow (`tfds.data_source`)."""

import numpy as np

from foveation_jax.data.sources import ImageSource
from foveation_jax.errors import InputError


def open_tfds(name: str, split: str, data_dir: str | None = None) -> ImageSource:
    """Split `split` of the data set `name` (for example "places365_small", "validation[:100]").

    The data set must have been prepared as array_record; its features must hold "image"; "label",
    if there, gives the classes.

    Raises:
        InputError: tensorflow-datasets is not installed, the data set or split does not exist or is
            not prepared, or its examples hold no "image".
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(
            f"images=tfds:{name}: the package tensorflow-datasets is not installed; "
            "pip install tensorflow-datasets array_record."
        ) from None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        records = builder.as_data_source(split=split)
    except Exception as error:  # its own classes differ from version to version
        sentence = (
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        raise InputError(f"images=tfds:{name}, split {split}: {sentence}") from None
    features = builder.info.features
    if "image" not in features:
        raise InputError(
            f'images=tfds:{name}: its examples hold no "image", only {", ".join(sorted(features))}.'
        )
    labelled = "label" in features
    labels = np.zeros(len(records), np.int32)
    if labelled:  # without decoding a single image
        skip = {"image": tfds.decode.SkipDecoding()}
        undecoded = builder.as_data_source(split=split, decoders=skip)
        labels = np.asarray([record["label"] for record in undecoded], np.int32)
    return ImageSource(
        names=tuple(f"{index:07d}" for index in range(len(records))),
        labels=labels,
        class_names=tuple(features["label"].names) if labelled else (),
        read=lambda index: _three_channels(np.asarray(records[index]["image"])),
    )


def _three_channels(levels: np.ndarray) -> np.ndarray:
    """Integer levels [Y, X, 1 or 3] as float32 [Y, X, 3] in [0, 1]."""
    values = levels.astype(np.float32) / np.iinfo(levels.dtype).max
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values
