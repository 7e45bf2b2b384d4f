"""The devices of a run as one mesh, and the processes that share it; one device is the mesh of one.

The mesh has two axes: `data`, along which items lie that never speak to one another (images, runs,
prompts, heads, autoencoders), and `model`, along which the weights of one model are split. Flags
say its shape (`--mesh=data:2,model:4`); by default all devices lie along `data`.

Several processes, one a host, run the same program on the same inputs. Each keeps its files in a
folder of its own, a copy of the working folder, which is that of process 0 alone. So each finds the
same stages done, and only process 0 leaves anything behind. The hosts need a disk that they share.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from circuits_jax.runs import interrupt
from circuits_jax.runs.errors import InputError

T = TypeVar("T")
DATA, MODEL = "data", "model"
WHOLE = PartitionSpec()
SECONDS = 20  # without a sign of life, after which a process counts as ended
LOST = ("coordination service", "Gloo", "gloo", "heartbeat", "DEADLINE_EXCEEDED", "UNAVAILABLE")
_used: Mesh | None = None


def mesh() -> Mesh:
    """The mesh that is in use, by default all devices along `data`."""
    return _used or mesh_of("", jax.devices())


def use(chosen: Mesh | None) -> None:
    """From here on programs are made for this mesh; None for the default."""
    global _used
    if chosen != _used:
        jax.clear_caches()  # programs are not known by the mesh that they were made for
    _used = chosen


def mesh_of(text: str, devices: list[Any]) -> Mesh:
    """The devices in the shape that a text such as `data:2,model:4` names.

    An axis that is not named has length 1; without any name `data` has all devices.

    Raises:
        InputError: no such axis, no length, or not as many devices.
    """
    lengths = {} if text else {DATA: len(devices)}
    for part in filter(None, text.split(",")):
        axis, _, length = part.strip().partition(":")
        if axis not in (DATA, MODEL) or axis in lengths or not length.isdecimal() or length == "0":
            raise InputError(
                f"--mesh has {part!r}: allowed are data:N and model:N, once each, N 1 or more"
            )
        lengths[axis] = int(length)
    shape = lengths.get(DATA, 1), lengths.get(MODEL, 1)
    if shape[0] * shape[1] != len(devices):
        raise InputError(
            f"--mesh={text} names {shape[0] * shape[1]} devices, and there are {len(devices)}"
        )
    return Mesh(np.array(devices).reshape(shape), (DATA, MODEL))


def placed(tree: T, sharding: NamedSharding) -> T:
    """Arrays of the host on the devices; each process puts its own part on its own."""

    def one(v):
        if sharding.is_fully_addressable:
            return jax.device_put(v, sharding)
        v = np.asarray(v)
        return jax.make_array_from_callback(v.shape, sharding, lambda index: v[index])

    return jax.tree.map(one, tree)


def fetched(tree: T) -> T:
    """Arrays on the host, whole in every process, all told at once; all processes ask at once."""

    def whole(v):
        if not isinstance(v, jax.Array) or v.is_fully_addressable or v.is_fully_replicated:
            return v
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(v, tiled=True)

    return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(whole, tree)))


def agreed(value: bool) -> bool:
    """What process 0 says, for what each would see on a clock of its own."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def define_flags() -> None:
    """The flags of the commands that say where a run takes place."""
    flags.DEFINE_string("mesh", "", "Devices, such as data:2,model:4; all along data by default.")
    flags.DEFINE_string("coordinator_address", "", "HOST:PORT of process 0, of several processes.")
    flags.DEFINE_integer("num_processes", 0, "Processes that run together, 0 for one alone.")
    flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")


def join() -> None:
    """Begin as the flags say; before anything is asked of a device.

    Raises:
        InputError: flags that do not belong together, no other process, or no such mesh.
    """
    given = flags.FLAGS
    several = bool(given.coordinator_address), given.num_processes > 0, given.process_id >= 0
    if any(several) and not all(several):
        raise InputError(
            "several processes need --coordinator_address, --num_processes and --process_id"
        )
    if all(several):
        if given.process_id >= given.num_processes:
            raise InputError(
                f"--process_id is {given.process_id}; allowed are 0 to {given.num_processes - 1}"
            )
        jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
        try:
            jax.distributed.initialize(
                given.coordinator_address,
                given.num_processes,
                given.process_id,
                initialization_timeout=120,
                heartbeat_timeout_seconds=SECONDS,
            )
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f"process {given.process_id} of {given.num_processes} did not meet the others at "
                f"{given.coordinator_address} ({said})"
            ) from error
    if given.mesh:
        chosen = mesh_of(given.mesh, jax.devices())
        if chosen.shape[MODEL] > 1 and jax.process_count() > 1:
            raise InputError(
                f"--mesh={given.mesh}: a model is split within one process, not over "
                f"{jax.process_count()}; allowed is data:{len(jax.devices())}"
            )
        use(chosen)


@contextlib.contextmanager
def folder_of_this_process(workdir: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """The folder that this process is to work in: the working folder, of process 0.

    Of the others a copy of what is there now, which goes when the block ends. Where one process
    has ended the rest cannot go on: they end with a sentence.
    """
    workdir = pathlib.Path(workdir)
    if jax.process_count() == 1:
        yield workdir
        return
    from jax.experimental import multihost_utils

    number, own = jax.process_index(), None
    try:
        if number:
            own = pathlib.Path(tempfile.mkdtemp(prefix=f"process-{number}-"))
            _copy(workdir.expanduser(), own / workdir.name)
        multihost_utils.sync_global_devices("folders")
        yield own / workdir.name if own else workdir
        multihost_utils.sync_global_devices("done")
    except (RuntimeError, ValueError) as error:
        if not any(word in str(error) for word in LOST):
            raise
        print(
            f"{interrupt.COMMAND}: process {number} of {jax.process_count()} ends, as another has "
            "ended; start all again with the same command to go on",
            file=sys.stderr,
            flush=True,
        )
        shutil.rmtree(own or "", ignore_errors=True)
        os._exit(1)  # what waits at exit waits for the process that is gone
    finally:
        if own:
            shutil.rmtree(own, ignore_errors=True)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """A folder and all that is finished in it; images, which are never written again, as links."""

    def copy(one, other):
        try:
            if not str(one).endswith((".npy", ".png")):
                raise OSError
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    if source.is_dir():
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(source, target, ignore=hidden, copy_function=copy, symlinks=True)
