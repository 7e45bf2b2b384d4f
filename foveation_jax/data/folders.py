"""A folder of pictures as a source, its class sub-folders (if any) as labels."""

import collections
import os
import pathlib

import numpy as np

from foveation_jax.data.fingerprint import files_below
from foveation_jax.data.images import read_image
from foveation_jax.data.sources import ImageSource
from foveation_jax.runs.errors import InputError

LONGEST_NAME = 230  # bytes; file systems take 255, and pictures in the making get an ending


def open_folder(path: str | os.PathLike) -> ImageSource:
    """Every file under `path` (hidden ones aside), sorted by name.

    If all lie in sub-folders, the first-level sub-folders are the classes, sorted by name;
    otherwise there are no classes. Files are opened only when they are read, so a file that is no
    picture is a failure of that file alone.

    Raises:
        InputError: `path` is not a folder, holds no file, or a file whose name cannot be written
            to pages and records (not UTF-8) or to pictures (too long).
    """
    root = pathlib.Path(path)
    _check_name("images", root)
    if not root.is_dir():
        raise InputError(f"images: {root} is not a folder.")
    files = sorted(file.relative_to(root) for file in files_below(root))
    for file in files:
        _check_name(f"images: {root}", file)
    if not files:
        raise InputError(f"images: the folder {root} holds no files.")
    in_classes = all(len(file.parts) > 1 for file in files)
    class_names = tuple(sorted({file.parts[0] for file in files})) if in_classes else ()
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = [numbers.get(file.parts[0], 0) for file in files]
    return ImageSource(
        names=_unique_names(files),
        labels=np.asarray(labels, np.int32),
        class_names=class_names,
        read=lambda index: read_image(root / files[index]),
    )


def _unique_names(files: list[pathlib.Path]) -> tuple[str, ...]:
    """Paths without extension; with it where two files (a.jpg, a.png) would share a name."""
    stems = [file.with_suffix("").as_posix() for file in files]
    # a.png.jpg may not be called a.png, nor a.jpg be written to a.png where that is a folder.
    whole = {file.as_posix() for file in files}
    whole |= {folder.as_posix().removesuffix(".png") for file in files for folder in file.parents}
    uses = collections.Counter(stems)
    return tuple(
        file.as_posix() if uses[stem] > 1 or stem in whole else stem
        for file, stem in zip(files, stems, strict=True)
    )


def _check_name(where: str, path: pathlib.Path) -> None:
    """Refuses names that would be lost when results are written, before any are."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        printable = str(path).encode(errors="backslashreplace").decode()
        raise InputError(f"{where}: the name {printable!r} is not UTF-8: rename it.") from None
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise InputError(f"{where}: the name {path} has a part of over {LONGEST_NAME} bytes.")
