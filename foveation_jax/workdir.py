"""A working folder: the record of the experiment that owns it, and its JSON-lines metrics."""

import datetime
import importlib.metadata
import json
import pathlib
import subprocess
import sys

import jax
from ml_collections import ConfigDict

from foveation_jax.errors import InputError

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "pillow", "flax", "optax")
# Fields that say how much is done or shown, not what.
FREE_FIELDS = ("report_images", "records", "limit", "steps", "checkpoint_every", "keep_seconds")


def check_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Looks whether `workdir` is free, or holds this very experiment.

    Raises:
        InputError: it holds another experiment; the first field that differs is named.
    """
    path = workdir / "experiment.json"
    if not path.exists():
        return
    earlier = _flat(json.loads(path.read_text())["config"])
    resolved = _flat(json.loads(config.to_json_best_effort()))
    for field in sorted(earlier.keys() | resolved.keys()):
        then, now = earlier.get(field), resolved.get(field)
        if then != now and field not in FREE_FIELDS:
            raise InputError(
                f"workdir: {workdir} holds a run with {field}={then}, not {now}; "
                "name another --workdir, or the same settings to go on."
            )


def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes `workdir` the record of this experiment: config, versions, devices, git revision.

    Raises:
        InputError: the folder holds another experiment, or cannot be written.
    """
    check_workdir(workdir, config)
    record = {
        "config": json.loads(config.to_json_best_effort()),
        "command": sys.argv,
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES}
        | {"python": sys.version.split()[0]},
        "devices": [str(device) for device in jax.devices()],
        "revision": _revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "experiment.json", json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"workdir: {workdir} cannot be written ({error.strerror}).") from None


def _flat(config: dict, prefix: str = "") -> dict:
    """Sections as dotted fields."""
    fields = {}
    for name, value in config.items():
        inside = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        fields |= {f"{prefix}{name}": value} if inside is None else inside
    return fields


def _revision() -> str:
    """Git revision of the code, with "+changes" if there are any; "" outside a repository."""
    here = pathlib.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def append_rows(path: pathlib.Path, rows: list[dict]) -> None:
    """Adds rows to a JSON-lines file."""
    with open(path, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path: pathlib.Path) -> list[dict]:
    """Rows of a JSON-lines file, none if it is absent; a last line cut short is dropped."""
    if not path.exists():
        return []
    text = path.read_text()
    whole, _, rest = text.rpartition("\n")
    if rest:
        write_text(path, whole + "\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]
