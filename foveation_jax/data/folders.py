"""A folder of pictures as a source, its class sub-folders (if any) as labels."""

import collections
import os
import pathlib

import numpy as np

from foveation_jax.data.images import read_image
from foveation_jax.data.sources import ImageSource
from foveation_jax.errors import InputError


def open_folder(path: str | os.PathLike) -> ImageSource:
    """Every file under `path` (hidden ones aside), sorted by name.

    If all lie in sub-folders, the first-level sub-folders are the classes, sorted by name;
    otherwise there are no classes. Files are opened only when they are read, so a file that is no
    picture is a failure of that file alone.

    Raises:
        InputError: `path` is not a folder, or holds no file.
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise InputError(f"images: {root} is not a folder.")
    files = sorted(
        file.relative_to(root)
        for file in root.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(root).parts)
    )
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
    uses = collections.Counter(stems)
    return tuple(
        file.as_posix() if uses[stem] > 1 else stem for file, stem in zip(files, stems, strict=True)
    )
