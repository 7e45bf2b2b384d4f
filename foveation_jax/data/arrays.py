"""8-bit images on disk, one .npy file a data set: written batch by batch, opened as a memory map.

X.npy is written under the name X.npy.unfinished, each batch appended to the last, and renamed when
it is whole, so the length of the unfinished file says how many batches are done and a stopped run
goes on with the next. X.json beside it says of what the images are made: it tells a file that can
be taken as it is from one that is of other images.
"""

import io
import json
import os
import pathlib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import UInt8

from foveation_jax.errors import InputError
from foveation_jax.workdir import write_text


def find_record(path: pathlib.Path, made_of: Mapping) -> dict | None:
    """The record beside the finished array `path`; None where there is no finished one.

    Raises:
        InputError: the array was made of something else than `made_of`; the first field that
            differs is named.
    """
    if not path.exists():
        return None
    record = _read_record(path)
    earlier, made_of = record["made_of"], _as_json(made_of)
    for field in sorted({*earlier, *made_of}):
        then, now = earlier.get(field), made_of.get(field)
        if then != now:
            raise InputError(
                f"{path} holds images of another making ({field} was {_short(then)}, is "
                f"{_short(now)}): name another --workdir, or delete {path.parent}."
            )
    return record


def open_array(path: pathlib.Path) -> UInt8[np.ndarray, "N Y X 3"]:
    """A finished array as a read-only memory map."""
    return np.load(path, mmap_mode="r")


def write_array(
    path: pathlib.Path,
    record: Mapping,
    shape: tuple[int, int, int, int],
    batch_size: int,
    make: Callable[[range], Iterable[UInt8[np.ndarray, "B Y X 3"]]],
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes images [N, Y, X, 3] to `path` and `record` beside it; goes on where it was stopped.

    Args:
        path: of the .npy file; nothing of this name exists until all images are written.
        record: what JSON can hold; what was written of an array with another record is dropped.
        shape: of all images.
        batch_size: images a batch; the last batch may hold fewer.
        make: numbers of batches -> those batches, in order. A pure function of the number.
        advance: told how many more images are done, those found done first.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if unfinished.exists() and _read_record(path) != _as_json(record):
            unfinished.unlink()
        write_text(path.with_suffix(".json"), json.dumps(record) + "\n")
        with open(unfinished, "ab") as file:
            for count in _append(file, shape, batch_size, make):
                advance(count)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from None


def _append(file, shape, batch_size, make) -> Iterator[int]:
    """Appends the batches that `file` lacks; yields how many images each step has brought."""
    header, image_bytes = _header(shape), int(np.prod(shape[1:]))
    on_disk = max(0, file.tell() - len(header)) // image_bytes
    done = shape[0] if on_disk >= shape[0] else on_disk - on_disk % batch_size
    if file.tell() < len(header):
        file.truncate(0)
        file.write(header)
    else:
        file.truncate(len(header) + done * image_bytes)
    yield done
    for images in make(range(-(-done // batch_size), -(-shape[0] // batch_size))):
        file.write(np.ascontiguousarray(images))
        file.flush()  # a kill from here on loses the batch in work, no more
        yield len(images)


def _header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of 8-bit levels of this shape begins with."""
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _read_record(path: pathlib.Path) -> dict:
    """The record beside `path`; one that says nothing where it is missing or no JSON."""
    try:
        return json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return {"made_of": {}}


def _short(value) -> str:
    return textwrap.shorten(str(value), 80)


def _as_json(value):
    """`value` as it comes back from JSON: tuples are lists there."""
    return json.loads(json.dumps(value))
