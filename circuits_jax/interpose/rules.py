"""What a gradient through the model is, changed without changing what the model computes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from circuits_jax.interpose.points import intercepted


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which nonlinear parts a gradient sees as linear; the values that they give stay the same.

    Attributes:
        norms: the scale by which a norm multiplies is held still.
        activations: act(x) is x times act(x) / x, which is held still.
        gates: each factor of a product gets half of its gradient.
        attention: `gradient`, or the attention patterns are `frozen`: no gradient by queries and
            keys; or `half` of the gradient goes through patterns and half through values.
    """

    norms: bool = False
    activations: bool = False
    gates: bool = False
    attention: Literal["gradient", "frozen", "half"] = "gradient"


@contextlib.contextmanager
def linearised(rules: Rules) -> Iterator[None]:
    """Trace the model here, and gradients through it follow the rules."""

    def still(module, call, *args):
        return jax.lax.stop_gradient(call(*args))

    def half(module, call, *args):
        return _half_gradient(call(*args))

    def activate(module, call, x):
        slope = jax.jvp(call, (x,), (jnp.ones_like(x),))[1]  # the limit of act(x) / x at 0
        tiny = jnp.abs(x) < 1e-6
        return x * jax.lax.stop_gradient(jnp.where(tiny, slope, call(x) / jnp.where(tiny, 1, x)))

    edits = (
        ("inverse_scale", still, rules.norms),
        ("activation", activate, rules.activations),
        ("gate", half, rules.gates),
        ("pattern", still, rules.attention == "frozen"),
        ("z", half, rules.attention == "half"),
    )
    with intercepted(**{point: edit for point, edit, wanted in edits if wanted}):
        yield


def _half_gradient(x: Array) -> Array:
    """The same value, half of its gradient: what both factors of a product get is halved."""
    return x / 2 + jax.lax.stop_gradient(x / 2)
