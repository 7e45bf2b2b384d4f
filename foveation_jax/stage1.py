"""images -> four systems -> metrics -> page: the stage-1 run of arXiv 2006.07991 from end to end.

Three stages, each found and not done again when a run goes on in the same working folder:
pictures under WORKDIR/SYSTEM/, one row a picture and system in WORKDIR/metrics.jsonl, and
WORKDIR/report.html.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from foveation_jax import metrics, report, transforms
from foveation_jax.command import check_values
from foveation_jax.config import check_fixation
from foveation_jax.data import embedded_images, open_folder, open_tfds, read_image
from foveation_jax.data.export import (
    export_pictures,
    on_all_devices,
    pack_records,
    whole_batches,
)
from foveation_jax.data.sources import ImageSource
from foveation_jax.data.tfds import describe_tfds
from foveation_jax.errors import InputError
from foveation_jax.lock import one_at_a_time
from foveation_jax.match import shipped_or_matched
from foveation_jax.progress import progress
from foveation_jax.transforms import matched
from foveation_jax.workdir import append_rows, claim_workdir, fingerprints, read_rows

REFERENCE, TEXTURE = "reference", "foveation_texture"
BLURS = ("uniform_blur", "foveation_blur")


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run made.

    Attributes:
        pictures: number of pictures that were processed.
        failures: name -> sentence of the files that could not be read and of blurs left out.
        report: path of the page.
    """

    pictures: int
    failures: dict[str, str]
    report: pathlib.Path

    def lines(self) -> list[str]:
        """What the command prints at the end: the failures, then the page's path."""
        listed = [f"failed: {sentence}" for sentence in self.failures.values()]
        counts = f"{self.pictures} pictures done, {len(self.failures)} failures"
        return [*listed, counts, f"report: {self.report}"]


@one_at_a_time
def run(config: ConfigDict, workdir: pathlib.Path) -> Results:
    """Shows every picture as every system of `config` sees it; see configs/foveation/transforms.py.

    The blurs come last: where no shipped record fits, they are matched to the pictures of
    Foveation-Texture that this run has written.

    Raises:
        InputError: a field of `config` that cannot be used, no pictures, or none that can be read.
    """
    check_config(config)
    source = open_images(config)
    blurs = [name for name in config.systems if name in BLURS]
    others = {name: _system(name, config) for name in config.systems if name not in BLURS}
    _trace(others, config)
    claim_workdir(workdir, config, fingerprints(workdir, named_files(config)))
    failures = _export(source, others, config, workdir)
    if len(failures) == len(source.names):
        raise InputError(f"images: none of the files can be read; {next(iter(failures.values()))}")
    readable = source.subset([i for i, n in enumerate(source.names) if n not in failures])
    matches, refused = match_blurs(blurs, readable, config, workdir)
    systems = {name: _system(name, config, matched=match) for name, match in matches.items()}
    if systems:
        _export(readable, systems, config, workdir)
    done = tuple(name for name in config.systems if name not in refused)
    if config.records:
        for name in done:
            pack_records(readable, workdir / name)
    rows = measure(readable, done, config, workdir)
    page = report.write_report(workdir, config, done, readable, rows, failures | refused, matches)
    return Results(len(readable.names), failures | refused, page)


def named_files(config: ConfigDict) -> dict[str, list[pathlib.Path]]:
    """Field of `config` -> files and folders that it names, on which all results rest."""
    if config.images.startswith("tfds:"):
        name = config.images.removeprefix("tfds:")
        images = [describe_tfds(name, config.data_dir or None).folder]
    else:
        images = [pathlib.Path(config.images)] if config.images else []
    weights = [pathlib.Path(name) for name in config.weights.split(",") if name]
    return {"images": images, "weights": weights}


def _export(source, systems, config, workdir) -> dict[str, str]:
    """Pictures of `systems` under `workdir`, with progress; returns the failures."""
    batch_size = whole_batches(config.batch_size)
    compiled = {name: on_all_devices(system) for name, system in systems.items()}
    with progress(", ".join(systems), len(source.names)) as advance:
        return export_pictures(source, compiled, workdir, tuple(config.size), batch_size, advance)


def check_config(config: ConfigDict) -> None:
    """Raises InputError for the first field that is out of range; transforms check their own."""
    check_values(config)
    check_fixation(config.fixation)
    size = tuple(config.size)
    if len(size) != 2 or not all(isinstance(s, int) and 16 <= s <= 4096 for s in size):
        raise InputError(f"size is {size}: it must be (rows, columns), each within 16 and 4096.")
    for field, least in (
        ("batch_size", 1),
        ("limit", 0),
        ("report_images", 1),
        ("match_images", 1),
    ):
        if config[field] < least:
            raise InputError(f"{field} is {config[field]}: it must be {least} or more.")
    for field, known in (("systems", transforms.SYSTEMS), ("metrics", metrics.METRICS)):
        if not config[field]:
            raise InputError(f"{field} is empty: name one or more of {', '.join(known)}.")
        for name in config[field]:
            if name not in known:
                raise InputError(f"{field} names {name!r}: known are {', '.join(known)}.")
    for needed in (REFERENCE, TEXTURE):
        if needed not in config.systems:
            raise InputError(f"systems must hold {needed!r}: the others are compared to it.")


def open_images(config: ConfigDict) -> ImageSource:
    """The pictures that `config.images` names, the first `config.limit` of them."""
    if not config.images:
        source = embedded_images(config.seed, tuple(config.size))
    elif config.images.startswith("tfds:"):
        source = open_tfds(
            config.images.removeprefix("tfds:"), config.split, config.data_dir or None
        )
    else:
        source = open_folder(config.images)
    return source.subset(range(min(config.limit, len(source.names)))) if config.limit else source


def _system(name: str, config: ConfigDict, **more) -> Callable:
    """The system as a function of a batch; batch i always sees the same noise.

    Of the options that the system takes, those that `config` names are given.
    """
    options = transforms.options_for(name, config.to_dict() | more)
    key = jax.random.key(config.seed)

    def apply(images, number):
        return transforms.transform(name, images, jax.random.fold_in(key, number), **options)

    return apply


def _trace(systems: dict[str, Callable], config: ConfigDict) -> None:
    """Traces every system on the batch's shape, so that bad options stop before any output."""
    shape = (whole_batches(config.batch_size), *config.size, 3)
    for apply in systems.values():
        jax.eval_shape(functools.partial(apply, number=0), jax.ShapeDtypeStruct(shape, jnp.float32))


def match_blurs(
    names: list[str], source: ImageSource, config: ConfigDict, workdir: pathlib.Path
) -> tuple[dict[str, matched.Match], dict[str, str]]:
    """Record of every blur, and blur -> sentence of those that no sigma can match."""
    matches, refused = {}, {}
    for name in names:
        try:
            matches[name] = blur_match(name, source, config, workdir)
        except InputError as error:
            refused[name] = f"{name} is left out: {error}"
    return matches, refused


def blur_match(
    name: str, source: ImageSource, config: ConfigDict, workdir: pathlib.Path
) -> matched.Match:
    """Sigmas of a blur: the shipped ones where they fit (pyramid route, their scale), else matched.

    Matching takes the first `config.match_images` pictures as this run has written them, and is
    kept in WORKDIR/NAME.json.
    """

    def pictures():
        names = source.names[: config.match_images]
        for system in (REFERENCE, TEXTURE):
            yield np.stack([read_image(workdir / system / f"{n}.png") for n in names])

    key = jax.random.key(config.seed)
    path = workdir / f"{name}.json"
    return shipped_or_matched(name, config.to_dict(), tuple(config.size), key, path, pictures)


def measure(
    source: ImageSource, systems: tuple[str, ...], config: ConfigDict, workdir: pathlib.Path
) -> list[dict]:
    """One row a picture and system: every metric of the 8-bit picture against Reference's.

    Rows in WORKDIR/metrics.jsonl are kept; missing ones are computed and appended.
    """
    path = workdir / "metrics.jsonl"
    rows = {(row["image"], row["system"]): row for row in read_rows(path)}
    names = tuple(n for n in config.metrics if n in metrics.metrics_for(tuple(config.size)))
    systems = [name for name in systems if name != REFERENCE]
    with progress("metrics", len(source.names)) as advance:
        for name, label in zip(source.names, source.labels, strict=True):
            missing = [s for s in systems if (name, s) not in rows]
            if missing:
                pictures = [read_image(workdir / s / f"{name}.png") for s in (REFERENCE, *missing)]
                values = _panel(np.stack(pictures[1:]), pictures[0][None], names)
                for number, system in enumerate(missing):
                    row = {"image": name, "system": system, "label": int(label)}
                    rows[name, system] = row | {m: float(v[number]) for m, v in values.items()}
                append_rows(path, [rows[name, system] for system in missing])
            advance(1)
    return [rows[name, system] for name in source.names for system in systems]


@functools.partial(jax.jit, static_argnames="names")
def _panel(pictures, reference, names):
    """Metric -> one value a picture, all against the one reference."""
    references = jnp.broadcast_to(reference, pictures.shape)
    return {name: metrics.METRICS[name](pictures, references) for name in names}
