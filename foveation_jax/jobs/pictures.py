"""images -> four systems -> metrics -> page: the stage-1 run of arXiv 2006.07991 from end to end.

Three stages, each found and not done again when a run goes on in the same working folder:
pictures under WORKDIR/SYSTEM/, one row a picture and system in WORKDIR/metrics.jsonl, and
WORKDIR/report.html. A picture with a scan path is shown, measured and kept once a look.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from foveation_jax import metrics, transforms
from foveation_jax.config import check_fixation, check_size, transforms_run
from foveation_jax.data import embedded_images, open_folder, open_tfds, read_image
from foveation_jax.data.fingerprint import file_names, fingerprint
from foveation_jax.data.fixations import each_look, read_fixations
from foveation_jax.data.images import FITS, fit_image
from foveation_jax.data.sources import ImageSource
from foveation_jax.data.tfds import describe_tfds
from foveation_jax.jobs.workdir import claim_workdir, code_of, fingerprints
from foveation_jax.report import stage1_page
from foveation_jax.runs.checks import Allowed, Range, check_all, check_allowed
from foveation_jax.runs.command import check_values
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import append_rows, read_record, read_rows, write
from foveation_jax.runs.lock import one_at_a_time
from foveation_jax.runs.mesh import each_image
from foveation_jax.runs.progress import progress
from foveation_jax.stage1.export import (
    export_pictures,
    name_digests,
    on_all_devices,
    pack_records,
    picture_key,
)
from foveation_jax.transforms import matched
from foveation_jax.transforms.matching import NoSigma
from foveation_jax.transforms.settled import CHECKED, Pictures, load_kept, settle_sigmas
from foveation_jax.transforms.soften import soften

REFERENCE, TEXTURE = "reference", "foveation_texture"
LIMITS: dict[str, Allowed] = {
    "batch_size": Range(1),
    "limit": Range(0),
    "report_images": Range(1),
    "soft": Range(0, 2),
    "match_images": Range(1),
    "match_tolerance": Range(0, 1, open=(0, 1)),
    "systems": transforms.SYSTEMS,
    "metrics": metrics.METRICS,
}
BLURS = ("uniform_blur", "foveation_blur")
TEXTURE_FIELDS = (  # of a config, that decide what Foveation-Texture makes of a picture
    "scale", "fixation", "field_of_view", "published", "route", "weights", "blend", "colours",
    "soft",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run made.

    Attributes:
        pictures: number of pictures that were processed.
        failures: name -> sentence of the files that could not be read and of blurs left out.
        report: path of the page.
        matches: blur -> its sigmas and the gap achieved on these pictures.
    """

    pictures: int
    failures: dict[str, str]
    report: pathlib.Path
    matches: dict[str, matched.Match]

    def lines(self) -> list[str]:
        """What the command prints at the end: failures, achieved gaps, then the page's path."""
        listed = [f"failed: {sentence}" for sentence in self.failures.values()]
        gaps = [match.sentence() for match in self.matches.values()]
        counts = f"{self.pictures} pictures done, {len(self.failures)} failures"
        return [*listed, *gaps, counts, f"report: {self.report}"]


@one_at_a_time
def run(config: ConfigDict, workdir: pathlib.Path) -> Results:
    """Shows every picture as every system of `config` sees it; see configs/foveation/transforms.py.

    The blurs come last: their sigmas are checked on the pictures of Reference and
    Foveation-Texture that this run has written, and matched to those where they do not hold.

    Raises:
        InputError: a field of `config` that cannot be used, no pictures, or none that can be read.
    """
    check_config(config)
    source = open_images(config)
    if config.get("fit") == "native":
        config = _of_the_first(config, source)
    source, looks = open_looks(config, source)
    fixations = {look: at for path in looks.values() for look, at in path.items()}
    blurs = [name for name in config.systems if name in BLURS]
    others = {name: system_of(name, config) for name in config.systems if name not in BLURS}
    _trace(others, config, fixations)
    claim_workdir(workdir, config, *_sources(config, workdir))
    compiled = _compiled(others)
    failures = _export(source, compiled, config, workdir, fixations)
    readable = source.subset([i for i, n in enumerate(source.names) if n not in failures])
    failures = _of_pictures(failures, looks)
    if not readable.names:
        raise InputError(f"images: none of the files can be read; {next(iter(failures.values()))}")
    looks = {name: path for name, path in looks.items() if name not in failures}
    matches, refused = match_blurs(blurs, readable, config, workdir, looks)
    systems = {name: system_of(name, config, matched=match) for name, match in matches.items()}
    if systems:
        _export(readable, _compiled(systems), config, workdir, fixations)
    pictures = tuple(looks) or readable.names
    single = {n for n in pictures[: config.report_images] if len(looks.get(n, (n,))) == 1}
    shown = readable.subset(i for i, n in enumerate(readable.names) if n in single)
    again = {stage1_page.SECOND: compiled[TEXTURE]}
    _export(shown, again, config, workdir, fixations, stage1_page.SECOND)
    done = tuple(name for name in config.systems if name not in refused)
    if config.records:
        for name in done:
            pack_records(readable, workdir / name)
    rows = measure(readable, done, config, workdir)
    page = stage1_page.write_report(
        workdir, config, done, readable, rows, failures | refused, matches, looks
    )
    return Results(len(pictures), failures | refused, page, matches)


def named_files(config: ConfigDict) -> dict[str, list[pathlib.Path]]:
    """Field of `config` -> files and folders that it names, on which all results rest."""
    if config.images.startswith("tfds:"):
        name = config.images.removeprefix("tfds:")
        images = [describe_tfds(name, config.data_dir or None).folder]
    else:
        images = [pathlib.Path(config.images)] if config.images else []
    weights = [pathlib.Path(name) for name in config.weights.split(",") if name]
    named = {"images": images, "weights": weights}
    if config.get("fixations"):
        named["fixations"] = [pathlib.Path(config.fixations)]
    return named | code_of(config.systems)


def _sources(config: ConfigDict, workdir: pathlib.Path):
    """Fingerprints of what `config` names, and of as much of it as the run so far has had.

    They differ where a folder of pictures has got more of them, of the same classes: what is there
    then stays, as no picture depends on another.
    """
    named, record = named_files(config), workdir / "experiment.json"
    sources = fingerprints(workdir, named)
    files = [name for folder in named["images"] for name in file_names(folder)]
    sources["images"]["files"] = files
    before = read_record(record)["sources"].get("images", {}) if record.exists() else {}
    known = set(before.get("files", files))
    if known < set(files) and _classes(known) == _classes(files):
        had = fingerprint(named["images"], before, only=known)
        return sources, sources | {"images": had}
    return sources, sources


def _classes(files: Iterable[str]) -> set[str]:
    return {pathlib.PurePath(name).parent.as_posix() for name in files}


def _of_the_first(config: ConfigDict, source: ImageSource) -> ConfigDict:
    """The config with the size of the first picture that can be read."""
    for index in range(len(source.names)):
        with contextlib.suppress(InputError):
            config = ConfigDict(config)
            config.size = source.read(index).shape[:2]
            break
    check_config(config)
    return config


def open_looks(
    config: ConfigDict, source: ImageSource
) -> tuple[ImageSource, dict[str, dict[str, np.ndarray]]]:
    """`source` with an entry for each look, see `each_look`; as it is, and {}, without a file.

    Raises:
        InputError: a fixation for all as well, or a file that cannot be used.
    """
    path = config.get("fixations")
    if not path:
        return source, {}
    if config.fixation is not None:
        raise InputError("fixation and fixations are both set: give one for all, or one for each.")
    return each_look(source, read_fixations(path, source.names, tuple(config.size)))


def _of_pictures(failures: dict[str, str], looks: dict[str, dict]) -> dict[str, str]:
    """Each picture that failed once, by its own name, however many looks were to be taken."""
    told = dict(failures)
    for picture, path in looks.items():
        sentences = [told.pop(look) for look in path if look in failures]
        for sentence in sentences[:1]:
            told[picture] = sentence.replace(f"{next(iter(path))}: ", f"{picture}: ", 1)
    return told


def _compiled(systems: dict[str, Callable]) -> dict[str, Callable]:
    return {name: on_all_devices(system, shared=False) for name, system in systems.items()}


def _export(source, compiled, config, workdir, fixations=None, draw: str = "") -> dict[str, str]:
    """Pictures of `compiled` systems under `workdir`, with progress; returns the failures.

    Another `draw` is other noise, for the same program.
    """

    def known(names):
        digests = name_digests([name + draw for name in names])
        return (digests, np.stack([fixations[n] for n in names])) if fixations else (digests,)

    size = tuple(config.size)
    with progress(", ".join(compiled), len(source.names)) as advance:
        return export_pictures(
            source, compiled, workdir, size, config.batch_size, advance, known, _fit(config)
        )


def _fit(config: ConfigDict) -> str:
    return config.get("fit", "crop")


def check_config(config: ConfigDict) -> None:
    """Raises InputError for the first field that is out of range; transforms check their own."""
    check_values(config, transforms_run())
    check_fixation(config.fixation)
    check_size(config.size)
    check_all(config, LIMITS)
    check_allowed("fit", _fit(config), FITS)
    for field, known in (("systems", transforms.SYSTEMS), ("metrics", metrics.METRICS)):
        if not config[field]:
            raise InputError(f"{field} is empty: name one or more of {', '.join(known)}.")
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


def system_of(name: str, config: ConfigDict, **more) -> Callable:
    """The system as a function of images and the digests of their names.

    The noise of a picture is its own: it depends on `config.seed` and the picture's name alone. Of
    the options that the system takes, those that `config` names are given. The function takes
    images and what is known of each: its name's digest, and its fixation where each has its own.
    """
    options = transforms.options_for(name, config.to_dict() | more)
    key = jax.random.key(config.seed)

    takes = transforms.options_for(name, {"fixation": ()})

    def one(image, known):
        digest, *fixation = known
        own = {"fixation": fixation[0]} if takes and fixation else {}
        key_of_it = picture_key(key, digest)
        return transforms.transform(name, image[None], key_of_it, **options | own)[0]

    return functools.partial(each_image, one)


def _trace(systems: dict[str, Callable], config: ConfigDict, fixations) -> None:
    """Traces every system on one picture, so that bad options stop before any output."""
    image = jax.ShapeDtypeStruct((1, *config.size, 3), jnp.float32)
    known = [jax.ShapeDtypeStruct((1, 2), jnp.uint32)]
    known += [jax.ShapeDtypeStruct((1, 2), jnp.float32)] if fixations else []
    for apply in systems.values():
        jax.eval_shape(apply, image, tuple(known))


def match_blurs(
    names: list[str],
    source: ImageSource,
    config: ConfigDict,
    workdir: pathlib.Path,
    looks: dict[str, dict[str, np.ndarray]],
) -> tuple[dict[str, matched.Match], dict[str, str]]:
    """Record of every blur, and blur -> sentence of those that no sigma can match."""
    matches, refused = {}, {}
    for name in names:
        try:
            matches[name] = blur_match(name, source, config, workdir, looks)
        except NoSigma as error:
            refused[name] = f"{name} is left out: {error}"
    return matches, refused


def blur_match(
    name: str,
    source: ImageSource,
    config: ConfigDict,
    workdir: pathlib.Path,
    looks: dict[str, dict[str, np.ndarray]],
) -> matched.Match:
    """Sigmas of a blur that hold on this run's pictures, kept in WORKDIR/NAME.json.

    Pictures of the blur that were made with other sigmas (the run had other pictures then) are
    dropped, with their rows and records.
    """
    path = workdir / f"{name}.json"
    before = load_kept(path)
    record = settle_sigmas(
        name,
        {field: config.get(field) for field in TEXTURE_FIELDS},
        tuple(config.size),
        jax.random.key(config.seed),
        before,
        written_pictures(source, config, workdir, looks),
        config.match_images,
        config.match_tolerance,
        drawn=bool(looks),
    )
    if before is None or before.sigma_deg != record.sigma_deg:
        shutil.rmtree(workdir / name, ignore_errors=True)
        for packed in workdir.glob(f"{name}-*.array_record"):
            packed.unlink()
        rows = read_rows(workdir / "metrics.jsonl")
        kept = [row for row in rows if row["system"] != name]
        if len(kept) < len(rows):
            lines = "".join(json.dumps(row) + "\n" for row in kept)
            write(workdir / "metrics.jsonl", lines)
    if record != before:
        matched.save(record, path)
    return record


def written_pictures(
    source: ImageSource,
    config: ConfigDict,
    workdir: pathlib.Path,
    looks: dict[str, dict[str, np.ndarray]],
) -> Pictures:
    """The run's pictures as Reference and Foveation-Texture show them, from its folder."""
    size, fit = tuple(config.size), _fit(config)
    fixations = {look: at for path in looks.values() for look, at in path.items()}
    number = {look: i for i, path in enumerate(looks.values()) for look in path}
    paired = len(number) > len(looks)  # some picture has a scan path
    picture_of = np.asarray([number[name] for name in source.names]) if paired else None

    def paths(places):
        names = [source.names[place] for place in places]
        return [[workdir / s / f"{n}.png" for n in names] for s in (REFERENCE, TEXTURE)]

    def read(places):
        images = np.stack([fit_image(source.read(place), size, fit) for place in places])
        images = np.asarray(soften(jnp.asarray(images), config.get("soft", 0.0)))
        seen = [[read_image(path) for path in found] for found in paths(places)]
        own = [fixations[source.names[place]] for place in places] if fixations else None
        return images, *map(np.stack, seen), None if own is None else np.stack(own)

    def fingerprint():
        digest = hashlib.sha256()
        for path in itertools.chain(*paths(pictures.spread(CHECKED))):
            digest.update(str(path.relative_to(workdir)).encode("utf-8", "surrogatepass"))
            digest.update(path.read_bytes())
        return digest.hexdigest()

    pictures = Pictures(len(source.names), read, fingerprint, picture_of)
    return pictures


def measure(
    source: ImageSource, systems: tuple[str, ...], config: ConfigDict, workdir: pathlib.Path
) -> list[dict]:
    """One row a picture and system: every metric of the 8-bit picture against Reference's.

    Rows in WORKDIR/metrics.jsonl are kept; missing ones are computed and appended.
    """
    path = workdir / "metrics.jsonl"
    rows = {(row["image"], row["system"]): row for row in read_rows(path)}
    names = metrics.metrics_that_fit(config.metrics, config.size)
    systems = tuple(name for name in systems if name != REFERENCE)
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
