"""What the functions of this room are given, each in its place."""

from typing import Any

from circuits_jax.circuits.circuit import Circuit
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs.errors import check_kind
from circuits_jax.tasks import Task

KINDS = {
    "model": (LanguageModel, "as load_model gives it"),
    "task": (Task, "as make_task gives it"),
    "circuit": (Circuit, "as scores.circuit(size=...) gives it"),
}


def check_arguments(**given: Any) -> None:
    """Refuse a model, a task or a circuit in the place of another.

    Raises:
        InputError: names the argument, what was given and what is allowed.
    """
    for name, value in given.items():
        check_kind(name, value, *KINDS[name])
