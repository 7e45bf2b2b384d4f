"""The leading axis V, runs, laid over the devices.

Runs never speak to one another, so programs are split along V by `shard_map` and hold no
collective. V is given to the largest number of devices that divides it: 10 runs on 8 devices use
5 of them, 2 runs each, and take no longer than on all 8.

The runs of one device are computed together on a CPU, and one after another, in the same program,
on an accelerator: `vmap` turns the convolutions of several runs into grouped ones, which there are
many times slower and need the memory of all runs at once.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
RUNS, WHOLE = PartitionSpec("runs"), PartitionSpec()


def runs_mesh(n_runs: int) -> Mesh:
    """The devices that share `n_runs` runs evenly, in one axis "runs"."""
    devices = jax.devices()
    used = max(d for d in range(1, len(devices) + 1) if n_runs % d == 0)
    return Mesh(np.asarray(devices[:used]), ("runs",))


def shard_runs(tree: T, mesh: Mesh) -> T:
    """`tree`, whose leaves are [V, ...], on the devices of `mesh`, split along V."""
    return jax.device_put(tree, NamedSharding(mesh, RUNS))


def each_run(function: Callable[..., Any], *runs: Any) -> Any:
    """`function` of every run of a device: leaves [V, ...] in and out; to be used under `jit`.

    Property: the same on every platform, up to rounding.
    """

    def together(*runs):
        return jax.vmap(function)(*runs)

    def in_turn(*runs):
        return jax.lax.map(lambda run: function(*run), runs)

    return jax.lax.platform_dependent(*runs, cpu=together, default=in_turn)
