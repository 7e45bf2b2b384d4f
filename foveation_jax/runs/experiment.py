"""What tells one experiment from another, and where it was made."""

import contextlib
import datetime
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from foveation_jax.runs import precision

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
        free: fields of the first level that may differ.
    """
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return None if found == wanted else f"{name} is {found!r} there and {wanted!r} here"
    for field in dict.fromkeys([*wanted, *found]):
        if found.get(field) != wanted.get(field) and field not in free:
            return first_difference(found.get(field), wanted.get(field), f"{name}.{field}")
    return None
