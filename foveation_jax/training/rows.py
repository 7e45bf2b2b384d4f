"""Rows of metrics that a training left: each there, and none twice."""

import collections
import pathlib
from collections.abc import Iterable

from foveation_jax.runs.errors import InputError


def check_rows(
    path: pathlib.Path, unit: str, found: Iterable[int], needed: Iterable[int], remedy: str
) -> None:
    """Looks whether a file of rows holds each that is `needed`, and none twice.

    Args:
        path: of the file.
        unit: what numbers the rows, such as "epoch".
        found: the numbers of its rows.
        needed: the numbers that there must be.
        remedy: what to do where they are not there.

    Raises:
        InputError: a row is lost or stands twice; the first is named.
    """
    counts = {**dict.fromkeys(needed, 0), **collections.Counter(found)}
    for number, count in sorted(counts.items()):
        if count != 1:
            raise InputError(
                f"{path} is damaged: it has {count or 'no'} rows of {unit} {number}; {remedy}."
            )
