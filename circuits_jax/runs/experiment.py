"""What tells one experiment from another, and where it was made."""

import ast
import contextlib
import datetime
import functools
import importlib.metadata
import importlib.util
import inspect
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax

from circuits_jax.runs import precision

PACKAGES = (
    "circuits-foveation-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "pillow",
    "transformers",
    "tokenizers",
)


def environment() -> dict[str, Any]:
    """Where and when: date, versions of what is installed, devices, git revision, command."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "git_revision": _git_revision(),
        "versions": versions,
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "precision": precision.in_use(),
    }


def _git_revision() -> str | None:
    """The commit of the code, with `+` where the working tree differs; None outside git."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def first_difference(
    found: Any, wanted: Any, name: str = "config", free: Collection[str] = ()
) -> str | None:
    """Names the first field in which two configs differ, with both values; None where in none.

    Args:
        found: what is there.
        wanted: what is asked for.
        name: of the whole.
        free: fields that may differ, those of a part by their whole names, as "part.field".
    """
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return None if found == wanted else f"{name} is {found!r} there and {wanted!r} here"
    for field in dict.fromkeys([*wanted, *found]):
        if found.get(field) != wanted.get(field) and field not in free:
            below = {one.removeprefix(f"{field}.") for one in free if one.startswith(f"{field}.")}
            part = found.get(field), wanted.get(field), f"{name}.{field}"
            if difference := first_difference(*part, below):
                return difference
    return None


def source_files(*starts: Path) -> list[Path]:
    """Files of Python, and those that they import from where they lie: what one's own code is.

    Args:
        starts: files. What they import is looked for in the folder that holds the outermost package
            of theirs; of an installed package its own modules alone.

    Returns:
        Paths, sorted; files of this library and what is installed are no part of them.
    """
    found: set[Path] = set()
    todo = [path.resolve() for path in starts]
    while todo:
        path = todo.pop()
        if path in found or path.suffix != ".py" or _LIBRARY in path.parents:
            continue
        found.add(path)
        root = path.parent
        while (root / "__init__.py").is_file():
            root = root.parent
        own = path.relative_to(root).parts[0]
        for name in _imported(path, root):
            file = root.joinpath(*name.split("."))
            if "site-packages" not in root.parts or name.split(".")[0] == own:
                beside = (file.with_name(f"{file.name}.py"), file / "__init__.py")
                todo += [path for path in beside if path.is_file()]
    return sorted(found)


def file_of(function: Callable[..., Any]) -> list[Path]:
    """The file that a function is written in, in a list; none if it has no source in Python."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    path = Path(code.co_filename) if code else None
    return [path] if path and path.is_file() else []


_LIBRARY = Path(__file__).resolve().parents[1]


def _imported(path: Path, root: Path) -> Iterator[str]:
    """Dotted names of what a file imports, relative ones resolved."""
    package = ".".join(path.parent.relative_to(root).parts)
    with contextlib.suppress(SyntaxError, ValueError, ImportError):  # importing it says why
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                name = importlib.util.resolve_name(relative, package) if node.level else relative
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names)
