"""Files of a run: written whole or not at all, in open formats."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from circuits_jax.errors import InputError


def write(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name, then rename it; an earlier file stays whole until then.

    Raises:
        InputError: no permission, no space, or another reason of the file system's.
    """
    content = content.encode() if isinstance(content, str) else content
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


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        InputError: no such file, or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable JSON file ({error})") from error
