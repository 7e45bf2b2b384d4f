"""What tells files from others that took their place."""

import hashlib
import os
import pathlib
from collections.abc import Container, Iterable, Mapping

from foveation_jax.runs.errors import InputError

Fingerprint = Mapping[str, str]  # see `fingerprint`


def fingerprint(
    places: Iterable[pathlib.Path],
    earlier: Fingerprint | None = None,
    only: Container[str] | None = None,
) -> dict[str, str]:
    """What tells files from others: {"content", "seen"}, both SHA-256.

    Args:
        places: files, and folders with all that is in them, hidden files aside. A copy elsewhere
            has the same content.
        earlier: the fingerprint at another time. Where names, sizes and times of change are as they
            were then, its content is taken, and no file is read.
        only: names, within the folders, of the files to look at; all by default.

    Raises:
        InputError: a file cannot be read.
    """
    seen, content = hashlib.sha256(), hashlib.sha256()
    files = [
        (f"{number}/{name}", path)
        for number, place in enumerate(places)
        for name, path in _files(place)
        if only is None or name in only
    ]
    try:
        for name, path in files:
            s = path.stat()  # unlike the time of modification, that of change cannot be set back
            times = f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"
            seen.update(os.fsencode(f"{name} {times}\n"))
        if earlier and earlier.get("seen") == seen.hexdigest():
            return dict(earlier)
        for name, path in files:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            content.update(os.fsencode(f"{name} {digest}\n"))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}).") from None
    return {"content": content.hexdigest(), "seen": seen.hexdigest()}


def file_names(place: pathlib.Path) -> list[str]:
    """Names, within a folder, of the files that its `fingerprint` is of; of a file, one empty."""
    return [name for name, _ in _files(place)]


def _files(place: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(relative name, path) of each file in a folder, hidden ones aside; or of the file itself."""
    if place.is_file():
        return [("", place)]
    return sorted((str(path.relative_to(place)), path) for path in files_below(place))


def files_below(place: pathlib.Path) -> list[pathlib.Path]:
    """Paths of all files in a folder, hidden ones aside; folders that are links are gone into.

    Raises:
        InputError: a link to a folder that it lies in, whose files would have no end.
    """
    found = []
    for folder, folders, names in os.walk(place, followlinks=True):
        here = pathlib.Path(folder)
        if here.is_symlink() and here.resolve() in [up.resolve() for up in here.parents]:
            raise InputError(f"{here} is a link to a folder that it lies in: remove it.")
        folders[:] = [name for name in folders if name[0] != "."]
        found += [here / name for name in names if name[0] != "."]
    return [path for path in found if path.is_file()]
