"""What all jobs do alike: refuse what none can use, make the prompts, say how the model does."""

import ml_collections
import numpy as np
from absl import logging

from circuits_jax.circuits.circuit import Circuit, Scores
from circuits_jax.jobs.workdir import Workdir
from circuits_jax.lm import performance
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.load import OpenedModel, open_model
from circuits_jax.lm.performance import Performance
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import Task, make_task


def measured_performance(model: LanguageModel, task: Task) -> dict[str, Performance]:
    """How the model does the task; what is wrong with that is said before any work is done.

    Raises:
        InputError: a task without contrast.
    """
    measured = performance.measure(model, task)
    for sentence in (*performance.doubts(measured), *performance.remarks(measured)):
        logging.warning("%s", sentence)
    return measured


def begun(
    workdir: Workdir, config: ml_collections.ConfigDict
) -> tuple[LanguageModel, Task, dict[str, Performance]]:
    """The config's model and task, and how the one does the other; the folder is the run's then.

    Raises:
        InputError: a model or a task that cannot be had, or a task without contrast.
    """
    with workdir.stage("make prompts"):  # before weights are read: what is wrong shows at once
        opened = open_model(config.model, config.dtype, config.adapter)
        task = task_of(config, opened)
    with workdir.stage("load model"):
        model = opened.load()
    with workdir.stage("measure performance"):
        measured = measured_performance(model, task)
    workdir.begin()
    return model, task, measured


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Refuse a circuit that no job can use.

    Raises:
        InputError: a field, its value, and what is allowed.
    """
    if config.circuit.size is not None and config.circuit.threshold is not None:
        raise InputError(
            f"config.circuit has size ({config.circuit.size}) and threshold "
            f"({config.circuit.threshold}); give one"
        )
    check_allowed("config.circuit.fraction", config.circuit.fraction, Range(0, 1))


def task_of(config: ml_collections.ConfigDict, model: LanguageModel | OpenedModel) -> Task:
    """The config's task, in the model's tokens.

    Raises:
        InputError: a task that cannot be made, or a circuit larger than the model.
    """
    check_circuit_size(config, model)
    given = {name: value for name, value in config.task.items() if value is not None}
    if config.task.name == "custom":
        given["n_positions"] = model.config.n_positions
    return make_task(tokenizer=model.tokenizer, seed=config.seed, **given)


def check_circuit_size(
    config: ml_collections.ConfigDict, model: LanguageModel | OpenedModel
) -> None:
    """Refuse a circuit larger than the model.

    Raises:
        InputError: the size, and the number of heads.
    """
    size, n_heads = config.circuit.size, model.config.n_layers * model.config.n_heads
    if size is not None:
        check_allowed(f"config.circuit.size, of heads of {config.model},", size, Range(0, n_heads))


def cut(scores: Scores, options: ml_collections.ConfigDict) -> Circuit:
    """The circuit: by threshold, else by size, else by fraction of all heads."""
    if options.threshold is not None:
        return scores.circuit(size=options.size, threshold=options.threshold)
    n_heads = int(np.size(scores.head_scores))
    size = options.size if options.size is not None else round(options.fraction * n_heads)
    return scores.circuit(size=size)
