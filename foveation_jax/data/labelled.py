"""Labelled images for the second stage: decoded once, kept as 8-bit levels, found again.

Stage 2 of arXiv 2006.07991 trains on 20 scene classes, 4500 / 250 / 250 images a class, at 256 x
256. A data set is a FOLDER that holds train/CLASS/* and test/CLASS/* (val/CLASS/* if you like), a
TFDS name, or the generator of synthetic scenes. Images are [N, Y, X, 3] uint8, in the order of
their source.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Int, UInt8

from foveation_jax.data.arrays import find_array, write_array
from foveation_jax.data.fingerprint import files_below, fingerprint
from foveation_jax.data.fixations import Fixations, read_fixations
from foveation_jax.data.folders import open_folder
from foveation_jax.data.images import to_levels
from foveation_jax.data.scenes import SCENE_CLASSES, open_scenes
from foveation_jax.data.sources import ImageSource, read_batches, tell_cut
from foveation_jax.data.tfds import describe_tfds, open_tfds
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import read_record, write_record
from foveation_jax.runs.progress import progress

TRAIN, TEST, VALIDATION = "train", "test", "val"
SCENES_A_CLASS = {TRAIN: 100, TEST: 50}  # synthetic ones, where no limit is given
BATCH = 64  # images decoded together
NAMED_FAILURES = 3
UNREADABLE = ("refuse", "skip")


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images of one split with their classes.

    Attributes:
        images: [N, Y, X, 3] levels, often a memory map.
        labels: index into `class_names` an image.
        class_names: L names, the same in every split.
        fingerprint: tells these images from others; "" for arrays made by hand.
        fixations: where each is looked at; None where all have the fixation of the system.
        skipped: name -> why, of images of the split that could not be read.
    """

    images: UInt8[np.ndarray, "N Y X 3"]
    labels: Int[np.ndarray, " N"]
    class_names: tuple[str, ...]
    fingerprint: str = ""
    fixations: Fixations | None = None
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _Unreadable(InputError):
    """Images that cannot be read: name -> why."""

    def __init__(self, failures: Mapping[str, str]):
        some = " ".join(list(failures.values())[:NAMED_FAILURES])
        super().__init__(f"data: {len(failures)} images cannot be read: {some}")
        self.failures = dict(failures)


@dataclasses.dataclass(frozen=True)
class _Split:
    """One split before it is decoded: what decides on its images, and how to list them."""

    made_of: dict
    open: Callable[[], ImageSource]
    limit: int
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)  # their fingerprint


def open_labelled(
    data: str,
    size: tuple[int, int],
    folder: pathlib.Path,
    *,
    seed: int = 0,
    data_dir: str | None = None,
    classes: tuple[str, ...] = (),
    limit_train: int = 0,
    limit_test: int = 0,
    fit: str = "crop",
    fixations: str = "",
    unreadable: str = "refuse",
) -> dict[str, LabelledImages]:
    """The splits "train" and "test" of a data set, and "val" where a folder has it.

    They are decoded in threads into folder/SPLIT.npy, and found there by the next call, as long as
    the data's files hold what they held: files that were changed or copied are read once, to see
    whether their content is the same; those that were not are not read again. A TFDS set
    is tested on its split "validation" if it has one, as the test images of places365_small carry
    no labels.

    Args:
        data: a folder, "tfds:NAME", or "synthetic".
        size: (Y, X) that images are brought to.
        folder: of the decoded images; made as needed.
        seed: of the synthetic scenes.
        data_dir: where TFDS keeps its data; its own default if None.
        classes: names of those to take, in the order of the data set's own; all if empty.
        limit_train: take the first so many training images of each class; 0 for all. Of synthetic
            scenes, 0 stands for 100.
        limit_test: the same of every other split; 0 stands for 50 scenes.
        fit: how images come to `size`, see `fit_image`.
        fixations: FILE.csv of where each image is looked at, see `read_fixations`. Images are named
            by their files, as train/CLASS/FILE, with or without an ending; those of a TFDS set by
            their numbers, as train/0000012; scenes as train/CLASS/00012.
        unreadable: what is done about images that cannot be read: "refuse", or "skip" them, of
            whatever split; how many these are is told, and which is in folder/SPLIT.json.

    Raises:
        InputError: no such data, a split or class that is missing, empty or unknown, fewer than two
            classes, images that cannot be read (all are counted) and are not to be skipped or
            are all of a class, a `folder` that holds images of another making, or fixations
            that cannot be used or that an image lacks.
    """
    limits = {TRAIN: limit_train, TEST: limit_test, VALIDATION: limit_test}
    _check_limits(limits)
    check_allowed("unreadable", unreadable, UNREADABLE)
    splits = _list_splits(data, size, seed, data_dir, limits, _earlier_files(folder))
    asked = {"size": size, "classes": classes} | ({} if fit == "crop" else {"fit": fit})
    asked |= {} if unreadable == "refuse" else {"unreadable": unreadable}
    splits = {
        name: dataclasses.replace(s, made_of=s.made_of | asked | {"limit": s.limit})
        for name, s in splits.items()
    }
    paths = {name: folder / f"{name}.npy" for name in splits}
    kept = {name: find_array(paths[name], split.made_of) for name, split in splits.items()}
    found = {name: array for name, array in kept.items() if array is not None}
    looked: dict[str, dict[str, list]] = {}
    if len(found) < len(splits) or fixations:
        sources = {
            name: _choose(split.open(), classes, split.limit, f"data={data}, {name}")
            for name, split in splits.items()
        }
        _check_classes(sources, data)
        looked = _read_fixations(fixations, sources, size) if fixations else {}
        for name, source in sources.items():
            if name not in found:
                found[name] = _decode(source, splits[name], size, paths[name], name)
    found = {name: found[name] for name in splits}  # in their order
    for name, (record, _) in found.items():
        if record["files"] != splits[name].files:  # the same content, elsewhere or anew
            write_record(paths[name].with_suffix(".json"), record | {"files": splits[name].files})
    return {name: _labelled(*array, looked.get(name)) for name, array in found.items()}


def _earlier_files(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    """Split -> fingerprint of the files it was decoded from, as far as records can be read."""
    earlier = {}
    for name in (TRAIN, TEST, VALIDATION):
        with contextlib.suppress(InputError):
            earlier[name] = read_record(folder / f"{name}.json")["files"]
    return earlier


def _check_limits(limits: dict[str, int]) -> None:
    for name in (TRAIN, TEST):
        check_allowed(f"limit_{name}", limits[name], Range(0))


def _list_splits(data, size, seed, data_dir, limits, earlier) -> dict[str, _Split]:
    """Split -> what it is, without reading an image; `data` decides where from."""
    if data == "synthetic":
        return _synthetic_splits(seed, size, limits)
    if data.startswith("tfds:"):
        return _tfds_splits(data.removeprefix("tfds:"), data_dir, limits, earlier)
    return _folder_splits(pathlib.Path(data), limits, earlier)


def _synthetic_splits(seed, size, limits) -> dict[str, _Split]:
    """Scenes of one stream, those of the test first: none is in both splits."""
    each = {name: limits[name] or SCENES_A_CLASS[name] for name in (TRAIN, TEST)}
    ends = np.cumsum([0, each[TEST], each[TRAIN]]) * len(SCENE_CLASSES)

    def opener(start, stop):
        return lambda: open_scenes(seed, int(stop), size).subset(range(start, stop))

    return {
        name: _Split(
            {"data": "synthetic", "seed": seed, "scenes": [int(start), int(stop)]},
            opener(start, stop),
            each[name],
        )
        for name, start, stop in ((TRAIN, *ends[1:]), (TEST, *ends[:2]))
    }


def _tfds_splits(name, data_dir, limits, earlier) -> dict[str, _Split]:
    described = describe_tfds(name, data_dir, field="data")
    parts = {TRAIN: "train", TEST: "validation" if "validation" in described.counts else "test"}
    for part in parts.values():
        if part not in described.counts:
            raise InputError(
                f"data=tfds:{name}: it has no split {part!r}, only {', '.join(described.counts)}."
            )
    if not described.class_names:
        raise InputError(f'data=tfds:{name}: its examples hold no "label", classes are needed.')
    files = fingerprint([described.folder], earlier.get(TRAIN))
    made_of = {"data": described.full_name, "files": files["content"]}
    return {
        split: _Split(
            made_of | {"split": part, "images": described.counts[part]},
            functools.partial(open_tfds, name, part, data_dir, field="data"),
            limits[split],
            files,
        )
        for split, part in parts.items()
    }


def _folder_splits(root: pathlib.Path, limits, earlier) -> dict[str, _Split]:
    if not root.is_dir():
        raise InputError(f"data: {root} is not a folder; name one, or tfds:NAME, or synthetic.")
    for name in (TRAIN, TEST):
        if not (root / name).is_dir():
            raise InputError(f"data: the folder {root} holds no {name}/ with a folder a class.")
    names = [name for name in (TRAIN, TEST, VALIDATION) if (root / name).is_dir()]
    for name in names:
        _check_class_folders(root / name)
    files = {n: fingerprint([root / n], earlier.get(n)) for n in names}
    return {
        name: _Split(
            {"data": "folder", "files": files[name]["content"]},
            functools.partial(open_folder, root / name),
            limits[name],
            files[name],
        )
        for name in names
    }


def _check_class_folders(split: pathlib.Path) -> None:
    """Raises InputError for a file outside the class folders and for a class without files."""
    entries = sorted(entry for entry in split.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise InputError(f"data: {split} is empty, it must hold one folder a class.")
    for entry in entries:
        if not entry.is_dir():
            raise InputError(f"data: {entry} is a file, {split} must hold one folder a class.")
        if not files_below(entry):
            raise InputError(f"data: the class {entry.name} is empty, {entry} holds no images.")


def _choose(source: ImageSource, classes: tuple[str, ...], limit: int, where: str) -> ImageSource:
    """The first `limit` images of each of `classes`, in the source's order, labelled anew.

    Raises:
        InputError: a class that the source does not know.
    """
    for name in classes:
        if name not in source.class_names:
            close = difflib.get_close_matches(name, source.class_names, 3)
            hint = f"did you mean {' or '.join(close)}?" if close else "there is none like it."
            raise InputError(f"classes names {name!r}, which {where} does not hold: {hint}")
    names = tuple(n for n in source.class_names if not classes or n in classes)
    labels = np.full(len(source.names), -1, np.int32)
    for label, name in enumerate(names):
        of_class = np.flatnonzero(source.labels == source.class_names.index(name))
        labels[of_class[: limit or None]] = label
    chosen = source.subset(np.flatnonzero(labels >= 0))
    return dataclasses.replace(chosen, labels=labels[labels >= 0], class_names=names)


def _check_classes(sources: dict[str, ImageSource], data: str) -> None:
    """Raises InputError unless all splits hold images of the same two or more classes."""
    present = {
        name: {source.class_names[label] for label in np.unique(source.labels)}
        for name, source in sources.items()
    }
    everywhere = set().union(*present.values())
    for name, classes in present.items():
        missing = sorted(everywhere - classes)
        if missing:
            raise InputError(
                f"data={data}: the split {name} holds no images of {', '.join(missing)}, "
                "which other splits hold."
            )
    for name, source in sources.items():
        empty = [c for c in source.class_names if c not in everywhere]
        if empty:
            raise InputError(f"data={data}: {name} holds no images of {', '.join(empty)}.")
    if len(everywhere) < 2:
        raise InputError(f"data={data}: {', '.join(everywhere)} is its only class, two are needed.")


def _read_fixations(path: str, sources: dict[str, ImageSource], size) -> dict[str, dict[str, list]]:
    """Split -> image -> where it is looked at; in the file images are named SPLIT/NAME."""
    names = [f"{split}/{name}" for split, source in sources.items() for name in source.names]
    found = read_fixations(path, names, size)
    return {
        split: {name: found[f"{split}/{name}"] for name in source.names}
        for split, source in sources.items()
    }


def _decode(source: ImageSource, split: _Split, size, path: pathlib.Path, name: str):
    """Decodes a split to `path`; returns the record beside it, and its images.

    Where images are skipped that cannot be read, which these are is known when all have been tried:
    then the others are decoded once more.
    """
    try:
        return _written(source, split, size, path, name)
    except _Unreadable as error:
        if split.made_of.get("unreadable") != "skip":
            raise
        skipped = error.failures
    whole = [place for place, one in enumerate(source.names) if one not in skipped]
    for label in sorted({*source.labels.tolist()} - {*source.labels[whole].tolist()}):
        raise InputError(
            f"data: no image of the class {source.class_names[label]} in {name} can be read, "
            f"such as {next(iter(skipped.values()))}"
        )
    print(
        f"data: {len(skipped)} of {len(source.names)} {name} images cannot be read and are left "
        f"out; {path.with_suffix('.json')} lists them under skipped",
        file=sys.stderr,
    )
    return _written(source.subset(whole), split, size, path, name, skipped)


def _written(source: ImageSource, split: _Split, size, path, name, skipped=None):
    """`_decode` of images that can all be read."""
    record = {
        "made_of": split.made_of,
        "files": split.files,
        "class_names": source.class_names,
        "labels": source.labels.tolist(),
        "skipped": skipped or {},
    }
    with progress(f"decoding {name}", len(source.names)) as advance:
        images = write_array(
            path,
            record,
            (len(source.names), *size, 3),
            BATCH,
            lambda numbers: _read_levels(source, size, numbers, split.made_of.get("fit", "crop")),
            advance,
        )
    return record, images


def _read_levels(
    source: ImageSource, size: tuple[int, int], numbers: Iterable[int], fit: str
) -> Iterator[UInt8[np.ndarray, "B Y X 3"]]:
    """Batches of decoded images; from the first that cannot be read on, they are only counted."""
    failures, cut = {}, {}
    for batch in read_batches(source, size, BATCH, numbers, fit):
        failures |= batch.failures
        cut |= batch.cut
        if not failures:
            yield to_levels(batch.images[batch.present], f"images of batch {batch.number}")
    if failures:
        raise _Unreadable(failures)
    tell_cut(cut, size)


def _labelled(
    record: Mapping, images: np.ndarray, looks: Mapping[str, list] | None
) -> LabelledImages:
    skipped, looked = record.get("skipped", {}), None
    if looks is not None:
        looked = Fixations.of([look for name, look in looks.items() if name not in skipped])
    fixated = {} if looked is None else {"fixations": looked.fingerprint()}
    made_of = json.dumps(record["made_of"] | fixated, sort_keys=True)
    return LabelledImages(
        images=images,
        labels=np.asarray(record["labels"], np.int32),
        class_names=tuple(record["class_names"]),
        fingerprint=hashlib.sha256(made_of.encode()).hexdigest(),
        fixations=looked,
        skipped=skipped,
    )
