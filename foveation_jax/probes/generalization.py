"""Generalization: every system tested on every transform, 4 x 4, and confusion matrices."""

import functools
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from foveation_jax.probes.curves import Confusion, Curve
from foveation_jax.probes.evaluate import Predict, answers, check_labelled


def generalize(
    predict: Predict,
    system: str,
    seen: Mapping[str, UInt8[np.ndarray, "N Y X 3"]],
    labels: Int[np.ndarray, " N"],
    n_classes: int,
    batch_size: int = 64,
) -> tuple[list[Curve], list[Confusion]]:
    """How the runs of one system, trained on its own transform, do on all transforms.

    Args:
        predict: levels on the device -> logits of all runs, as `evaluate` takes it.
        system: that the runs were trained on.
        seen: transform -> the same held-out images, as that transform shows them.
        labels: classes of the images, 0 to L - 1.
        n_classes: L.
        batch_size: images that are predicted together.

    Returns:
        For each transform a curve generalization/TRANSFORM of one level, and a confusion matrix.

    Raises:
        InputError: images and labels that differ in number.

    Property: a curve's accuracy is the trace of its confusion matrix over its sum.
    """
    curves, confusions = [], []
    for transform, images in seen.items():
        check_labelled(transform, images, labels)
        seen_at = functools.partial(_as_they_are, images)
        named = answers(predict, seen_at, len(images), batch_size)[:, 0]
        counts = confusion_counts(named, labels, n_classes)
        right = np.trace(counts, axis1=1, axis2=2) / len(labels)
        curves.append(Curve(f"generalization/{transform}", system, np.zeros(1), right[:, None]))
        confusions.append(Confusion(system, transform, counts))
    return curves, confusions


def _as_they_are(images, batch) -> Iterator[Array]:
    """The one level of a probe that changes nothing."""
    yield jnp.asarray(images[batch])


def confusion_counts(
    named: Int[np.ndarray, "V N"], labels: Int[np.ndarray, " N"], n_classes: int
) -> Int[np.ndarray, "V L L"]:
    """Images of each class (second axis) that each run gives each name (last axis)."""
    runs = np.arange(len(named))[:, None]
    cells = (runs * n_classes + labels[None]) * n_classes + named
    counts = np.bincount(cells.ravel(), minlength=len(named) * n_classes**2)
    return counts.reshape(-1, n_classes, n_classes)
