"""One run at a time in a folder: two that write the same files would scramble each other's."""

import contextlib
import datetime
import errno
import fcntl
import functools
import inspect
import os
import shlex
import socket
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from foveation_jax.runs.errors import InputError

FILE = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # by some network file systems


def one_at_a_time(run: Callable) -> Callable:
    """`run(config, workdir)` under the lock of its workdir, given to it as a Path, ~ expanded."""
    signature = inspect.signature(run)
    workdir = list(signature.parameters)[1]

    @functools.wraps(run)
    def alone(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        folder = usable(given[workdir])
        with locked(folder):
            return run(**given | {workdir: folder})

    return alone


def usable(path: str | os.PathLike[str]) -> Path:
    """The path with ~ expanded.

    Raises:
        InputError: a name that no page or terminal could show, or no home for ~.
    """
    try:
        path = Path(path).expanduser()
        text = str(path).encode()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the folder {path!r} cannot be used ({error}); give UTF-8 text") from None
    if b"\0" in text:
        raise InputError(f"the folder {path!r} cannot be used; its name has a NUL character")
    return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against all other runs until the block ends, however it ends.

    The lock is the kernel's, on an open file, and goes with the process (`kill -9`). What is made
    for it goes too: `.lock`, and the folder, where nothing else came into it. A folder that only
    may be read is not locked.

    Raises:
        InputError: another run holds the folder (says which one), or it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    held = None
    try:
        with _said_of(folder):
            held = _acquire(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            if held is not None and _is_at(held, folder / FILE):
                (folder / FILE).unlink()  # while no other can hold it
        if held is not None:
            os.close(held)
        with contextlib.suppress(OSError):  # something is in it
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def _said_of(folder: Path) -> Iterator[None]:
    """The file system's refusal as a sentence, unless the folder only may be read."""
    try:
        yield
    except OSError as error:
        if not os.path.isdir(folder) or os.access(folder, os.W_OK):
            raise InputError(
                f"{folder} cannot be written ({error.strerror}); give a --workdir with write "
                "permission and free space"
            ) from error


def _acquire(folder: Path) -> int:
    """The descriptor that holds the lock, of a file that says who does."""
    path = folder / FILE
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except (FileNotFoundError, FileExistsError):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    raise
            continue  # a run that ended badly has just removed the folder
        try:
            if not _locks(held, folder):
                return held
            if _is_at(held, path):  # else of a run that has just ended, which took its file away
                os.ftruncate(held, 0)
                os.pwrite(held, _who().encode(errors="replace"), 0)
                return held
        except BaseException:
            os.close(held)
            raise
        os.close(held)


def _locks(descriptor: int, folder: Path) -> bool:
    """Lock an open file; False, with a warning, where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            warnings.warn(f"{folder} cannot be locked: start one run on it at a time", stacklevel=2)
            return False
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        holder = os.pread(descriptor, 400, 0).decode(errors="replace")
        raise InputError(
            f"{folder} is in use by another run ({holder or 'just begun'}); wait for it to end, "
            "or give another --workdir"
        ) from None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _who() -> str:
    """This process, for the sentence of the next."""
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    command = " ".join(shlex.join(sys.argv).split())[:200]
    return f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"
