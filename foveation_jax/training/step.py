"""One training step of V paired runs in one compiled program (arXiv 2006.07991, methods).

Everything is written for one run; `runs/mesh.py` makes V of it and lays them over the devices.
Run v's first weights, dropout and eye movements are pure functions of (seed, v) and (seed, v,
step), so run v is the same in every system but for what stage 1 lets through. Shapes, for one run:
images uint8 [B, Y, X, 3], labels [B]; images go up to the device as bytes and are normalised there.
Fixations of a file, where images have them, come with the batch (data/order.py), [B, 2].
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from foveation_jax.data.order import steps_an_epoch
from foveation_jax.networks import normalise
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.mesh import RUNS, over_runs, runs_mesh, shard_runs
from foveation_jax.stage1.perceived import Perceive
from foveation_jax.training.optimiser import Recipe, descend, learning_rate


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that the weights depend on, beside the images.

    Attributes:
        network: module with `apply(variables, images, train) -> (logits [B, L], out)`.
        recipe: optimiser and schedule.
        n_runs: V.
        seed: of weights, dropout and eye movements.
        n_images: of training, N.
        size: (Y, X) of the images.
        perceive: stage 1 on the fly; None where the images are already what it lets through.

    Raises:
        InputError: no runs, or fewer images than the batch.
    """

    network: nn.Module
    recipe: Recipe
    n_runs: int
    seed: int
    n_images: int
    size: tuple[int, int]
    perceive: Perceive | None = None

    def __post_init__(self):
        check_allowed("n_runs", self.n_runs, Range(1))
        steps_an_epoch(self.n_images, self.recipe.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the training images."""
        return steps_an_epoch(self.n_images, self.recipe.batch_size)

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.recipe.all_epochs * self.steps_per_epoch

    @property
    def mesh(self) -> Mesh:
        """The devices that train it."""
        return runs_mesh(self.n_runs, self.recipe.batch_size)


@flax.struct.dataclass
class TrainState:
    """A run between two steps; of V runs, every leaf has a leading axis V.

    Attributes:
        run: its number, v, int32 like the other counts.
        step: steps done.
        params: weights.
        batch_stats: running statistics of normalisation layers, {} without.
        momentum: of the optimiser.
        loss_sum: of this epoch's batches, float32.
        correct: images of this epoch that were classified correctly, in training.
        diverged_at: the first step whose loss was not finite, -1 so far; such a run stands still.
    """

    run: Any
    step: Any
    params: Any
    batch_stats: Any
    momentum: Any
    loss_sum: Any
    correct: Any
    diverged_at: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Purpose(enum.IntEnum):
    """What a run draws random numbers for."""

    WEIGHTS = 0
    DROPOUT = 1
    PERCEPTION = 2


def run_key(seed: int, purpose: Purpose, run: int | Int[Array, ""]) -> PRNGKeyArray:
    """Key of a run for one purpose, the same in every system."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), run)


def init_run(setup: Setup, run: int | Int[Array, ""]) -> TrainState:
    """State of run `run` before its first step: a function of (seed, run) and the network alone."""
    key = run_key(setup.seed, Purpose.WEIGHTS, run)
    variables = setup.network.init({"params": key}, jnp.zeros((1, *setup.size, 3)), train=False)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        run=zero + run,
        step=zero,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        momentum=jax.tree.map(jnp.zeros_like, variables["params"]),
        loss_sum=jnp.zeros(()),
        correct=zero,
        diverged_at=zero - 1,
    )


def _init_runs(setup):
    """All runs one after another, so that a run's weights do not depend on how many there are."""
    return jax.lax.map(functools.partial(init_run, setup), jnp.arange(setup.n_runs))


def init_state(setup: Setup) -> TrainState:
    """State of all runs, leaves [V, ...], split over the devices; run v is `init_run(setup, v)`."""
    return shard_runs(jax.jit(_init_runs, static_argnums=0)(setup), setup.mesh)


def state_shapes(setup: Setup) -> TrainState:
    """Shapes, types and places of `init_state(setup)`, without its arrays."""
    sharding = NamedSharding(setup.mesh, RUNS)
    return jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding),
        jax.eval_shape(functools.partial(_init_runs, setup)),
    )


def make_step(
    setup: Setup,
) -> Callable[..., tuple[TrainState, Float[Array, " V"]]]:
    """The compiled step: (state, images, labels) -> (state, loss of each run); all [V, ...].

    Or (state, images, labels, fixations), which stage 1 on the fly is given.

    The old state's memory is reused. Nothing waits for the device. Give it `shard_batch` of images
    and labels where there are several devices. All systems of one set-up share the program.
    """
    return _make_step(setup, setup.mesh)


@functools.lru_cache(maxsize=8)
def _make_step(setup, mesh):
    step = over_runs(functools.partial(train_step, setup), mesh, updates=True)
    return jax.jit(step, donate_argnums=0)


def train_step(
    setup: Setup,
    state: TrainState,
    images: UInt8[Array, "B Y X 3"],
    labels: Int[Array, " B"],
    *fixations: Float[Array, "B 2"],
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of one run: the state after it, and the mean cross-entropy of the batch before it.

    A loss that is not finite leaves weights, statistics and momentum as they were, for good.
    """
    recipe = setup.recipe
    epoch, begins = state.step // setup.steps_per_epoch, state.step % setup.steps_per_epoch == 0
    inputs = _perceived(setup, state, images, *fixations)
    objective = functools.partial(_objective, setup, state, inputs, labels)
    with recipe.products():  # of the way back as well
        (loss, (logits, batch_stats)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
    if setup.perceive is not None:  # of images that were made beforehand it is known
        loss = jnp.where(jnp.isfinite(inputs).all(), loss, jnp.nan)
    stands = (state.diverged_at >= 0) | ~jnp.isfinite(loss)
    forget = begins & recipe.restart_momentum & ~stands
    momentum = jax.tree.map(lambda m: jnp.where(forget, 0, m), state.momentum)
    rate = learning_rate(recipe, epoch)
    params, momentum = descend(recipe, rate, state.params, momentum, gradient, stands)
    hold = functools.partial(jax.tree.map, lambda old, new: jnp.where(stands, old, new))
    correct = jnp.sum(jnp.argmax(logits, -1) == labels)
    return TrainState(
        run=state.run,
        step=state.step + 1,
        params=params,
        batch_stats=hold(state.batch_stats, batch_stats),
        momentum=momentum,
        loss_sum=jnp.where(begins, 0, state.loss_sum) + loss,
        correct=jnp.where(begins, 0, state.correct) + correct,
        diverged_at=jnp.where(stands & (state.diverged_at < 0), state.step + 1, state.diverged_at),
    ), loss


def _perceived(setup, state, images, *fixations):
    """The batch as the network takes it, in the type of computation."""
    if setup.perceive is not None:
        key = run_key(setup.seed, Purpose.PERCEPTION, state.run)
        images = setup.perceive(images, jax.random.fold_in(key, state.step), *fixations)
    return normalise(images / jnp.float32(255)).astype(setup.recipe.dtype)


def _objective(setup, state, inputs, labels, params):
    """Mean cross-entropy, with (logits [B, L], batch statistics after the step)."""
    key = run_key(setup.seed, Purpose.DROPOUT, state.run)
    cast = jax.tree.map(lambda w: w.astype(setup.recipe.dtype), params)
    (logits, _), updated = setup.network.apply(
        {"params": cast, "batch_stats": state.batch_stats},
        inputs,
        train=True,
        rngs={"dropout": jax.random.fold_in(key, state.step)},
        mutable=["batch_stats"],
    )
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    batch_stats = jax.tree.map(
        lambda old, new: new.astype(old.dtype),
        state.batch_stats,
        updated.get("batch_stats", {}),
    )
    return jnp.mean(losses), (logits, batch_stats)
