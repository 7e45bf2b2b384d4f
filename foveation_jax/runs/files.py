"""Files of a run: whole or not there, in open formats, and known to be as they were written.

A JSON object that is read back carries the CRC-32 of its own text: it is sealed. `sums.json`, where
a folder has it, is such an object, of the CRC-32 of the other files.
"""

import contextlib
import json
import math
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foveation_jax.runs.errors import InputError

SUMS = "sums.json"  # name -> CRC-32 of the files of a run
UNFINISHED = ".unfinished"  # ends the names of what is being written


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path`, that no other writer has, for what is to become `path` in one step.

    What is written under it, a file or a folder, is renamed when the block ends and removed when it
    fails. What a killed process leaves is hidden, and `remove_unfinished` removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        _remove(unfinished)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs have left below a folder; the caller holds its lock."""
    for left in list(folder.rglob(f".*{UNFINISHED}*")):
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all, and its checksum where its folder keeps `sums.json`.

    Raises:
        InputError: no permission, no space, or another reason of the file system's.
    """
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    _replace(path, content)
    if record := _record_of(path):
        sums = read_sums(record) | {_name(path, record): zlib.crc32(content)}
        _replace(record, sealed(json.dumps(sums, indent=1)).encode())


def _replace(path: Path, content: bytes) -> None:
    try:
        with whole(path) as unfinished:
            unfinished.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); earlier results are unchanged, give a "
            "--workdir with write permission and free space"
        ) from error


def sealed(text: str) -> str:
    """The text of a JSON object with one more field, the CRC-32 of all that stands before it."""
    body = text.rstrip().removesuffix("}").rstrip()
    comma = "" if body.endswith("{") else ", "
    return f'{body}{comma}"crc32": "{zlib.crc32(body.encode()):08x}"}}\n'


def unseal(text: str) -> dict[str, Any]:
    """The object whose text `sealed` has made.

    Raises:
        ValueError: the text is not as it was written.
    """
    body, _, _ = text.rpartition('"crc32": "')
    if not body or sealed(body.removesuffix(", ") + "}") != text:
        raise ValueError("its checksum does not fit")
    record = json.loads(text)
    del record["crc32"]
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a sealed JSON object, whole or not at all."""
    write(path, sealed(json.dumps(record, indent=1)))


def read_record(path: Path, remedy: str = "") -> dict[str, Any]:
    """What `write_record` wrote.

    Raises:
        InputError: the file is missing, or not as it was written; `remedy` ends the sentence.
    """
    try:
        return unseal(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        told = f"is damaged or not a file of foveation_jax ({reason(error)}){remedy}."
        raise InputError(f"{path} {told}") from None


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows, each sealed, to a JSON-lines file, with one write."""
    with open(path, "ab") as file:
        file.write("".join(sealed(json.dumps(row)) for row in rows).encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, none if it is absent.

    Lines that are not as they were written (the last one cut short by a kill, others by damage)
    are taken out of the file: whoever needs their rows has to miss them.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(unseal(line.decode()))
    if len(rows) < len(lines):
        write_rows(path, rows)
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make these the rows of a JSON-lines file, whole or not at all."""
    write(path, "".join(sealed(json.dumps(row)) for row in rows))


def record_sums(folder: Path) -> None:
    """From here on, what is written into the folder and those right below it is recorded there."""
    if not (folder / SUMS).is_file():
        _replace(folder / SUMS, sealed("{}").encode())


def forget_sums(folder: Path, inside: str) -> None:
    """Vouch no longer for the files of a folder inside, which is to be removed."""
    sums = read_sums(folder / SUMS)
    kept = {name: found for name, found in sums.items() if not name.startswith(f"{inside}/")}
    _replace(folder / SUMS, sealed(json.dumps(kept, indent=1)).encode())


def read_sums(record: Path) -> dict[str, int]:
    """Name -> CRC-32 of the files that a record vouches for; a damaged record does for none."""
    with contextlib.suppress(InputError):
        return read_record(record)
    return {}


def intact(path: Path) -> bool:
    """Whether the file is there as it was written, by the record of its folder."""
    record = _record_of(path)
    if not path.is_file() or record is None:
        return False
    with contextlib.suppress(OSError):
        return read_sums(record).get(_name(path, record)) == file_crc32(path)
    return False


def file_crc32(path: Path) -> int:
    """CRC-32 of a file's content."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def _record_of(path: Path) -> Path | None:
    """The record in the file's folder or the one above."""
    records = (folder / SUMS for folder in path.parents[:2])
    return next((record for record in records if record.is_file()), None)


def _name(path: Path, record: Path) -> str:
    return path.relative_to(record.parent).as_posix()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, by name.

    Raises:
        InputError: no such file, or one that is damaged or something else.
    """
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib each raise their own of one fact
        raise InputError(f"{path} is not a whole npz file ({reason(error)})") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that a person can read; NaN becomes null."""
    write(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` in terms of JSON: arrays as lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy or JAX
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of JSON with NaN again, where it has null."""
    return {name: math.nan if value is None else value for name, value in record.items()}


def read_json(path: Path, strict: bool = True) -> Any:
    """The contents of a JSON file; not `strict`, also of one with NaN and Infinity, as Python's.

    Raises:
        InputError: no such file, or no JSON.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), strict)
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path} is not a readable JSON file ({reason(error)})") from error


def parse_json(text: str, strict: bool = True) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON; nested too deep, a number of thousands of digits, NaN or Infinity,
            which JSON has not, or a key twice.
    """

    def pairs(found):
        record = dict(found)
        if len(record) < len(found):
            keys = [key for key, _ in found]
            twice = next(key for key in record if keys.count(key) > 1)
            raise ValueError(f"the key {twice[:40]!r} twice in one object")
        return record

    def constant(name):
        if strict:
            raise ValueError(f"{name} is no JSON")
        return float(name)

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def reason(error: BaseException) -> str:
    """Why a file cannot be read, on one line."""
    said = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
    return (said or type(error).__name__)[:200]
