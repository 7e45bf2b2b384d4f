"""What the systems of an experiment let through: the first stage, for the whole pipeline.

Foveation-Texture is the measure of compression: the blurs' sigmas are checked on training images,
matched to the texture where they do not hold, and checked again on the test images.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from foveation_jax.data.labelled import TEST, TRAIN, LabelledImages
from foveation_jax.stage1.perceived import (
    Perceive,
    draw_fixations,
    on_the_fly,
    own_keys,
    perceive,
    perceived_each,
)
from foveation_jax.transforms import matched, options_for
from foveation_jax.transforms.matched import Match
from foveation_jax.transforms.matching import SYSTEMS as MATCHED
from foveation_jax.transforms.settled import (
    AT_ONCE,
    Pictures,
    check_sigmas,
    load_kept,
    settle_sigmas,
)
from foveation_jax.transforms.soften import soften

REFERENCE, TEXTURE = MATCHED_TO = ("reference", "foveation_texture")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one system lets through.

    Attributes:
        splits: split -> images; without "train" where those are perceived on the fly.
        see: stage 1 for the training step; None where it was done beforehand.
        matches: of a blur, split -> its sigmas and the gap achieved there; "train" and "test".
    """

    splits: Mapping[str, LabelledImages]
    see: Perceive | None
    matches: Mapping[str, Match] = dataclasses.field(default_factory=dict)


def look(
    config: ConfigDict, data: Mapping[str, LabelledImages], workdir: pathlib.Path
) -> dict[str, Seen]:
    """System -> what it lets through of every split; made once, to WORKDIR/perceived."""
    on_disk = [split for split in data if split != TRAIN or config.stage1.when == "beforehand"]
    key, seen = jax.random.key(config.seed), {}
    settings = {k: v for k, v in config.stage1.to_dict().items() if v is not None}
    for name in sorted(config.systems, key=lambda name: name not in MATCHED_TO):
        matches = blur_matches(config, name, data, seen, workdir) if name in MATCHED else {}
        record = {"matched": matches[TRAIN]} if matches else {}
        options = options_for(name, settings | record)
        splits = {
            split: perceive(
                data[split],
                name,
                jax.random.fold_in(key, number),
                workdir / "perceived" / name / f"{split}.npy",
                options,
            )
            for number, split in enumerate(on_disk)
        }
        see = None
        if TRAIN not in on_disk:
            see = on_the_fly(name, options, config.stage1.eye_movements, config.stage1.deviation)
        seen[name] = Seen(splits, see, matches)
    return {name: seen[name] for name in config.systems}


def blur_matches(
    config: ConfigDict,
    name: str,
    data: Mapping[str, LabelledImages],
    seen: Mapping[str, Seen],
    workdir: pathlib.Path,
) -> dict[str, Match]:
    """Sigmas of a blur that hold on training images, and what they achieve on the test images.

    Both are kept, in WORKDIR/NAME.json and WORKDIR/NAME-test.json. Test images have no part in
    matching.

    Raises:
        InputError: no sigma comes within `stage1.match_tolerance`, or a kept file is damaged.
    """
    path, stage1 = workdir / f"{name}.json", config.stage1
    kept, key = load_kept(path), jax.random.key(config.seed)
    record = settle_sigmas(
        name,
        stage1.to_dict(),
        tuple(config.size),
        key,
        kept,
        shown_pictures(config, TRAIN, data, seen),
        stage1.match_images,
        stage1.match_tolerance,
        drawn=_moving(config),
    )
    if record != kept:
        matched.save(record, path)
    test, own = shown_pictures(config, TEST, data, seen), bool(config.stage1.fixations)
    held_out = check_sigmas(record, key, workdir / f"{name}-test.json", test, drawn=own)
    return {TRAIN: record, TEST: held_out}


def shown_pictures(
    config: ConfigDict, split: str, data: Mapping[str, LabelledImages], seen: Mapping[str, Seen]
) -> Pictures:
    """Images of a split as they are, and as Reference and Foveation-Texture show them.

    What is on disk is read; the rest is made when it is read, with a noise and, under eye
    movements or with a file of fixations, a fixation of its own for every image.
    """
    images, key = data[split].images, jax.random.fold_in(jax.random.key(config.seed), 1 << 20)
    on_disk = {
        name: seen[name].splits[split]
        for name in MATCHED_TO
        if name in seen and split in seen[name].splits
    }
    fixations = _places(config, split, data[split], key)

    @functools.cache
    def made(name: str, places: tuple[int, ...]) -> np.ndarray:
        filled = np.resize(places, AT_ONCE)
        options = tuple(options_for(name, config.stage1.to_dict()).items())
        at = fixations[filled] if name == TEXTURE and fixations is not None else None
        shown = np.asarray(images[filled])
        seen = _perceived(name, options, shown, own_keys(key, shown), at)
        return np.asarray(seen)[: len(places)]

    def show(name, places) -> Float[np.ndarray, "N Y X 3"]:
        levels = (
            on_disk[name].images[places] if name in on_disk else made(name, tuple(places.tolist()))
        )
        return np.asarray(levels, np.float32) / 255

    def read(places):
        shown = (show(name, places) for name in MATCHED_TO)
        at = None if fixations is None else fixations[places]
        levels = jnp.asarray(images[places], jnp.float32) / 255
        return np.asarray(soften(levels, config.stage1.get("soft", 0.0))), *shown, at

    def fingerprint():
        found = {name: split.fingerprint for name, split in on_disk.items()}
        return repr((data[split].fingerprint, sorted(found.items()), config.seed))

    return Pictures(len(images), read, fingerprint)


@functools.partial(jax.jit, static_argnames=("name", "options"))
def _perceived(name, options, images, keys, fixations):
    at = None if fixations is None else jnp.asarray(fixations)
    return perceived_each(name, dict(options), jnp.asarray(images), keys, at)[0]


def _places(config, split, labelled, key) -> Float[np.ndarray, "N 2"] | None:
    """Where each image of a split is looked at; None where all have the fixation of the run."""
    stage1, count, own = config.stage1, len(labelled.images), labelled.fixations
    in_steps = split == TRAIN and stage1.when == "on_the_fly"
    if own is not None:
        random = np.random.default_rng((config.seed, 1 << 20))
        return own.draw(random, np.arange(count)) if in_steps else own.first()
    if not in_steps or stage1.eye_movements == "fixed":
        return None
    spread = stage1.deviation if stage1.eye_movements == "gaussian" else None
    return np.asarray(draw_fixations(key, count, tuple(config.size), spread, stage1.field_of_view))


def _moving(config: ConfigDict) -> bool:
    """Whether training images have fixations of their own."""
    stage1 = config.stage1
    drawn = stage1.when == "on_the_fly" and stage1.eye_movements != "fixed"
    return drawn or bool(stage1.fixations)
