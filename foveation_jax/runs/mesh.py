"""Runs, and the images of a run's batch, laid over the devices of the mesh in use.

Runs never speak to one another. Where there are more devices than runs, the devices of a run share
its batch: statistics over the batch are of the whole batch, and gradients are summed between them.

The runs of one device are computed together on a CPU, and one after another, in the same program,
on an accelerator: `vmap` turns the convolutions of several runs into grouped ones, which there are
many times slower and need the memory of all runs at once. An accelerator holds the states of its
runs once, as a training step writes a run's new state over the old, and the activations of one run.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from foveation_jax.runs import devices
from foveation_jax.runs.devices import WHOLE

T = TypeVar("T")
RUNS, IMAGES = PartitionSpec("runs"), PartitionSpec("runs", "batch")
LEAST = 8  # images of a batch on a device: with fewer it waits for sums of gradients
MEMORY = 2**31  # bytes that images which are worked on together may take on an accelerator
COPIES = 32  # of an image, that its pyramid and pooled moments are


def runs_mesh(n_runs: int, batch_size: int = 1) -> Mesh:
    """Devices with the axes "runs" and "batch" for `n_runs` runs: of all that fit the fastest.

    "runs" divides V and "batch" the batch. Two ways that are as fast use as few devices a run as
    they can: 10 runs without a batch on 8 devices use 5 of them and take no longer than on all 8.
    A program of several hosts has to run on all of their devices: there the two divide these, and
    those of the axis "same" do the same.
    """
    found = devices.mesh().devices.reshape(-1)
    several = len({device.process_index for device in found}) > 1
    r, b = layout(len(found), n_runs, batch_size, whole=several)
    used = found if several else found[: r * b]
    return Mesh(used.reshape(r, b, -1), ("runs", "batch", "same"))


def layout(n_devices: int, n_runs: int, batch_size: int, whole: bool) -> tuple[int, int]:
    """Lengths of "runs" and "batch"; their product divides the devices if these are `whole`."""
    ways = [
        (r, b)
        for r in range(1, n_devices + 1)
        for b in range(1, min(n_devices // r, max(batch_size // LEAST, 1)) + 1)
        if n_runs % r == 0 and batch_size % b == 0 and not (whole and n_devices % (r * b))
    ]
    return max(ways, key=lambda way: (way[0] * way[1], way[0]))


def shard_runs(tree: T, mesh: Mesh) -> T:
    """`tree`, whose leaves are [V, ...], on the devices of `mesh`, split along V."""
    return devices.placed(tree, NamedSharding(mesh, RUNS))


def shard_batch(tree: T, mesh: Mesh) -> T:
    """`tree`, whose leaves are [V, B, ...], split along V and along the batch."""
    return devices.placed(tree, NamedSharding(mesh, IMAGES))


def over_runs(
    function: Callable[..., Any], mesh: Mesh, shared: int = 0, updates: bool = False
) -> Callable[..., Any]:
    """`function` of every run, for use under `jit`: leaves [V, ...] in and out.

    Args:
        function: of the parts of one run.
        mesh: that `runs_mesh` gives.
        shared: how many of the last arguments are the same for all runs.
        updates: as in `each_run`.
    """

    def on_one_device(*arguments):
        runs = arguments[: len(arguments) - shared]
        rest = arguments[len(runs) :]
        return each_run(lambda *run: function(*run, *rest), *runs, updates=updates)

    def of_all(*arguments):
        return jax.shard_map(
            on_one_device,
            mesh=mesh,
            in_specs=(RUNS,) * (len(arguments) - shared) + (WHOLE,) * shared,
            out_specs=RUNS,
            axis_names={"runs"},
            check_vma=False,
        )(*arguments)

    return of_all


def each_run(function: Callable[..., Any], *runs: Any, updates: bool = False) -> Any:
    """`function` of every run of a device: leaves [V, ...] in and out; to be used under `jit`.

    Args:
        function: of the parts of one run.
        runs: the parts of all.
        updates: `function` gives its first argument anew, and something else. On an accelerator
            the new is written over the old, run by run.

    Property: the same on every platform, up to rounding.
    """
    one = jax.jit(function)  # traced once for both

    def together(*runs):
        return jax.vmap(one)(*runs)

    def in_turn(*runs):
        return jax.lax.map(lambda run: one(*run), runs)

    one_by_one = functools.partial(_over_the_old, one) if updates else in_turn
    return jax.lax.platform_dependent(*runs, cpu=together, default=one_by_one)


def _over_the_old(one, states, *rest):
    """`one` of every run in turn, whose new state takes the place of its old one.

    The barrier: what is written is whole before the old is touched, or XLA copies all runs' states
    to read from. The layout: that of the arguments, or it copies them all into a convolution's.
    """
    read, write = jax.lax.dynamic_index_in_dim, jax.lax.dynamic_update_index_in_dim

    def as_it_came(x):
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    def of_run(states, run):
        v, rest = run
        new, given = one(jax.tree.map(lambda all_: read(all_, v, keepdims=False), states), *rest)
        new = jax.tree.map(as_it_came, jax.lax.optimization_barrier(new))
        return jax.tree.map(lambda all_, x: write(all_, x, v, 0), states, new), given

    n_runs = len(jax.tree.leaves(states)[0])
    return jax.lax.scan(of_run, states, (jnp.arange(n_runs), rest))


def each_image(function: Callable[..., Any], *images: Any) -> Any:
    """`function` of every image: leaves [N, ...] in and out; to be used under `jit`.

    One after another on a CPU, whose cache holds one. On an accelerator as many together as
    `MEMORY` holds: one at a time would be launches, not work.

    Property: the same on every platform, up to rounding.
    """
    first = jax.tree.leaves(images)[0]
    at_once = max(1, min(len(first), MEMORY // (COPIES * first[0].size * 4)))
    one = jax.jit(function)  # traced once for both

    def in_turn(*images):
        return jax.lax.map(lambda image: one(*image), images)

    def together(*images):
        return jax.lax.map(lambda image: one(*image), images, batch_size=at_once)

    return jax.lax.platform_dependent(*images, cpu=in_turn, default=together)
