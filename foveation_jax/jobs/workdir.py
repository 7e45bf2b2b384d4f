"""The folder of a run: the record of the experiment that owns it, `experiment.json`."""

import json
import operator
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from foveation_jax.data.fingerprint import fingerprint
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.experiment import environment, file_of, first_difference, source_files
from foveation_jax.runs.files import read_record, remove_unfinished, write_record
from foveation_jax.transforms import SYSTEMS

REMEDY = "; name another --workdir"
# Fields that say how much is done or shown, not what.
FREE_FIELDS = (
    "report_images",
    "records",
    "limit",
    "steps",
    "checkpoint_every",
    "keep_seconds",
    "keep_epochs",
)


def check_workdir(
    workdir: pathlib.Path,
    config: ConfigDict,
    sources: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Looks whether `workdir` is free, or holds this very experiment.

    Args:
        workdir: of the run.
        config: of the run.
        sources: field of the config -> `fingerprint` of the files that it names.

    Raises:
        InputError: it holds another experiment; the first field that differs is named. Or its
            record is damaged.
    """
    path = workdir / "experiment.json"
    if not path.exists():
        return
    record = read_record(path, REMEDY)
    resolved = json.loads(config.to_json_best_effort())
    had, wants = (c.get("recipe", {}).get("more_epochs", 0) for c in (record["config"], resolved))
    free = (*FREE_FIELDS, "recipe.more_epochs") if had <= wants else FREE_FIELDS
    if difference := first_difference(record["config"], resolved, free=free):
        raise InputError(
            f"{workdir} holds another experiment ({difference}); give another --workdir, or the "
            "same settings to go on"
        )
    for field, files in (sources or {}).items():
        if record["sources"].get(field, {}).get("content") != files["content"]:
            named = operator.attrgetter(field)(config)
            raise InputError(
                f"workdir: {workdir} holds a run on other files: what {field}={named} names has "
                "changed since; name another --workdir."
            )


def claim_workdir(
    workdir: pathlib.Path,
    config: ConfigDict,
    sources: Mapping[str, Mapping[str, str]] | None = None,
    earlier: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Makes `workdir` the record of this experiment: config, versions, devices, git revision.

    `earlier` is of the files that the experiment has had so far, where `sources` has more of them.
    What killed runs have left unfinished is removed; a run holds the folder's lock.

    Raises:
        InputError: as `check_workdir`, or the folder cannot be written.
    """
    check_workdir(workdir, config, sources if earlier is None else earlier)
    remove_unfinished(workdir)
    about = {"config": json.loads(config.to_json_best_effort()), "sources": dict(sources or {})}
    write_record(workdir / "experiment.json", about | environment())


def code_of(systems: Iterable[str]) -> dict[str, list[pathlib.Path]]:
    """{"systems": files} that the registered ones of these systems are written in; {} for none."""
    known = [SYSTEMS[name] for name in systems if name in SYSTEMS]
    files = source_files(*(path for system in known for path in file_of(system)))
    return {"systems": files} if files else {}


def fingerprints(
    workdir: pathlib.Path, places: Mapping[str, Iterable[pathlib.Path]]
) -> dict[str, dict[str, Any]]:
    """Field of the config -> fingerprint of the files and folders that it names.

    What the record of `workdir` tells is not read again.

    Raises:
        InputError: a file cannot be read, or the record is damaged.
    """
    path = workdir / "experiment.json"
    earlier = read_record(path, REMEDY)["sources"] if path.exists() else {}
    return {field: fingerprint(named, earlier.get(field)) for field, named in places.items()}
