"""Induction: random words, repeated; after a word seen before comes the word that followed it.

Paper: Olsson et al., arXiv 2209.11895; any model does it. `--config.task.length` sets the number
of words before they repeat.
Cost: under a minute on two CPU cores.

    ./run.sh circuits --config=configs/circuits/induction.py --workdir=runs/induction
"""

from circuits_jax.config import experiment


def get_config():
    return experiment("induction", length=10)
