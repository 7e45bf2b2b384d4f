"""What the systems of an experiment let through: the first stage, for the whole pipeline.

Foveation-Texture is the measure of compression: the blurs are matched to it where no shipped match
fits, so it and Reference are made first.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from foveation_jax.data.labelled import TEST, TRAIN, LabelledImages
from foveation_jax.data.perceived import on_the_fly, perceive
from foveation_jax.errors import InputError
from foveation_jax.match import SYSTEMS as MATCHED
from foveation_jax.match import shipped_or_matched
from foveation_jax.train_step import Perceive
from foveation_jax.transforms import options_for

MATCHED_TO = ("reference", "foveation_texture")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one system lets through.

    Attributes:
        splits: split -> images; without "train" where those are perceived on the fly.
        see: stage 1 for the training step; None where it was done beforehand.
    """

    splits: Mapping[str, LabelledImages]
    see: Perceive | None


def look(
    config: ConfigDict, data: Mapping[str, LabelledImages], workdir: pathlib.Path
) -> dict[str, Seen]:
    """System -> what it lets through of every split; made once, to WORKDIR/perceived."""
    on_disk = [split for split in data if split != TRAIN or config.stage1.when == "beforehand"]
    key, seen = jax.random.key(config.seed), {}
    for name in sorted(config.systems, key=lambda name: name not in MATCHED_TO):
        options = system_options(config, name, seen, workdir)
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
        seen[name] = Seen(splits, see)
    return {name: seen[name] for name in config.systems}


def system_options(
    config: ConfigDict, name: str, seen: Mapping[str, Seen], workdir: pathlib.Path
) -> dict[str, Any]:
    """Options of a system: those of `config.stage1` that it takes, and a blur's sigmas.

    Raises:
        InputError: sigmas have to be matched, and one of the two systems for it is not there.
    """
    settings = {k: v for k, v in config.stage1.to_dict().items() if v is not None}
    if name not in MATCHED:
        return options_for(name, settings)

    def pictures():
        for needed in MATCHED_TO:
            if needed not in seen:
                raise InputError(
                    f"systems lacks {needed}: no shipped sigmas of {name} fit route "
                    f"{config.stage1.route} at scale {config.stage1.scale}, and matching takes it."
                )
        split = TRAIN if TRAIN in seen[needed].splits else TEST
        n = config.stage1.match_images
        return (seen[s].splits[split].images[:n] / np.float32(255) for s in MATCHED_TO)

    record = shipped_or_matched(
        name,
        settings,
        tuple(config.size),
        jax.random.key(config.seed),
        workdir / f"{name}.json",
        pictures,
        config.stage1.match_tolerance,
    )
    return options_for(name, settings | {"matched": record})
