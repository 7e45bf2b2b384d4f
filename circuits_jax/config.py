"""The fields of an experiment, which the files in configs/circuits/ fill in."""

import dataclasses
from typing import Any

import ml_collections
from ml_collections import config_dict

from circuits_jax.evaluation.faithfulness import EvaluationOptions
from circuits_jax.methods import METHODS, Ensemble

COSTLY = ("acdc", "cdt", "subnetwork_probing")  # many passes: asked for by name
# Compared by default: cheap, and with a backward pass at five points.
ENSEMBLES = ("sae_codes+attribution", "sae_codes+attribution_ig")


def experiment(task: str, **task_options: Any) -> ml_collections.ConfigDict:
    """A locked config of the job "circuit", with every field at its default.

    Fields: `model`, `adapter` (a LoRA folder or hub id, merged into it), `dtype`, `seed`, `method`;
    `task` (name, n, n_held_out, chat and the options of that task; n_held_out None is 10, or of the
    lines of a file all that do not learn); `circuit` (fraction of all heads, size, or threshold);
    `stability` (n bootstraps, 0 for none, and n_seeds of the autoencoders; of methods with codes);
    `evaluate`; and for each method a section of its own name with its options. `method` may be
    several, joined with +; `ensemble.combine` says how these are one.
    """
    evaluate = dataclasses.asdict(EvaluationOptions())
    stability = {"n": 100, "n_seeds": 5}
    fields = {"method": "sae_codes", "stability": stability, "evaluate": evaluate}
    return _config("circuit", task, task_options, **fields)


def judgement(task: str, **task_options: Any) -> ml_collections.ConfigDict:
    """A locked config of the job "judge".

    Fields: as in `experiment`, less the methods'; `circuit.path`, a file of somebody's circuit
    (`circuits/given.py`), which the other fields of `circuit` cut where it is of scores alone; and
    `method`, the words for who found it. `task` has the options of all tasks.
    """
    evaluate = dataclasses.asdict(EvaluationOptions())
    config = _config(
        "judge", task, _any_options() | task_options, method="given", evaluate=evaluate
    ).unlock()
    for name in (*METHODS, "ensemble"):
        del config[name]
    config.circuit.path = ""
    return config.lock()


def comparison(task: str, **task_options: Any) -> ml_collections.ConfigDict:
    """A locked config of the job "compare".

    Fields: as in `experiment`, and in place of `method` and `evaluate`: `methods`, names, or none
    for every one; `warm_limit`, seconds of a first call above which there is no second one;
    `masks_at_once`, circuits judged in one forward pass. `task` has the options of all tasks; those
    that stay None are the task's own to choose.
    """
    methods = (*(name for name in METHODS if name not in COSTLY), *ENSEMBLES)
    return _config(
        "compare",
        task,
        _any_options() | task_options,
        methods=methods,
        warm_limit=60.0,
        masks_at_once=1,
    )


def sweeps(task: str, **task_options: Any) -> ml_collections.ConfigDict:
    """A locked config of the job "sweep".

    Fields: as in `experiment`, less `evaluate`; `task.n` is how many pairs draws are made from;
    `sweep` has the values of every axis (see `sweep.py`), `n_draws`, and `base_trained` and
    `base_counted`, the pairs that train and are counted while other axes move (None: all).
    """
    sweep = {
        "trained": (1, 2, 5, 10, 20),
        "counted": (1, 2, 5, 10, 20),
        "codes": (4, 8, 16, 32, 64),
        "l1": (0.005, 0.01, 0.02, 0.05, 0.1),
        "negatives": (),
        "models": (),
        "n_draws": 5,
        "base_trained": 5,
        "base_counted": config_dict.placeholder(int),
    }
    options = _any_options() | {"n": 20} | task_options
    return _config("sweep", task, options, method="sae_codes", sweep=sweep)


def paper_table() -> ml_collections.ConfigDict:
    """A locked config of the job "paper_table".

    Fields: `models`, for each task a hub id, a folder, or nothing; `methods`, `n_trials`; `trained`
    and `counted`, pairs of each trial.
    """
    sections = ("sae_codes", "sae_codes_published")
    config = ml_collections.ConfigDict(
        {
            "job": "paper_table",
            "models": {"ioi": "gpt2", "greater_than": "gpt2", "docstring": ""},
            "dtype": "float32",
            "seed": 0,
            "task": {"n_held_out": 1},
            "methods": sections,
            "n_trials": 10,
            "trained": 5,
            "counted": 250,
            **{name: dataclasses.asdict(METHODS[name].options) for name in sections},
        }
    )
    return config.lock()


def _any_options() -> dict[str, Any]:
    """Options that some tasks have; None is the task's own choice."""
    names = ("path", "negatives", "metric", "answer_tokens", "ids", "counterfactual")
    return {name: config_dict.placeholder(str) for name in names}


def _config(
    job: str, task: str, task_options: dict[str, Any], **fields: Any
) -> ml_collections.ConfigDict:
    """What all jobs have, and a section for each method."""
    held_out = config_dict.placeholder(int)
    config = ml_collections.ConfigDict(
        {
            "job": job,
            "model": "smollm2",
            "adapter": config_dict.placeholder(str),
            "dtype": "float32",
            "seed": 0,
            "task": {"name": task, "n": 5, "n_held_out": held_out, "chat": False, **task_options},
            "circuit": {
                "fraction": 0.25,
                "size": config_dict.placeholder(int),
                "threshold": config_dict.placeholder(float),
            },
            **fields,
            **{name: dataclasses.asdict(method.options) for name, method in METHODS.items()},
            "ensemble": {"combine": Ensemble().combine},
        }
    )
    return config.lock()
