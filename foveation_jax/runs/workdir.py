"""A working folder: the record of the experiment that owns it, and files that can be trusted.

Whatever is read back is whole (written under a name that no other writer has, then renamed) and
sealed: it carries a checksum, so that what was cut or altered since is noticed.
"""

import collections
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from foveation_jax.runs import precision
from foveation_jax.runs.errors import InputError

UNFINISHED = ".unfinished"  # ends the names of what is being written
REMEDY = "; name another --workdir"
Fingerprint = Mapping[str, str]  # see `fingerprint`
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "pillow", "flax", "optax")
# Fields that say how much is done or shown, not what.
FREE_FIELDS = ("report_images", "records", "limit", "steps", "checkpoint_every", "keep_seconds")


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
    earlier = _flat(record["config"])
    resolved = _flat(json.loads(config.to_json_best_effort()))
    for field in sorted(earlier.keys() | resolved.keys()):
        then, now = earlier.get(field), resolved.get(field)
        if then != now and field not in FREE_FIELDS:
            raise InputError(
                f"workdir: {workdir} holds a run with {field}={then}, not {now}; "
                "name another --workdir, or the same settings to go on."
            )
    for field, files in (sources or {}).items():
        if record["sources"].get(field, {}).get("content") != files["content"]:
            raise InputError(
                f"workdir: {workdir} holds a run on other files: what {field}={config[field]} "
                "names has changed since; name another --workdir."
            )


def claim_workdir(
    workdir: pathlib.Path,
    config: ConfigDict,
    sources: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Makes `workdir` the record of this experiment: config, versions, devices, git revision.

    What killed runs have left unfinished is removed; a run holds the folder's lock.

    Raises:
        InputError: as `check_workdir`, or the folder cannot be written.
    """
    check_workdir(workdir, config, sources)
    record = {
        "config": json.loads(config.to_json_best_effort()),
        "command": sys.argv,
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES}
        | {"python": sys.version.split()[0]},
        "devices": [str(device) for device in jax.devices()],
        "precision": precision.in_use(),
        "revision": _revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sources": dict(sources or {}),
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for left in list(workdir.rglob(f".*{UNFINISHED}*")):
            _remove(left)
        write_record(workdir / "experiment.json", record)
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


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path`, that no other writer has, for what is to become `path` in one step.

    What is written under it, a file or a folder, is renamed when the block ends and removed when it
    fails. What a killed process leaves is hidden, and `claim_workdir` removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        _remove(unfinished)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(text, "utf-8", "backslashreplace")


def sealed(text: str) -> str:
    """The text of a JSON object with one more field, the CRC-32 of all that stands before it."""
    body = text.rstrip().removesuffix("}").rstrip()
    return f'{body}, "crc32": "{zlib.crc32(body.encode()):08x}"}}\n'


def unseal(text: str) -> dict[str, Any]:
    """The object whose text `sealed` has made.

    Raises:
        ValueError: the text is not as it was written.
    """
    body, _, _ = text.rpartition(', "crc32": "')
    if not body or sealed(body + "}") != text:
        raise ValueError("its checksum does not fit")
    record = json.loads(text)
    del record["crc32"]
    return record


def write_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a sealed JSON object, whole or not at all."""
    write_text(path, sealed(json.dumps(record, indent=1)))


def read_record(path: pathlib.Path, remedy: str = "") -> dict[str, Any]:
    """What `write_record` wrote.

    Raises:
        InputError: the file is missing, or not as it was written; `remedy` ends the sentence.
    """
    try:
        return unseal(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} is damaged or not a file of foveation_jax ({reason}){remedy}."
        ) from None


def file_crc32(path: pathlib.Path) -> int:
    """CRC-32 of a file's content."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def append_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows, each sealed, to a JSON-lines file, with one write."""
    with open(path, "ab") as file:
        file.write("".join(sealed(json.dumps(row)) for row in rows).encode())


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, none if it is absent.

    Lines that are not as they were written (the last one cut short by a kill, others by damage)
    are taken out of the file: whoever needs their rows has to miss them.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(unseal(line.decode()))
    if len(rows) < len(lines):
        write_rows(path, rows)
    return rows


def write_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Makes these the rows of a JSON-lines file, whole or not at all."""
    write_text(path, "".join(sealed(json.dumps(row)) for row in rows))


def check_rows(
    path: pathlib.Path, unit: str, found: Iterable[int], needed: Iterable[int], remedy: str
) -> None:
    """Looks whether a file of rows holds each that is `needed`, and none twice.

    Args:
        path: of the file.
        unit: what numbers the rows, such as "epoch".
        found: the numbers of its rows.
        needed: the numbers that there must be.
        remedy: what to do where they are not there.

    Raises:
        InputError: a row is lost or stands twice; the first is named.
    """
    counts = {**dict.fromkeys(needed, 0), **collections.Counter(found)}
    for number, count in sorted(counts.items()):
        if count != 1:
            raise InputError(
                f"{path} is damaged: it has {count or 'no'} rows of {unit} {number}; {remedy}."
            )


def fingerprint(
    places: Iterable[pathlib.Path], earlier: Fingerprint | None = None
) -> dict[str, str]:
    """What tells files from others: {"content", "seen"}, both SHA-256.

    Args:
        places: files, and folders with all that is in them, hidden files aside. A copy elsewhere
            has the same content.
        earlier: the fingerprint at another time. Where names, sizes and times of change are as they
            were then, its content is taken, and no file is read.

    Raises:
        InputError: a file cannot be read.
    """
    seen, content = hashlib.sha256(), hashlib.sha256()
    files = [(f"{number}/{name}", p) for number, f in enumerate(places) for name, p in _files(f)]
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


def fingerprints(
    workdir: pathlib.Path, places: Mapping[str, Iterable[pathlib.Path]]
) -> dict[str, dict[str, str]]:
    """Field of the config -> fingerprint of the files and folders that it names.

    What the record of `workdir` tells is not read again.

    Raises:
        InputError: a file cannot be read, or the record is damaged.
    """
    path = workdir / "experiment.json"
    earlier = read_record(path, REMEDY)["sources"] if path.exists() else {}
    return {field: fingerprint(named, earlier.get(field)) for field, named in places.items()}


def _files(place: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(relative name, path) of each file in a folder, hidden ones aside; or of the file itself."""
    if place.is_file():
        return [("", place)]
    below = ((path.relative_to(place), path) for path in place.rglob("*") if path.is_file())
    return sorted(
        (str(name), path) for name, path in below if not any(p[0] == "." for p in name.parts)
    )
