"""A TensorFlow Datasets split as a source, read without TensorFlow (`tfds.data_source`)."""

import dataclasses
import pathlib

import numpy as np

from foveation_jax.data.images import check_16_bits
from foveation_jax.data.sources import ImageSource
from foveation_jax.metrics.levels import check_colours
from foveation_jax.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class TfdsDescription:
    """What a prepared data set holds, as its metadata say.

    Attributes:
        full_name: NAME/CONFIG/VERSION.
        class_names: of its feature "label"; empty where it has none.
        counts: split -> images.
        folder: of its files.
    """

    full_name: str
    class_names: tuple[str, ...]
    counts: dict[str, int]
    folder: pathlib.Path


def describe_tfds(name: str, data_dir: str | None = None, field: str = "images") -> TfdsDescription:
    """What the data set `name` holds, without reading an example.

    Raises:
        InputError: as `open_tfds`.
    """
    builder = _prepared(name, data_dir, f"{field}=tfds:{name}")
    info = builder.info
    return TfdsDescription(
        full_name=info.full_name,
        class_names=tuple(info.features["label"].names) if "label" in info.features else (),
        counts={split: info.splits[split].num_examples for split in info.splits},
        folder=pathlib.Path(builder.data_path),
    )


def open_tfds(
    name: str, split: str, data_dir: str | None = None, field: str = "images"
) -> ImageSource:
    """Split `split` of the data set `name` (for example "places365_small", "validation[:100]").

    The data set must have been prepared as array_record; its features must hold "image"; "label",
    if there, gives the classes. `field` is the setting that errors name.

    Raises:
        InputError: tensorflow-datasets is not installed, the data set or split does not exist or is
            not prepared (with the command that does it), or its examples hold no "image".
    """
    where = f"{field}=tfds:{name}, split {split}"
    builder = _prepared(name, data_dir, where)
    try:
        records = builder.as_data_source(split=split)
    except Exception as error:  # its own classes differ from version to version
        raise InputError(f"{where}: {_first_line(error)}") from None
    features = builder.info.features
    if "image" not in features:
        raise InputError(
            f'{where}: its examples hold no "image", only {", ".join(sorted(features))}.'
        )
    labelled = "label" in features
    labels = np.zeros(len(records), np.int32)
    if labelled:  # without decoding a single image
        import tensorflow_datasets as tfds

        skip = {"image": tfds.decode.SkipDecoding()}
        undecoded = builder.as_data_source(split=split, decoders=skip)
        labels = np.asarray([record["label"] for record in undecoded], np.int32)
    return ImageSource(
        names=tuple(f"{index:07d}" for index in range(len(records))),
        labels=labels,
        class_names=tuple(features["label"].names) if labelled else (),
        read=lambda index: _three_channels(
            np.asarray(records[index]["image"]), f"{where}, example {index}"
        ),
    )


def _prepared(name: str, data_dir: str | None, where: str):
    """The builder of a data set that lies prepared under `data_dir`."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(
            f"{where}: the package tensorflow-datasets is not installed; "
            "pip install tensorflow-datasets array_record."
        ) from None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        prepared = builder.is_prepared()
    except Exception as error:
        raise InputError(f"{where}: {_first_line(error)}") from None
    if not prepared:
        place = f", data_dir='{data_dir}'" if data_dir else ""
        raise InputError(
            f"{where}: the data set is not prepared; prepare it once with "
            f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}'{place}, "
            "file_format='array_record').download_and_prepare()\"."
        )
    return builder


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _three_channels(levels: np.ndarray, where: str) -> np.ndarray:
    """An example's image [Y, X, 1 or 3], levels of 8 or 16 bits or colours, as float32 colours.

    Raises:
        InputError: another number of channels or type, 16-bit levels that are all dark, as those of
            12 bits are, or colours that are not finite or not within 0 and 1.
    """
    if levels.ndim != 3 or levels.shape[2] not in (1, 3):
        raise InputError(f"{where}: its image has shape {levels.shape}; 1 or 3 channels are read.")
    if levels.dtype in (np.uint8, np.uint16):
        if levels.dtype == np.uint16 and levels.any():
            check_16_bits(where, int(levels.max()))
        levels = levels.astype(np.float32) / np.iinfo(levels.dtype).max
    elif levels.dtype.kind != "f":
        raise InputError(
            f"{where}: its image is of type {levels.dtype}, and nothing says which is white; "
            "uint8, uint16 and floating point are read."
        )
    check_colours(f"{where}: its colours", levels)
    values = np.clip(levels, 0, 1).astype(np.float32)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values
