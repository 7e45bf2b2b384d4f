"""How the discrete-code method depends on its settings: the sweeps of arXiv 2405.12522, section 5.

`--config.method`: sae_codes or sae_codes_published. `--config.sweep.AXIS="(...)"` gives the values
of an axis, `"()"` leaves it out: trained, counted (pairs), codes, l1, negatives (kinds that the
task knows, such as those of greater_than), models (names, as `config.model`).
Expected: more pairs counted help, more codes and more training hardly; as published, training on
more prompts makes it worse.
Cost: on SmolLM2 about ten minutes on two CPU cores, half of it exact patching for the reference.

    ./run.sh circuits --config=configs/circuits/sweep.py --workdir=runs/sweep
"""

from circuits_jax.config import sweeps


def get_config():
    config = sweeps("greater_than")
    config.sweep.negatives = ("range", "year", "random", "unrelated", "copy")
    return config
