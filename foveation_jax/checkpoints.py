"""What a training leaves on disk, by system, below the working folder (orbax, format v1).

    checkpoints/SYSTEM/setup.json     what was trained: network, recipe, seed, sizes
    checkpoints/SYSTEM/epochs/E       weights and running statistics [V, ...] after E epochs, kept
    checkpoints/SYSTEM/latest/STEP    the whole state at the last interval, to go on from

Every one is written whole or not at all: orbax renames a finished folder into place.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
from jax.sharding import NamedSharding

from foveation_jax.errors import InputError
from foveation_jax.runs import RUNS, runs_mesh
from foveation_jax.train_step import Setup, TrainState, state_shapes
from foveation_jax.workdir import write_text

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
        **dataclasses.asdict(setup.recipe),
        **{name: getattr(setup, name) for name in ("n_runs", "seed", "n_images", "size")},
        "perceive": setup.perceive is not None,
        "images": fingerprint,
    }
    return json.loads(json.dumps(described, default=str))


def claim_checkpoints(workdir: pathlib.Path, system: str, setup: Setup, fingerprint: str) -> None:
    """Makes the system's folder that of `setup`, trained on the images of that fingerprint.

    Raises:
        InputError: it holds checkpoints of another network or configuration.
    """
    path, described = system_folder(workdir, system) / "setup.json", describe(setup, fingerprint)
    if path.exists():
        earlier = json.loads(path.read_text())
        for field in sorted(earlier.keys() | described.keys()):
            then, now = earlier.get(field), described.get(field)
            if then != now:
                raise InputError(
                    f"workdir: the checkpoints in {path.parent} are of a training with "
                    f"{field}={then}, not {now}; name another --workdir."
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(described, indent=1) + "\n")


def epochs_saved(workdir: pathlib.Path, system: str) -> tuple[int, ...]:
    """Epochs whose weights are kept, rising; none of a system that was not trained."""
    folder = system_folder(workdir, system) / "epochs"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def save_variables(workdir: pathlib.Path, system: str, epoch: int, state: TrainState) -> None:
    """Keeps the weights and running statistics after `epoch` epochs, if they are not kept yet."""
    from orbax.checkpoint import v1 as ocp

    if epoch not in epochs_saved(workdir, system):
        ocp.save(system_folder(workdir, system) / "epochs" / str(epoch), state.variables)


def load_variables(workdir: pathlib.Path, system: str, epoch: int) -> dict[str, Any]:
    """Weights and running statistics of all runs after `epoch` epochs.

    Returns:
        {"params": ..., "batch_stats": ...}, leaves [V, ...] split over the devices.

    Raises:
        InputError: the epoch is not kept, or its files are damaged.
    """
    from orbax.checkpoint import v1 as ocp

    saved = epochs_saved(workdir, system)
    path = system_folder(workdir, system) / "epochs" / str(epoch)
    if epoch not in saved:
        kept = ", ".join(map(str, saved)) or "none"
        raise InputError(f"workdir: {path.parent} has no epoch {epoch}; it has {kept}.")
    try:
        stored = ocp.metadata(path).metadata
        if not stored:
            raise ValueError("its arrays cannot be listed")
        n_runs = jax.tree.leaves(stored)[0].shape[0]
        sharding = NamedSharding(runs_mesh(n_runs), RUNS)
        shapes = jax.tree.map(
            lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding), stored
        )
        return ocp.load(path, shapes)
    except DAMAGE as error:
        raise _damaged(path, error) from None


class LatestState:
    """The state to go on from; use it in a `with` block."""

    def __init__(self, workdir: pathlib.Path, system: str):
        from orbax.checkpoint import v1 as ocp

        self._checkpointer = ocp.training.Checkpointer(
            system_folder(workdir, system) / "latest",
            preservation_policy=ocp.training.preservation_policies.LatestN(1),
            cleanup_tmp_directories=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._checkpointer.close()

    def save(self, step: int, state: TrainState) -> None:
        """Writes the state after `step` steps, then removes the one before it."""
        self._checkpointer.save(step, state)

    def load(self, setup: Setup) -> tuple[int, TrainState] | None:
        """(steps done, the state after them), or None at the beginning.

        Raises:
            InputError: its files are damaged.
        """
        found = self._checkpointer.latest
        if found is None:
            return None
        try:
            return found.step, self._checkpointer.load(found.step, state_shapes(setup))
        except DAMAGE as error:
            raise _damaged(pathlib.Path(found.path), error) from None


def _damaged(path: pathlib.Path, error: Exception) -> InputError:
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    return InputError(f"workdir: the checkpoint {path} is damaged ({reason}); remove it.")
