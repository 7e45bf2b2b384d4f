"""How far a circuit's answer is from the whole model's; ACDC and subnetwork probing keep it low.

    kl        KL(whole model's next-token distribution || the circuit's), in nats
    metric    | m(whole model) - m(circuit) |, in units of the task's metric m

on a prompt; never negative, and 0 where nothing is ablated.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits_jax.tasks.base import Targets, divergence, metric_values, next_logits

Divergence = Literal["kl", "metric"]


def divergences(
    logits: Float[Array, "B *Q V"],
    whole: Float[Array, "B *Q V"],
    targets: Targets,
    metric: str,
    kind: Divergence,
) -> Float[Array, " B"]:
    """From the logits of a circuit and of the whole model, for each prompt.

    Args:
        logits: of the circuit.
        whole: of the whole model, on the same prompts.
        targets: their answers and foils.
        metric: the task's; used where `kind` is `metric`.
        kind: see the module.
    """
    if kind == "metric":
        moved = metric_values(whole, targets, metric) - metric_values(logits, targets, metric)
        return jnp.abs(moved)
    return divergence(next_logits(whole), next_logits(logits))
