"""8-bit images on disk, one .npy file a data set: written batch by batch, opened as a memory map.

X.npy is written under a hidden name of its own, each batch appended to the last and its CRC-32 to a
list beside it, and renamed when it is whole. A stopped run goes on with the first batch that the
list does not vouch for; the kernel's lock on the unfinished file tells it from one that another
process is writing. X.json says of what the images are made and holds the checksums, which every
opening verifies: what was damaged since is made again, what is of another making is refused.
"""

import contextlib
import fcntl
import glob
import hashlib
import io
import json
import os
import pathlib
import secrets
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import read_record, write_record

Images = UInt8[np.ndarray, "N Y X 3"]


def find_array(path: pathlib.Path, made_of: Mapping) -> tuple[dict, Images] | None:
    """The finished array `path`, a read-only memory map, and its record; None without one.

    An array that is not as it was written, or whose record is not, is none: a line on standard
    error says so.

    Raises:
        InputError: the array was made of something else than `made_of`; the first field that
            differs is named.
    """
    if not path.exists():
        return None
    try:
        record = read_record(path.with_suffix(".json"))
    except InputError as error:
        print(f"{error} {path.name} is made again.", file=sys.stderr)
        return None
    earlier, made_of = record["made_of"], _as_json(made_of)
    for field in sorted({*earlier, *made_of}):
        then, now = earlier.get(field), made_of.get(field)
        if then != now:
            raise InputError(
                f"{path} holds images of another making ({field} was {_short(then)}, is "
                f"{_short(now)}): name another --workdir, or delete {path.parent}."
            )
    images = _intact(path, record)
    if images is None:
        print(f"{path} is damaged: it is made again.", file=sys.stderr)
        return None
    return record, images


def _intact(path: pathlib.Path, record: Mapping) -> Images | None:
    """The images at `path` if each batch has the checksum that `record` holds."""
    header, (shape, length) = _header(record["shape"]), (record["shape"], record["batch"])
    try:
        with open(path, "rb") as file:
            whole = len(header) + int(np.prod(shape))
            if file.read(len(header)) != header or os.fstat(file.fileno()).st_size != whole:
                return None
            images = np.memmap(file, np.uint8, "r", len(header), tuple(shape))
    except OSError:
        return None
    crcs = (zlib.crc32(images[start : start + length]) for start in range(0, shape[0], length))
    return images if [*crcs] == record["crc32s"] else None


def write_array(
    path: pathlib.Path,
    record: Mapping,
    shape: tuple[int, int, int, int],
    batch_size: int,
    make: Callable[[range], Iterable[UInt8[np.ndarray, "B Y X 3"]]],
    advance: Callable[[int], None] = lambda count: None,
) -> Images:
    """Writes images [N, Y, X, 3] to `path` and `record` beside it; goes on where it was stopped.

    Args:
        path: of the .npy file; nothing of this name exists until all images are written.
        record: what JSON can hold; what was written of an array with another record is dropped.
        shape: of all images.
        batch_size: images a batch; the last batch may hold fewer.
        make: numbers of batches -> those batches, in order. A pure function of the number.
        advance: told how many more images are done, those found done first.

    Returns:
        A memory map of the file as it was written here, whatever is done to `path` later.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    making = hashlib.sha256(json.dumps([record, shape, batch_size]).encode()).hexdigest()[:12]
    header = _header(shape)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(path, making) as (file, listed):
            for count in _append(file, listed, header, shape, batch_size, make):
                advance(count)
            file.flush()
            os.fsync(file.fileno())
            crcs = _listed(listed)
            sums = {"shape": shape, "batch": batch_size, "crc32s": crcs}
            pathlib.Path(file.name).replace(path)
            write_record(path.with_suffix(".json"), {**record, **sums})
            images = np.memmap(file, np.uint8, "r", len(header), tuple(shape))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from None
    return images


@contextlib.contextmanager
def _unfinished(path: pathlib.Path, making: str) -> Iterator[tuple[BinaryIO, pathlib.Path]]:
    """A file that nobody else writes, for the array of this making, and the list of its checksums.

    It is one that a run which is no more has left, or a new one. Those of other makings that nobody
    writes are removed.
    """
    stem = glob.escape(f".{path.name}-")
    left = sorted(path.parent.glob(f"{stem}*.part"))
    new = path.with_name(f".{path.name}-{making}-{secrets.token_hex(8)}.part")
    kept = None
    for part in (*left, new):
        file = open(part, "a+b")  # noqa: SIM115
        if not (_lock(file, part) or part == new):  # nobody else knows the new one
            file.close()
            continue
        if kept is None and (part == new or f"-{making}-" in part.name):
            kept = file
        else:
            part.unlink(missing_ok=True)
            part.with_suffix(".crc32").unlink(missing_ok=True)
            file.close()
    assert kept is not None  # the new one, if none was left
    with kept:
        yield kept, pathlib.Path(kept.name).with_suffix(".crc32")
    pathlib.Path(kept.name).with_suffix(".crc32").unlink(missing_ok=True)


def _lock(file: BinaryIO, path: pathlib.Path) -> bool:
    """Whether no other process is at work on an open file that still is the one at `path`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _append(file, listed, header, shape, batch_size, make) -> Iterator[int]:
    """Appends the batches that `file` lacks; yields how many images each step has brought."""
    file.seek(0)
    crcs, good = [], file.read(len(header)) == header
    lengths = [min(batch_size, shape[0] - start) for start in range(0, shape[0], batch_size)]
    image_bytes = int(np.prod(shape[1:]))
    for length, crc in zip(lengths, _listed(listed) if good else [], strict=False):
        batch = file.read(length * image_bytes)
        if len(batch) < length * image_bytes or zlib.crc32(batch) != crc:
            break
        crcs.append(crc)
    done = sum(lengths[: len(crcs)])
    file.truncate(len(header) + done * image_bytes if good else 0)
    if not good:
        file.write(header)
    yield done
    with open(listed, "w") as sums:
        sums.writelines(f"{crc}\n" for crc in crcs)
        for images in make(range(len(crcs), len(lengths))):
            images = np.ascontiguousarray(images)
            file.write(images)
            file.flush()  # a kill from here on loses the batch in work, no more
            sums.write(f"{zlib.crc32(images)}\n")
            sums.flush()
            yield len(images)


def _listed(path: pathlib.Path) -> list[int]:
    """The checksums listed so far; what cannot be read, and all after it, is none."""
    crcs = []
    with contextlib.suppress(OSError, ValueError):
        crcs.extend(int(line) for line in path.read_bytes().splitlines())
    return crcs


def _header(shape: Iterable[int]) -> bytes:
    """What a .npy file of 8-bit levels of this shape begins with."""
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _short(value) -> str:
    return textwrap.shorten(str(value), 80)


def _as_json(value):
    """`value` as it comes back from JSON: tuples are lists there."""
    return json.loads(json.dumps(value))
