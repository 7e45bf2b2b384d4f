"""Indirect object identification: "When Mary and John went ..., John gave a drink to" -> " Mary".

Paper: arXiv 2405.12522, section 4; the task is of Wang et al., arXiv 2211.00593.
Expected: on SmolLM2-135M the circuit of a quarter of the heads keeps well more of the logit
difference than random circuits do; see tests/bench/RESULTS.md.
Cost: under a minute on two CPU cores.

    ./run.sh circuits --config=configs/circuits/ioi.py --workdir=runs/ioi
"""

from circuits_jax.config import experiment


def get_config():
    return experiment("ioi")
