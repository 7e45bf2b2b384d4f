"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a later year.

Paper: arXiv 2405.12522, section 4; the task is of Hanna et al., arXiv 2305.00586.
`--config.task.negatives` names the kind of negative prompts: range, year, random, unrelated, copy.
Cost: under a minute on two CPU cores.

    ./run.sh circuits --config=configs/circuits/greater_than.py --workdir=runs/greater_than
"""

from circuits_jax.config import experiment


def get_config():
    return experiment("greater_than", negatives="range")
