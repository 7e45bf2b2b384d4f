"""The GGUF container: a header of key-value metadata, a table of tensors, then their blocks.

Follows the specification of GGUF 2 and 3 (ggml, docs/gguf.md). The file is mapped into memory, the
header is parsed once, and a tensor is dequantised when it is asked for. `gguf.GGUFReader` makes
several numpy arrays for every token of the vocabulary and takes seconds where this takes a tenth
of one; block layouts and dequantisation are the `gguf` package's.
"""

import dataclasses
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits_jax.errors import InputError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies and how it is stored.

    Attributes:
        shape: slowest axis first, as numpy has it (the file has the reverse).
        kind: number of the ggml type.
        start, size: bytes from the start of the file, and bytes.
    """

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file.

    Attributes:
        path: of the file.
        metadata: values by key; arrays are lists.
        entries: the tensors by their GGUF names.
        content: the mapped bytes of the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    entries: Mapping[str, TensorEntry]
    content: mmap.mmap = dataclasses.field(repr=False, compare=False)


def open_gguf(path: str | Path) -> GgufFile:
    """Maps a GGUF file and parses its header.

    Args:
        path: the file; version 2 or 3, little-endian.

    Returns:
        The metadata and the table of tensors, every one of which lies inside the file.

    Raises:
        InputError: no such file, not GGUF, another version or byte order, damaged or truncated.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
            if magic != _MAGIC:
                raise InputError(
                    f"{path} is not a GGUF file: it starts with {magic!r}, not {_MAGIC!r}."
                )
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be opened as a GGUF file: {error.strerror}.") from None
    cursor = _Cursor(path, content, position=len(_MAGIC))
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        raise InputError(
            f"{path} is GGUF version {version}; little-endian files of version 2 or 3 are read."
        )
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = _unique(path, (_read_pair(cursor) for _ in range(key_count)))
    entries = _unique(path, (_read_entry(cursor) for _ in range(tensor_count)))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise InputError(f"{path}: general.alignment is {alignment!r}, not a positive integer.")
    data_start = -(-cursor.position // alignment) * alignment
    placed = {name: _place(cursor, name, entry, data_start) for name, entry in entries.items()}
    return GgufFile(path, metadata, placed, content)


def read_tensor(file: GgufFile, name: str) -> Float[np.ndarray, "..."]:
    """Dequantises one tensor of an opened file.

    Args:
        file: from `open_gguf`.
        name: GGUF name of the tensor.

    Returns:
        float32, in the shape of the table: bit for bit what `gguf.GGUFReader` and
        `gguf.quants.dequantize` give.

    Raises:
        KeyError: no such tensor.
        InputError: a type that the `gguf` package does not dequantise.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    entry = file.entries[name]
    kind = GGMLQuantizationType(entry.kind)
    blocks = np.frombuffer(file.content, np.uint8, entry.size, entry.start)
    try:
        values = dequantize(blocks.reshape(*entry.shape[:-1], -1), kind)
    except NotImplementedError:
        raise InputError(
            f"{file.path}: tensor '{name}' is stored as {kind.name}, which the gguf package cannot "
            "dequantise; use a file in another quantisation, such as Q8_0 or Q4_K."
        ) from None
    return np.asarray(values, np.float32).reshape(entry.shape)


@dataclasses.dataclass
class _Cursor:
    """A position in the header that moves on with every read and never past the end."""

    path: Path
    content: mmap.mmap
    position: int

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self.content):
            raise InputError(
                f"{self.path} is truncated: its header goes on past the end of the file."
            )
        return self.content[start : self.position]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        try:
            return self.take(self.scalar("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"{self.path} is damaged: its header holds text that is no UTF-8."
            ) from None


def _read_value(cursor: _Cursor, kind: int) -> Any:
    """One metadata value of a given type."""
    if kind in _SCALARS:
        return cursor.scalar(_SCALARS[kind])
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        item_kind, count = cursor.scalar("I"), cursor.scalar("Q")
        if item_kind == _STRING:
            return [cursor.string() for _ in range(count)]
        if item_kind in _SCALARS:
            code = _SCALARS[item_kind]
            content = cursor.take(count * struct.calcsize("<" + code))
            return [value for (value,) in struct.iter_unpack("<" + code, content)]
        kind = item_kind
    raise InputError(f"{cursor.path} is damaged: its metadata has a value of unknown type {kind}.")


def _read_pair(cursor: _Cursor) -> tuple[str, Any]:
    """One key of the metadata and its value."""
    key = cursor.string()
    return key, _read_value(cursor, cursor.scalar("I"))


def _read_entry(cursor: _Cursor) -> tuple[str, TensorEntry]:
    """One row of the tensor table; `start` still counts from the start of the data."""
    name, dimensions = cursor.string(), cursor.scalar("I")
    if not 0 < dimensions <= _MAX_DIMENSIONS:
        raise InputError(f"{cursor.path}: tensor '{name}' has {dimensions} axes, not 1 to 4.")
    shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
    return name, TensorEntry(shape, kind=cursor.scalar("I"), start=cursor.scalar("Q"), size=0)


def _place(cursor: _Cursor, name: str, entry: TensorEntry, data_start: int) -> TensorEntry:
    """Works out where a tensor lies in the file, and that it ends before the file does."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block_length, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(entry.kind)]
    except (ValueError, KeyError):
        raise InputError(
            f"{cursor.path}: tensor '{name}' has the unknown storage type {entry.kind}."
        ) from None
    if 0 in entry.shape or entry.shape[-1] % block_length:
        raise InputError(
            f"{cursor.path}: tensor '{name}' of shape {entry.shape} does not divide into blocks of "
            f"{block_length}."
        )
    start, size = data_start + entry.start, math.prod(entry.shape) // block_length * block_bytes
    if start + size > len(cursor.content):
        raise InputError(
            f"{cursor.path} is truncated: tensor '{name}' ends at byte {start + size} of "
            f"{len(cursor.content)}."
        )
    return dataclasses.replace(entry, start=start, size=size)


def _unique(path: Path, pairs: Any) -> dict[str, Any]:
    """A dict from pairs, whose names must differ."""
    collected: dict[str, Any] = {}
    for name, value in pairs:
        if name in collected:
            raise InputError(f"{path} is damaged: its header has '{name}' twice.")
        collected[name] = value
    return collected
