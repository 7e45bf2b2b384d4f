"""The fields of an experiment, which the files in configs/circuits/ fill in."""

import dataclasses
from typing import Any

import ml_collections
from ml_collections import config_dict

from circuits_jax.evaluation import EvaluationOptions
from circuits_jax.methods import METHODS


def experiment(task: str, **task_options: Any) -> ml_collections.ConfigDict:
    """A locked config with every field at its default.

    Fields: `model`, `dtype`, `seed`, `method`; `task` (name, n, n_held_out and the options of that
    task); `circuit` (fraction of all heads, or size, or threshold); `evaluate`; and for each
    method a section of its own name with its options.
    """
    config = ml_collections.ConfigDict(
        {
            "model": "smollm2",
            "dtype": "float32",
            "seed": 0,
            "method": "sae_codes",
            "task": {"name": task, "n": 5, "n_held_out": 10, **task_options},
            "circuit": {
                "fraction": 0.25,
                "size": config_dict.placeholder(int),
                "threshold": config_dict.placeholder(float),
            },
            "evaluate": dataclasses.asdict(EvaluationOptions()),
            **{name: dataclasses.asdict(method.options) for name, method in METHODS.items()},
        }
    )
    return config.lock()
