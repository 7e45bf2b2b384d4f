"""What the functions of this room are given, each in its place."""

from typing import Any

from circuits_jax.circuits.circuit import Circuit
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs.errors import InputError, check_kind
from circuits_jax.tasks import Task

KINDS = {
    "model": (LanguageModel, "as load_model gives it"),
    "task": (Task, "as make_task gives it"),
    "circuit": (Circuit, "as scores.circuit(size=...) gives it"),
}


def check_arguments(**given: Any) -> None:
    """Refuse a model, a task or a circuit in the place of another.

    Raises:
        InputError: names the argument, what was given and what is allowed; a circuit of a model of
            another shape.
    """
    for name, value in given.items():
        check_kind(name, value, *KINDS[name])
    if {"model", "circuit"} <= given.keys():
        here, there = given["circuit"].heads.shape, given["model"].config.heads
        if tuple(here) != tuple(there):
            raise InputError(
                f"the circuit is of {here[0]} layers of {here[1]} heads; allowed are those of the "
                f"model, {there[0]} layers of {there[1]}"
            )
