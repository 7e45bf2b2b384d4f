"""The GGUF container, as the `gguf` package reads it: metadata and a table of stored tensors.

The package's reader trusts its file: past the end it reads nothing and goes on, so that one wrong
count can keep it busy for ever. Here it is bounded, and whatever it raises becomes one sentence.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuits_jax.runs.errors import InputError

if TYPE_CHECKING:
    import gguf

# A text or number of the header takes one or two reads, and so does an array of numbers.
_MAX_READS = 2**22


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file.

    Attributes:
        path: of the file.
        metadata: values by key; arrays are lists.
        entries: the tensors as stored, by their GGUF names; shapes have the fastest axis first.
    """

    path: Path
    metadata: Mapping[str, Any]
    entries: Mapping[str, "gguf.ReaderTensor"] = dataclasses.field(repr=False)


def open_gguf(path: str | Path) -> GgufFile:
    """Maps a GGUF file into memory and reads its header, once for as long as it stays unchanged.

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
            start = file.read(8)
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be opened as a GGUF file: {error.strerror}.") from None
    magic, version = start[:4], int.from_bytes(start[4:], "little")
    if magic != b"GGUF":
        raise InputError(f"{path} is not a GGUF file: it starts with {magic!r}, not b'GGUF'.")
    if len(start) == 8 and version not in (2, 3):
        raise InputError(
            f"{path} is GGUF version {version}; little-endian files of version 2 or 3 are read."
        )
    found = _read_header(path.absolute(), state.st_mtime_ns, state.st_size)
    return dataclasses.replace(found, path=path)


def read_tensor(file: GgufFile, name: str) -> Float[np.ndarray, "..."]:
    """Dequantises one tensor of an opened file.

    Args:
        file: from `open_gguf`.
        name: GGUF name of the tensor.

    Returns:
        float32, slowest axis first.

    Raises:
        KeyError: no such tensor.
        InputError: a type that the `gguf` package does not dequantise.
    """
    from gguf.quants import dequantize

    entry = file.entries[name]
    try:
        values = dequantize(entry.data, entry.tensor_type)
    except NotImplementedError:
        raise InputError(
            f"{file.path}: tensor '{name}' is stored as {entry.tensor_type.name}, which the gguf "
            "package cannot dequantise; use a file in another quantisation, such as Q8_0 or Q4_K."
        ) from None
    return np.asarray(values, np.float32)


@functools.lru_cache(maxsize=2)
def _read_header(path: Path, modified: int, size: int) -> GgufFile:
    """What a file holds; the time of its last change and its size say when to read it anew."""
    try:
        with np.errstate(over="raise"):
            reader = _bounded_reader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path} is truncated or damaged: {error!s:.200}.") from None
    for entry in reader.tensors:
        # numpy's product wraps around where Python's does not.
        if not entry.shape.size or not 0 < entry.n_elements == math.prod(entry.shape.tolist()):
            raise InputError(f"{path}: tensor '{entry.name}' has the shape {entry.shape}.")
    return GgufFile(path, metadata, {entry.name: entry for entry in reader.tensors})


def _bounded_reader(path: Path) -> "gguf.GGUFReader":
    """The package's reader, which stops at the end of the file and at too many reads."""
    import gguf

    class BoundedReader(gguf.GGUFReader):
        reads = 0

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *order: Any, **named: Any) -> Any:
            self.reads += 1
            data: Any = np.asarray(self.data)  # slicing a np.memmap takes twice as long
            self.data = data
            if self.reads > _MAX_READS:
                raise ValueError(f"its header has more than {_MAX_READS} parts")
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"what it states ends at byte {end} of {len(self.data)}")
            return super()._get(offset, dtype, count, *order, **named)

        def _get_field_parts(self, start: Any, raw_type: Any) -> Any:
            """Arrays at once: read one by one, a vocabulary takes longer than the weights."""
            kinds = gguf.GGUFValueType
            if raw_type != kinds.ARRAY:
                return super()._get_field_parts(start, raw_type)
            kind, length = self._get(start, np.uint32), self._get(start + 4, np.uint64)
            at, types = int(start) + 12, [kinds.ARRAY, kinds(kind[0])]
            if number := self.gguf_scalar_to_np.get(types[-1]):
                values = self._get(at, number, length[0])
                return 12 + values.nbytes, [kind, length, values], [2], types
            if types[-1] != kinds.STRING:
                return super()._get_field_parts(start, raw_type)
            view, texts = memoryview(self.data), []
            for _ in range(int(length[0])):
                begin = at + 8
                at = begin + int.from_bytes(view[at:begin], "little")
                if at > len(view):
                    raise ValueError(f"a text that it states ends at byte {at} of {len(view)}")
                texts.append(view[begin:at])
            return at - start, [kind, length, *texts], list(range(2, 2 + len(texts))), types

    return BoundedReader(path)
