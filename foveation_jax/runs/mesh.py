"""The leading axis V, runs, laid over the devices.

Runs never speak to one another, so programs are split along V by `shard_map` and hold no
collective. V is given to the largest number of devices that divides it: 10 runs on 8 devices use
5 of them, 2 runs each, and take no longer than on all 8.
"""

from typing import TypeVar

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
