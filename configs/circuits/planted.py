"""Planted: a transformer of any size in which a small known circuit does the task, among decoys.

`--config.model=planted:LAYERSxHEADS[:KIND[:SEED]]`; kinds: induction, duplicate, previous,
mlp, experts.
planted:48x25 has the 1,200 heads of GPT-2 XL.
Cost: about a minute on two CPU cores, as the number of heads.

    ./run.sh circuits --config=configs/circuits/planted.py --workdir=runs/planted
"""

from circuits_jax.config import experiment


def get_config():
    config = experiment("planted")
    config.model = "planted:12x12"
    return config
