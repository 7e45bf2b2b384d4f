"""Spreading a leading axis over all devices; one device is the mesh of size one."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def mesh() -> Mesh:
    """All devices in a row."""
    return Mesh(np.array(jax.devices()), "items")


def split_rows(tree: T) -> T:
    """Put arrays on the devices, their first axis split; its length must divide evenly."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec("items")))


def replicate(tree: T) -> T:
    """Put a whole copy of every array on each device."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def map_items(
    function: Callable[[Any, Any], Any], items: Any, constants: Any, at_once: int | None
) -> Any:
    """`function(item, constants)` for every item of the leading axis; used inside `jit`.

    Args:
        function: written for one item.
        items: a tree of arrays with one leading axis; filled up with its own first rows where the
            devices do not divide it.
        constants: what all items share; copied to every device.
        at_once: items that one device computes together, by `vmap`; default all of its own.

    Returns:
        What `jax.vmap(function, (0, None))` gives, up to rounding.
    """
    devices = mesh()
    n = jax.tree.leaves(items)[0].shape[0]
    padded = -(-n // devices.size) * devices.size
    items = jax.tree.map(lambda v: v[jnp.arange(padded) % n], items)

    def on_one_device(items, constants):
        return jax.lax.map(
            lambda item: function(item, constants),
            items,
            batch_size=at_once or padded // devices.size,
        )

    rows = PartitionSpec("items")
    spread = jax.shard_map(
        on_one_device,
        mesh=devices,
        in_specs=(rows, PartitionSpec()),
        out_specs=rows,
        check_vma=False,
    )
    return jax.tree.map(lambda v: v[:n], spread(items, constants))
