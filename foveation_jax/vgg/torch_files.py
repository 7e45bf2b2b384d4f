"""PyTorch weight files (.pth, .pt) read without PyTorch: tensors by name, and nothing else.

Both layouts are read: the zip archive (PyTorch 1.6 and newer) and the older sequence of pickles.
The unpickler knows five harmless names; any other makes the file unusable, so a file cannot run
code.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile

import numpy as np

from foveation_jax.runs.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_TYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of a state dict by name, nested dictionaries joined by dots.

    Raises:
        InputError: the file is no PyTorch file, is damaged, or holds more than tensors.
    """
    try:
        tree = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except pickle.UnpicklingError as error:
        raise InputError(f"weights: {path} is not a PyTorch file of tensors ({error}).") from None
    except (
        EOFError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        raise InputError(f"weights: {path} is damaged or no PyTorch file ({error}).") from None
    return dict(_named_tensors(tree, ""))


def _named_tensors(tree, prefix):
    """(dotted name, array) pairs of nested dictionaries; other leaves are skipped."""
    if isinstance(tree, dict):
        for name, branch in tree.items():
            yield from _named_tensors(branch, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(tree, np.ndarray):
        yield prefix, tree


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors; `storage(key, dtype, count)` gives the flat values."""

    def __init__(self, file, storage):
        super().__init__(file)
        self._storage = storage

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (
            ("torch._utils", "_rebuild_tensor"),
            ("torch._utils", "_rebuild_tensor_v2"),
        ):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not a tensor's part")

    def persistent_load(self, identity):
        kind, dtype, key, _, count = identity[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it refers to a {kind}")
        return self._storage(key, dtype, count)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """A strided view of flat storage, checked to lie inside it."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if math.prod(shape) and not (
        offset >= 0 and min(strides, default=0) >= 0 and last < len(storage)
    ):
        raise pickle.UnpicklingError("a tensor reaches beyond its values")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("the archive has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")

        def storage(key, dtype, count):
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, count)

        return _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(path):
    """Magic, version, system and tree are pickled in turn, then the storage keys, then the values.

    The tree is made of views, so storages are allocated while it is read and filled afterwards.
    """
    storages = {}

    def storage(key, dtype, count):
        if not 0 <= count * dtype.itemsize <= path.stat().st_size:
            raise pickle.UnpicklingError("a tensor is larger than the file")
        return storages.setdefault(key, np.zeros(count, dtype))

    with open(path, "rb") as file:
        if _TensorUnpickler(file, storage).load() != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("the magic number is missing")
        for _ in ("version", "system"):
            _TensorUnpickler(file, storage).load()
        tree = _TensorUnpickler(file, storage).load()
        for key in _TensorUnpickler(file, storage).load():
            count = int.from_bytes(file.read(8), "little")
            values = np.frombuffer(file.read(count * storages[key].itemsize), storages[key].dtype)
            storages[key][:] = values  # a file cut short fails here, by its shape
    return tree
