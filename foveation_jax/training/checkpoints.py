"""What a training leaves on disk, by system, below the working folder (orbax, format v1).

    checkpoints/SYSTEM/setup.json     what was trained: network, recipe, seed, sizes
    checkpoints/SYSTEM/epochs/E       weights and running statistics [V, ...] after E epochs, kept
    checkpoints/SYSTEM/latest/STEP    the whole state at the last interval, to go on from

Every one is written whole or not at all, with the checksums of its files in files.json, which
`load_tree` verifies. Nothing that is not finite is written, or taken when it is read.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from foveation_jax.runs.devices import fetched
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import file_crc32, read_record, whole, write_record
from foveation_jax.runs.mesh import RUNS, runs_mesh
from foveation_jax.training.step import Setup, TrainState

SUMS = "files.json"
DAMAGE = (ValueError, KeyError, OSError)  # what orbax raises of files that are missing or cut


def system_folder(workdir: pathlib.Path, system: str) -> pathlib.Path:
    """Where a system's checkpoints are; absolute, as orbax wants it."""
    return (workdir / "checkpoints" / system).absolute()


def describe(setup: Setup, fingerprint: str) -> dict[str, Any]:
    """`setup` and the training images as flat JSON values, by which a checkpoint is known again."""
    network = {
        field.name: getattr(setup.network, field.name)
        for field in dataclasses.fields(setup.network)
        if field.name not in ("parent", "name")
    }
    described = {
        "network": type(setup.network).__name__,
        **{f"network.{name}": value for name, value in network.items()},
        **dataclasses.asdict(setup.recipe) | {"precision": setup.recipe.computed_in},
        **{name: getattr(setup, name) for name in ("n_runs", "seed", "n_images", "size")},
        "perceive": setup.perceive is not None,
        "images": fingerprint,
    }
    return json.loads(json.dumps(described, default=str))


def claim_checkpoints(workdir: pathlib.Path, system: str, setup: Setup, fingerprint: str) -> None:
    """Makes the system's folder that of `setup`, trained on the images of that fingerprint.

    Raises:
        InputError: it holds checkpoints of another network or configuration, or of more epochs; or
            its record of them is damaged.
    """
    path, described = system_folder(workdir, system) / "setup.json", describe(setup, fingerprint)
    if path.exists():
        earlier = {"more_epochs": 0} | read_record(path, _remedy(path.parent))
        earlier["more_epochs"] = max(earlier["more_epochs"], described["more_epochs"])
        for field in sorted(earlier.keys() | described.keys()):
            then, now = earlier.get(field), described.get(field)
            if then != now:
                raise InputError(
                    f"workdir: the checkpoints in {path.parent} are of a training with "
                    f"{field}={then}, not {now}; name another --workdir."
                )
    write_record(path, described)


def epochs_saved(workdir: pathlib.Path, system: str) -> tuple[int, ...]:
    """Epochs whose weights are kept, rising; none of a system that was not trained."""
    return numbered(system_folder(workdir, system) / "epochs")


def weights_crc32(workdir: pathlib.Path, system: str, epoch: int) -> int:
    """What tells the weights after `epoch` epochs from others, without reading them.

    Raises:
        InputError: the epoch is not kept, or its record is damaged.
    """
    folder = system_folder(workdir, system)
    return read_record(folder / "epochs" / str(epoch) / SUMS, _remedy(folder))["arrays"]


def numbered(folder: pathlib.Path) -> tuple[int, ...]:
    """The numbers that name checkpoints in a folder, rising."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def save_variables(workdir: pathlib.Path, system: str, epoch: int, state: TrainState) -> None:
    """Keeps the weights and running statistics after `epoch` epochs, if they are not kept yet."""
    if epoch not in epochs_saved(workdir, system):
        save_tree(system_folder(workdir, system) / "epochs" / str(epoch), state.variables)


def load_variables(workdir: pathlib.Path, system: str, epoch: int) -> dict[str, Any]:
    """Weights and running statistics of all runs after `epoch` epochs.

    Returns:
        {"params": ..., "batch_stats": ...}, leaves [V, ...] split over the devices.

    Raises:
        InputError: the epoch is not kept, its files are damaged, or a value is not finite.
    """
    from orbax.checkpoint import v1 as ocp

    saved, folder = epochs_saved(workdir, system), system_folder(workdir, system)
    path = folder / "epochs" / str(epoch)
    if epoch not in saved:
        kept = ", ".join(map(str, saved)) or "none"
        raise InputError(f"workdir: {path.parent} has no epoch {epoch}; it has {kept}.")

    def shapes():
        stored = ocp.metadata(path).metadata
        if not stored:
            raise ValueError("its arrays cannot be listed")
        n_runs = jax.tree.leaves(stored)[0].shape[0]
        sharding = NamedSharding(runs_mesh(n_runs), RUNS)
        return jax.tree.map(
            lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding), stored
        )

    return load_tree(path, shapes, folder)


def save_latest(folder: pathlib.Path, step: int, state: Any) -> None:
    """Writes the state after `step` steps, to go on from, then removes the one before it."""
    save_tree(folder / str(step), state)
    for other in numbered(folder):
        if other != step:
            shutil.rmtree(folder / str(other))


def load_latest(
    folder: pathlib.Path, shapes: Callable[[], Any], remove: pathlib.Path
) -> tuple[int, Any] | None:
    """(steps done, the state after them), or None at the beginning; else as `load_tree`."""
    steps = numbered(folder)
    return (steps[-1], load_tree(folder / str(steps[-1]), shapes, remove)) if steps else None


def save_tree(path: pathlib.Path, tree: Any) -> None:
    """Writes arrays to the folder `path`, whole or not at all, in place of what was there.

    Raises:
        InputError: a value is not finite.
    """
    from orbax.checkpoint import v1 as ocp

    if found := not_finite(tree):
        raise InputError(f"workdir: {path} is not written: {found[0]} is not finite.")
    with whole(path) as unfinished:
        shared = _from_first(unfinished)
        ocp.save(shared, tree)  # of several processes each its part, on the disk of the first
        _copy_from_first(shared, unfinished)
        sums = {"crc32s": _checksums(unfinished), "arrays": _arrays_crc32(fetched(tree))}
        write_record(unfinished / SUMS, sums)
        if path.exists():
            shutil.rmtree(path)


def load_tree(path: pathlib.Path, shapes: Callable[[], Any], remove: pathlib.Path) -> Any:
    """The arrays in the folder `path`.

    Args:
        path: that `save_tree` wrote.
        shapes: gives what is stored there, as `jax.ShapeDtypeStruct`.
        remove: folder of the training, to be removed where this is damaged.

    Raises:
        InputError: the files are not as they were written, or a value is not finite.
    """
    from orbax.checkpoint import v1 as ocp

    try:
        if _checksums(path) != read_record(path / SUMS)["crc32s"]:
            raise ValueError("its files are not as they were written")
        tree = ocp.load(_from_first(path), shapes())
    except DAMAGE as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200].removesuffix(".")
        raise InputError(
            f"workdir: the checkpoint {path} is damaged ({reason}){_remedy(remove)}."
        ) from None
    if found := not_finite(tree):
        raise InputError(
            f"workdir: {found[0]} in the checkpoint {path} is not finite{_remedy(remove)}."
        )
    return tree


def _from_first(path: pathlib.Path) -> pathlib.Path:
    """The path that process 0 has in place of this one."""
    if jax.process_count() == 1:
        return path
    from jax.experimental import multihost_utils

    text = np.zeros(4096, np.uint8)
    encoded = np.frombuffer(os.fsencode(path), np.uint8)
    text[: len(encoded)] = encoded
    said = np.asarray(multihost_utils.broadcast_one_to_all(text)).astype(np.uint8)
    return pathlib.Path(os.fsdecode(said.tobytes().rstrip(b"\0")))


def _copy_from_first(shared: pathlib.Path, own: pathlib.Path) -> None:
    """A folder that all processes have written together, copied from process 0 to the others."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("written")
    if shared != own:
        shutil.copytree(shared, own)
    multihost_utils.sync_global_devices("copied")


def not_finite(tree: Any) -> tuple[str, int] | None:
    """Name of the first array that holds a value which is no finite number, and its first index.

    None where all are finite. Of a state of V runs, the index is the run.
    """
    for path, finite in jax.tree_util.tree_leaves_with_path(_finite(tree)):
        if not np.all(finite := fetched(finite)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return name, int(np.argmin(np.atleast_1d(finite)))
    return None


@jax.jit
def _finite(tree):
    """Whether all is finite, by the first axis of each array."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(tuple(range(1, leaf.ndim))), tree)


def _checksums(folder: pathlib.Path) -> dict[str, int]:
    """Relative path -> CRC-32 of every file in a checkpoint, but for the list of them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / SUMS)
    return {path.relative_to(folder).as_posix(): file_crc32(path) for path in files}


def _arrays_crc32(tree: Any) -> int:
    """CRC-32 of the names and bytes of all arrays, whatever the files that hold them."""
    crc = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = zlib.crc32(jax.tree_util.keystr(path).encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(leaf), name)
    return crc


def _remedy(folder: pathlib.Path) -> str:
    return f"; remove {folder} to train it again"
