"""Tasks: prompts in pairs, their answers and metric, and the circuits known for them."""

import inspect
from collections.abc import Callable, Mapping

from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError, unknown_name
from circuits_jax.tasks.base import (
    PromptPairs,
    Targets,
    Task,
    answer_log_probs,
    answers_beat,
    metric_values,
    targets,
    tokens_of,
)
from circuits_jax.tasks.chat import in_chat
from circuits_jax.tasks.compiled import compiled
from circuits_jax.tasks.custom import custom
from circuits_jax.tasks.docstring import docstring
from circuits_jax.tasks.greater_than import greater_than
from circuits_jax.tasks.ground_truth import GroundTruth, ground_truths
from circuits_jax.tasks.induction import induction
from circuits_jax.tasks.ioi import ioi
from circuits_jax.tasks.planted import planted
from circuits_jax.tasks.templates import BUILDERS as OF_TEMPLATES
from circuits_jax.tasks.tokens import Tokenizer

__all__ = [
    "GroundTruth",
    "PromptPairs",
    "Targets",
    "Task",
    "answer_log_probs",
    "answers_beat",
    "ground_truths",
    "make_task",
    "metric_values",
    "targets",
    "tokens_of",
]

_BUILDERS: Mapping[str, Callable[..., Task]] = {
    "ioi": ioi,
    "greater_than": greater_than,
    "docstring": docstring,
    "induction": induction,
    "compiled": compiled,
    "planted": planted,
    "custom": custom,
    **OF_TEMPLATES,
}


def make_task(
    name: str,
    tokenizer: Tokenizer,
    *,
    n: int = 5,
    n_held_out: int | None = None,
    seed: int = 0,
    chat: bool = False,
    **options,
) -> Task:
    """Makes the prompts of a task for the tokenizer at hand; same seed, same prompts.

    Args:
      name: "ioi", "greater_than", "docstring", "induction", "compiled", "planted", "custom", or a
        row of `templates.SPECS`, such as "capitals".
      tokenizer: Hugging Face style: `tokenizer(text, add_special_tokens=False).input_ids`,
        `decode`, `len`.
      n: pairs that learn, at least 1.
      n_held_out: pairs held out, at least 1; no prompt is in both. Default: 10, or all other lines
        of a file (custom), for which 0 says the same.
      seed: of every random choice, at least 0.
      chat: whether prompts are turns of a chat, in the model's template (`chat.py`).
      **options: of the builder, such as `negatives` of greater_than or `path` of custom.

    Raises:
      InputError: unknown name or option, a number out of range, more prompts asked for than exist,
        or a tokenizer that cannot serve the task.
    """
    if name not in _BUILDERS:
        raise InputError(unknown_name("task", name, _BUILDERS))
    if not callable(tokenizer):
        raise InputError(
            f"the tokenizer is a {type(tokenizer).__name__}; allowed is what reads text, such as "
            "model.tokenizer"
        )
    if n_held_out is None:
        n_held_out = 0 if name == "custom" else 10
    least_held_out = 0 if name == "custom" else 1
    check_allowed("n", n, Range(1))
    check_allowed("n_held_out", n_held_out, Range(least_held_out))
    check_allowed("seed", seed, Range(0))
    build = _BUILDERS[name]
    own = set(inspect.signature(make_task).parameters)
    known = set(inspect.signature(build).parameters) - own
    for option in options:
        if option not in known:
            raise InputError(unknown_name(f"option of task {name}", option, known))
    if name == "custom":  # whose answers are written for the turn
        return build(tokenizer, n=n, n_held_out=n_held_out, seed=seed, chat=chat, **options)
    task = build(tokenizer, n=n, n_held_out=n_held_out, seed=seed, **options)
    return in_chat(tokenizer, task) if chat else task
