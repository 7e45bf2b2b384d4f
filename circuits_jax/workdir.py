"""The folder of a run: its config, what has been finished, and where it was made.

    config.json     the resolved config; another experiment is refused
    run.json        versions, devices, git revision, command, seconds for each stage
    scores.npz      head_scores [L, H], edge_scores [L*H, L*H], and the method's own arrays
    stability.npz   bootstraps of the circuit (`stability.Stability`), of methods with codes
    circuit.json    warnings, performance, the circuit and its evaluation (schema: `Circuit.save`)
    evaluation/     parts of the evaluation that are done, until circuit.json is there
    metrics.jsonl   one JSON object a line, `stage` names its kind
    report.html     the page

A file that is there is whole, so its stage is done.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import io
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from circuits_jax import files
from circuits_jax.circuit import Scores
from circuits_jax.errors import InputError

_PACKAGES = (
    "circuits-foveation-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "transformers",
    "tokenizers",
)


@dataclasses.dataclass(frozen=True)
class Workdir:
    """One experiment's folder; open it with `open_workdir`.

    Attributes:
        path: the folder, which `begin` makes.
        config: the resolved config in terms of JSON.
        seconds: wall time of the stages done so far, by name.
    """

    path: Path
    config: dict[str, Any]
    seconds: dict[str, float]

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether a stage's file is there, and so finished."""
        return (self.path / name).is_file()

    def begin(self) -> None:
        """Write config.json and run.json: from here on the folder belongs to this experiment.

        Called when model and prompts are there, so that a mistyped name leaves nothing behind.
        """
        files.write_json(self / "config.json", self.config)
        self._write_run()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log a stage, and record its seconds in run.json when it ends."""
        logging.info("%s ...", name)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)
        logging.info("%s: %.1f s", name, self.seconds[name])
        if self.has("config.json"):
            self._write_run()

    def _write_run(self) -> None:
        files.write_json(self / "run.json", environment() | {"seconds": self.seconds})

    def part(self, name: str, make: Callable[..., Any], *args: Any) -> Any:
        """A part of the evaluation in terms of JSON, found by its name, or made and saved."""
        path = self / "evaluation" / f"{name}.json"
        if not path.is_file():
            files.write_json(path, make(*args))
        return files.read_json(path)

    def drop_parts(self) -> None:
        """Remove the parts, which circuit.json holds now."""
        shutil.rmtree(self / "evaluation", ignore_errors=True)

    def add_metrics(self, stage: str, records: list[dict[str, Any]]) -> None:
        """Put a stage's records into metrics.jsonl, in place of any it had there."""
        path = self / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if json.loads(line)["stage"] != stage]
        new = [json.dumps(files.plain({"stage": stage, **record})) for record in records]
        files.write(path, "\n".join([*kept, *new]) + "\n")

    def save_scores(self, scores: Scores) -> None:
        """Write scores.npz."""
        buffer = io.BytesIO()
        arrays = {"head_scores": scores.head_scores, "edge_scores": scores.edge_scores}
        np.savez_compressed(buffer, **arrays, **scores.details)
        files.write(self / "scores.npz", buffer.getvalue())

    def load_scores(self) -> Scores:
        """What `save_scores` wrote."""
        with np.load(self / "scores.npz") as arrays:
            details = {name: arrays[name] for name in arrays.files}
        return Scores(details.pop("head_scores"), details.pop("edge_scores"), details)


def open_workdir(config: ml_collections.ConfigDict, path: str | Path) -> Workdir:
    """Open a new folder, or one that holds a run of the same config to go on with.

    Raises:
        InputError: the folder holds another experiment (names the first field that differs).
    """
    path, resolved = Path(path).expanduser(), files.plain(config.to_dict())
    if resolved["task"].get("path"):
        resolved["task"]["path_sha256"] = _sha256(Path(resolved["task"]["path"]))
    if not (path / "config.json").is_file():
        return Workdir(path, resolved, {})
    found = files.read_json(path / "config.json")
    if found != resolved:
        raise InputError(
            f"{path} holds another experiment ({_first_difference(found, resolved)}); "
            "give another --workdir, or delete that one"
        )
    run = path / "run.json"
    return Workdir(path, resolved, files.read_json(run)["seconds"] if run.is_file() else {})


def _sha256(path: Path) -> str | None:
    """Of a file that the config names, since its contents belong to the experiment."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def environment() -> dict[str, Any]:
    """Where and when: date, versions, devices, git revision, command."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "git_revision": _git_revision(),
        "versions": versions,
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
    }


def _git_revision() -> str | None:
    """The commit of the code, with `+` where the working tree differs; None outside git."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _first_difference(found: Any, wanted: Any, name: str = "config") -> str:
    """Names the first field in which two configs differ, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for field in [*wanted, *found]:
            if found.get(field) != wanted.get(field):
                return _first_difference(found.get(field), wanted.get(field), f"{name}.{field}")
    return f"{name} is {found!r} there and {wanted!r} here"
