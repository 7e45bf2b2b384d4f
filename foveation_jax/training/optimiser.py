"""How stage 2 learns (arXiv 2006.07991, methods): SGD with Nesterov momentum, in steps of the rate.

For one run, with gradient g of the cross-entropy, weights w and momentum m (both begin with m = 0):

    g' = g + decay w;    m <- mu m + g';    w <- w - rate (g' + mu m)

which is PyTorch's SGD with `nesterov=True` and `weight_decay`, step for step. The rate is constant
from epoch ceil(f_i E) to the next, f_i fractions of the E epochs, counted from 0.
"""

import contextlib
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from foveation_jax.runs.checks import Allowed, Range, check_all
from foveation_jax.runs.errors import InputError

# precision -> type of what is computed, and how jax is told to multiply float32
PRECISIONS = {
    "float32": ("float32", "highest"),
    "tensorfloat32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "default"),
}
BY_DEVICE = {"cpu": "float32", "gpu": "tensorfloat32", "tpu": "bfloat16"}

LIMITS: dict[str, Allowed] = {
    "epochs": Range(1),
    "batch_size": Range(1),
    "learning_rates": Range(0, open=(0,)),
    "changes": Range(0, 1),
    "momentum": Range(0, 1, open=(1,)),
    "weight_decay": Range(0),
    "precision": ("", *PRECISIONS),
    "more_epochs": Range(0),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training; the defaults are the published ones for AlexNet.

    Attributes:
        epochs: passes through the training images, E.
        batch_size: images a step and run, B.
        learning_rates: the rate at first and after each change, for this batch size.
        changes: fractions of E at which the rate changes, rising.
        momentum: mu.
        weight_decay: of all parameters.
        restart_momentum: forget m at the start of every epoch, as the published loop does.
        precision: of the forward and backward pass: `float32`, `tensorfloat32` (float32, products
            with 10 bits of mantissa) or `bfloat16`; weights, momentum, statistics and loss stay
            float32. Where it is not named, the device's own (`BY_DEVICE`).
        more_epochs: passes after those E, at the last rate; a finished training goes on by them.

    Raises:
        InputError: a field that is out of range.
    """

    epochs: int = 120
    batch_size: int = 128
    learning_rates: tuple[int | float, ...] = (0.01, 0.005, 0.0025)
    changes: tuple[int | float, ...] = (0.25, 0.5)
    momentum: int | float = 0.9
    weight_decay: int | float = 5e-4
    restart_momentum: bool = False
    precision: str = ""
    more_epochs: int = 0

    def __post_init__(self):
        check_all(self, LIMITS)
        if not self.learning_rates:
            raise InputError("learning_rates is (); allowed are one or more numbers above 0")
        n = len(self.learning_rates) - 1
        if len(self.changes) != n or list(self.changes) != sorted(self.changes):
            raise InputError(
                f"changes is {self.changes}; allowed are {n} rising fractions, one fewer than "
                "learning_rates"
            )

    @property
    def all_epochs(self) -> int:
        """To the end."""
        return self.epochs + self.more_epochs

    @property
    def computed_in(self) -> str:
        """The precision that is named, else the device's own."""
        return self.precision or BY_DEVICE.get(jax.default_backend(), "float32")

    @property
    def dtype(self) -> str:
        """Of what is computed on the way forward and back."""
        return PRECISIONS[self.computed_in][0]

    def products(self) -> contextlib.AbstractContextManager:
        """What is traced meanwhile multiplies as the precision says."""
        return jax.default_matmul_precision(PRECISIONS[self.computed_in][1])


def change_epochs(recipe: Recipe) -> list[int]:
    """First epoch of every rate but the first: ceil(f E), rounding of f E in binary aside."""
    return [math.ceil(round(f * recipe.epochs, 9)) for f in recipe.changes]


def learning_rate(recipe: Recipe, epoch: int | Int[Array, ""]) -> Float[Array, ""]:
    """Rate in epoch `epoch`, counted from 0; the same for every step of it."""
    changes = jnp.asarray(change_epochs(recipe), jnp.int32)
    return jnp.asarray(recipe.learning_rates, jnp.float32)[jnp.sum(epoch >= changes)]


def descend(
    recipe: Recipe,
    rate: Float[Array, ""],
    params: Any,
    momentum: Any,
    gradient: Any,
    held: Bool[Array, ""] | bool = False,
) -> tuple[Any, Any]:
    """Weights and momentum of one run after a step; as they were, where the run is `held`.

    Written out so that each is one pass over memory: what the module's two equations share, g',
    would be an array of its own, and on a CPU the step takes two and a half times as long.
    """
    decay, mu = recipe.weight_decay, recipe.momentum

    def moved(w, m, g):
        return jnp.where(held, m, mu * m + g + decay * w)

    momentum = jax.tree.map(moved, params, momentum, gradient)

    def stepped(w, m, g):
        return jnp.where(held, w, (1 - rate * decay) * w - rate * g - rate * mu * m)

    return jax.tree.map(stepped, params, momentum, gradient), momentum
