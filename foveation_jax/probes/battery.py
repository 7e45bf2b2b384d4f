"""The whole battery on the networks of one system at one time of learning, kept on disk.

Occlusion, cue-conflict and spatial frequency on the system's own images, and generalization to
those of every other system. A file of NumPy arrays holds them, `levels:PROBE`, `accuracy:PROBE` and
`confusion:TRANSFORM`, so that a run that goes on does no probe again; `seal` is JSON of what they
were made of and of their checksums.
"""

import dataclasses
import functools
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, UInt8

from foveation_jax.probes.curves import Confusion, Curve
from foveation_jax.probes.evaluate import evaluate
from foveation_jax.probes.generalization import generalize
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import read_arrays, whole
from foveation_jax.training.prediction import compiled_logits
from foveation_jax.windows.pooling_windows import PoolingWindows


@dataclasses.dataclass(frozen=True)
class Battery:
    """What the networks of a system answered."""

    curves: tuple[Curve, ...]
    confusion: tuple[Confusion, ...]


def run_battery(
    network: nn.Module,
    variables: Any,
    system: str,
    shown: Mapping[str, UInt8[np.ndarray, "N Y X 3"]],
    labels: Int[np.ndarray, " N"],
    *,
    mean: Float[np.ndarray, "3"],
    windows: PoolingWindows,
    n_images: int = 0,
    every: int = 1,
    batch_size: int = 64,
) -> Battery:
    """All probes of all runs.

    Args:
        network: of the runs.
        variables: leaves [V, ...].
        system: that the runs were trained on; a key of `shown`.
        shown: system -> the same held-out images as it lets them through, levels.
        labels: classes of the images.
        mean: colour in [0, 1] that high-pass stimuli have on average.
        windows: pooling windows of the images' size, for cue-conflict.
        n_images: the first so many of each class, see `evaluate`; generalization takes all.
        every: every so-many-th level.
        batch_size: images that are predicted together.
    """
    predict = functools.partial(compiled_logits, network, variables)
    curves = evaluate(
        predict,
        system,
        shown[system],
        labels,
        n_images=n_images,
        every=every,
        mean=mean,
        windows=windows,
        batch_size=batch_size,
    )
    tested, confusion = generalize(predict, system, shown, labels, network.n_classes, batch_size)
    return Battery((*curves, *tested), tuple(confusion))


def save_battery(
    battery: Battery, path: pathlib.Path, made_of: Mapping[str, Any] | None = None
) -> None:
    """Writes a battery, whole or not at all, with what it was `made_of`, and checksums.

    Raises:
        InputError: an accuracy is not a finite number.
    """
    arrays: dict[str, Any] = {}
    for curve in battery.curves:
        arrays[f"levels:{curve.probe}"] = curve.levels
        arrays[f"accuracy:{curve.probe}"] = curve.accuracy
    arrays |= {f"confusion:{matrix.transform}": matrix.counts for matrix in battery.confusion}
    _check_finite(path, arrays)
    seal = {"made_of": made_of or {}, "crc32s": _checksums(arrays)}
    with whole(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **arrays, seal=np.array(json.dumps(seal)))


def load_battery(
    path: pathlib.Path, system: str, made_of: Mapping[str, Any] | None = None
) -> Battery:
    """Reads what `save_battery` wrote for `system`.

    Raises:
        InputError: the file is missing or damaged, an accuracy is not a finite number, or the file
            was made of something else than `made_of` (if given).
    """
    try:
        found = read_arrays(path)
        seal = json.loads(found.pop("seal").item())
        if seal["crc32s"] != _checksums(found):
            raise ValueError("its checksums do not fit")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged or missing ({error}).") from None
    if made_of is not None and seal["made_of"] != made_of:
        raise InputError(f"{path} holds other probes, or of other networks or images.")
    _check_finite(path, found)
    names = [name.split(":", 1) for name in found]
    return Battery(
        tuple(
            Curve(probe, system, found[f"levels:{probe}"], found[f"accuracy:{probe}"])
            for kind, probe in names
            if kind == "levels"
        ),
        tuple(
            Confusion(system, transform, found[f"confusion:{transform}"])
            for kind, transform in names
            if kind == "confusion"
        ),
    )


def _checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Name -> type, shape and CRC-32."""
    return {
        name: f"{array.dtype} {array.shape} {zlib.crc32(np.ascontiguousarray(array)):08x}"
        for name, array in arrays.items()
    }


def _check_finite(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if name.startswith("accuracy:") and not np.isfinite(array).all():
            run = int(np.argmin(np.isfinite(array).all(1)))
            raise InputError(f"{path}: {name}, run {run}, is not a finite number.")
