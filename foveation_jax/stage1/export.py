"""A data set, transformed, to disk: PNG folders, and from them array_record files.

SYSTEM/NAME.png below the working folder, written whole or not at all; a run that was stopped goes
on with the first batch that lacks a picture. Every device works on one picture at a time with the
noise of that picture's name, so a picture depends neither on the devices nor on the other pictures.
"""

import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, UInt8, UInt32

from foveation_jax.data.images import png_is_whole, write_png
from foveation_jax.data.sources import ImageSource, batch_count, read_batches, tell_cut
from foveation_jax.runs import devices
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import file_crc32, read_record, whole, write_record

# images [N, Y, X, 3] on the devices, what is known of each -> the same as a system sees them
System = Callable[[Float[Array, "N Y X 3"], Any], Float[Array, "N Y X 3"]]
RECORDS_PER_FILE = 1024


def images_mesh() -> Mesh:
    """All devices in one axis "images"."""
    return Mesh(devices.mesh().devices.reshape(-1), ("images",))


def shard_images(images: Float[np.ndarray, "N Y X 3"]) -> Float[Array, "N Y X 3"]:
    """`images` on all devices, split along N; N is a multiple of the number of devices."""
    return devices.placed(images, NamedSharding(images_mesh(), PartitionSpec("images")))


def on_all_devices(system: Callable, shared: bool = True) -> Callable:
    """`system` compiled to run on every device's part of the batch, without traffic.

    Its second argument is the same for the whole batch if `shared`, else one an image.
    """
    split, whole = PartitionSpec("images"), PartitionSpec()
    specs = (split, whole if shared else split)
    return jax.jit(
        jax.shard_map(system, mesh=images_mesh(), in_specs=specs, out_specs=split, check_vma=False)
    )


def name_digests(names: Sequence[str]) -> UInt32[np.ndarray, "N 2"]:
    """64 bits of each name's SHA-256."""
    return _digests([name.encode("utf-8", "surrogatepass") for name in names])


def image_digests(images: UInt8[np.ndarray, "N Y X 3"]) -> UInt32[np.ndarray, "N 2"]:
    """64 bits of the SHA-256 of each image's levels, for images that have no name."""
    return _digests([np.ascontiguousarray(image) for image in images])


def _digests(contents) -> UInt32[np.ndarray, "N 2"]:
    found = [hashlib.sha256(content).digest()[:8] for content in contents]
    return np.frombuffer(b"".join(found), "<u4").reshape(-1, 2)


def picture_key(key: PRNGKeyArray, digest: UInt32[Array, "2"]) -> PRNGKeyArray:
    """The key of one picture's noise."""
    return jax.random.fold_in(jax.random.fold_in(key, digest[0]), digest[1])


def whole_batches(batch_size: int) -> int:
    """`batch_size` rounded up to a multiple of the number of devices."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def export_pictures(
    source: ImageSource,
    systems: Mapping[str, System],
    folder: pathlib.Path,
    size: tuple[int, int],
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
    known: Callable[[Sequence[str]], Any] = name_digests,
    fit: str = "crop",
) -> dict[str, str]:
    """Writes every picture of `source` as every system sees it, to folder/SYSTEM/NAME.png.

    Pictures that exist and are whole are not made again, and batches without a missing one are not
    even read.

    Args:
        source: the pictures.
        systems: name -> transform of one picture a device.
        folder: the working folder.
        size: (Y, X) that pictures are brought to.
        batch_size: pictures that are read together.
        advance: told how many more pictures are done, those found done first.
        known: names of N pictures -> what systems are told of them, a tree of arrays [N, ...].
        fit: how pictures come to `size`, see `fit_image`.

    Returns:
        Name -> sentence of the pictures that could not be read.
    """

    def missing(system, name):
        return not png_is_whole(folder / system / f"{name}.png")

    def unfinished(number):
        names = source.names[number * batch_size : (number + 1) * batch_size]
        return any(missing(system, name) for system in systems for name in names)

    to_do = [n for n in range(batch_count(source, batch_size)) if unfinished(n)]
    advance(len(source.names) - sum(_batch_length(source, n, batch_size) for n in to_do))
    failures, cut = {}, {}
    for batch in read_batches(source, size, batch_size, to_do, fit):
        failures |= batch.failures
        cut |= batch.cut
        names = [
            source.names[i] if ok else None
            for i, ok in zip(batch.indices, batch.present, strict=True)
        ]
        for system, transform in systems.items():
            places = [p for p, name in enumerate(names) if name and missing(system, name)]
            for group, seen in _in_groups(transform, batch.images, names, places, known):
                for place, picture in zip(group, devices.fetched(seen), strict=False):
                    write_png(folder / system / f"{names[place]}.png", picture)
        advance(_batch_length(source, batch.number, batch_size))
    tell_cut(cut, size)
    return failures


def _in_groups(
    transform: System, images, names, places: list[int], known: Callable
) -> list[tuple[list[int], Array]]:
    """(places, what the system makes of them) of one picture a device; all start before any ends.

    The program holds one picture whatever the number of devices, so it makes the same bytes.
    """
    width, seen = jax.device_count(), []
    for start in range(0, len(places), width):
        group = places[start : start + width]
        filled = (group * width)[:width]
        details = known([names[place] for place in filled])
        seen.append((group, transform(shard_images(images[filled]), details)))
    return seen


def _batch_length(source: ImageSource, number: int, batch_size: int) -> int:
    """Pictures in a batch; the last one may be shorter."""
    return min(batch_size, len(source.names) - number * batch_size)


def pack_records(source: ImageSource, folder: pathlib.Path) -> list[pathlib.Path]:
    """Packs folder/NAME.png of every picture into folder-NNNNN-of-NNNNN.array_record files.

    A record is msgpack {"name", "label", "class", "png"}; pictures that are missing (their files
    could not be read) are left out. Files that exist are kept if they are as they were written and
    of these pictures, which NAME.array_record.json tells.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from flax.serialization import msgpack_serialize

    present = [i for i, name in enumerate(source.names) if (folder / f"{name}.png").exists()]
    groups = [present[i : i + RECORDS_PER_FILE] for i in range(0, len(present), RECORDS_PER_FILE)]
    paths = []
    for number, group in enumerate(groups):
        path = folder.with_name(f"{folder.name}-{number:05d}-of-{len(groups):05d}.array_record")
        paths.append(path)
        seal = path.with_name(f"{path.name}.json")
        names = [source.names[index] for index in group]
        if _is_packed(path, seal, names):
            continue
        with whole(path) as unfinished:
            writer = ArrayRecordWriter(str(unfinished), "group_size:1")
            for index in group:
                label, name = int(source.labels[index]), source.names[index]
                record = {
                    "name": name,
                    "label": label,
                    "class": source.class_names[label] if source.class_names else "",
                    "png": (folder / f"{name}.png").read_bytes(),
                }
                writer.write(msgpack_serialize(record))
            writer.close()
            crc = file_crc32(unfinished)
        write_record(seal, {"names": names, "file": crc})
    return paths


def _is_packed(path: pathlib.Path, seal: pathlib.Path, names: list[str]) -> bool:
    """Whether `path` is as it was written, of the pictures of these names."""
    try:
        return read_record(seal) == {"names": names, "file": file_crc32(path)}
    except (InputError, OSError):
        return False
