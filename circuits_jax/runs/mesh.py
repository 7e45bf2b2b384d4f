"""Spreading a leading axis along `data` of the mesh; one device is the mesh of size one.

Items are computed apart, and devices need not wait for one another: along `data` no program has a
collective in it but where all items are joined, at once, by the host (`gather`) or in the program
that goes on with them (`joined`). A model that is split along `model` stays so.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from circuits_jax.runs import devices, passes
from circuits_jax.runs.devices import DATA, MODEL

T = TypeVar("T")
HELD = 2**32  # bytes that attention patterns which a device works on at once may take


def spread(
    function: Callable[[Any, Any], Any], items: Any, constants: Any, at_once: int | None
) -> Any:
    """`function(item, constants)` for every item of the leading axis, along `data`.

    Call it last in a `jit`-compiled function and `gather` what that returns, or go on with what is
    `joined`.

    Args:
        function: written for one item.
        items: a tree of arrays with one leading axis.
        constants: what all items share, wherever along `model` it lies.
        at_once: items that one device computes together, by `vmap`; default all of its own.

    Returns:
        What `jax.vmap(function, (0, None))` gives, up to rounding, filled up with results of the
        first items where the devices do not divide their number.
    """
    parts = devices.mesh().shape[DATA]
    own = -(-jax.tree.leaves(items)[0].shape[0] // parts)

    def in_turn(items, constants):
        return jax.lax.map(lambda item: function(item, constants), items, batch_size=at_once or own)

    return shared_out(in_turn, items, constants)


def fitting(most: int, each: int) -> int:
    """How many items a device works on at once: `most`, or as many of `each` bytes as `HELD` holds.

    Property: 1 or more; `most` where items are small.
    """
    return max(1, min(most, HELD // each))


def even_part(n: int, most: int) -> int:
    """The largest size, up to `most`, of parts of one size that n items fall into."""
    return max(size for size in range(1, min(n, most) + 1) if n % size == 0)


def in_parts(function: Callable[[Any], Any], rows: Any, each: int) -> Any:
    """`function(rows)`, of a function that computes rows apart, on as many at a time as fit.

    Args:
        function: takes any number of rows.
        rows: a tree of arrays with one leading axis.
        each: bytes of attention patterns, of one row.
    """
    leaves, structure = jax.tree.flatten(rows)
    n = leaves[0].shape[0]
    size = even_part(n, fitting(n, each))
    if size == n:
        return function(rows)
    parts = [x.reshape(-1, size, *x.shape[1:]) for x in leaves]
    found = jax.lax.map(lambda part: function(jax.tree.unflatten(structure, part)), parts)
    return jax.tree.map(lambda x: x.reshape(n, *x.shape[2:]), found)


def shared_out(function: Callable[[Any, Any], Any], rows: Any, constants: Any) -> Any:
    """`function(rows, constants)`, along `data`, of a function that takes any number of rows.

    As `spread`, for what is written for a batch whose rows are computed apart.
    """
    mesh = devices.mesh()
    n, parts = jax.tree.leaves(rows)[0].shape[0], mesh.shape[DATA]
    padded = -(-n // parts) * parts
    if padded > n:
        rows = jax.tree.map(lambda v: v[jnp.arange(padded) % n], rows)

    def on_one_device(rows, constants):
        with passes.share(n / padded):
            return function(rows, constants)

    split = PartitionSpec(DATA)
    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(split, PartitionSpec()),
        out_specs=split,
        axis_names={DATA},
        check_vma=False,
    )(rows, constants)


def shared_by_model(x: Array) -> Array:
    """x, within what `shared_out` runs: its last axis along `model`, where that divides it."""
    parts = jax.sharding.get_abstract_mesh().shape.get(MODEL, 1)
    if parts == 1 or x.shape[-1] % parts:
        return x
    spec = PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1), MODEL)
    return jax.lax.with_sharding_constraint(x, spec)


def gather(tree: T, *axes: int) -> T:
    """The items of what `spread` gave, as whole arrays on the default device.

    `axes` are the leading axes that the items are laid out in: their number, or such as S, P, G.
    """
    n = math.prod(axes)

    def whole(v):
        return jax.device_put(devices.fetched(v)[:n].reshape(*axes, *v.shape[1:]))

    return jax.tree.map(whole, tree)


def joined(tree: T, *axes: int) -> T:
    """`gather` within the program that `spread` is part of: all items on every device.

    What lies along `model` stays where it is.
    """
    n = math.prod(axes)

    def one(v):
        spec = PartitionSpec(None, *[PartitionSpec.UNCONSTRAINED] * (v.ndim - 1))
        v = jax.lax.with_sharding_constraint(v, NamedSharding(devices.mesh(), spec))
        return v[:n].reshape(*axes, *v.shape[1:])

    return jax.tree.map(one, tree)
