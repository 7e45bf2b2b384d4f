"""Docstring: the name of the next argument in the documentation of a Python function.

Paper: arXiv 2405.12522, section 4; the task is of Heimersheim and Janiak (2023).
Cost: one to two minutes on two CPU cores; the prompts are long.

    ./run.sh circuits --config=configs/circuits/docstring.py --workdir=runs/docstring
"""

from circuits_jax.config import experiment


def get_config():
    return experiment("docstring")
