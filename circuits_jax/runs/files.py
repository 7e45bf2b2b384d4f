"""Files of a run: written whole or not at all, in open formats."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from circuits_jax.runs.errors import InputError

SUMS = "sums.json"  # name -> SHA-256 of the files of a run


def write(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name, then rename it; an earlier file stays whole until then.

    Raises:
        InputError: no permission, no space, or another reason of the file system's.
    """
    content = content.encode() if isinstance(content, str) else content
    _replace(path, content)
    if record := _record_of(path):
        sums = read_sums(record) | {_name(path, record): hashlib.sha256(content).hexdigest()}
        _replace(record, json.dumps(sums, indent=1).encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = file.name
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); earlier results are unchanged, give a "
            "--workdir with write permission and free space"
        ) from error
    finally:
        if temporary:  # gone already where it was renamed
            Path(temporary).unlink(missing_ok=True)


def record_sums(folder: Path) -> None:
    """From here on, what is written into the folder and those right below it is recorded there."""
    if not (folder / SUMS).is_file():
        _replace(folder / SUMS, b"{}")


def forget_sums(folder: Path, inside: str) -> None:
    """Vouch no longer for the files of a folder inside, which is to be removed."""
    sums = read_sums(folder / SUMS)
    kept = {name: found for name, found in sums.items() if not name.startswith(f"{inside}/")}
    _replace(folder / SUMS, json.dumps(kept, indent=1).encode())


def read_sums(record: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files that a record vouches for; a damaged record does for none."""
    with contextlib.suppress(InputError):
        sums = read_json(record)
        if isinstance(sums, dict):
            return sums
    return {}


def whole(path: Path) -> bool:
    """Whether the file is there as it was written, by the record of its folder."""
    record = _record_of(path)
    if not path.is_file() or record is None:
        return False
    with contextlib.suppress(OSError):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        return read_sums(record).get(_name(path, record)) == found
    return False


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
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record of JSON with NaN again, where it has null."""
    return {name: np.nan if value is None else value for name, value in record.items()}


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
